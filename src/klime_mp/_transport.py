"""Exactly one POST, its answer as a value. Knows no threads, never raises, retries nothing.

Three things of `requests` and urllib3 are replaced, because they do not fit a process that forks or has to end in time:

* a pool's queue. urllib3 drains it in a finalizer, also at exit, also in a forked child, and `queue.LifoQueue` has a
  lock that the parent may have held at the fork. A transport is used by one thread at a time and needs no lock.
* reading the answer. A socket timeout counts per `recv`, so an endpoint that drips bytes is never late. Here each
  `recv` gets what is left until a deadline. (Not covered: `getaddrinfo`, which knows no timeout. Whoever must end in
  time does not wait for this module, but beside it.)
* the connecting. A child of `os.fork` gets its parent's socket as well, and where gevent has patched the parent, the
  greenlet that waits for the answer, too. So in a child the socket is cut off.
"""

from __future__ import annotations

import functools
import http.client
import io
import os
import queue
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import requests
from requests.adapters import DEFAULT_POOLBLOCK, HTTPAdapter
from requests.auth import AuthBase
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from klime_mp._clock import NEVER, Clock
from klime_mp._descriptor import Descriptor
from klime_mp._fork import getpid, tell
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
        self._budget = _Budget(clock.monotonic)
        self._bearer = _Bearer(config.write_key)
        self._adapter = _Adapter(self._budget, _Wire())
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
            body: bytes = response.raw.read(MAX_ANSWER_BYTES, decode_content=True)
            # Reading to the end is what lets the connection be used again.
            if response.raw.read(1):
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


class _Budget:
    """How long the next `recv` may take."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._deadline = NEVER
        self._per_part = 0.0

    def set(self, deadline: float, per_part: float) -> None:
        self._deadline = deadline
        self._per_part = per_part

    def seconds(self) -> float:
        left = min(self._per_part, self._deadline - self._monotonic())
        if left <= 0:
            raise TimeoutError("the answer took too long")
        return left


class _BudgetedReader(io.RawIOBase):
    """A socket's raw reader that gives each `recv` what is left of the budget."""

    def __init__(self, sock: Any, raw: Any, budget: _Budget) -> None:
        self._sock = sock
        self._raw = raw
        self._budget = budget

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._budget.seconds())
        count: int | None = self._raw.readinto(buffer)
        return count

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class _BudgetedResponse(http.client.HTTPResponse):
    def __init__(self, budget: _Budget, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_BudgetedReader(sock, self.fp.detach(), budget))


class _Wire:
    """The socket of a transport, made useless in every child that inherits it."""

    def __init__(self) -> None:
        self._pid = getpid()
        self._socket: Descriptor | None = None
        tell(self)

    def connected(self, sock: Any) -> Any:
        """A new socket; in a child, a connection that its parent began to make."""
        if getpid() != self._pid:
            sock.close()
            raise ConnectionAbortedError("the process was forked while it connected")
        self._socket = Descriptor(sock.fileno())
        return sock

    def forget(self) -> None:
        """In a child: whatever reads and writes there now, in this process, finds nothing and harms nobody."""
        # By number: a TLS handshake that is under way has taken the number out of the socket's object.
        if self._socket is not None and self._socket.is_open():
            try:
                nothing = os.open(os.devnull, os.O_RDWR)
            except OSError:  # at the limit of descriptors, or without a /dev
                os.close(self._socket.number)
                return
            os.dup2(nothing, self._socket.number, inheritable=False)
            os.close(nothing)


class _Stack:
    """The part of `queue.LifoQueue` that urllib3 uses, without its lock."""

    def __init__(self, maxsize: int = 0) -> None:
        self._maxsize = maxsize
        self._items: list[Any] = []

    def get(self, block: bool = True, timeout: float | None = None) -> Any:  # noqa: ARG002, FBT001, FBT002 # its signature
        if not self._items:
            raise queue.Empty
        return self._items.pop()

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:  # noqa: ARG002, FBT001, FBT002 # its signature
        if 0 < self._maxsize <= len(self._items):
            raise queue.Full
        self._items.append(item)

    def qsize(self) -> int:
        return len(self._items)


class _Budgeted:
    """What both pools below have in common."""

    QueueCls = _Stack
    budget: _Budget
    wire: _Wire

    def _new_conn(self) -> Any:
        connection = super()._new_conn()  # type: ignore[misc] # of the pool that this is mixed into
        connection.response_class = functools.partial(_BudgetedResponse, self.budget)
        # Must not refer to the pool: nobody would ever close a pool whose connection refers to it.
        connect, wire = connection._new_conn, self.wire  # noqa: SLF001 # the step that makes the socket, before any TLS
        connection._new_conn = lambda: wire.connected(connect())  # noqa: SLF001 # as above
        return connection

    def _get_conn(self, timeout: float | None = None) -> Any:
        connection = super()._get_conn(timeout)  # type: ignore[misc] # as above
        if connection.sock is not None:
            # It is sent on with the timeout that its last answer was read with.
            connection.sock.settimeout(self.budget.seconds())
        return connection


class _Plain(_Budgeted, HTTPConnectionPool):  # type: ignore[misc] # _Stack is as much of a LifoQueue as is used
    pass


class _Tls(_Budgeted, HTTPSConnectionPool):  # type: ignore[misc] # as above
    pass


class _Adapter(HTTPAdapter):
    """An adapter whose pools are the ones above. `max_retries` stays 0: there is one retry layer, and it is ours."""

    def __init__(self, budget: _Budget, wire: _Wire) -> None:
        self._budget = budget
        self._wire = wire
        self._pool: Any = None
        super().__init__(pool_connections=1, pool_maxsize=1)

    def init_poolmanager(
        self,
        connections: int,
        maxsize: int,
        block: bool = DEFAULT_POOLBLOCK,  # noqa: FBT001 # its signature
        **kwargs: Any,
    ) -> None:
        super().init_poolmanager(connections, maxsize, block, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Plain, "https": _Tls}

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        if not proxy.lower().startswith("socks"):  # SOCKS has pools of its own
            manager.pool_classes_by_scheme = {"http": _Plain, "https": _Tls}
        return manager

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        # There is one endpoint, and one way to it: to look it up again costs a tenth of a request.
        if self._pool is None:
            self._pool = pool = super().get_connection_with_tls_context(*args, **kwargs)
            pool.budget, pool.wire = self._budget, self._wire  # type: ignore[attr-defined] # a class of those above
        return self._pool


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
