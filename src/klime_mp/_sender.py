"""The one thread: started at the first event, gone when it has been idle for half a second.

`_dispatch` decides, this module does: it starts the thread, sleeps, delivers, waits for flushes. The thread is a daemon
that can be left behind: a shutdown waits beside a request that hangs, never inside it. Where no thread can be started
(an exit handler on Python 3.12+, uWSGI without threads) the thread that flushes works the loop itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Thread
from typing import TYPE_CHECKING

from klime_mp import _exit
from klime_mp._clock import NEVER, Clock
from klime_mp._delivery import OUT_OF_TIME, Delivery
from klime_mp._dispatch import LINGER, START_AGAIN, Dispatch
from klime_mp._signals import raised_by_signal
from klime_mp._steps import Backlog, Evicted, Opens, Refused, Shift, Sleep

if TYPE_CHECKING:
    from klime_mp._batch import Batch, Entry
    from klime_mp._callbacks import Callbacks
    from klime_mp._log import RateLimitedLog
    from klime_mp._spool import Place, Spool
    from klime_mp._transport import Transport


# Seconds between two looks for files of processes that have died, while there is something to do.
LOOK_INTERVAL = 5.0

# Seconds that a shutdown leaves to callbacks which are running when its deadline comes.
HEAR_OUT = 0.2


class Sender:
    """Works the road of one client in one process.

    Args:
        dispatch: the state.
        delivery: brings a batch to its outcome.
        make_transport: a new connection; each shift has its own and closes it when it ends.
        callbacks: asked whether a caller is inside one.
        log: for what goes wrong.
        clock: time and latches.
        spool: what of the events is on disk.
        exit_timeout: seconds the exit may spend on this client, None when it must not send by itself.
    """

    def __init__(
        self,
        dispatch: Dispatch,
        delivery: Delivery,
        make_transport: Callable[[], Transport],
        callbacks: Callbacks,
        log: RateLimitedLog,
        clock: Clock,
        spool: Spool,
        exit_timeout: float | None,
    ) -> None:
        self.exit_timeout = exit_timeout
        self._dispatch = dispatch
        self._delivery = delivery
        self._make_transport = make_transport
        self._callbacks = callbacks
        self._log = log
        self._clock = clock
        self._spool = spool
        self._look_at = -NEVER
        self._has_adopted = False

    def accept(self, body: bytes, place: Place | None = None) -> Evicted | Refused:
        """Take an event in, with a thread there to send it (or none to be had)."""
        while isinstance(step := self._dispatch.accept(body, place), Shift):
            self.begin(step)
        return step

    def flush(self, deadline: float, mark: float | None = None) -> bool:
        """Wait until every event accepted before this call has its outcome and its callbacks have returned.

        False when the deadline comes first, or a try fails, or has just failed, of events that are safe in the spool.

        Args:
            deadline: the instant at which this returns at the latest.
            mark: the number up to which events are waited for; None: the newest's.
        """
        if self._callbacks.inside() or self._dispatch.working_here():
            return False
        until = NEVER  # of an end, when whatever comes meanwhile is sent as well, if there is time
        if mark is None:
            mark = until = self._dispatch.mark()
            has_failed = self._has_failed(mark)
        else:
            has_failed = self._dispatch.was_in_vain()  # an end has one try, which may have been made before this waits
        if has_failed and self._dispatch.unfinished(mark):
            return False
        if self._dispatch.in_step():
            # A signal handler that struck inside a step: until it returns, nobody else can make one.
            return not self._dispatch.unfinished(mark)
        work_here = _exit.no_more_threads()
        in_vain = self._dispatch.in_vain
        while True:
            latch = self._clock.latch()
            try:
                asked = self._dispatch.ask(mark, latch)
                if asked.done:
                    return not self._dispatch.unfinished(mark)
                if self._has_failed_since(in_vain, mark):
                    return False
                if work_here or (asked.shift is not None and not self.begin(asked.shift)):
                    return self._works_off(mark, deadline, until)
                now = self._clock.monotonic()
                if now >= deadline:
                    return False
                latch.wait(min(deadline, asked.again_at) - now)
            finally:
                self._forget(mark, latch)

    async def aflush(self, deadline: float) -> bool:
        """`flush` for asyncio: it takes no thread, however many wait, and sends in the loop's only at an exit."""
        from klime_mp._aside import LoopLatch  # noqa: PLC0415 # loads asyncio, as whoever awaits this has done

        if self._callbacks.inside() or self._dispatch.working_here():
            return False
        mark, in_vain = self._dispatch.mark(), self._dispatch.in_vain
        if self._has_failed(mark) and self._dispatch.unfinished(mark):
            return False
        while True:
            latch = LoopLatch()
            try:
                asked = self._dispatch.ask(mark, latch)
                if asked.done:
                    return not self._dispatch.unfinished(mark)
                now = self._clock.monotonic()
                if self._has_failed_since(in_vain, mark) or now >= deadline:
                    return False
                again_at = asked.again_at
                if asked.shift is not None and not self.begin(asked.shift):
                    if _exit.main_thread_is_over():  # in the event loop's thread after all, as there is no other
                        return self._works_off(mark, deadline, mark)
                    again_at = now + START_AGAIN
                await latch.wait(min(deadline, again_at) - now)
            finally:
                self._forget(mark, latch)

    def _forget(self, mark: float, latch: Opens) -> None:
        if self._dispatch.mine():  # a callback may have forked, and this be the child: there the lock is the parent's
            self._dispatch.forget(mark, latch)

    def _has_failed(self, mark: float) -> bool:
        """Has the last try failed, the next one still to come, and is everything up to `mark` safe?"""
        return self._dispatch.fails() and not self._dispatch.at_stake(mark)

    def _has_failed_since(self, in_vain: int, mark: float) -> bool:
        """Has a try failed since there were so many in vain, and is everything up to `mark` safe?"""
        return self._dispatch.in_vain != in_vain and not self._dispatch.at_stake(mark)

    def has_work(self) -> bool:
        """Is anything here that a flush would wait for?"""
        return self._dispatch.has_work()

    def hurry(self, deadline: float) -> bool:
        """Let nothing that is pending wait for company, nor beyond `deadline`. False: no thread is there to send it."""
        self._dispatch.begin_closing(deadline, None)
        return self.nudge()

    def relax(self, deadline: float) -> None:
        """The hurry is over."""
        self._dispatch.end_closing(deadline)

    def drain(self, deadline: float, refusal: str | None = None) -> bool:
        """Send what is pending by `deadline`; what is then left has failed. True when nothing was cut short.

        Args:
            deadline: the instant at which this returns at the latest, callbacks apart.
            refusal: why new events are dropped from now on; None: they are taken.
        """
        cut_short = self._dispatch.cut_short
        if self._callbacks.inside() or self._dispatch.working_here():
            # The sender itself asks. It cannot wait for itself, but it will keep the deadline.
            self._dispatch.begin_closing(deadline, refusal)
            return False
        try:
            mark = self._dispatch.begin_closing(deadline, refusal)
            while not (done := self.flush(deadline, mark)) and self._dispatch.mine() and not self._dispatch.in_step():
                # The deadline has come, or a try was in vain. What is on disk is safe there; what is in memory only
                # has its other tries, and a request that has begun may still be answered.
                given_up = self._dispatch.give_up(mark, deadline)
                if given_up is not None:
                    self._tell(*given_up, mark, deadline)
                    break
            if not self._dispatch.mine():
                return False  # on_error has forked, and this is the child
            self.tidy()
        finally:
            if self._dispatch.mine():
                self._dispatch.end_closing(deadline)
        return self._dispatch.cut_short == cut_short and (done or not self._dispatch.unfinished(mark))

    def _tell(self, failed: list[Entry], dropped: list[Entry], mark: int, deadline: float) -> None:
        """Tell of what was given up. Callbacks of what the sender itself has written just in time may end."""
        self._delivery.report_failed(failed, OUT_OF_TIME)
        self._delivery.report_dropped(dropped)
        if not self._dispatch.mine():
            return
        self._dispatch.told(deadline)
        while (now := self._clock.monotonic()) < deadline + HEAR_OUT:
            latch = self._clock.latch()
            if not self._dispatch.is_telling(mark, latch):
                return
            latch.wait(deadline + HEAR_OUT - now)

    def tidy(self) -> None:
        """Leave no file without events, and after a shutdown none at all."""
        self._spool.retire()
        for segment in self._dispatch.let_go(self._spool.take_all):
            segment.close()

    def nudge(self) -> bool:
        """See to it that somebody works on what is pending. False: no thread is to be had."""
        latch = self._clock.latch()
        asked = self._dispatch.ask(NEVER, latch)
        self._dispatch.forget(NEVER, latch)
        return asked.shift is None or self.begin(asked.shift)

    def begin(self, shift: Shift) -> bool:
        """Start the shift's thread; False when there is none to be had."""
        try:
            if _exit.no_more_threads():
                raise RuntimeError("the interpreter is being torn down")
            Thread(target=self._work, args=(shift,), name="klime-mp sender", daemon=True).start()
        except Exception as error:  # RuntimeError at exit or out of threads, MemoryError, uWSGI's
            if raised_by_signal(error):
                raise
            _exit.hold(self)
            self._dispatch.no_thread(shift)
            level = logging.DEBUG if _exit.has_begun() else logging.WARNING  # at exit it is nothing special
            self._log("no thread", level, f"no thread could be started ({error}); a flush or the exit sends")
            return False
        return True

    def _works_off(self, mark: float, deadline: float, until: float) -> bool:
        """The loop in the calling thread, until all up to `until` is done or the time is up: is all up to `mark`?"""
        shift = self._dispatch.work_here(min(deadline, self._dispatch.closing_at()), until)
        try:
            self._work(shift)
        finally:
            if self._dispatch.mine():
                self._dispatch.end_shift(shift)  # once more, should an exception have struck while `_work` did so
        return self._dispatch.mine() and not self._dispatch.unfinished(mark)

    def _work(self, shift: Shift) -> None:
        """The loop."""
        transport: Transport | None = None
        failed = False
        try:
            transport = self._make_transport()
            while self._dispatch.mine():
                self._look_for_the_dead(shift)
                step = self._dispatch.next_step(shift, others=not _exit.handlers_are_over())
                if step is None:
                    break
                if isinstance(step, Sleep):
                    step.latch.wait(step.until - self._clock.monotonic())
                else:
                    self._send(step, shift, transport)
        except Exception as error:  # no connection can be made (a missing CA bundle, no memory), or a defect of ours
            if raised_by_signal(error):
                raise
            self._log("sender", logging.ERROR, f"the sender stopped: {type(error).__name__}: {error}")
            self._clock.latch().wait(LINGER)  # not in a tight loop
            failed = True
        finally:
            if self._dispatch.mine():
                if transport is not None:
                    transport.close()
                if self._dispatch.end_shift(shift):
                    _exit.hold(self)  # an exception ended the shift: what is left is not forgotten
                self.tidy()
        if failed and not shift.here:
            self.nudge()  # what is left is tried again

    def _send(self, step: Batch | Backlog, shift: Shift, transport: Transport) -> None:
        if isinstance(step, Backlog):
            self._work_off(step, shift, transport)
        else:
            self._delivery.deliver(step, transport, shift.limit)
        shift.busy_at = self._clock.monotonic()

    def _work_off(self, step: Backlog, shift: Shift, transport: Transport) -> None:
        """One batch out of the spool; then the endpoint has a rest for as long as that took."""
        began = self._clock.monotonic()
        try:
            bodies = self._spool.next(step.max_events, step.max_bytes)
        except OSError:
            self._dispatch.has_not_read(LOOK_INTERVAL)
            return
        if not bodies:
            elsewhere = self._spool.has_unfinished()
            lost = self._dispatch.nothing_waits(shift, self._spool.has_waiting, elsewhere=elsewhere)
            if lost and not elsewhere:
                self._log("spool", logging.ERROR, f"{lost} events have gone from the spool", count=lost)
            return
        batch = self._dispatch.load(bodies, shift)
        if batch is None:
            self._spool.put_off([place for _, place in bodies])
            return
        self._delivery.deliver(batch, transport, shift.limit)
        self._dispatch.pace(self._clock.monotonic() - began)

    def _look_for_the_dead(self, shift: Shift) -> None:
        """Take over what a process left that has died, a file at a time, and the next one when that is done."""
        if not self._dispatch.may_adopt(shift):
            return
        now = self._clock.monotonic()
        if now >= self._look_at or (self._has_adopted and not self._spool.is_adopting()):
            self._look_at = now + LOOK_INTERVAL
            self._has_adopted = self.adopt() > 0

    def adopt(self, pid: int | None = None) -> int:
        """Take over one file of a dead process's, of any or of `pid`; how many events it had."""
        count = self._spool.adopt(pid)
        if count:
            self._dispatch.take_over(count)
        return count
