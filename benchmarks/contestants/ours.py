"""klime-mp. Its environment has orjson, or has not; the adapter is the same."""

from __future__ import annotations

import klime_mp
from benchmarks.event import NAME


class Ours:
    """`klime_mp.Client`."""

    def __init__(self, client: klime_mp.Client) -> None:
        self._client = client

    def track(self, user: str, properties: dict[str, object]) -> None:
        """One event."""
        self._client.track(NAME, properties, user)

    def flush(self) -> None:
        """Deliver."""
        self._client.flush()


def make(endpoint: str, batch_size: int | None, queue_size: int | None) -> Ours:
    """A client with default options."""
    return Ours(klime_mp.Client("key", endpoint=endpoint, max_batch_size=batch_size, max_queue_size=queue_size))
