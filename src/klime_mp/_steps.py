"""What the steps of `_dispatch` return: the words between the state and those who act on it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from klime_mp._clock import NEVER, Latch

if TYPE_CHECKING:
    from klime_mp._batch import Entry

START_PATIENCE = 0.5  # seconds after which a thread that was to start, and did not, is given up


class Opens(Protocol):
    """What a flush waits for."""

    def open(self) -> None:
        """Let it look again; any thread may call this."""


class Shift:
    """One run of the sending loop: by its own thread, or in a caller's (`here`).

    In a caller's it ends at `limit`, when all events up to `mark` are done, or when a try of events that are safe in
    the spool has failed.
    """

    __slots__ = ("busy_at", "expected_by", "here", "in_vain", "limit", "mark", "over_at", "worker")

    def __init__(
        self, now: float, *, here: bool = False, limit: float = NEVER, mark: float = NEVER, in_vain: int = 0
    ) -> None:
        self.mark = mark
        self.in_vain = in_vain
        self.busy_at = now
        self.expected_by = now + START_PATIENCE
        self.here = here
        self.limit = limit
        self.worker: int | None = None  # its thread's ident, once that is there
        # Who was to work it has not come by then, or not come back: an exception struck at the wrong moment.
        self.over_at = min(self.expected_by, limit)

    def begin(self) -> None:
        """Whoever works it is there, and calls this."""
        self.worker = threading.get_ident()  # looked up at each use: gevent replaces it when it patches
        self.over_at = self.limit


@dataclass(frozen=True)
class Sleep:
    """Wait for the latch, until `until` at the latest."""

    latch: Latch
    until: float


@dataclass(frozen=True)
class Backlog:
    """Fetch so many events, and so many bytes, of those that wait in the spool, and `load` them."""

    max_events: int
    max_bytes: int


# An event is in. What was dropped for it, oldest first: usually nothing; it may be among them itself.
Evicted: TypeAlias = "Sequence[Entry]"


@dataclass(frozen=True)
class Refused:
    """An event was dropped at the door, for this reason."""

    reason: str


@dataclass(frozen=True)
class Asked:
    """A flush was asked for: is everything `done`; else begin `shift` if there is one, and look again at `again_at`."""

    done: bool
    shift: Shift | None = None
    again_at: float = NEVER
