"""A keep-alive connection as `requests` makes it, but for four things that do not fit a process that forks or must end.

* a pool's queue. urllib3 drains it in a finalizer, also at exit, also in a forked child, and `queue.LifoQueue` has a
  lock that the parent may have held at the fork. A transport is used by one thread at a time and needs no lock.
* reading the answer. A socket timeout counts per `recv`, so an endpoint that drips bytes is never late. Here each
  `recv` gets what is left until a deadline. (Not covered: `getaddrinfo`, which knows no timeout. Whoever must end in
  time does not wait for this module, but beside it.)
* the connecting. A child of `os.fork` gets its parent's socket as well, and where gevent has patched the parent, the
  greenlet that waits for the answer, too. So in a child the socket is cut off.
* what is the same for every request is settled once, and a request goes out in one piece: what is left of its time is
  for the most part the system's, and the parsing of headers.
"""

from __future__ import annotations

import functools
import http.client
import io
import os
import queue
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from requests import Response
from requests.adapters import DEFAULT_POOLBLOCK, HTTPAdapter
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from klime_mp._clock import NEVER
from klime_mp._descriptor import Descriptor
from klime_mp._fork import getpid, tell

if TYPE_CHECKING:
    from requests import PreparedRequest
    from urllib3 import BaseHTTPResponse


class Budget:
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

    def __init__(self, sock: Any, raw: Any, budget: Budget) -> None:
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
    def __init__(self, budget: Budget, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_BudgetedReader(sock, self.fp.detach(), budget))

    def _read_status(self) -> tuple[str, int, str]:
        """The status of the answer. What only announces one (102, 103) is read over; http.client does so with 100."""
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc] # typeshed leaves it out
            if not HTTPStatus.SWITCHING_PROTOCOLS < status < HTTPStatus.OK:
                return version, status, reason
            http.client.parse_headers(self.fp)


class Wire:
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
    budget: Budget
    wire: Wire

    @property
    def ConnectionCls(self) -> type:  # noqa: N802 # the pool's word
        return _in_one_piece(super().ConnectionCls)  # type: ignore[misc] # of the pool that this is mixed into

    def _new_conn(self) -> Any:
        connection = super()._new_conn()  # type: ignore[misc] # as above
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


class _InOnePiece:
    """Sends a request's head together with its body: one system call, and where they fit one packet.

    For requests that have a body. A proxy's CONNECT is no request in this sense, and passes.
    """

    _is_head = False  # the next thing to be sent
    _head = b""

    def connect(self) -> None:
        self._is_head, self._head = False, b""  # should an exception have struck in a request on the last socket
        super().connect()  # type: ignore[misc] # of the connection that this is mixed into

    def endheaders(self, *args: Any, **kwargs: Any) -> None:
        self._is_head = True
        super().endheaders(*args, **kwargs)  # type: ignore[misc] # as above

    def send(self, data: bytes) -> None:
        if self._is_head:
            self._is_head, self._head = False, data
            return
        head, self._head = self._head, b""
        super().send(head + data if head else data)  # type: ignore[misc] # as above


@functools.cache
def _in_one_piece(connection: type) -> type:
    """urllib3's connection, as above. What somebody has put in its place (a recorder, in tests) stays as it is."""
    is_urllib3s = connection.__module__ == "urllib3.connection" and issubclass(connection, http.client.HTTPConnection)
    return type(connection.__name__, (_InOnePiece, connection), {}) if is_urllib3s else connection


class _Plain(_Budgeted, HTTPConnectionPool):  # type: ignore[misc, override] # as much of LifoQueue as is used
    pass


class _Tls(_Budgeted, HTTPSConnectionPool):  # type: ignore[misc, override] # as above
    pass


class Adapter(HTTPAdapter):
    """An adapter whose pools are the ones above, for one URL, with the same settings in each request.

    `max_retries` stays 0: there is one retry layer, and it is ours.
    """

    def __init__(self, budget: Budget, wire: Wire) -> None:
        self._budget = budget
        self._wire = wire
        self._pool: Any = None
        self._verified = False
        self._target = ""
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
        if self._pool is None:
            pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
            pool.budget, pool.wire = self._budget, self._wire
            self._pool = pool
        return self._pool

    def cert_verify(self, *args: Any, **kwargs: Any) -> None:
        if not self._verified:
            super().cert_verify(*args, **kwargs)  # type: ignore[no-untyped-call]
            self._verified = True

    def request_url(self, *args: Any, **kwargs: Any) -> str:
        self._target = self._target or super().request_url(*args, **kwargs)
        return self._target

    def build_response(self, req: PreparedRequest, resp: BaseHTTPResponse) -> Response:
        # What we read of it, and mocks of requests do. Cookies and the like would take a sixth of a request's time.
        response = Response.__new__(Response)
        vars(response).update(_BLANK, status_code=resp.status, headers=resp.headers, raw=resp, request=req, url=req.url)
        return response


_BLANK = vars(Response())
