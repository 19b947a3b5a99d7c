"""What klime-mp raises.

Exception
└── KlimeError                    catch this for anything of ours
    ├── ConfigurationError        a wrong option (also a ValueError)
    ├── InvalidEventError         a wrong argument of an event (also a ValueError)
    └── SendError                 the endpoint did not take the events
"""

from __future__ import annotations

from typing import Any


class KlimeError(Exception):
    """Base of everything this library raises."""


class ConfigurationError(KlimeError, ValueError):
    """An option is missing, unknown or has a wrong value; the text names option, value and what would be right."""


class InvalidEventError(KlimeError, ValueError):
    """An event's arguments break a rule; the text names the argument and the rule.

    Raised by the sync calls, and by `track`, `identify` and `group` when the client is `strict`.
    """


class SendError(KlimeError):
    """Events were given up: handed to `on_error`, raised by the sync calls.

    Attributes:
        message: what happened, in a sentence; never contains the write key.
        status_code: the HTTP status of the last answer, None when there was none.
        events: the events concerned, dicts as sent.
    """

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        events: list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status_code = status_code
        self.events = events if events is not None else []

    def __reduce__(self) -> tuple[Any, ...]:
        # The default would call SendError(message) and lose the keyword-only parts.
        return _revive_send_error, (self.message, self.status_code, self.events)


def _revive_send_error(message: str, status_code: int | None, events: list[dict[str, Any]]) -> SendError:
    return SendError(message, status_code=status_code, events=events)
