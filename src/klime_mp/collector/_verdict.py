"""A key and a body -> Klime's answer, and the events it accepts. Pure: nothing is kept or sent here."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from klime_mp.collector._batch import MAX_BODY_BYTES, MalformedBatchError, Sent, read_batch
from klime_mp.collector._checks import Problem, problem

if TYPE_CHECKING:
    from collections.abc import Collection

_KNOWN_STATUSES = frozenset(int(status) for status in HTTPStatus)


@dataclass(frozen=True)
class Answer:
    """What goes back to the client: a status, headers, and the bytes of a body."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    def wire(self) -> tuple[bytes, bytes]:
        """The head and the body as they go over the socket, for answers that are not sent in one piece."""
        phrase = HTTPStatus(self.status).phrase if self.status in _KNOWN_STATUSES else ""
        headers = {**self.headers, "Content-Length": str(len(self.body)), "Connection": "close"}
        lines = [f"HTTP/1.1 {self.status} {phrase}", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode(), self.body


def json_answer(value: Any, status: int = 200, **headers: str) -> Answer:
    """An answer whose body is this value as JSON."""
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json", **headers})


def error_answer(status: int, message: str) -> Answer:
    """An answer that says what was wrong."""
    headers = {"WWW-Authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else {}
    return json_answer({"status": "error", "message": message}, status, **headers)


@dataclass(frozen=True)
class Verdict:
    """What the collector thinks of a request.

    Attributes:
        answer: What Klime would answer.
        accepted: The events it would keep.
        rejected: How many it would not.
        size: Events in the batch; 0 when there is no telling.
    """

    answer: Answer
    accepted: tuple[Sent, ...] = ()
    rejected: int = 0
    size: int = 0


def bearer_key(authorization: str | None) -> str | None:
    """The write key of an `Authorization` header, or None when there is none in it."""
    scheme, _, key = (authorization or "").strip().partition(" ")
    key = key.strip()
    return key if scheme.lower() == "bearer" and key and " " not in key else None


def judge(
    key: str | None,
    body: bytes | None,
    *,
    known_keys: Collection[str] = (),
    reject: Collection[int] = (),
) -> Verdict:
    """What Klime would answer to this body.

    Args:
        key: The write key it came with, if any.
        body: None when it was larger than a body may be.
        known_keys: The keys that exist; none given means any.
        reject: Indexes of events to reject however right they are.
    """
    sent: list[Sent] = []
    malformed = None
    try:
        sent = read_batch(body or b"")
    except MalformedBatchError as error:
        malformed = str(error)

    refusal = _refusal(key, known_keys)
    if refusal is None and body is None:
        refusal = error_answer(413, f"a body has at most {MAX_BODY_BYTES} bytes")
    if refusal is None and malformed is not None:
        refusal = error_answer(400, malformed)
    if refusal is not None:
        return Verdict(refusal, size=len(sent))
    return _verdict(sent, reject)


def _refusal(key: str | None, known_keys: Collection[str]) -> Answer | None:
    if key is None:
        return error_answer(401, "Authorization: Bearer <write key> is missing or malformed")
    if known_keys and key not in known_keys:
        return error_answer(401, "unknown write key")
    return None


def _verdict(sent: list[Sent], reject: Collection[int]) -> Verdict:
    accepted = []
    errors = []
    for index, event in enumerate(sent):
        found = problem(event)
        if found is None and index in reject:
            found = Problem("rejected by the fault script", "fault")
        if found is None:
            accepted.append(event)
        else:
            errors.append({"index": index, "message": found.message, "code": found.code})
    answer = json_answer({"status": "ok", "accepted": len(accepted), "failed": len(errors), "errors": errors})
    return Verdict(answer, tuple(accepted), len(errors), len(sent))
