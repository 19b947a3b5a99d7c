"""The state behind the lock: each method one atomic step, none of which waits, logs or does I/O.

The step is what makes the sender's life simple to reason about: "accept an event" and "stop for want of work" are two
steps of which one comes first, so no event is left behind by a thread that has just gone. Steps return what to do next
(start a thread, sleep, deliver a batch; `_steps` has the words for it); doing it happens outside, in `_sender`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from klime_mp._batch import Batch, Entry
from klime_mp._clock import NEVER, Clock, Latch, atomic
from klime_mp._fork import getpid
from klime_mp._queue import Queue
from klime_mp._stats import Ledger, Stats
from klime_mp._steps import Asked, Backlog, Evicted, Opens, Refused, Shift, Sleep

if TYPE_CHECKING:
    from klime_mp._segment import Segment
    from klime_mp._spool import Place, Whose

LINGER = 0.5  # seconds an idle thread stays for the next event
START_AGAIN = 1.0  # seconds until the next attempt after the system refused a thread
MAX_BATCH_BODY = 10 * 1024 * 1024 - len('{"batch":[]}')


class Dispatch:
    """Queue, shift, flushes and shutdowns of one client in one process.

    Args:
        queue: where events wait.
        ledger: where their outcomes are counted.
        max_batch_size: events a request.
        flush_interval: seconds an event waits for company.
        refusal: the reason all events are dropped for, None for a client that takes them.
        clock: time and latches.
        lock: re-entrant, what its steps are behind.
        holding: take events in without beginning a shift, until `release`.
    """

    def __init__(
        self,
        queue: Queue,
        ledger: Ledger,
        *,
        max_batch_size: int,
        flush_interval: float,
        refusal: str | None,
        clock: Clock,
        lock: Any,
        holding: bool = False,
    ) -> None:
        self._pid = getpid()
        self._lock = lock
        self._queue = queue
        self._ledger = ledger
        self._max_batch_size = max_batch_size
        self._flush_interval = flush_interval
        self._clock = clock
        self._monotonic = clock.monotonic
        self.refusal = refusal
        self._shift: Shift | None = None
        self._start_again_at = -NEVER
        self._asleep: Sleep | None = None  # the shift, for want of work
        self._resting: list[Latch] = []  # deliveries, for a back-off's or a Retry-After's sake
        self._flush_mark = 0.0  # events up to this number do not wait for company
        self._waiters: list[tuple[float, Opens]] = []  # flushes, and up to which event
        self._closers: list[float] = []  # deadlines of the shutdowns under way
        self._has_left_some = False  # a shutdown, in the spool, without an outcome
        self._last_words: list[Opens] = []  # shutdowns whose deadline has come, and callbacks are running
        self._hold_until = -NEVER
        self.cut_short = 0  # events that a shutdown gave up
        self.holding = holding
        self.in_vain = 0  # tries that failed, of events that are safe in the spool
        self._backlog_at = -NEVER  # what waits in the spool is not tried before
        self._backlog_is_next = True
        self._fetching: Shift | None = None  # it reads events out of the spool, which still count as being there
        self._failing = False  # the last try, of events that are safe

    # --- read without the lock: one value each

    def mine(self) -> bool:
        """False in a process that was forked while this code ran: gevent's greenlets survive that."""
        return self._pid == getpid()

    def closing_at(self) -> float:
        """The deadline of the shutdown under way, `NEVER` without one."""
        return min(list(self._closers), default=NEVER)

    def answer_by(self) -> float:
        """A request may take until the shutdown's deadline."""
        return self.closing_at()

    def hold_until(self) -> float:
        """Nothing may be sent before this instant."""
        return self._hold_until

    def fails(self) -> bool:
        """Has the last try failed, of events that are safe in the spool, and is the next one still to come?"""
        return self._failing and bool(self._resting or self._backlog_at > self._clock.monotonic())

    def may_adopt(self, shift: Shift) -> bool:
        """Is there a future in which what dead processes left could be delivered by whoever works `shift`?"""
        return self._shift is shift and self.refusal is None and not self._closers

    def working_here(self) -> bool:
        """Does this very thread work the shift: in a signal handler, a finalizer, a logging handler, a callback?

        It cannot wait for itself.
        """
        shift = self._shift
        return shift is not None and shift.worker == threading.get_ident()

    def in_step(self) -> bool:
        """Did a signal strike this very thread inside a step? Then nobody else can make one until it returns."""
        return bool(self._lock._is_owned())  # noqa: SLF001 # what threading.Condition asks as well

    # --- events

    def accept(self, body: bytes, place: Place | None = None) -> Evicted | Refused | Shift:
        """Take an event in; or a shift that has to be begun first, then ask again."""
        with self._lock: return self._accept(body, place)  # noqa: E701 # fmt: skip # `atomic`, without its detour

    def _accept(self, body: bytes, place: Place | None) -> Evicted | Refused | Shift:
        if self.refusal is not None:
            self._ledger.dropped[self.refusal] += 1
            return Refused(self.refusal)
        now = self._monotonic()
        shift = self._shift
        if (shift is None or now >= shift.over_at) and now >= self._start_again_at and not self.holding:
            shift = self._shift = Shift(now)
            return shift
        queue = self._queue
        evicted = queue.append(body, now, place)
        asleep = self._asleep
        if asleep is not None and (
            # Is anything due earlier than the sender knows? Events that were there before, it knows of.
            len(queue.waiting) >= self._max_batch_size or now + self._flush_interval < asleep.until or self._closers
        ):
            self._wake()
        if evicted and self._waiters:
            self._let_flushes_go()
        return evicted

    @atomic
    def accept_alone(self, batch: Batch, body: bytes) -> Refused | None:
        """Take a sync call's event in, in flight at once."""
        if self.refusal is not None:
            self._ledger.dropped[self.refusal] += 1
            return Refused(self.refusal)
        self._queue.take_alone(batch, body, self._clock.monotonic())
        return None

    @atomic
    def drop(self, reason: str) -> None:
        """Count an event that never came to the door."""
        self._ledger.dropped[reason] += 1

    @atomic
    def stats(self) -> Stats:
        """The ledger, with what is pending counted where it is."""
        return self._ledger.snapshot(self._queue.pending())

    @atomic
    def pending(self) -> int:
        """Events without an outcome."""
        return self._queue.pending()

    @atomic
    def unfinished(self, mark: float) -> bool:
        """Is there an event up to `mark`, or its callback, that a flush would wait for, or was one let go of?"""
        return self._queue.unfinished(mark) or self._has_left_some

    @atomic
    def has_work(self) -> bool:
        """Is there any? A batch of others' events counts while it is on its way."""
        return self._queue.unfinished(self._queue.last_serial + 1)

    @atomic
    def at_stake(self, mark: float) -> bool:
        """Is an event up to `mark` in memory only, so that to stop now would lose it?"""
        return self._queue.at_stake(mark)

    @atomic
    def was_in_vain(self) -> bool:
        """Is everything pending in the spool alone, and has a try of it failed, so that there is none for a while?"""
        if self._in_memory():
            return False
        return self.fails() or (bool(self._closers) and self._backlog_at > self._clock.monotonic())

    # --- the shift

    @atomic
    def next_step(self, shift: Shift, *, others: bool = True) -> Batch | Backlog | Sleep | None:
        """What whoever works `shift` does now; None: go home. `others`: is there time for what dead processes left?"""
        if self._shift is not shift:
            return None
        shift.begin()
        now = self._clock.monotonic()
        if now >= shift.limit or (shift.here and self._is_over(shift)):
            self._shift = None
            return None
        until = shift.busy_at + LINGER if self._queue.head() is None else self._due(now)
        is_due = self._queue.head() is not None and (until <= now or shift.here)
        if self._closers:  # only this process's own, and only while there is time
            backlog = self._queue.on_disk > 0 and now < self.closing_at()
        else:
            backlog = self._queue.on_disk > 0 or (self._queue.adopted_on_disk > 0 and others)
        if backlog and now >= self._backlog_at and (self._backlog_is_next or not is_due):
            self._backlog_is_next = False
            self._fetching = shift
            return Backlog(self._max_batch_size, MAX_BATCH_BODY)
        if is_due:
            self._backlog_is_next = True  # new events and old ones take turns
            return self._queue.take(self._max_batch_size, MAX_BATCH_BODY, shift)
        if self._queue.head() is None and not backlog and (shift.here or now >= until):
            self._shift = None
            return None
        if backlog:
            until = self._backlog_at if self._queue.head() is None else min(until, self._backlog_at)
            if self._closers and not self._in_memory():
                self._in_vain()  # the shutdown has had its try: who waits for it need not
                if shift.here:
                    self._shift = None
                    return None
        self._asleep = Sleep(self._clock.latch(), min(until, shift.limit))
        return self._asleep

    @atomic
    def end_shift(self, shift: Shift) -> bool:
        """Whoever worked `shift` has gone, usually because the last step said so. Is work left that nobody does?"""
        for batch in self._queue.batches_of(shift):  # there are some if an exception struck in the wrong place
            self._queue.put_back(batch)
            self._queue.finish(batch)
        if self._shift is shift:
            self._shift = None
        if self._shift is not None:
            return False
        for _, latch in list(self._waiters):
            latch.open()  # a flush looks again, and begins another shift
        return self._queue.unfinished(self._queue.last_serial)

    @atomic
    def no_thread(self, shift: Shift) -> None:
        """The system refused a thread. Events are taken in all the same: a flush, or the exit, sends them."""
        self._start_again_at = self._clock.monotonic() + START_AGAIN
        if self._shift is shift:
            self._shift = None

    @atomic
    def work_here(self, limit: float, mark: float) -> Shift:
        """A shift for the calling thread, in the place of one that may be there, until all up to `mark` is done."""
        shift = Shift(self._clock.monotonic(), here=True, limit=limit, mark=mark, in_vain=self.in_vain)
        self._shift = shift
        return shift

    # --- deliveries

    @atomic
    def settle(
        self, batch: Batch, *, delivered: int = 0, rejected: int = 0, failed: int = 0, cut_short: bool = False
    ) -> list[Entry]:
        """Write an outcome, once; returns the events, none when they had one before."""
        entries = self._queue.settle(batch, delivered=delivered, rejected=rejected, failed=failed)
        if delivered or rejected:
            self._failing = False
            if self._closers:
                self._backlog_at = -NEVER  # it answers: what was put off in this shutdown has another try
        if cut_short:
            self.cut_short += len(entries)
        return entries

    @atomic
    def try_in_vain(self, batch: Batch) -> None:
        """A try has failed, and another will come. When the events are safe, flushes do not wait for that."""
        batch.is_out = False
        if batch.is_kept():
            self._in_vain()

    @atomic
    def put_off(self, batch: Batch, seconds: float) -> tuple[list[Entry], list[Entry]]:
        """Let what is in the spool wait there, for so many seconds. See `Queue.put_off`."""
        kept, gone = self._queue.put_off(batch)
        if kept or gone:
            self._rest_until(self._clock.monotonic() + seconds)
        return kept, gone

    @atomic
    def load(self, bodies: list[tuple[bytes, Place]], shift: Shift) -> Batch | None:
        """What waited in the spool is in memory again, as a batch on its way; None: it is not to be, and waits on."""
        fetching, self._fetching = self._fetching, None
        if self._shift is not shift or fetching is not shift:
            return None
        return self._queue.load(bodies, self._clock.monotonic(), shift)

    @atomic
    def pace(self, seconds: float) -> None:
        """Leave the endpoint alone for so long before the next events out of the spool; not when there is a hurry."""
        if not self._closers:
            self._backlog_at = max(self._backlog_at, self._clock.monotonic() + seconds)

    @atomic
    def nothing_waits(self, shift: Shift, has_waiting: Callable[[], bool], *, elsewhere: bool) -> int:
        """The spool has not found what it was to keep: how many events?

        Their file has gone, and they have failed; or, `elsewhere`, an exception struck between two books, and the next
        owner of the file will find them. Unless they have come, or gone, since the spool looked.
        """
        self._fetching = None
        if self._shift is not shift or has_waiting():
            return 0
        queue, ledger = self._queue, self._ledger
        lost = queue.on_disk + queue.adopted_on_disk
        queue.on_disk = queue.adopted_on_disk = 0
        if elsewhere:
            ledger.handed_over += lost
        else:
            ledger.failed += lost
        self._let_flushes_go()
        return lost

    @atomic
    def has_not_read(self, seconds: float) -> None:
        """The spool could not be read, and is left alone for so long; by a shutdown for good."""
        self._fetching = None
        self._rest_until(self._clock.monotonic() + seconds)

    @atomic
    def take_over(self, count: int) -> None:
        """So many events of a dead process wait in the spool now."""
        self._ledger.adopted += count
        self._queue.adopted_on_disk += count

    @atomic
    def drop_waiting(self, take: Callable[[], tuple[int, Whose]]) -> None:
        """A file of the spool has to make room: `take` it. So many events of it waited, and are dropped."""
        count, whose = take()
        self._ledger.dropped["queue_full"] += count
        if whose == "ours":
            self._queue.on_disk -= count
        elif whose == "adopted":
            self._queue.adopted_on_disk -= count
        else:
            self._ledger.adopted += count
        self._let_flushes_go()

    @atomic
    def split(self, batch: Batch) -> list[Batch]:
        """Two halves instead of the batch."""
        return self._queue.split(batch)

    @atomic
    def put_back(self, batch: Batch) -> None:
        """Let what has no outcome wait again."""
        self._queue.put_back(batch)
        self._queue.finish(batch)
        self._let_flushes_go()

    @atomic
    def finish(self, batch: Batch) -> None:
        """The batch is done with, callbacks included."""
        self._queue.finish(batch)
        if self._closers:
            self._wake()  # it may be the last in memory
        self._let_flushes_go()

    @atomic
    def begin_request(self, batch: Batch, *, again: bool) -> list[bytes]:
        """A request is about to be made. Returns the events' JSON; none when they have their outcome already."""
        bodies = batch.bodies()
        if bodies:
            batch.is_out = True
            self._ledger.requests += 1
            self._ledger.retries += again
        return bodies

    @atomic
    def hold(self, until: float) -> None:
        """Let nobody of this client send before `until`."""
        self._hold_until = max(self._hold_until, until)

    @atomic
    def begin_rest(self, closing: float) -> Latch:
        """A latch for a pause; open already when the shutdown's deadline is no longer `closing`."""
        latch = self._clock.latch()
        if self.closing_at() == closing:
            self._resting.append(latch)
        else:
            latch.open()
        return latch

    @atomic
    def end_rest(self, latch: Latch) -> None:
        """The pause is over."""
        if latch in self._resting:
            self._resting.remove(latch)

    # --- flush, shutdown, restart

    @atomic
    def mark(self) -> int:
        """The number of the newest event: a flush waits for those up to it."""
        return self._queue.last_serial

    @atomic
    def ask(self, mark: float, latch: Opens) -> Asked:
        """Have all events up to `mark` sent without waiting for company; the latch opens when to ask again."""
        if not self._queue.unfinished(mark):
            return Asked(done=True)
        self._flush_mark = max(self._flush_mark, min(mark, self._queue.last_serial))
        self._waiters.append((mark, latch))
        now = self._clock.monotonic()
        shift = self._shift
        if shift is None or now >= shift.over_at:
            shift = self._shift = Shift(now)
            return Asked(done=False, shift=shift, again_at=shift.expected_by)
        self._wake()
        return Asked(done=False, again_at=shift.expected_by if shift.worker is None else NEVER)

    @atomic
    def forget(self, mark: float, latch: Opens) -> None:
        """A flush has stopped waiting."""
        if (mark, latch) in self._waiters:
            self._waiters.remove((mark, latch))

    @atomic
    def begin_closing(self, deadline: float, refusal: str | None) -> int:
        """From now on back-offs are cut to what fits before `deadline`; new events are refused if there is a reason.

        Returns the number up to which events are this shutdown's: one above the newest, so that what is on its way out
        of the spool is among them.
        """
        self._closers.append(deadline)
        if refusal is not None and self.refusal is None:
            self.refusal = refusal
        if self._queue.on_disk > 0 and len(self._closers) == 1:
            self._backlog_at = -NEVER  # one last try; a Retry-After holds all the same
        self._wake()
        while self._resting:
            self._resting.pop().open()
        return self._queue.last_serial + 1

    @atomic
    def end_closing(self, deadline: float) -> None:
        """This shutdown is over; others may be under way."""
        if deadline in self._closers:
            self._closers.remove(deadline)
        self._told(deadline)

    @atomic
    def give_up(self, mark: int, deadline: float) -> tuple[list[Entry], list[Entry]] | None:
        """What is up to `mark` and has no outcome has failed; a late answer changes nothing.

        What is in the spool waits there, rather than to fail. Whoever still hangs in a request has lost its shift, and
        goes home when it comes back. Nothing is given up when the client was restarted meanwhile.

        Returns what has failed, and what is dropped because it had to make room in the spool: a flush waits until that
        was `told`. None: not yet, there is time, and an event is only in memory or in a request.
        """
        failed: list[Entry] = []
        dropped: list[Entry] = []
        if deadline not in self._closers:
            return failed, dropped
        if self._clock.monotonic() < deadline and (self._queue.at_stake(mark) or self._is_on_its_way(mark)):
            return None
        self._shift = None
        self._queue.take_up_to(mark, deadline)
        for batch in self._queue.batches():
            if batch.first <= mark and not batch.is_settled:  # else it is in its callbacks
                dropped += self._queue.put_off(batch)[1]
                failed += self._queue.settle(batch, failed=len(batch.entries))
                batch.owner = deadline  # last: should an exception strike, what has no outcome is still its sender's
        self.cut_short += len(failed) + len(dropped) + self._queue.on_disk
        if self._queue.on_disk:
            self._in_vain()
        return failed, dropped

    @atomic
    def told(self, deadline: float) -> None:
        """The callbacks of what this shutdown gave up have returned."""
        self._told(deadline)

    @atomic
    def is_telling(self, mark: int, latch: Opens) -> bool:
        """Is the outcome of a batch up to `mark` written, and are its callbacks running? The latch opens at an end."""
        telling = any(batch.is_settled and batch.first <= mark for batch in self._queue.batches())
        if telling:
            self._last_words.append(latch)
        return telling

    @atomic
    def let_go(self, take_all: Callable[[], list[Segment]]) -> list[Segment]:
        """After a shutdown, with nothing in memory any more: what waits in the spool is anybody's. Returns the files.

        It is pending still, but nobody here works on it; who is just reading some of it puts it back (see `load`).
        """
        queue = self._queue
        if self.refusal != "shutdown" or self._in_memory() or any(batch.is_settled for batch in queue.batches()):
            return []
        self._shift = None
        self._has_left_some = self._has_left_some or queue.on_disk > 0
        queue.let_go += queue.on_disk + queue.adopted_on_disk; queue.on_disk = queue.adopted_on_disk = 0  # noqa: E702 # fmt: skip
        self._let_flushes_go()
        return take_all()

    @atomic
    def reopen(self, refusal: str | None) -> None:
        """Take events again, as after construction; what is pending stays, but for what a shutdown has let go of."""
        self._ledger.handed_over += self._queue.let_go; self._queue.let_go = 0; self.refusal = refusal  # noqa: E702 # fmt: skip
        self._closers.clear()
        self._failing = self._has_left_some = False
        self._start_again_at = self._backlog_at = -NEVER

    # --- a process that only loads, and its workers

    @atomic
    def held(self) -> list[Entry]:
        """What is held, and not in the spool."""
        return self._queue.unplaced() if self.holding else []

    @atomic
    def place(self, places: dict[int, Place]) -> list[Place]:
        """See `Queue.place`."""
        return self._queue.place(places)

    @atomic
    def release(self, take: Callable[[], bool]) -> None:
        """Send what is held if `take()` is true; if not, another process does."""
        held = self._queue.last_serial
        mine = take()
        if self.holding:  # still: a signal handler that tracks may have been here
            if not mine:
                self._queue.hand_over(held)
            self.holding = False

    @atomic
    def adopt(self, held: Queue) -> None:
        """Deliver what the process that this one was forked from held; `held` is empty then."""
        self._queue.adopt(held)

    # --- inside a step

    def _in_memory(self) -> int:
        """Events that are pending, and not in the spool alone; sync calls' apart."""
        return len(self._queue) + sum(len(batch.entries) for batch in self._queue.batches())

    def _is_on_its_way(self, mark: float) -> bool:
        """Is a batch up to `mark` in a request?"""
        return any(batch.is_out and batch.entries and batch.first <= mark for batch in self._queue.batches())

    def _told(self, deadline: float) -> None:
        for batch in self._queue.batches_of(deadline):
            self._queue.put_back(batch)  # there is something if an exception struck in the middle of it
            self._queue.finish(batch)
        self._let_flushes_go()

    def _is_over(self, shift: Shift) -> bool:
        """Has a shift in a caller's thread done what it was for, or tried in vain?"""
        return self.in_vain != shift.in_vain or not self._queue.unfinished(shift.mark)

    def _due(self, now: float) -> float:
        """When the oldest event is to be sent; only called when there is one."""
        head = self._queue.head()
        if head is None:
            return NEVER
        serial, since = head
        if self._closers or serial <= self._flush_mark or len(self._queue) >= self._max_batch_size:
            return now
        return since + self._flush_interval

    def _rest_until(self, again_at: float) -> None:
        """A try has failed of what waits in the spool; a shutdown has only one."""
        closing = self.closing_at()
        self._backlog_at = again_at if closing == NEVER else max(again_at, closing)
        self._in_vain()

    def _in_vain(self) -> None:
        self.in_vain += 1
        self._failing = True
        for _, latch in list(self._waiters):
            latch.open()

    def _wake(self) -> None:
        sleep = self._asleep
        if sleep is not None:
            sleep.latch.open()  # first: a signal's exception may come between, and a latch may be opened twice
            if self._asleep is sleep:
                self._asleep = None

    def _let_flushes_go(self) -> None:
        while self._last_words:
            self._last_words.pop().open()
        for waiter in list(self._waiters):
            mark, latch = waiter
            if not self._queue.unfinished(mark):
                latch.open()
                if waiter in self._waiters:  # a nested call may have been here
                    self._waiters.remove(waiter)
