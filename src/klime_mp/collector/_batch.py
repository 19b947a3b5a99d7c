"""The bytes of a request's body -> the events in it. Pure.

Each event is kept beside the very text it was sent as: `1.10`, an escaped character or an integer of a
thousand digits would not survive being parsed and written again, and the collector promises events "as sent".
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NoReturn

MAX_BODY_BYTES = 10_485_760
MAX_EVENTS = 100

# int() refuses longer numbers (sys.set_int_max_str_digits); JSON does not.
_MAX_INT_DIGITS = 4300

_BETWEEN = re.compile(r"[ \t\r\n,:]*")


class MalformedBatchError(ValueError):
    """The body as a whole cannot be taken; the message says why."""


@dataclass(frozen=True)
class Sent:
    """One member of a batch: the text it was sent as, and what that text means."""

    text: str
    value: Any


def read_batch(body: bytes) -> list[Sent]:
    """The members of `{"batch": [...]}`, in order.

    Raises:
        MalformedBatchError: The body is not UTF-8, not JSON, not of that shape, or has too many members.
    """
    try:
        text = body.decode("utf-8")
        envelope = _DECODER.decode(text)
    except UnicodeDecodeError as error:
        raise MalformedBatchError("the body is not UTF-8") from error
    except RecursionError as error:
        raise MalformedBatchError("the body is nested too deeply") from error
    except ValueError as error:
        raise MalformedBatchError(f"the body is not JSON: {error}") from error
    if not isinstance(envelope, dict) or not isinstance(envelope.get("batch"), list):
        raise MalformedBatchError('the body is not an object {"batch": [...]}')
    if len(envelope["batch"]) > MAX_EVENTS:
        raise MalformedBatchError(f"{len(envelope['batch'])} events; a batch has at most {MAX_EVENTS}")
    return _members(text)


def _members(text: str) -> list[Sent]:
    """The members of the last `batch` of a text that is known to be an envelope, found by walking over it."""
    members: list[Sent] = []
    at = _skip(text, text.index("{") + 1)
    while text[at] != "}":
        name, at = _DECODER.raw_decode(text, at)
        at = _skip(text, at)
        if name == "batch" and text[at] == "[":
            members, at = _elements(text, at)
        else:
            _, at = _DECODER.raw_decode(text, at)
        at = _skip(text, at)
    return members


def _elements(text: str, at: int) -> tuple[list[Sent], int]:
    elements = []
    at = _skip(text, at + 1)
    while text[at] != "]":
        value, end = _DECODER.raw_decode(text, at)
        elements.append(Sent(text[at:end], value))
        at = _skip(text, end)
    return elements, at + 1


def _skip(text: str, at: int) -> int:
    match = _BETWEEN.match(text, at)
    return at if match is None else match.end()


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON value")


def _integer(digits: str) -> int | Decimal:
    return int(digits) if len(digits) <= _MAX_INT_DIGITS else Decimal(digits)


_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_int=_integer)
