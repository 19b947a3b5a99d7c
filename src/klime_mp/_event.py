"""The arguments of a call -> an event, checked and encoded. Pure: no I/O, no state.

`build` checks and names things as the wire does; `to_json` turns the result into the bytes that are sent. What the
caller changes afterwards changes nothing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any
from uuid import UUID, uuid4

from klime_mp import _encoding
from klime_mp._signals import raised_by_signal
from klime_mp._version import __version__
from klime_mp.exceptions import InvalidEventError

MAX_EVENT_BYTES = _encoding.MAX_BYTES

_CONTEXT = {"library": {"name": "klime-mp", "version": __version__}}  # nobody changes it

# type -> (the wire's name of its payload, the id it cannot do without)
_TYPES = {"track": ("properties", None), "identify": ("traits", "userId"), "group": ("traits", "groupId")}
_TIMESTAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
_ARGUMENTS = {"userId": "user_id", "groupId": "group_id", "messageId": "message_id"}


def build(
    kind: str,
    event: Any = None,
    payload: Any = None,
    user_id: Any = None,
    group_id: Any = None,
    timestamp: Any = None,
    message_id: Any = None,
    context: Any = None,
) -> dict[str, Any]:
    """An event as a dict in the wire's words, values as the caller gave them: to be read only.

    On the hot path: the usual types are told by one comparison, and only what is given is looked at.

    Raises:
        InvalidEventError: an argument breaks a rule; the text names it.
    """
    if type(message_id) is not str or not message_id:
        message_id = _identifier("message_id", message_id) or str(uuid4())
    built: dict[str, Any] = {
        "type": kind,
        "messageId": message_id,
        "timestamp": _now() if timestamp is None else _timestamp(timestamp),
    }
    if kind == "track":
        built["event"] = event if type(event) is str and event else _name(event)
    if user_id is not None:
        user = user_id if type(user_id) is str else _identifier("user_id", user_id)
        if user:
            built["userId"] = user
    if group_id is not None:
        group = group_id if type(group_id) is str else _identifier("group_id", group_id)
        if group:
            built["groupId"] = group
    if kind != "track" or ("userId" not in built and "groupId" not in built):
        _require_ids(built)
    if payload is not None:
        name = _TYPES[kind][0]
        properties = payload if type(payload) is dict else _mapping(name, payload)
        if properties:
            built[name] = properties
    built["context"] = _CONTEXT if context is None else {**_CONTEXT, **_mapping("context", context)}
    return built


def to_json(event: Mapping[str, Any]) -> bytes:
    """The event as it is sent. Its size is for the caller to check, unless it is beyond all bounds.

    Args:
        event: as `build` or `check` made it.

    Raises:
        InvalidEventError: a value in it has no JSON.
        TooLargeError: there is no point in writing it all out.
    """
    try:
        return _encoding.encode(event)
    except _encoding.UnencodableError as error:
        raise unwritable(event, error) from None


def unwritable(event: Mapping[str, Any], error: _encoding.UnencodableError) -> InvalidEventError:
    """What to say of an event, as `build` or `check` made it, that has no JSON."""
    return InvalidEventError(f"{_culprit(event)} cannot be written as JSON: {error}")


def check(returned: Any) -> dict[str, Any]:
    """An event that `before_send` gave back; it may have changed anything.

    Raises:
        InvalidEventError: it is no longer an event that the endpoint would take.
    """
    if not isinstance(returned, Mapping):
        raise InvalidEventError(f"before_send must return the event or None, not {_shown(returned)}")
    event: dict[str, Any] = dict(returned)
    kind = event.get("type")
    if not isinstance(kind, str) or kind not in _TYPES:
        raise InvalidEventError(f"before_send returned an event of type {_shown(kind)}")
    for name, argument in _ARGUMENTS.items():
        identifier = _identifier(argument, event.pop(name, None))
        if identifier:
            event[name] = identifier
    if "messageId" not in event:
        raise InvalidEventError("before_send returned an event without messageId")
    timestamp = event.get("timestamp")
    if not (isinstance(timestamp, str) and re.fullmatch(_TIMESTAMP, timestamp, re.ASCII)):
        event["timestamp"] = _timestamp(timestamp)
    if kind == "track" and not (isinstance(event.get("event"), str) and event["event"]):
        raise InvalidEventError("before_send returned a track event without a name")
    _require_ids(event)
    for name in (_TYPES[kind][0], "context"):
        if not _mapping(name, event.get(name)):
            event.pop(name, None)
    return event


def _require_ids(event: dict[str, Any]) -> None:
    kind = event["type"]
    needed = _TYPES[kind][1]
    if needed is None:
        if "userId" not in event and "groupId" not in event:
            raise InvalidEventError(f"{kind} needs a user_id or a group_id")
    elif needed not in event:
        raise InvalidEventError(f"{kind} needs a {_ARGUMENTS[needed]}")


def _name(event: Any) -> str:
    """An event's name."""
    if not isinstance(event, str) or not event:
        raise InvalidEventError(f"event must be a non-empty str, not {_shown(event)}")
    return str.__str__(event)


def _identifier(argument: str, value: Any) -> str:
    """An id as a string, empty when it is absent."""
    if value is None:
        return ""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, UUID) or (isinstance(value, int) and not isinstance(value, bool)):
        try:
            return str(int(value)) if isinstance(value, int) else str(value)
        except ValueError:  # sys.set_int_max_str_digits; such a number identifies nobody
            raise InvalidEventError(f"{argument} has too many digits") from None
    raise InvalidEventError(f"{argument} must be a str, an int or a UUID, not {_shown(value)}")


def _mapping(argument: str, value: Any) -> dict[Any, Any]:
    """A mapping as a dict, empty when it is absent."""
    if value is None:
        return {}
    if type(value) is dict:
        return value
    if not isinstance(value, Mapping):
        raise InvalidEventError(f"{argument} must be a mapping or None, not {_shown(value)}")
    try:
        return dict(value)
    except Exception as error:
        if raised_by_signal(error):
            raise
        raise InvalidEventError(f"{argument} cannot be read: it raised {type(error).__name__}") from error


def _now() -> str:
    """This moment, UTC with milliseconds, truncated."""
    global _this_second  # noqa: PLW0603 # one assignment; threads that race write down the same
    moment = int(time.time() * 1000)
    begin, text = _this_second
    since = moment - begin
    if not 0 <= since < 1000:
        since = moment % 1000
        begin = moment - since
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(begin // 1000))
        _this_second = (begin, text)
    return text + _MILLISECONDS[since]


_MILLISECONDS = [f".{number:03}Z" for number in range(1000)]
NO_SECOND = (1 << 62, "")  # in the past of none
_this_second = NO_SECOND  # its begin, in milliseconds since the epoch, and as it is written


def _timestamp(value: Any) -> str:
    """UTC with milliseconds, truncated."""
    if value is None:
        return _now()
    if not isinstance(value, datetime):
        raise InvalidEventError(f"timestamp must be an aware datetime, not {_shown(value)}")
    try:
        if value.utcoffset() is None:
            raise InvalidEventError("timestamp must be an aware datetime, not a naive one: give it a tzinfo")
        value = value.astimezone(timezone.utc)
    except InvalidEventError:
        raise
    except Exception as error:  # OverflowError in the first and last hours of time; whatever a tzinfo raises
        if raised_by_signal(error):
            raise
        raise InvalidEventError(f"timestamp cannot be expressed in UTC: {type(error).__name__}") from error
    text: str = datetime.isoformat(value, timespec="milliseconds")
    return text[:-6] + "Z"


def _culprit(event: Mapping[str, Any]) -> str:
    """Which part of an event has no JSON, for the message."""
    for name, value in event.items():
        try:
            _encoding.encode(value)
        except ValueError:
            return name
    return "the event"


def _shown(value: Any) -> str:
    """A value in an error message: its type, and itself only when it is short and harmless."""
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value) if not isinstance(value, int) or value.bit_length() < 64 else "a large int"
    if isinstance(value, str):
        return "''" if not value else f"the str {value[:40]!r}"
    return f"a {type(value).__name__}"
