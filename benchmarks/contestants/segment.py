"""segment-analytics-python. When its queue is full, new events are refused."""

from __future__ import annotations

from segment.analytics.client import Client

from benchmarks.event import NAME


class Segment:
    """`segment.analytics.Client`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def track(self, user: str, properties: dict[str, object]) -> None:
        """One event."""
        self._client.track(user, NAME, properties)

    def flush(self) -> None:
        """Deliver."""
        self._client.flush()


def make(endpoint: str, batch_size: int | None, queue_size: int | None) -> Segment:
    """A client with default options."""
    default = Client.DefaultConfig
    return Segment(
        Client(
            "key",
            host=endpoint,
            upload_size=batch_size or default.upload_size,
            max_queue_size=queue_size or default.max_queue_size,
        )
    )
