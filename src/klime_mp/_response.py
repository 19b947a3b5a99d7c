"""What Klime answered, as values."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ValidationError:
    """One event of a batch that the endpoint rejected.

    Attributes:
        index: its place in the batch as sent, from 0.
        message: the endpoint's words.
        code: the endpoint's code; its values are not specified, so do not rely on them.
    """

    index: int
    message: str = ""
    code: str = ""


@dataclass(frozen=True)
class BatchResponse:
    """A 2xx answer.

    Attributes:
        status: the endpoint's word, "ok" when it gave none, "disabled" from a client that is not enabled.
        accepted: events taken.
        failed: events rejected.
        errors: one entry for each rejected event.
    """

    status: str
    accepted: int
    failed: int
    errors: list[ValidationError] = field(default_factory=list)

    @property
    def rejected(self) -> set[int]:
        """The indexes of the rejected events."""
        return {error.index for error in self.errors}


def parse_response(body: str, sent: int) -> BatchResponse:
    """Read a 2xx body for a batch of `sent` events; an empty or unparsable one counts as "all accepted"."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        return BatchResponse("ok", sent, 0)
    listed = answer.get("errors")
    errors: dict[int, ValidationError] = {}
    for item in listed if isinstance(listed, list) else ():
        index = item.get("index") if isinstance(item, dict) else None
        # Only what names an event of this batch can be acted on.
        if isinstance(index, int) and not isinstance(index, bool) and 0 <= index < sent:
            errors[index] = ValidationError(index, _text(item.get("message")), _text(item.get("code")))
    status = answer.get("status")
    failed = len(errors)
    return BatchResponse(
        status if isinstance(status, str) else "ok", sent - failed, failed, [errors[i] for i in sorted(errors)]
    )


def _text(value: Any) -> str:
    return "" if value is None else str(value)
