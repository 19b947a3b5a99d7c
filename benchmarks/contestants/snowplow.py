"""snowplow-tracker with its `AsyncEmitter`. Its queue has no bound.

One default is not kept, in its favour: the payload is not encoded in base64, so that the sink sees the event's name.
"""

from __future__ import annotations

from snowplow_tracker import AsyncEmitter, SelfDescribing, SelfDescribingJson, Subject, Tracker

from benchmarks.event import NAME

_SCHEMA = f"iglu:com.example/{NAME}/jsonschema/1-0-0"


class Snowplow:
    """`snowplow_tracker.Tracker`."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    def track(self, user: str, properties: dict[str, object]) -> None:
        """One event."""
        event = SelfDescribing(SelfDescribingJson(_SCHEMA, properties), event_subject=Subject().set_user_id(user))
        self._tracker.track(event)

    def flush(self) -> None:
        """Deliver."""
        self._tracker.flush()


def make(endpoint: str, batch_size: int | None, _queue_size: int | None) -> Snowplow:
    """A tracker with default options, but for base64."""
    emitter = AsyncEmitter(endpoint, batch_size=batch_size)
    return Snowplow(Tracker("benchmark", emitter, encode_base64=False))
