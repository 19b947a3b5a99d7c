"""The bounded buffer: events that wait, and the batches that are on their way.

Plain state without a lock; the sender calls it with its own held. Two rules keep it whole whatever interrupts it (a
signal handler that raises, one that calls `track`, a finalizer run by the garbage collector):

* an event and the number that counts it move in one step. CPython looks for signals only after a call and at a loop's
  jump, so counting first and making one call last, on one line, cannot be torn apart;
* nothing iterates in Python over a container that a nested `track` may append to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from klime_mp._batch import Batch, Entry, is_safe, size_of
from klime_mp._clock import NEVER
from klime_mp._config import MAX_BATCH_SIZE
from klime_mp._stats import Ledger

if TYPE_CHECKING:
    from klime_mp._spool import Place


# Events that a batch in flight has at most.
_LARGEST = MAX_BATCH_SIZE


class Queue:
    """A deque bounded in events and in bytes that drops its oldest, and the batches taken from it.

    The bounds count what is in memory, in flight included; what is in flight is never dropped. An event that is in the
    spool is not dropped either: it leaves the memory, and is counted in `on_disk`.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        max_events: int,
        max_bytes: int,
        put_off: Callable[[Iterable[Place | None]], None] = lambda _places: None,
    ) -> None:
        self._ledger = ledger
        self._put_off = put_off  # tells the spool; does no I/O
        self._max_events = max_events
        self._max_bytes = max_bytes
        self.waiting: deque[Entry] = deque()  # not in flight; for others to look at only
        self._taken: set[Batch] = set()
        self._bytes = 0  # of all entries here, waiting or taken
        self.on_disk = 0  # events without an outcome that are not in memory
        self.adopted_on_disk = 0  # such events of other processes
        self.let_go = 0  # such events that anybody may deliver, since a shutdown
        self.last_serial = 0

    def __len__(self) -> int:
        """Events that wait; not those in flight."""
        return len(self.waiting)

    def head(self) -> tuple[int, float] | None:
        """The number of the oldest event that waits, and since when it does."""
        return self.waiting[0][:2] if self.waiting else None

    def pending(self) -> int:
        """Events without an outcome."""
        return len(self.waiting) + self._in_flight() + self.on_disk + self.adopted_on_disk + self.let_go

    def unfinished(self, mark: float) -> bool:
        """Is any event numbered up to `mark` waiting, in flight, or in a callback?

        Sync calls' do not count, and what was adopted only when `mark` is `NEVER`.
        """
        head = self.head()
        if self.on_disk > 0 or (mark == NEVER and self.adopted_on_disk > 0) or (head is not None and head[0] <= mark):
            return True
        return any(batch.first <= mark for batch in list(self._taken) if not batch.alone)

    def append(self, body: bytes, now: float, place: Place | None = None) -> Sequence[Entry]:
        """Accept an event; returns what had to be dropped for it, oldest first (it may be among them).

        What is in the spool leaves only the memory.
        """
        self.last_serial = serial = self.last_serial + 1
        entry, size, ledger = (serial, now, body, place), len(body), self._ledger
        ledger.accepted += 1; self._bytes += size; self.waiting.append(entry)  # noqa: E702 # fmt: skip
        if self._bytes <= self._max_bytes and len(self.waiting) + _LARGEST * len(self._taken) <= self._max_events:
            return ()  # usual: there is no need to count what is in flight
        return self._evict()

    def _evict(self) -> list[Entry]:
        evicted: list[Entry] = []
        room = self._max_events - self._in_flight()
        while len(self.waiting) > room or self._bytes > self._max_bytes:
            head = self.waiting[0] if self.waiting else None
            if head is None:
                break
            _, _, body, place = head
            size, dropped = len(body), self._ledger.dropped
            # Should a nested `track` have been here first, each turn of the loop looks anew.
            if is_safe(place):
                if self.waiting and self.waiting[0] is head: self.on_disk += 1; self._bytes -= size; self.waiting.popleft(); self._put_off([place])  # noqa: E501, E701, E702 # fmt: skip
            elif self.waiting and self.waiting[0] is head: dropped["queue_full"] += 1; self._bytes -= size; evicted.append(self.waiting.popleft())  # noqa: E501, E701, E702 # fmt: skip
        return evicted

    def take(self, max_events: int, max_bytes: int, owner: object = None) -> Batch:
        """Move the oldest events, at most `max_events` and `max_bytes` of JSON with its commas, into a new batch."""
        if self._bytes + len(self.waiting) <= max_bytes:  # usual: all of it would fit
            return self._take(min(max_events, len(self.waiting)), _first_of(self.waiting), owner)
        candidates = self.waiting.copy() if max_events >= len(self.waiting) else self._first(max_events)
        count, size = 0, -1
        for _, _, body, _ in candidates:
            size += 1 + len(body)
            if count and size > max_bytes:
                break
            count += 1
        return self._take(count, _first_of(candidates), owner)

    def take_up_to(self, serial: int, owner: object = None) -> Batch:
        """All that waits and is numbered up to `serial`, as one batch, to be given up together."""
        candidates = self.waiting.copy()
        count = sum(number <= serial for number, _, _, _ in candidates)
        return self._take(count, _first_of(candidates), owner)

    def _first(self, count: int) -> list[Entry]:
        """The oldest events; by index, as an iterator does not outlive a nested `track`."""
        entries: list[Entry] = []
        try:
            for index in range(count):
                entries.append(self.waiting[index])  # noqa: PERF401 # what was read stays read when the queue ends
        except IndexError:
            pass
        return entries

    def _take(self, count: int, first: int, owner: object) -> Batch:
        batch = Batch(first=first, owner=owner)
        self._taken.add(batch)
        try:
            # One call moves them all: there is no moment in which an event is in neither place.
            batch.entries.extend(islice(iter(self.waiting.popleft, None), count))
        except IndexError:  # a nested `track` has dropped some of them
            pass
        return batch

    def take_alone(self, batch: Batch, body: bytes, now: float) -> None:
        """Accept a sync call's event into a batch of its own, in flight at once: so it is never dropped."""
        self._taken.add(batch)
        entry, size, ledger = (0, now, body, None), len(body), self._ledger
        ledger.accepted += 1; self._bytes += size; batch.entries.append(entry)  # noqa: E702 # fmt: skip

    def batches(self) -> list[Batch]:
        """The batches in flight that flush and shutdown wait for."""
        return [batch for batch in list(self._taken) if not batch.alone]

    def settle(self, batch: Batch, *, delivered: int = 0, rejected: int = 0, failed: int = 0) -> list[Entry]:
        """Write the outcome of a batch, once: returns its events, or none when they had their outcome before."""
        entries, size, ledger = batch.entries, size_of(batch.entries), self._ledger
        if not entries:
            return entries
        ledger.delivered += delivered; ledger.rejected += rejected; ledger.failed += failed; self._bytes -= size; batch.is_settled = True; batch.entries = []  # noqa: E501, E702 # fmt: skip
        return entries

    def split(self, batch: Batch) -> list[Batch]:
        """Replace a batch by two halves; none when its events have an outcome already."""
        middle = (len(batch.entries) + 1) // 2
        halves = [
            Batch(part, first=batch.first, owner=batch.owner, alone=batch.alone)
            for part in (batch.entries[:middle], batch.entries[middle:])
            if part
        ]
        batch.entries = []; self._taken.update(halves)  # noqa: E702 # fmt: skip
        return halves

    def put_back(self, batch: Batch) -> None:
        """Make a batch wait again, before all others."""
        entries = batch.entries[::-1]
        batch.entries = []; self.waiting.extendleft(entries)  # noqa: E702 # fmt: skip

    def prepare(self, append: Callable[[bytes], Place | None]) -> None:
        """For `adopt`: number all that waits before an adopter's own events, and put it into his spool."""
        self.waiting = deque(
            (serial - self.last_serial, since, body, append(body)) for serial, since, body, _ in self.waiting
        )
        self.last_serial = 0

    def adopt(self, other: Queue) -> None:
        """Move what waits in the parent's queue, which nobody else uses in this process, before all that is here."""
        held, ledger = other.waiting, self._ledger
        count, size = len(held), size_of(held)
        newest_first = islice(iter(held.pop, None), count)
        ledger.adopted += count; self._bytes += size; self.waiting.extendleft(newest_first)  # noqa: E702 # fmt: skip

    def put_off(self, batch: Batch) -> tuple[list[Entry], list[Entry]]:
        """Let what is in the spool wait there alone; what was in a part of it that had to make room is dropped.

        Returns both; the rest stays in the batch.
        """
        kept: list[Entry] = []
        gone: list[Entry] = []
        rest: list[Entry] = []
        for entry in batch.entries:  # each is looked at once: its file may have to make room meanwhile
            place = entry[3]
            (rest if place is None else kept if place.is_safe() else gone).append(entry)
        places = [place for _, _, _, place in kept if place is not None]
        adopted = sum(place.segment.adopted for place in places)
        own, size = len(kept) - adopted, size_of(kept + gone)
        dropped, count = self._ledger.dropped, len(gone)
        self.on_disk += own; self.adopted_on_disk += adopted; dropped["queue_full"] += count; self._bytes -= size; batch.entries = rest  # noqa: E501, E702 # fmt: skip
        self._put_off(places)
        return kept, gone

    def load(self, bodies: list[tuple[bytes, Place]], now: float, owner: object) -> Batch:
        """A batch of events that waited in the spool."""
        adopted = sum(place.segment.adopted for _, place in bodies)
        # For another process's events no flush waits, but a shutdown that finds them on their way.
        batch = Batch(owner=owner, first=self.last_serial + 1 if adopted else 0)
        self._taken.add(batch)
        entries: list[Entry] = [(0, now, body, place) for body, place in bodies]
        own, size = len(entries) - adopted, size_of(entries)
        self.on_disk -= own; self.adopted_on_disk -= adopted; self._bytes += size; batch.entries = entries  # noqa: E702 # fmt: skip
        return batch

    def at_stake(self, mark: float) -> bool:
        """Is an event numbered up to `mark` in memory only?"""
        if any(serial <= mark and not is_safe(place) for serial, _, _, place in self.waiting.copy()):
            return True
        taken = [list(batch.entries) for batch in self.batches() if batch.first <= mark]
        return any(not is_safe(place) for entries in taken for _, _, _, place in entries)

    def unplaced(self) -> list[Entry]:
        """What waits, and is in memory only."""
        return [entry for entry in self.waiting.copy() if entry[3] is None]

    def place(self, places: dict[int, Place]) -> list[Place]:
        """Events, by their numbers, have been put into the spool; returns the places of those that do not need one.

        They wait no longer, or another thread was faster.
        """
        late = dict(places)
        self.waiting = deque(
            (serial, since, body, late.pop(serial) if place is None and serial in late else place)
            for serial, since, body, place in self.waiting.copy()
        )
        return list(late.values())

    def hand_over(self, serial: int) -> None:
        """Let go of what waits and is numbered up to `serial`: another process has it."""
        ledger, rest = self._ledger, deque(entry for entry in self.waiting.copy() if entry[0] > serial)
        count, size = len(self.waiting) - len(rest), self._bytes - size_of(rest)
        ledger.handed_over += count; self._bytes -= size; self.waiting = rest  # noqa: E702 # fmt: skip

    def batches_of(self, owner: object) -> list[Batch]:
        """The batches that `owner` has not finished."""
        return [batch for batch in list(self._taken) if batch.owner == owner]

    def finish(self, batch: Batch) -> None:
        """Forget a batch: its outcome is written and its callbacks have returned."""
        self._taken.discard(batch)

    def _in_flight(self) -> int:
        count = 0
        for batch in list(self._taken):
            count += len(batch.entries)
        return count


def _first_of(entries: Sequence[Entry] | deque[Entry]) -> int:
    """The number of the oldest."""
    return entries[0][0] if entries else 0
