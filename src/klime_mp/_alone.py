"""The sync calls' road: one event, sent at once and by itself, its answer returned to the caller.

The same delivery as everywhere, on a road without queue, callbacks or spool.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from klime_mp._clock import NEVER, Latch

if TYPE_CHECKING:
    from klime_mp._batch import Batch, Entry
    from klime_mp._dispatch import Dispatch
    from klime_mp._response import BatchResponse


class AloneRoad:
    """A client's dispatch as a sync call's delivery sees it: no shutdown hurries it, nothing waits behind it."""

    def __init__(self, dispatch: Dispatch, deadline: float) -> None:
        self._dispatch = dispatch
        self._deadline = deadline
        self.mine = dispatch.mine
        self.hold_until = dispatch.hold_until
        self.hold = dispatch.hold
        self.split = dispatch.split
        self.finish = dispatch.finish
        self.count_request = dispatch.count_request

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

    def try_in_vain(self) -> None:
        """Nothing is safe, and nobody else waits."""

    def put_off(self, batch: Batch, seconds: float) -> tuple[list[Entry], list[Entry]]:  # noqa: ARG002 # the road's signature
        """Nothing can be put off."""
        return [], []

    def put_back(self, batch: Batch) -> None:
        """There is no queue to go back to."""
        self._dispatch.settle(batch, failed=len(batch.entries))
        self._dispatch.finish(batch)


class Outcome:
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

    def drop(self, body: bytes | None, reason: str) -> None:
        """Nothing is dropped on this road."""

    def retrying(self, because: str, status: int | None, count: int) -> None:  # noqa: ARG002 # the listener's signature
        """Keep why a try failed: it is what there is to say when the time is up."""
        self.because, self.status = because, status

    def log(self, *_args: object, **_kwargs: object) -> None:
        """Nothing: the caller gets the outcome, and logs it or does not."""
