"""An event in memory, and the events that are on their way together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from klime_mp._spool import Place

# An accepted event: its number in this process, when it was accepted (monotonic seconds), its JSON, and where it is in
# the spool, if it is there. A plain tuple: the garbage collector soon stops looking at those that hold nothing which
# could hold them, while a queue of named ones costs the caller that it strikes a millisecond.
Entry: TypeAlias = "tuple[int, float, bytes, Place | None]"


class Batch:
    """Events taken off the queue to be sent together. `entries` is emptied in the step that writes their outcome.

    `alone` marks the event of a sync call: its caller waits for it, so flush and shutdown do not. `is_settled`: the
    outcome is written; until the batch is finished the spool, and callbacks, may have to be told. `is_out`: a request
    is being made of it.
    """

    __slots__ = ("alone", "entries", "first", "is_out", "is_settled", "owner")

    def __init__(
        self, entries: Iterable[Entry] = (), *, first: int = 0, owner: object = None, alone: bool = False
    ) -> None:
        self.entries = list(entries)
        self.first = first
        self.owner = owner  # who delivers it, or has given it up
        self.alone = alone
        self.is_out = False
        self.is_settled = False

    def bodies(self) -> list[bytes]:
        """The events' JSON, in order."""
        return bodies_of(self.entries)

    def is_placed(self) -> bool:
        """Has any of them, or had it, a place in the spool?"""
        return any(place is not None for place in places_of(self.entries))

    def is_kept(self) -> bool:
        """Are all of them in the spool?"""
        return bool(self.entries) and all(map(is_safe, places_of(self.entries)))


def bodies_of(entries: Iterable[Entry]) -> list[bytes]:
    """The events' JSON, in order."""
    return [body for _, _, body, _ in entries]


def places_of(entries: Iterable[Entry]) -> Iterator[Place | None]:
    """Where they are in the spool."""
    return (place for _, _, _, place in entries)


def size_of(entries: Iterable[Entry]) -> int:
    """Bytes of JSON."""
    return sum(len(body) for _, _, body, _ in entries)


def is_safe(place: Place | None) -> bool:
    """Is the event there in the spool as well?"""
    return place is not None and place.is_safe()
