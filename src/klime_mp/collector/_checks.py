"""One event -> what breaks the rules of the wire, if anything. Pure.

The rules are written down here a second time on purpose: a collector that asked the client's own code could
not find the client wrong.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from klime_mp.collector._batch import Sent

MAX_EVENT_BYTES = 204_800

_TIMESTAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")

# Each type: the fields of which it needs at least one.
_NEEDS: dict[str, tuple[str, ...]] = {
    "track": ("userId", "groupId"),
    "identify": ("userId",),
    "group": ("groupId",),
}


class Problem(NamedTuple):
    """Why an event is rejected, as it stands in `errors` of the answer."""

    message: str
    code: str


def problem(sent: Sent) -> Problem | None:
    """The first rule that this event breaks, or None when it is fine."""
    event = sent.value
    if not isinstance(event, dict):
        return Problem("an event must be an object", "invalid_event")
    return _shape(event) or _ids(event) or _objects(event) or _size(sent)


def _shape(event: dict[str, Any]) -> Problem | None:
    kind = event.get("type")
    if not isinstance(kind, str) or kind not in _NEEDS:
        return Problem("type must be one of track, identify, group", "invalid_type")
    if not _is_text(event.get("messageId")):
        return Problem("messageId must be a non-empty string", "invalid_message_id")
    if not _is_timestamp(event.get("timestamp")):
        return Problem("timestamp must be UTC as in 2026-11-22T10:00:00.123Z", "invalid_timestamp")
    if kind == "track" and not _is_text(event.get("event")):
        return Problem("track needs event, a non-empty string", "invalid_event_name")
    return None


def _ids(event: dict[str, Any]) -> Problem | None:
    for field in ("userId", "groupId"):
        if field in event and not _is_text(event[field]):
            return Problem(f"{field} must be a non-empty string", "invalid_id")
    needed = _NEEDS[event["type"]]
    if not any(field in event for field in needed):
        return Problem(f"{event['type']} needs {' or '.join(needed)}", "missing_id")
    return None


def _objects(event: dict[str, Any]) -> Problem | None:
    for field in ("properties", "traits", "context"):
        if field in event and not isinstance(event[field], dict):
            return Problem(f"{field} must be an object", f"invalid_{field}")
    return None


def _size(sent: Sent) -> Problem | None:
    # What was sent is measured first: it is at hand, and nearly always small. White space and \u escapes are
    # the sender's taste and not the event's size, so too large is what is too long when written tersely.
    if len(sent.text.encode()) <= MAX_EVENT_BYTES:
        return None
    terse = json.dumps(sent.value, ensure_ascii=False, separators=(",", ":"), default=str)
    size = len(terse.encode("utf-8", "surrogatepass"))
    if size <= MAX_EVENT_BYTES:
        return None
    return Problem(f"{size} bytes; an event has at most {MAX_EVENT_BYTES}", "too_large")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _is_timestamp(value: object) -> bool:
    if not isinstance(value, str) or _TIMESTAMP.fullmatch(value) is None:
        return False
    try:
        datetime.fromisoformat(value[:-1])  # the 31st of February has the right shape too
    except ValueError:
        return False
    return True
