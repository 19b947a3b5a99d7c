"""The ledger: where every event of this process ended."""

from __future__ import annotations

from dataclasses import dataclass

# Why an event was dropped before delivery was tried.
DROP_REASONS = ("invalid", "filtered", "too_large", "queue_full", "shutdown", "disabled")


@dataclass(frozen=True)
class Stats:
    """A process's ledger at one moment; a child starts at zero.

    Always true: `tracked + adopted == delivered + rejected + failed + sum(dropped.values()) + handed_over + pending`.

    Attributes:
        tracked: calls made in this process, dropped ones and sync ones included.
        delivered: events the endpoint took.
        rejected: events the endpoint named as wrong, or refused for their size.
        failed: events given up after the retries, or when a deadline came.
        dropped: events that delivery was never tried for, by reason; has every reason.
        pending: events in this process without an outcome, in flight included.
        adopted: events taken over from another process.
        handed_over: events given to another process.
        retries: requests sent again.
        requests: requests made.
    """

    tracked: int
    delivered: int
    rejected: int
    failed: int
    dropped: dict[str, int]
    pending: int
    adopted: int = 0
    handed_over: int = 0
    retries: int = 0
    requests: int = 0


class Ledger:
    """The counters behind `Stats`. Whoever changes them holds the sender's lock; nothing here takes one.

    `accepted` counts events at the moment they enter the queue, in the same step; a drop at the call is counted in
    `dropped` alone. So each event is counted by one assignment, and no interruption can fall between two.
    """

    __slots__ = (
        "accepted",
        "adopted",
        "delivered",
        "dropped",
        "failed",
        "handed_over",
        "rejected",
        "requests",
        "retries",
    )

    def __init__(self) -> None:
        self.accepted = 0
        self.adopted = 0
        self.delivered = 0
        self.dropped = dict.fromkeys(DROP_REASONS, 0)
        self.failed = 0
        self.handed_over = 0
        self.rejected = 0
        self.requests = 0
        self.retries = 0

    def snapshot(self, pending: int) -> Stats:
        """The counters and `pending`, which is counted where the events are."""
        dropped = dict(self.dropped)
        # An event dropped from a full queue had been accepted; the other reasons strike before that.
        refused_at_the_call = sum(dropped.values()) - dropped["queue_full"]
        return Stats(
            tracked=self.accepted + refused_at_the_call,
            delivered=self.delivered,
            rejected=self.rejected,
            failed=self.failed,
            dropped=dropped,
            pending=pending,
            adopted=self.adopted,
            handed_over=self.handed_over,
            retries=self.retries,
            requests=self.requests,
        )
