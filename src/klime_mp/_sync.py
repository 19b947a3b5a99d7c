"""The sync calls' road: one event, sent at once and by itself, its answer returned to the caller.

The same delivery as everywhere, on a road without queue, callbacks or spool.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from klime_mp import _exit
from klime_mp._aside import Aside
from klime_mp._batch import Batch
from klime_mp._clock import NEVER, Clock, Latch
from klime_mp._delivery import Delivery
from klime_mp._encoding import decode
from klime_mp._response import BatchResponse
from klime_mp._spool import NoSpool
from klime_mp.exceptions import SendError

if TYPE_CHECKING:
    from klime_mp._batch import Entry
    from klime_mp._config import Config
    from klime_mp._dispatch import Dispatch
    from klime_mp._retry import RetryPolicy
    from klime_mp._transport import Transport

# How much longer than its deadline a call waits for the thread that knows why there was no answer.
_GRACE = 0.05


class SyncCalls:
    """The sync calls of one client in one process; any thread may make one.

    Args:
        config: the client's options.
        policy: how often, and when, a delivery is tried again.
        dispatch: counts the events, and refuses them when the client is closed.
        transport: makes a connection of a call's own.
        clock: time and waiting.
    """

    def __init__(
        self,
        config: Config,
        policy: RetryPolicy,
        dispatch: Dispatch,
        transport: Callable[[], Transport],
        clock: Clock,
    ) -> None:
        self._config = config
        self._policy = policy
        self._dispatch = dispatch
        self._transport = transport
        self._clock = clock

    def send(self, body: bytes, timeout_ms: float) -> BatchResponse:
        """Deliver one event, given as JSON, and wait for the answer.

        Raises:
            SendError: it was not delivered within the time.
            ValueError: `timeout_ms` is not a number.
        """
        deadline = self._clock.deadline(timeout_ms)
        outcome = _Outcome()
        batch = Batch(alone=True)  # made here, so that wherever an exception strikes the event gets its outcome
        try:
            refused = self._dispatch.accept_alone(batch, body)
            if refused is None:
                self._deliver(batch, outcome, deadline)
        finally:
            self._dispatch.settle(batch, failed=1)  # a late answer changes nothing
            self._dispatch.finish(batch)
        if refused is not None and refused.reason == "disabled":
            return BatchResponse("disabled", 0, 0)
        if outcome.response is not None:
            return outcome.response
        because = outcome.because or "no answer in time"
        if refused is not None:
            because = "the client is shut down"
        elif not outcome.because and self._dispatch.hold_until() >= deadline:
            because = "the endpoint has asked to be left alone for longer than that (Retry-After)"
        raise SendError(self._config.redact(because), status_code=outcome.status, events=[decode(body)])

    def _deliver(self, batch: Batch, outcome: _Outcome, deadline: float) -> None:
        """Deliver in a thread beside this one, so that nothing can keep the caller beyond the deadline."""
        road = _Road(self._dispatch, deadline)
        delivery = Delivery(self._policy, road, outcome, NoSpool(), outcome.log, self._clock)

        def send() -> None:
            transport = self._transport()
            try:
                delivery.deliver(batch, transport, deadline)
            finally:
                transport.close()

        if self._dispatch.in_step() or self._dispatch.holding or _exit.no_more_threads():
            # In a signal handler that struck inside a step, no other thread could make one; and a process that only
            # loads shall have none.
            send()
            return
        aside = Aside(send)
        in_time = aside.wait(deadline + _GRACE - self._clock.monotonic())
        if not in_time and not self._dispatch.settle(batch, failed=1):
            aside.wait(_GRACE * 10)  # the outcome was being written just now: let it be told, too


class _Road:
    """A client's dispatch as a sync call's delivery sees it: no shutdown hurries it, nothing waits behind it."""

    def __init__(self, dispatch: Dispatch, deadline: float) -> None:
        self._dispatch = dispatch
        self._deadline = deadline
        self.mine = dispatch.mine
        self.hold_until = dispatch.hold_until
        self.hold = dispatch.hold
        self.split = dispatch.split
        self.finish = dispatch.finish
        self.begin_request = dispatch.begin_request

    def closing_at(self) -> float:
        """The caller's own deadline is the only one."""
        return NEVER

    def answer_by(self) -> float:
        """For the request as well."""
        return self._deadline

    def begin_rest(self, closing: float) -> Latch:  # noqa: ARG002 # the road's signature
        """A latch that nobody opens."""
        return Latch()

    def end_rest(self, latch: Latch) -> None:
        """Nobody knew of it."""

    def settle(
        self,
        batch: Batch,
        *,
        delivered: int = 0,
        rejected: int = 0,
        failed: int = 0,
        cut_short: bool = False,  # noqa: ARG002 # the road's signature
    ) -> list[Entry]:
        """Write the outcome into the client's ledger."""
        return self._dispatch.settle(batch, delivered=delivered, rejected=rejected, failed=failed)

    def try_in_vain(self, batch: Batch) -> None:
        """Nothing is safe, and nobody else waits."""

    def put_off(self, batch: Batch, seconds: float) -> tuple[list[Entry], list[Entry]]:  # noqa: ARG002 # the road's signature
        """Nothing can be put off."""
        return [], []

    def put_back(self, batch: Batch) -> None:
        """There is no queue to go back to."""
        self._dispatch.settle(batch, failed=len(batch.entries))
        self._dispatch.finish(batch)


class _Outcome:
    """What a sync call's delivery reports, kept for the caller; a listener in the callbacks' place."""

    def __init__(self) -> None:
        self.response: BatchResponse | None = None
        self.because = ""
        self.status: int | None = None

    def success(self, response: BatchResponse) -> None:
        """The answer was 2xx."""
        self.response = response

    def error(self, message: str, status: int | None, bodies: Iterable[bytes]) -> None:  # noqa: ARG002 # the listener's signature
        """The event was given up, or rejected; in the second case `success` was called before."""
        self.because, self.status = message, status

    def make_room(self, where: str, bodies: Iterable[bytes], count: int) -> None:
        """Nothing is dropped on this road."""

    def retrying(self, because: str, status: int | None, count: int) -> None:  # noqa: ARG002 # the listener's signature
        """Keep why a try failed: it is what there is to say when the time is up."""
        self.because, self.status = because, status

    def log(self, *_args: object, **_kwargs: object) -> None:
        """Nothing: the caller gets the outcome, and logs it or does not."""
