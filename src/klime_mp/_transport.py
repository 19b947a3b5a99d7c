"""Exactly one POST, its answer as a value. Knows no threads, never raises, retries nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import requests
from requests.auth import AuthBase

from klime_mp._clock import NEVER, Clock
from klime_mp._connection import Adapter, Budget, Wire
from klime_mp._signals import raised_by_signal
from klime_mp._version import __version__

if TYPE_CHECKING:
    from klime_mp._config import Config

MAX_ANSWER_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Answer:
    """What came back: a `status`, or None and what went wrong in `error`. Nothing in it quotes the write key."""

    status: int | None
    error: str = ""
    body: str = ""
    retry_after: str | None = None
    location: str = ""


class Transport:
    """A keep-alive connection to one endpoint. Use it from one thread at a time, in the process that made it."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self._url = f"{config.endpoint}/v1/batch"
        self._redact = config.redact
        self._per_part = config.request_timeout / 1000.0
        self._clock = clock
        self._budget = Budget(clock.monotonic)
        self._bearer = _Bearer(config.write_key)
        self._adapter = Adapter(self._budget, Wire())
        self._prepared: tuple[requests.PreparedRequest, Any] | None = None

    def post(self, body: bytes, deadline: float = NEVER) -> Answer:
        """POST `body` and read the answer, by `deadline` (monotonic seconds) at the latest."""
        left = min(self._per_part, deadline - self._clock.monotonic())
        if left <= 0:
            return Answer(None, "there was no time left to send it")
        self._budget.set(deadline, self._per_part)
        try:
            request, settings = self._prepared = self._prepared or self._prepare()
            request.body = body
            request.prepare_content_length(body)
            # The adapter's own `send`: what a session does beside it (redirects, cookies, hooks) is not for us.
            response = self._adapter.send(request, timeout=(left, left), **settings)
        except Exception as error:  # requests lets some of urllib3's errors through as they are
            if raised_by_signal(error):
                raise
            return Answer(None, self._redact(_describe(error)))
        try:
            return Answer(
                response.status_code,
                body=self._redact(self._read(response, deadline).decode("utf-8", "replace")),
                retry_after=response.headers.get("Retry-After"),
                location=self._redact(response.headers.get("Location", "")),
            )
        finally:
            response.close()

    def _prepare(self) -> tuple[requests.PreparedRequest, Any]:
        """What all requests have in common, made once: it costs more than to send one.

        The request without a body, and what the environment says of proxies and certificates.
        """
        session = requests.Session()
        # An explicit auth keeps requests from replacing the header by what ~/.netrc has for the host.
        session.auth = self._bearer
        session.headers["User-Agent"] = f"klime-mp/{__version__} {requests.utils.default_user_agent()}"
        session.headers["Content-Type"] = "application/json"
        request = session.prepare_request(requests.Request("POST", self._url))
        return request, session.merge_environment_settings(self._url, {}, stream=True, verify=None, cert=None)

    def _read(self, response: requests.Response, deadline: float) -> bytes:
        """The answer's body, or nothing when it could not be read: the status alone decides then."""
        self._budget.set(min(deadline, self._clock.monotonic() + self._per_part), self._per_part)
        try:
            raw = response.raw
            body: bytes = raw.read(MAX_ANSWER_BYTES, decode_content=True)
            # Reading to the end is what lets the connection be used again.
            if (len(body) == MAX_ANSWER_BYTES or raw.length_remaining != 0) and raw.read(1):
                return b""
        except Exception as error:  # whatever a broken body makes urllib3 or a decoder raise
            if raised_by_signal(error):
                raise
            return b""
        return body

    def close(self) -> None:
        """Close the connection."""
        try:
            self._adapter.close()
        except OSError:  # a socket that fails to close is closed all the same
            pass


class _Bearer(AuthBase):
    def __init__(self, write_key: str) -> None:
        self._header = f"Bearer {write_key}"

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = self._header
        return request


def _describe(error: BaseException) -> str:
    """The innermost reason: the outer layers only repeat it with object addresses."""
    inner: Any = error
    while True:
        deeper = getattr(inner, "reason", None)
        if not isinstance(deeper, BaseException):
            deeper = next((arg for arg in getattr(inner, "args", ()) if isinstance(arg, BaseException)), None)
        if deeper is None:
            break
        inner = deeper
    # urllib3 puts the repr of its connection or pool before the reason.
    text = re.sub(r"^(<[^>]*>|\w+\([^)]*\)): ", "", str(inner))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
