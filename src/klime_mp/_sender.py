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
from klime_mp._dispatch import LINGER, Accepted, Dispatch, Refused, Shift, Sleep
from klime_mp._signals import raised_by_signal

if TYPE_CHECKING:
    from klime_mp._callbacks import Callbacks
    from klime_mp._log import RateLimitedLog
    from klime_mp._transport import Transport


class Sender:
    """Works the road of one client in one process.

    Args:
        dispatch: the state.
        delivery: brings a batch to its outcome.
        make_transport: a new connection; each shift has its own and closes it when it ends.
        callbacks: asked whether a caller is inside one.
        log: for what goes wrong.
        clock: time and latches.
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
        exit_timeout: float | None,
    ) -> None:
        self.exit_timeout = exit_timeout
        self._dispatch = dispatch
        self._delivery = delivery
        self._make_transport = make_transport
        self._callbacks = callbacks
        self._log = log
        self._clock = clock

    def accept(self, body: bytes) -> Accepted | Refused:
        """Take an event in, with a thread there to send it (or none to be had)."""
        while True:
            step = self._dispatch.accept(body)
            if not isinstance(step, Shift):
                return step
            self._begin(step)

    def flush(self, deadline: float) -> bool:
        """Wait until every event accepted before this call has its outcome and its callbacks have returned."""
        if self._callbacks.inside() or self._dispatch.working_here():
            return False
        mark = self._dispatch.mark()
        if self._dispatch.in_step():
            # A signal handler that struck inside a step: until it returns, nobody else can make one.
            return not self._dispatch.unfinished(mark)
        work_here = _exit.no_more_threads()
        while True:
            latch = self._clock.latch()
            try:
                asked = self._dispatch.ask(mark, latch)
                if asked.done:
                    return True
                if work_here or (asked.shift is not None and not self._begin(asked.shift)):
                    self._work_here(min(deadline, self._dispatch.closing_at()))
                    return not self._dispatch.unfinished(mark)
                now = self._clock.monotonic()
                if now >= deadline:
                    return False
                latch.wait(min(deadline, asked.again_at) - now)
            finally:
                self._dispatch.forget(mark, latch)

    def has_work(self) -> bool:
        """Is anything here that a flush would wait for?"""
        return self._dispatch.has_work()

    def hurry(self, deadline: float) -> bool:
        """Let nothing that is pending wait for company, nor beyond `deadline`. False: no thread is there to send it."""
        self._dispatch.begin_closing(deadline, None)
        return self._nudge()

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
            if not self.flush(deadline) and not self._dispatch.in_step():
                self._delivery.report_failed(self._dispatch.give_up(mark, deadline), OUT_OF_TIME)
        finally:
            self._dispatch.end_closing(deadline)
        return self._dispatch.cut_short == cut_short

    def _begin(self, shift: Shift) -> bool:
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
            level = logging.DEBUG if _exit.latest_end(0) < NEVER else logging.WARNING  # at exit it is nothing special
            self._log("no thread", level, f"no thread could be started ({error}); a flush or the exit sends")
            return False
        return True

    def _work_here(self, limit: float) -> None:
        """The loop in the calling thread, until there is nothing left to do or `limit` comes."""
        shift = self._dispatch.work_here(limit)
        try:
            self._work(shift)
        finally:
            self._dispatch.end_shift(shift)  # once more, should an exception have struck while `_work` did so

    def _work(self, shift: Shift) -> None:
        """The loop."""
        transport: Transport | None = None
        failed = False
        try:
            transport = self._make_transport()
            while self._dispatch.mine():
                step = self._dispatch.next_step(shift)
                if step is None:
                    break
                if isinstance(step, Sleep):
                    step.latch.wait(step.until - self._clock.monotonic())
                else:
                    self._delivery.deliver(step, transport, shift.limit)
                    shift.busy_at = self._clock.monotonic()
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
        if failed and not shift.here:
            self._nudge()  # what is left is tried again

    def _nudge(self) -> bool:
        """See to it that somebody works on what is pending. False: no thread is to be had."""
        mark, latch = self._dispatch.mark(), self._clock.latch()
        asked = self._dispatch.ask(mark, latch)
        self._dispatch.forget(mark, latch)
        return asked.shift is None or self._begin(asked.shift)
