"""What a client's ledger has to say."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any


def assert_balanced(stats: Any) -> None:
    """Every event is in exactly one place."""
    somewhere = stats.delivered + stats.rejected + stats.failed + sum(stats.dropped.values()) + stats.handed_over
    assert stats.tracked + stats.adopted == somewhere + stats.pending, stats


def assert_ledger(client: Any, *, dropped: dict[str, int] | None = None, **expected: int) -> None:
    """The ledger balances and holds exactly this.

    What is not named is 0, apart from `tracked`, which follows from the rest, and from `requests` and `retries`, which
    are only looked at when they are named.
    """
    stats = client.stats()
    assert_balanced(stats)
    places = dict.fromkeys(("delivered", "rejected", "failed", "pending", "adopted", "handed_over"), 0) | expected
    found = {name: value for name, value in asdict(stats).items() if name in places}
    found["dropped"] = {reason: count for reason, count in stats.dropped.items() if count}
    assert found == {**places, "dropped": dropped or {}}, stats
