"""klime, the official client. Its `track` sends a batch itself when that is full, in the caller's thread."""

from __future__ import annotations

from klime import KlimeClient

from benchmarks.event import NAME


class Klime:
    """`klime.KlimeClient`."""

    def __init__(self, client: KlimeClient) -> None:
        self._client = client

    def track(self, user: str, properties: dict[str, object]) -> None:
        """One event."""
        self._client.track(NAME, properties, user_id=user)

    def flush(self) -> None:
        """Deliver."""
        self._client.flush()


def make(endpoint: str, batch_size: int | None, queue_size: int | None) -> Klime:
    """A client with default options."""
    return Klime(KlimeClient("key", endpoint=endpoint, max_batch_size=batch_size, max_queue_size=queue_size))
