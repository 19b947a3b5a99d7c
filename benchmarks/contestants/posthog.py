"""posthog. When its queue is full, new events are refused. Without a personal key it asks for no feature flags."""

from __future__ import annotations

from posthog import Posthog as Client

from benchmarks.event import NAME


class Posthog:
    """`posthog.Posthog`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def track(self, user: str, properties: dict[str, object]) -> None:
        """One event."""
        self._client.capture(NAME, distinct_id=user, properties=properties)

    def flush(self) -> None:
        """Deliver."""
        self._client.flush(timeout_seconds=None)


def make(endpoint: str, batch_size: int | None, queue_size: int | None) -> Posthog:
    """A client with default options."""
    given = {"flush_at": batch_size, "max_queue_size": queue_size}
    return Posthog(Client("key", host=endpoint, **{name: value for name, value in given.items() if value is not None}))
