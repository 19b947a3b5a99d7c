"""The fault script: which requests are answered wrongly, and how. Pure parsing and bookkeeping.

`PUT /faults` with `{"faults": [{...}, ...]}` replaces the script. A request is given the first fault of the
script that matches it; faults that do not match are passed over and stay. A request without a fault is
answered as usual. A script with a mistake changes nothing and is answered with 400, the index of the fault
and what would be right.

Which requests, and how many:

    "times": 2            requests this fault is good for (default 1); null: until the script is replaced
    "writeKey": "abc"     only requests with this key
    "min_events": 10      only batches of at least so many events

What happens; a fault has at least one of these, and they combine where that makes sense:

    "delay_ms": 500       waits, then answers (0 lets a request pass: "the first two are fine, then ...")
    "status": 503         answers this status, with
    "headers": {...}        these headers, such as {"Retry-After": "1"} or {"Location": "..."}, and
    "body": ...             this body: text, or an object sent as JSON. Without one: the usual answer's body
                            for a 2xx, an error object for anything else
    "reject": [0, 2]      the usual answer, with the events at these indexes rejected and only the others kept
    "huge_body_bytes": n  the answer's body, followed by n spaces (so that it is still JSON)
    "half": true          the answer's headers and the first half of its body, then the connection is closed
    "drip_ms": 1000       the answer, status line included, one byte every so many milliseconds
    "drop": true          no answer: the connection is closed at once
    "hang": true          no answer: the connection stays open until the client or the collector closes it

`half`, `drip_ms`, `drop` and `hang` exclude each other; `drop` and `hang` go with `delay_ms` only, and
`reject` not with `status`.

Whether the events are kept, as if the server had stored them and only the answer was lost:

    "keep": true          default: false with status, half, drop and hang; true otherwise

Events are kept when the request has been read, before any delay: an arrival that can be seen is a request
that is being answered.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from klime_mp.collector._store import masked
from klime_mp.collector._verdict import Answer, error_answer, json_answer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_ENDINGS = ("drop", "hang", "half", "drip_ms")
_ACTIONS = ("delay_ms", "status", "reject", "huge_body_bytes", *_ENDINGS)

_DAY = 86_400_000
_GIB = 1_073_741_824

# These are complete without a body; one would be read as the start of the next answer.
_BODILESS = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)

# The collector frames its answers itself; a second opinion in the headers would garble the connection.
_OWN_HEADERS = ("connection", "content-length", "transfer-encoding")


class BadScriptError(ValueError):
    """The script cannot be taken; the message says which fault and why."""


@dataclass(frozen=True)
class Fault:
    """One fault, checked. The names are those of the script, see above."""

    times: int | None = 1
    write_key: str | None = None
    min_events: int = 0
    delay_ms: float = 0
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str | dict[str, Any] | None = None
    reject: tuple[int, ...] = ()
    huge_body_bytes: int = 0
    half: bool = False
    drip_ms: float | None = None
    drop: bool = False
    hang: bool = False
    keep: bool = True

    def name(self) -> str:
        """What it does, in a word or two for the log."""
        return "fault " + ("+".join(name for name in _ACTIONS if getattr(self, name)) or "pass")

    def matches(self, write_key: str | None, events: int) -> bool:
        """Whether a request with this key and so many events may be given this fault."""
        return self.write_key in (None, write_key) and events >= self.min_events

    def answer(self, usual: Answer) -> Answer:
        """What this fault makes of the usual answer."""
        answer = usual if self.status is None else self._other(self.status, usual)
        body = b"" if answer.status in _BODILESS else answer.body + b" " * self.huge_body_bytes
        return Answer(answer.status, body, answer.headers)

    def _other(self, status: int, usual: Answer) -> Answer:
        if isinstance(self.body, str):
            body = self.body.encode("utf-8", "surrogatepass")
            answer = Answer(status, body, {"Content-Type": "text/plain; charset=utf-8"})
        elif self.body is not None:
            answer = json_answer(self.body, status)
        elif status // 100 == 2:
            answer = Answer(status, usual.body, usual.headers)
        else:
            answer = error_answer(status, "by the fault script")
        replaced = {name.lower() for name in self.headers}
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in replaced}
        return Answer(status, answer.body, {**kept, **self.headers})


class FaultScript:
    """The faults that are left, in order."""

    def __init__(self) -> None:
        self._entries: list[tuple[dict[str, Any], Fault, int | None]] = []

    def replace(self, script: Any) -> None:
        """Takes the place of what was left.

        Raises:
            BadScriptError: The script has a mistake; what was left stays.
        """
        specs = script.get("faults") if isinstance(script, dict) else None
        if not isinstance(specs, list) or len(script) != 1:
            raise BadScriptError('a fault script is an object {"faults": [...]}')
        faults = [(spec, parse_fault(spec, index)) for index, spec in enumerate(specs)]
        self._entries = [(spec, fault, fault.times) for spec, fault in faults]

    def clear(self) -> None:
        """Leaves nothing."""
        self._entries = []

    def take(self, write_key: str | None, events: int) -> Fault | None:
        """The fault for a request with this key and so many events, used up once; None when there is none."""
        for position, (spec, fault, left) in enumerate(self._entries):
            if fault.matches(write_key, events):
                if left == 1:
                    del self._entries[position]
                elif left is not None:
                    self._entries[position] = (spec, fault, left - 1)
                return fault
        return None

    def left(self) -> list[dict[str, Any]]:
        """What is left of the script; of keys only what may be shown."""
        shown = []
        for spec, _, left in self._entries:
            rest = {name: value for name, value in spec.items() if name != "writeKey"}
            key = {"key": masked(spec["writeKey"])} if "writeKey" in spec else {}
            shown.append({**rest, **key, "times": left})
        return shown


def parse_fault(spec: Any, index: int) -> Fault:
    """Checks one fault of a script; `index` is its place there, for the message.

    Raises:
        BadScriptError: It cannot be taken.
    """
    if not isinstance(spec, dict):
        raise BadScriptError(f"faults[{index}] must be an object")
    for name, value in spec.items():
        if name not in _FIELDS:
            raise BadScriptError(f"faults[{index}]: unknown field {name!r}; known are {', '.join(_FIELDS)}")
        is_right, what_is_right = _FIELDS[name]
        if not is_right(value):
            raise BadScriptError(f"faults[{index}]: {name} must be {what_is_right}")
    conflict = _conflict(spec)
    if conflict is not None:
        raise BadScriptError(f"faults[{index}]: {conflict}")
    lost = "status" in spec or any(spec.get(name) for name in ("half", "drop", "hang"))
    values = {"keep": not lost, **spec, "reject": tuple(spec.get("reject", ()))}
    values["write_key"] = values.pop("writeKey", None)
    return Fault(**values)


def _conflict(spec: dict[str, Any]) -> str | None:
    """Why these fields, each right in itself, do not go together."""
    actions = [name for name in _ACTIONS if spec.get(name, False) is not False]
    endings = [name for name in _ENDINGS if name in actions]
    if not actions:
        return f"nothing would happen; it needs one of {', '.join(_ACTIONS)}"
    if len(endings) > 1:
        return f"{' and '.join(endings)} exclude each other"
    if endings and endings[0] in ("drop", "hang") and not set(actions) <= {endings[0], "delay_ms"}:
        return f"{endings[0]} sends no answer, so it goes with delay_ms only"
    if "status" in actions and "reject" in actions:
        return "status and reject exclude each other"
    if "status" not in actions and ("headers" in spec or "body" in spec):
        return "headers and body need a status"
    return None


def _number(value: Any, least: float, most: float = float("inf")) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most


def _whole(value: Any, least: int, most: float = float("inf")) -> bool:
    return isinstance(value, int) and _number(value, least, most)


def _are_headers(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(text, str) and name and (name + text).isprintable() and name.lower() not in _OWN_HEADERS
        for name, text in value.items()
    )


_BOOL = (lambda value: isinstance(value, bool), "true or false")
_MILLISECONDS = (lambda value: _number(value, 0, _DAY), f"a number of milliseconds from 0 to {_DAY}")
_COUNT = (lambda value: _whole(value, 0), "a whole number, 0 or more")

# Field of the script -> what is right for it, as a test and in words.
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "times": (lambda value: value is None or _whole(value, 1), "a whole number above 0, or null for no end"),
    "writeKey": (lambda value: isinstance(value, str) and value != "", "a non-empty string"),
    "min_events": _COUNT,
    "delay_ms": _MILLISECONDS,
    "status": (lambda value: _whole(value, 200, 599), "a status from 200 to 599"),
    "headers": (_are_headers, f"an object of printable strings, without {', '.join(_OWN_HEADERS)}"),
    "body": (lambda value: isinstance(value, (str, dict)), "a string or an object"),
    "reject": (
        lambda value: isinstance(value, list) and all(_whole(index, 0) for index in value),
        "an array of indexes",
    ),
    "huge_body_bytes": (lambda value: _whole(value, 0, _GIB), f"a whole number from 0 to {_GIB}"),
    "half": _BOOL,
    "drip_ms": _MILLISECONDS,
    "drop": _BOOL,
    "hang": _BOOL,
    "keep": _BOOL,
}
