"""The place of the spool on the road: where an event is also kept on disk until it has its outcome.

Two implementations of one small interface: memory only, here, and a folder of files (`_disk_spool`). Whoever works with
a spool calls these methods and never asks whether there is one. An event on disk is in memory as well, or it waits:
then its place is all that this process knows of it. None of the methods but `next` raises because of the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple, Protocol, TypeAlias

from klime_mp._segment import Segment

# Of a file that had to make room: this process's own; a dead one's, taken over before; or a dead one's that nobody had.
Whose: TypeAlias = Literal["ours", "adopted", "nobody's"]


class Place(NamedTuple):
    """Where an event is on disk."""

    segment: Segment
    number: int

    def is_safe(self) -> bool:
        """Is it still there? The file may have had to make room."""
        return not self.segment.is_given_up()


class Spool(Protocol):
    """What the road asks of a spool."""

    def append(self, body: bytes) -> Place | None:
        """Keep an event; called before `track` returns. None: it is in memory only."""

    def acknowledge(self, places: Iterable[Place | None]) -> None:
        """Let go of events that have their outcome."""

    def put_off(self, places: Iterable[Place | None]) -> None:
        """These are no longer in memory: they wait on disk."""

    def next(self, max_events: int, max_bytes: int) -> list[tuple[bytes, Place]]:
        """The oldest events that wait on disk, back into memory; empty when there are none to be found.

        Raises OSError when the disk cannot be read now.
        """

    def adopt(self, pid: int | None = None) -> int:
        """Take over a file of a dead process (`pid`, or any); how many events it has, which wait on disk now."""

    def is_adopting(self) -> bool:
        """Is there such a file, not yet done with?"""

    def has_unfinished(self) -> bool:
        """Is there a file of this process's, or was there one, with an event that is not done?"""

    def has_waiting(self) -> bool:
        """Is there one with an event that waits? Does no I/O."""

    def begin(self) -> None:
        """The process no longer only loads the program: from now on events are kept."""

    def retire(self) -> None:
        """There is nothing to do for now: leave no empty file."""

    def take_all(self) -> list[Segment]:
        """Every file of this process's, to be closed: what waits there is anybody's then. Does no I/O."""


class Room(Protocol):
    """What a spool that is full asks of the road."""

    def drop_waiting(self, take: Callable[[], tuple[int, Whose]]) -> None:
        """A file has to go: `take` it, and count its events as dropped, in one step."""

    def wants_dropped(self) -> bool:
        """Does anybody want to see them? To read them takes time."""

    def say_dropped(self, bodies: list[bytes], count: int) -> None:
        """These are gone: so many, and those of them that could be read."""


class NoSpool:
    """Memory only: nothing is kept, nothing survives the process."""

    def append(self, body: bytes) -> Place | None:  # noqa: ARG002 # the interface's
        """Keep nothing."""
        return None

    def acknowledge(self, places: Iterable[Place | None]) -> None:
        """There is nothing to let go of."""

    def put_off(self, places: Iterable[Place | None]) -> None:
        """Nothing can be put off."""

    def next(self, max_events: int, max_bytes: int) -> list[tuple[bytes, Place]]:  # noqa: ARG002 # as above
        """Nothing waits."""
        return []

    def adopt(self, pid: int | None = None) -> int:  # noqa: ARG002 # as above
        """A dead process's memory cannot be read."""
        return 0

    def is_adopting(self) -> bool:
        """As nothing is adopted."""
        return False

    def has_unfinished(self) -> bool:
        """There is none."""
        return False

    def has_waiting(self) -> bool:
        """Nothing does."""
        return False

    def begin(self) -> None:
        """Still nothing is kept."""

    def retire(self) -> None:
        """There are no files."""

    def take_all(self) -> list[Segment]:
        """There are none."""
        return []
