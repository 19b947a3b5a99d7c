"""A spool on disk: the files of one client in one process.

Which file an event goes into, which are done, given up, taken over or have to make room. Bookkeeping is done in steps,
as in `_dispatch` and behind the same lock, which is never held during I/O. One lock, because a step there asks for some
here, and a signal handler that tracks may strike in one of these: two locks would be taken in both orders.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from klime_mp import _segment
from klime_mp._clock import NEVER, Clock, atomic
from klime_mp._ranges import Ranges
from klime_mp._segment import Segment
from klime_mp._spool import Place, Room, Whose
from klime_mp._spool_folder import folder_of, make_folder, names, used

if TYPE_CHECKING:
    from klime_mp._config import Config
    from klime_mp._log import RateLimitedLog

SEGMENT_BYTES = 8 * 1024 * 1024
DONE_BYTES = 256 * 1024  # of a file whose events are all done: then it goes, and does not fill the spool
SEGMENTS = 8  # a spool's bound is at least so many files, so that dropping the oldest leaves most
DISK_PATIENCE = 30.0  # seconds until a disk that failed is tried again
LINE_OVERHEAD = 20  # bytes, about: an event's number and checksum


class DiskSpool:
    """The files of one client in one process, in the folder that all clients of one key and endpoint share.

    Args:
        base: `spool_dir`.
        config: `spool_max_bytes`, and what names the folder.
        log: for a disk that fails.
        clock: time.
        lock: what its steps, and the dispatch's, are behind.
        room: who is asked before a file makes room, and told.
        asleep: keep nothing until `begin`: every child would inherit the files.
    """

    def __init__(
        self,
        base: str,
        config: Config,
        log: RateLimitedLog,
        clock: Clock,
        lock: Any,
        room: Room,
        *,
        asleep: bool = False,
    ) -> None:
        self._base = base
        self.folder = folder_of(base, config)
        self._max_bytes = config.spool_max_bytes
        self._segment_bytes = max(1, min(SEGMENT_BYTES, config.spool_max_bytes // SEGMENTS))
        self._log = log
        self._clock = clock
        self._lock = lock
        self._room = room
        self._asleep = asleep
        self._current: Segment | None = None
        self._segments: list[Segment] = []  # oldest first; adopted ones before all others
        self._condemned = 0  # files that had to make room
        self._going: set[str] = set()  # the names of those that a thread is just deleting
        self._try_again_at = -NEVER
        self._has_given_away = False
        self._candidates: list[str] = []  # files that may be a dead process's, the oldest last

    # --- an event's way through

    def append(self, body: bytes) -> Place | None:
        """See `Spool`. A disk that fails costs one log line, and is left alone for a while."""
        if self._asleep or self._clock.monotonic() < self._try_again_at:
            return None
        try:
            place = self._issue(len(body))
            while place is None:
                self._begin_segment()
                place = self._issue(len(body))
        except OSError as error:
            self._fail(error)
            return None
        try:
            place.segment.write(_segment.line(place.number, body))
        except OSError as error:
            self._fail(error)
            if self._finish(place.segment, 1):
                place.segment.remove()
            return None
        return place

    def acknowledge(self, places: Iterable[Place | None]) -> None:
        """See `Spool`."""
        for segment, numbers in _by_segment(places):
            try:
                if not (self._finish(segment, len(numbers)) and segment.remove()):
                    segment.write_done(numbers)
            except OSError as error:
                self._fail(error)

    def put_off(self, places: Iterable[Place | None]) -> None:
        """See `Spool`."""
        for segment, numbers in _by_segment(places):
            segment.wait(numbers)

    def next(self, max_events: int, max_bytes: int) -> list[tuple[bytes, Place]]:
        """See `Spool`."""
        failed: OSError | None = None
        # This process's own first: its flushes and its shutdown wait for them.
        for segment in sorted(self._segments, key=lambda each: each.adopted):
            if not segment.has_waiting():
                continue
            if not segment.is_open():
                self._give_away(segment)
                continue
            try:
                found = segment.read(max_events, max_bytes)
            except OSError as error:
                failed = error
                continue
            if found:
                return [(record.body, Place(segment, record.number)) for record in found]
            # It has lost what it is said to have.
            if self._finish(segment, len(segment.take_waiting())):
                segment.remove()
        if failed is not None:
            self._log("spool", logging.ERROR, f"the spool cannot be read: {failed}; it is tried again")
            raise failed
        return []

    # --- files

    def adopt(self, pid: int | None = None) -> int:
        """See `Spool`. One file at a time: the rest of a large backlog may be another process's."""
        self._look_after_the_current()
        if pid is None and self.is_adopting():
            return 0
        # A large folder is listed once for all its files, not for each of them.
        if pid is not None or not self._candidates:
            self._candidates = names(self.folder)[::-1]
        while self._candidates:
            name = self._candidates.pop()
            if pid is not None and not name.startswith(f"{pid}-"):
                continue
            segment = Segment.take_over(self.folder, name, self._lock)
            if segment is None:
                continue
            if segment.damaged:
                damaged = f"{segment.damaged} damaged lines in the spool were skipped"
                self._log("damaged", logging.WARNING, damaged, count=segment.damaged)
            if segment.has_waiting():
                self._insert(segment)
                return segment.issued
            segment.remove()
        return 0

    def is_adopting(self) -> bool:
        """See `Spool`."""
        return any(segment.adopted for segment in list(self._segments))

    def has_unfinished(self) -> bool:
        """See `Spool`."""
        return self._has_given_away or any(segment.finished < segment.issued for segment in list(self._segments))

    def has_waiting(self) -> bool:
        """See `Spool`."""
        return any(segment.has_waiting() for segment in list(self._segments))

    def begin(self) -> None:
        """See `Spool`."""
        self._asleep = False

    def retire(self) -> None:
        """See `Spool`."""
        for segment in self._take_done():
            segment.remove()

    @atomic
    def take_all(self) -> list[Segment]:
        """See `Spool`."""
        every, self._segments, self._current = self._segments, [], None
        return every

    def _begin_segment(self) -> None:
        """Open the next file, unless another thread is faster. Raises OSError."""
        make_folder(self._base, self.folder)
        for done in self._take_done():
            done.remove()
        while not self._takes_more(self._current):
            condemned = self._condemned  # before one looks for room: another thread may make some meanwhile
            if used(self.folder, but=self._going) + self._segment_bytes > self._max_bytes:
                self._make_room(condemned)
                continue
            segment = Segment.create(self.folder, self._lock)
            if not self._install(segment):
                segment.remove()

    def _make_room(self, condemned: int) -> None:
        """Delete the oldest file; siblings' apart. Raises OSError when there is none.

        Nothing is done if more than so many were condemned so far: one file is enough for all threads that want room.
        """
        taken: list[tuple[Segment, Ranges]] = []
        # Ours first. To look for others' is I/O, and so no part of the step.
        of_the_dead = None if self._has_old_ones() else self._oldest_of_the_dead()

        def take() -> tuple[int, Whose]:
            segment = (of_the_dead or self._take_oldest()) if self._condemned == condemned else None
            if segment is None:
                return 0, "nobody's"
            self._condemned += 1
            self._going.add(segment.name)
            taken.append((segment, segment.condemn()))
            whose: Whose = "nobody's" if segment is of_the_dead else "adopted" if segment.adopted else "ours"
            return len(taken[0][1]), whose

        self._room.drop_waiting(take)
        if taken:
            self._delete(*taken[0])
        elif self._condemned == condemned:
            raise OSError(f"the spool is full: {self._max_bytes} bytes, of processes that are alive")
        elif of_the_dead is not None:
            of_the_dead.close()

    def _delete(self, segment: Segment, numbers: Ranges) -> None:
        """Tell of these events, which are dropped with the file. Raises OSError when it stays."""
        bodies: list[bytes] = []
        try:
            if numbers and self._room.wants_dropped():
                bodies = segment.bodies(numbers)
        except OSError:  # then nobody can see them
            pass
        finally:
            try:
                is_gone = segment.remove()
            finally:
                self._going.discard(segment.name)
        if numbers:
            self._room.say_dropped(bodies, len(numbers))
        if not is_gone:
            raise OSError(f"{segment.path} cannot be deleted")

    def _takes_more(self, segment: Segment | None) -> bool:
        return segment is not None and segment.size < self._segment_bytes

    def _has_old_ones(self) -> bool:
        """Is there a file of ours besides the current one?"""
        return any(segment is not self._current for segment in list(self._segments))

    def _oldest_of_the_dead(self) -> Segment | None:
        for name in names(self.folder):
            segment = Segment.take_over(self.folder, name, self._lock)
            if segment is not None:
                return segment
        return None

    def _look_after_the_current(self) -> None:
        """A file that somebody has deleted keeps nothing: the next event begins another one."""
        current = self._current
        if current is not None and not current.is_there():
            self._abandon(current)

    def _fail(self, error: OSError) -> None:
        self._try_again_at = self._clock.monotonic() + DISK_PATIENCE
        self._log("spool", logging.ERROR, f"the spool does not work, events are kept in memory only: {error}")

    # --- the bookkeeping: each a step

    @atomic
    def _issue(self, size: int) -> Place | None:
        """A place for an event in the current file, None when there has to be another one."""
        segment = self._current
        if segment is None or not self._takes_more(segment):
            return None
        segment.size += size + LINE_OVERHEAD
        segment.issued += 1
        return Place(segment, segment.issued)

    @atomic
    def _install(self, segment: Segment) -> bool:
        if self._takes_more(self._current):
            return False
        self._segments.append(segment)
        self._current = segment
        return True

    @atomic
    def _insert(self, segment: Segment) -> None:
        self._segments.insert(0, segment)

    @atomic
    def _abandon(self, segment: Segment) -> None:
        if self._current is segment:
            self._current = None

    @atomic
    def _give_away(self, segment: Segment) -> None:
        """The program has closed the file, and with it the lock: whoever takes it over delivers what waits in it."""
        if segment in self._segments:
            self._segments.remove(segment)
        if segment is self._current:
            self._current = None
        self._has_given_away = True
        segment.close()

    @atomic
    def _finish(self, segment: Segment, count: int) -> bool:
        """So many of its events are done. Is the file done with?"""
        segment.finished += count
        if segment.finished < segment.issued or segment not in self._segments:
            return False
        if segment is self._current:
            if segment.size < min(DONE_BYTES, self._segment_bytes // 2):
                return False
            self._current = None
        self._segments.remove(segment)
        return True

    @atomic
    def _take_done(self) -> list[Segment]:
        done = [each for each in self._segments if each.finished >= each.issued]
        self._segments = [segment for segment in self._segments if segment not in done]
        if self._current in done:
            self._current = None
        return done

    @atomic
    def _take_oldest(self) -> Segment | None:
        """The oldest file but the current one."""
        for segment in self._segments:
            if segment is not self._current:
                self._segments.remove(segment)
                return segment
        return None


def _by_segment(places: Iterable[Place | None]) -> list[tuple[Segment, Ranges]]:
    numbers: dict[Segment, Ranges] = {}
    for place in places:
        if place is not None:
            numbers.setdefault(place.segment, Ranges()).add(place.number)
    return list(numbers.items())
