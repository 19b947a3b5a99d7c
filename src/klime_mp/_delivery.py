"""One batch to its final outcome: try, wait, try again, halve, give up.

It asks the road (the sender) to write outcomes and to wait, and never touches a lock: all I/O happens here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from random import random
from typing import TYPE_CHECKING, Protocol

from klime_mp._batch import bodies_of, places_of
from klime_mp._clock import NEVER, Clock, Latch
from klime_mp._response import parse_response
from klime_mp._retry import Fate, Patience, RetryPolicy, Verdict
from klime_mp._signals import raised_by_signal

if TYPE_CHECKING:
    from klime_mp._batch import Batch, Entry
    from klime_mp._response import BatchResponse
    from klime_mp._spool import Spool
    from klime_mp._transport import Answer, Transport

ENVELOPE = (b'{"batch":[', b"]}")

# Why a batch is given up that a shutdown left no time for.
OUT_OF_TIME = "the shutdown's deadline came first"


class Road(Protocol):
    """What delivery asks of the sender: each an atomic step, or one wait."""

    def mine(self) -> bool:
        """False in a process that was forked while this code ran (a greenlet survives that)."""

    def closing_at(self) -> float:
        """The deadline of the shutdown under way, `NEVER` without one."""

    def answer_by(self) -> float:
        """The deadline of a request that begins now."""

    def hold_until(self) -> float:
        """Nothing may be sent before this instant (Retry-After)."""

    def hold(self, until: float) -> None:
        """Let nobody of this client send before `until`."""

    def begin_rest(self, closing: float) -> Latch:
        """A latch for a pause; it opens when a shutdown begins, and is open if `closing_at()` is not `closing`."""

    def end_rest(self, latch: Latch) -> None:
        """The pause is over."""

    def begin_request(self, batch: Batch, *, again: bool) -> list[bytes]:
        """A request is about to be made. Returns the events' JSON; none when they have their outcome already."""

    def settle(
        self, batch: Batch, *, delivered: int = 0, rejected: int = 0, failed: int = 0, cut_short: bool = False
    ) -> Sequence[Entry]:
        """Write an outcome. Returns the events, none when they had one before."""

    def try_in_vain(self, batch: Batch) -> None:
        """A try has failed, and another will come."""

    def put_off(self, batch: Batch, seconds: float) -> tuple[Sequence[Entry], Sequence[Entry]]:
        """Let what is in the spool wait there for so long, and drop what had to make room in it.

        Returns both; the rest stays in the batch.
        """

    def split(self, batch: Batch) -> list[Batch]:
        """Two halves instead of the batch."""

    def put_back(self, batch: Batch) -> None:
        """Let what has no outcome wait again."""

    def finish(self, batch: Batch) -> None:
        """The batch is done with, callbacks included."""


class Listener(Protocol):
    """Who is told what becomes of a batch."""

    def success(self, response: BatchResponse) -> None:
        """It was answered 2xx."""

    def error(self, message: str, status: int | None, bodies: Iterable[bytes]) -> None:
        """Events of it were given up or rejected."""

    def make_room(self, where: str, bodies: Iterable[bytes], count: int) -> None:
        """So many events had to make room there, and are dropped."""

    def retrying(self, because: str, status: int | None, count: int) -> None:
        """It will be tried again."""


class Delivery:
    """Delivers batches of one client in one process; several threads may call `deliver` at once."""

    def __init__(
        self,
        policy: RetryPolicy,
        road: Road,
        listener: Listener,
        spool: Spool,
        log: Callable[..., None],
        clock: Clock,
    ) -> None:
        self._policy = policy
        self._road = road
        self._listener = listener
        self._spool = spool
        self._log = log
        self._clock = clock

    def deliver(self, batch: Batch, transport: Transport, limit: float = NEVER) -> None:
        """Bring every event of `batch` to its outcome.

        What has none when `limit` comes, or when an exception (a signal's, in a caller's thread) cuts this short,
        waits in the queue again. No request begins after `limit`; none is cut by it, or its events would be sent twice.
        """
        parts = [batch]
        try:
            while parts:
                halves = self._bring_home(parts[-1], transport, limit)
                if halves is None or not self._road.mine():
                    return
                self._road.finish(parts.pop())
                parts += reversed(halves)
        except Exception as error:  # a defect of ours may cost a batch, not the sender
            if raised_by_signal(error):
                raise
            for part in parts:
                self._give_up(part, f"internal error: {error!r}")
        finally:
            # In a stray copy, in a child, the road's lock is the parent's: not to be touched.
            for part in parts if self._road.mine() else ():
                self._road.put_back(part)

    def _bring_home(self, batch: Batch, transport: Transport, limit: float) -> list[Batch] | None:
        """Try until there is an outcome. Returns the halves if the batch has to be halved, None if `limit` came."""
        patience, attempt = Patience(), 0
        because, status = "", None  # of the last try
        while True:
            now = self._clock.monotonic()
            closing = self._road.closing_at()
            start = patience.next_try(now, self._road.hold_until(), closing)
            if not batch.entries or not self._road.mine():
                return []  # a deadline wrote the outcome; or this is a stray copy of the sender in a child
            if start is None:
                self._put_off(batch, 0.0)
                self._give_up(batch, f"{because}; {OUT_OF_TIME}" if because else OUT_OF_TIME, status, cut_short=True)
                return []
            if max(start, now) >= limit:
                return None
            if start > now:
                self._rest(start - now, closing)
                continue
            attempt += 1
            answer = self._try(batch, transport, attempt)
            if answer is None or not batch.entries or not self._road.mine():
                return []  # as above
            verdict = self._policy.judge(answer, attempt, wall=self._clock.wall(), random=random)
            now = self._clock.monotonic()
            if verdict.hold is not None:
                self._road.hold(now + verdict.hold)
            if verdict.fate is Fate.GIVE_UP and verdict.for_now:
                self._put_off(batch, self._policy.back_off(attempt, random))
            if verdict.fate is not Fate.RETRY:
                return self._conclude(batch, verdict, answer)
            because, status = verdict.because, answer.status
            self._road.try_in_vain(batch)
            self._listener.retrying(because, status, len(batch.entries))
            patience.back_off(now + verdict.wait, self._road.closing_at())

    def _rest(self, seconds: float, closing: float) -> None:
        latch = self._road.begin_rest(closing)
        try:
            latch.wait(seconds)
        finally:
            self._road.end_rest(latch)

    def _try(self, batch: Batch, transport: Transport, attempt: int) -> Answer | None:
        bodies = self._road.begin_request(batch, again=attempt > 1)
        if not bodies:
            return None
        return transport.post(ENVELOPE[0] + b",".join(bodies) + ENVELOPE[1], self._road.answer_by())

    def _put_off(self, batch: Batch, seconds: float) -> None:
        """Give up what is safe in the spool only for now."""
        if not batch.is_placed():
            return
        kept, gone = self._road.put_off(batch, seconds)
        self.report_dropped(gone)
        if kept:
            self._log("put off", logging.WARNING, f"{len(kept)} events wait in the spool", count=len(kept))

    def _conclude(self, batch: Batch, verdict: Verdict, answer: Answer) -> list[Batch]:
        if verdict.fate is Fate.SPLIT and len(batch.entries) > 1:
            return self._road.split(batch)
        if verdict.fate is Fate.DELIVERED:
            self._delivered(batch, answer)
        elif verdict.fate is Fate.SPLIT:
            self._reject_as_too_large(batch, verdict, answer)
        else:
            self._give_up(batch, verdict.because, answer.status, refused_key=verdict.refused_key)
        return []

    def _delivered(self, batch: Batch, answer: Answer) -> None:
        response = parse_response(answer.body, len(batch.entries))
        settled = self._road.settle(
            batch, delivered=len(batch.entries) - len(response.errors), rejected=len(response.errors)
        )
        if not settled:
            return
        self._spool.acknowledge(places_of(settled))
        self._listener.success(response)
        if response.errors:
            first, bodies = response.errors[0], bodies_of(settled)
            message = f"the endpoint rejected {len(response.errors)} events of a batch: {first.message or first.code}"
            self._log("rejected", logging.WARNING, message, count=len(response.errors))
            self._listener.error(message, answer.status, [bodies[error.index] for error in response.errors])

    def _reject_as_too_large(self, batch: Batch, verdict: Verdict, answer: Answer) -> None:
        settled = self._road.settle(batch, rejected=1)
        if settled:
            self._spool.acknowledge(places_of(settled))
            self._log("rejected", logging.WARNING, f"{verdict.because}, though it held one event only")
            self._listener.error(verdict.because, answer.status, bodies_of(settled))

    def _give_up(
        self,
        batch: Batch,
        because: str,
        status: int | None = None,
        *,
        refused_key: bool = False,
        cut_short: bool = False,
    ) -> None:
        settled = self._road.settle(batch, failed=len(batch.entries), cut_short=cut_short)
        self.report_failed(settled, because, status, refused_key=refused_key)

    def report_dropped(self, entries: Sequence[Entry]) -> None:
        """Tell log and callbacks what had to make room in the spool."""
        if entries:
            self._listener.make_room("spool", bodies_of(entries), len(entries))

    def report_failed(
        self, entries: Sequence[Entry], because: str, status: int | None = None, *, refused_key: bool = False
    ) -> None:
        """Tell log, spool and callbacks that events were given up."""
        if not entries:
            return
        bodies = bodies_of(entries)
        self._spool.acknowledge(places_of(entries))
        kind = "key refused" if refused_key else "failed"
        self._log(kind, logging.ERROR, f"{because}; {len(bodies)} events are lost", count=len(bodies))
        self._listener.error(because, status, bodies)
