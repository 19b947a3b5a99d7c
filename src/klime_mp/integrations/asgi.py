"""ASGI: what is pending is sent when the server stops, and, for those who want to wait for it, at each request.

uvicorn, alone or as gunicorn's worker, ends without running exit handlers. The end of the lifespan is the last moment
that is ours:

    app = FastAPI(lifespan=lifespan)                  # or, if you have a lifespan or a framework of your own:
    app.add_middleware(LifespanMiddleware)            # Starlette, FastAPI
    app = LifespanMiddleware(get_asgi_application())  # Django, any ASGI application
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from klime_mp import _exit
from klime_mp._aside import run_aside
from klime_mp.integrations._flush import DEFAULT_TIMEOUT_MS, Flush, unnoticed

if TYPE_CHECKING:
    from klime_mp._client import Client

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


@asynccontextmanager
async def lifespan(app: object = None) -> AsyncIterator[None]:  # noqa: ARG001 # frameworks pass it
    """Sends what is pending in this process when the `async with` block ends, as `FastAPI(lifespan=lifespan)` does.

    In a lifespan of your own write `async with lifespan(app): yield`. Takes `shutdown_timeout` at most, does not
    block the event loop, and does not close the clients: what is tracked later is taken.

    Args:
        app: what frameworks pass; not used.
    """
    _expect_full_time()
    try:
        yield
    finally:
        await _send_pending()


class LifespanMiddleware:
    """Sends what is pending in this process before the server hears that the application's lifespan is over.

    An application that does not speak the lifespan protocol need not: this does it for it. Takes `shutdown_timeout`
    at most, does not block the event loop, and does not close the clients: what is tracked later is taken.

    Args:
        app: the ASGI application.
    """

    def __init__(self, app: Application) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on everything but the lifespan."""
        if scope["type"] == "lifespan":
            await _Lifespan(receive, send).live(self.app, scope)
        else:
            await self.app(scope, receive, send)


class FlushMiddleware(LifespanMiddleware):
    """Flushes at each request: after its response, or before it; websockets when they end. And a `LifespanMiddleware`.

    The flush never blocks the event loop; with nothing pending it takes no time and no thread. One that fails or takes
    too long changes nothing for the request: the events stay pending, and are sent later. Safe when it is built before
    a fork.

    Args:
        app: the ASGI application.
        client: whose events; None: those of every client of this process.
        timeout_ms: milliseconds that a flush may take in total; None: 1000.
        before_response: False: flush when the application has sent the response and is done. True: flush before the
            first byte of it; what is tracked while the body is made is not waited for.

    Raises:
        TypeError: `client` is not a Client.
        ConfigurationError: `timeout_ms` is not a positive number.
    """

    def __init__(
        self,
        app: Application,
        client: Client | None = None,
        timeout_ms: float | None = DEFAULT_TIMEOUT_MS,
        before_response: bool = False,  # noqa: FBT001, FBT002 # Klime.Plug's option
    ) -> None:
        super().__init__(app)
        self._flush = Flush(client, timeout_ms)
        self._before_response = before_response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request, with the flush in the right place."""
        if scope["type"] not in {"http", "websocket"}:
            await super().__call__(scope, receive, send)
            return
        flushed = False

        async def flush() -> None:
            nonlocal flushed
            if not flushed:
                flushed = True
                await self._flush.anow()

        async def flush_and_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                await flush()
            await send(message)

        try:
            await self.app(scope, receive, flush_and_send if self._before_response else send)
        except Exception:
            await flush()
            raise
        await flush()


class _Lifespan:
    """One lifespan between a server and an application. What the application leaves unsaid, this says."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._is_known = False  # to the application: it has asked for a message or sent one
        self._heard = ""  # the type of the server's last message
        self._said = ""  # the type of the last answer

    async def live(self, app: Application, scope: Scope) -> None:
        """From startup to shutdown."""
        _expect_full_time()
        try:
            await app(scope, self._receive_for_app, self._answer)
        except Exception:
            if self._is_known:
                await self._end()
                raise
            # The specification's way to say: I know no lifespan.
        await self._say_the_rest()

    async def _say_the_rest(self) -> None:
        if not self._said:
            if not self._heard:
                await self._hear()
            await self._answer({"type": "lifespan.startup.complete"})
        if self._said == "lifespan.startup.complete":
            if self._heard != "lifespan.shutdown":
                await self._hear()
            await self._answer({"type": "lifespan.shutdown.complete"})

    async def _receive_for_app(self) -> Message:
        self._is_known = True
        return await self._hear()

    async def _hear(self) -> Message:
        message = await self._receive()
        self._heard = message["type"]
        return message

    async def _answer(self, message: Message) -> None:
        # Some applications answer whatever they are called with as if it were a request.
        self._is_known = self._is_known or message["type"].startswith("lifespan.")
        if message["type"] in {"lifespan.shutdown.complete", "lifespan.shutdown.failed"}:
            await self._end()
        await self._send(message)
        self._said = message["type"]

    async def _end(self) -> None:
        """Before the last word: send what is pending, if the application ever served."""
        if self._said == "lifespan.startup.complete":
            if self._heard != "lifespan.shutdown":
                # It failed in mid-life. Heard of that, a server goes on serving, and never tells of its shutdown.
                await self._hear()
            await _send_pending()


def _expect_full_time() -> None:
    # One process may live through many lifespans (tests, a server within a program), and each of them has its own end.
    _exit.restart()


async def _send_pending() -> None:
    with unnoticed():
        await run_aside(_exit.run)
