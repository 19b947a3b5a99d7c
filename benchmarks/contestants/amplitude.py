"""amplitude-analytics. Its queue has no bound for new events; sixteen threads send."""

from __future__ import annotations

from amplitude import Amplitude as Client
from amplitude import BaseEvent, Config

from benchmarks.event import NAME


class Amplitude:
    """`amplitude.Amplitude`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def track(self, user: str, properties: dict[str, object]) -> None:
        """One event."""
        self._client.track(BaseEvent(event_type=NAME, user_id=user, event_properties=properties))

    def flush(self) -> None:
        """Deliver."""
        for future in self._client.flush():
            if future is not None:
                future.result()


def make(endpoint: str, batch_size: int | None, _queue_size: int | None) -> Amplitude:
    """A client with default options."""
    configuration = Config(server_url=f"{endpoint}/2/httpapi")
    if batch_size is not None:
        configuration.flush_queue_size = batch_size
    return Amplitude(Client("key", configuration))
