"""The floor, and the least that a client's promises add to it: what no `track` in Python could leave out.

* The process is asked who it is: a server may have forked it in C.
* The types of the arguments and of all values are looked at: a user's object must not raise in the request, and
  orjson must not meet one whose own code runs in its middle.
* The event is counted and queued in one step, under a lock, with the time of its coming.

Nothing is delivered here, either, nobody is woken, no bytes are counted, and an unusual argument is not dealt with.
"""

from __future__ import annotations

import threading
from os import getpid
from time import monotonic

from benchmarks.contestants.floor import Floor

_SCALARS = frozenset({str, int, float, bool, type(None)})


class Guarded(Floor):
    """Events in a deque, and some care."""

    def __init__(self) -> None:
        super().__init__()
        self._pid = getpid()
        self._lock = threading.RLock()
        self._count = 0
        self._latest = 0.0

    def track(self, user: str, properties: dict[str, object]) -> None:
        """One event."""
        if getpid() != self._pid or type(user) is not str or not _is_plain(properties):
            raise NotImplementedError
        with self._lock:
            self._latest = monotonic()
            self._count += 1
            Floor.track(self, user, properties)


def _is_plain(properties: dict[str, object]) -> bool:
    for value in properties.values():
        kind = type(value)
        if kind not in _SCALARS and not (isinstance(value, dict) and _SCALARS.issuperset(map(type, value.values()))):
            return False
    return True


def make(_endpoint: str, _batch_size: int | None, _queue_size: int | None) -> Guarded:
    """It needs no options."""
    return Guarded()
