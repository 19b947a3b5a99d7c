"""The floor: what building, encoding and queueing one event costs when nothing else is done.

No check of an argument, no lock, no thread, no delivery: only what no client can do without. The id is a random prefix
and a counter in the shape of a uuid4; the timestamp is formatted once a second, but for its milliseconds.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import deque

import orjson

from benchmarks.event import NAME

# Nobody takes events out: the oldest makes room, and its memory is used again, as after a delivery. A queue that only
# grows is twice as slow, as new memory is cold; that would flatter whoever is compared with it.
KEPT = 1000
_CONTEXT = {"library": {"name": "floor", "version": "1.0.0"}}


class Floor:
    """Events in a deque."""

    def __init__(self) -> None:
        noise = os.urandom(10).hex()
        self._prefix = f"{noise[:8]}-{noise[8:12]}-4{noise[12:15]}-a{noise[15:18]}-"
        self._serials = itertools.count()
        self._second = 0
        self._until_the_second = ""
        self._queue: deque[bytes] = deque(maxlen=KEPT)

    def track(self, user: str, properties: dict[str, object]) -> None:
        """One event."""
        second, milliseconds = divmod(time.time_ns() // 1_000_000, 1000)
        if second != self._second:
            self._until_the_second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = second
        event = {
            "type": "track",
            "messageId": f"{self._prefix}{next(self._serials):012x}",
            "timestamp": f"{self._until_the_second}.{milliseconds:03}Z",
            "event": NAME,
            "userId": user,
            "properties": properties,
            "context": _CONTEXT,
        }
        self._queue.append(orjson.dumps(event))

    def flush(self) -> None:
        """Nothing is delivered."""


def make(_endpoint: str, _batch_size: int | None, _queue_size: int | None) -> Floor:
    """A floor needs no options."""
    return Floor()
