"""WSGI: a flush at each request, for those who would rather have latency than doubt.

    app.wsgi_app = FlushMiddleware(app.wsgi_app)    # Flask
    application = FlushMiddleware(application)      # any other WSGI application

Nothing of this is needed: what is pending is sent within `flush_interval`, and at exit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Any

from klime_mp.integrations._flush import DEFAULT_TIMEOUT_MS, Flush

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from klime_mp._client import Client


class FlushMiddleware:
    """Flushes at each request: after its response, or before it.

    The flush waits in the request's thread, which is occupied for that time; with nothing pending it takes none. A
    flush that fails or takes too long changes nothing for the request: the events stay pending, and are sent later.
    Safe in any thread, and when it is built before a fork.

    Args:
        app: the WSGI application.
        client: whose events; None: those of every client of this process.
        timeout_ms: milliseconds that a flush may take in total; None: 1000.
        before_response: False: flush when the server has sent the response and closes it. True: flush before the
            first byte of it; what is tracked while the rest of the body is made is not waited for.

    Raises:
        TypeError: `client` is not a Client.
        ConfigurationError: `timeout_ms` is not a positive number.
    """

    def __init__(
        self,
        app: WSGIApplication,
        client: Client | None = None,
        timeout_ms: float | None = DEFAULT_TIMEOUT_MS,
        before_response: bool = False,  # noqa: FBT001, FBT002 # Klime.Plug's option
    ) -> None:
        self.app = app
        self._flush = Flush(client, timeout_ms)
        self._before_response = before_response

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """The application's answer, with the flush in the right place."""
        flush = _once(self._flush.now)
        is_file = _file_recogniser(environ)
        if self._before_response:
            start_response = _flush_before_write(start_response, flush)
        try:
            answer = self.app(environ, start_response)
        except Exception:
            flush()
            raise
        if is_file(answer):
            # Servers know their file wrapper, and send the file without reading it, only if they get it itself.
            if self._before_response or not _flush_on_close(answer, flush):
                flush()
            return answer
        is_iterable = hasattr(answer, "__iter__") or hasattr(answer, "__getitem__")
        body: object = answer
        if not is_iterable or isinstance(body, (bytes, str)):
            # A server's own token, as of gunicorn's asynchronous workers, "already handled"; or what only uWSGI takes.
            flush()
            return answer
        if self._before_response:
            if isinstance(answer, (list, tuple)):
                flush()
                return answer
            return _FlushBefore(answer, flush)
        return (_SizedFlushAfter if isinstance(answer, Sized) else _FlushAfter)(answer, flush)


class _FlushAfter:
    """A response's body, with a flush behind its close(), which servers call when they have sent it (PEP 3333)."""

    def __init__(self, body: Iterable[bytes], flush: Callable[[], None]) -> None:
        self._body = body
        self._flush = flush
        self._close: Callable[[], object] | None = getattr(body, "close", None)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)

    def close(self) -> None:
        try:
            if self._close is not None:
                self._close()
        finally:
            self._flush()


class _SizedFlushAfter(_FlushAfter):
    """A body of known length: servers take the length of a single item for the Content-Length."""

    _body: Any

    def __len__(self) -> int:
        return len(self._body)


class _FlushBefore(_FlushAfter):
    """A body that may track while it is made: the flush is before its first item goes out.

    When there is none, because making it raised, the flush is where the body is closed.
    """

    def __iter__(self) -> Iterator[bytes]:
        for item in self._body:
            self._flush()
            yield item
        self._flush()


def _once(flush: Callable[[], None]) -> Callable[[], None]:
    """A request flushes once: when that did not help, waiting again would not, either."""
    done: list[bool] = []

    def flush_once() -> None:
        if not done:
            done.append(True)
            flush()

    return flush_once


def _flush_before_write(start_response: StartResponse, flush: Callable[[], None]) -> StartResponse:
    """`start_response`, whose `write` is the other way to send a body."""

    def start(*arguments: Any, **named: Any) -> Callable[[bytes], object]:
        write = start_response(*arguments, **named)

        def write_after_flush(data: bytes) -> object:
            flush()
            return write(data)

        return write_after_flush

    return start


def _file_recogniser(environ: WSGIEnvironment) -> Callable[[object], bool]:
    """Tells whether a response's body was made by the server's `wsgi.file_wrapper`."""
    wrapper = environ.get("wsgi.file_wrapper")
    if isinstance(wrapper, type):
        return lambda body: isinstance(body, wrapper)
    if wrapper is None:
        return lambda _: False
    # uWSGI's is a function, and what it returns a file like any other.
    made: list[object] = []

    def wrap(*arguments: Any) -> object:
        made.append(wrapper(*arguments))
        return made[-1]

    environ["wsgi.file_wrapper"] = wrap
    return lambda body: any(body is one for one in made)


def _flush_on_close(body: Any, flush: Callable[[], None]) -> bool:
    """Put the flush behind the body's own close(); False when the object does not let itself be changed."""
    try:
        body.close = _FlushAfter(body, flush).close
    except (AttributeError, TypeError):
        return False
    return True
