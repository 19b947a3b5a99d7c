"""Django: a flush at each request, for those who would rather have latency than doubt.

    MIDDLEWARE = [..., "klime_mp.integrations.django.FlushMiddleware"]
    KLIME_FLUSH_TIMEOUT_MS = 1000           # the default
    KLIME_FLUSH_BEFORE_RESPONSE = False     # the default

Nothing of this is needed: what is pending is sent within `flush_interval`, and at exit. Under uvicorn the exit needs
`klime_mp.integrations.asgi.LifespanMiddleware` around the application in `asgi.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from klime_mp.integrations._flush import Flush

if TYPE_CHECKING:
    from klime_mp._client import Client


class FlushMiddleware:
    """Flushes at each request: after its response, or before it. For synchronous and asynchronous Django, 4.2 or later.

    The flush does not block the event loop; with nothing pending it takes no time. One that fails or takes too long
    changes nothing for the request: the events stay pending, and are sent later. Its place among the others is free;
    with `before_response` those above it in the list come after the flush.

    Args:
        get_response: the next middleware, or the view.
        client: whose events; None: those of every client of this process.
        timeout_ms: milliseconds that a flush may take in total; None: the setting `KLIME_FLUSH_TIMEOUT_MS`, or 1000.
        before_response: False: flush when Django has finished the request, and the response is sent. True: flush
            before it; what is tracked while a response streams is not waited for. None: the setting
            `KLIME_FLUSH_BEFORE_RESPONSE`, or False.

    Raises:
        TypeError: `client` is not a Client.
        ConfigurationError: the timeout is not a positive number.
    """

    sync_capable = True
    async_capable = True

    def __init__(
        self,
        get_response: Callable[[Any], Any],
        client: Client | None = None,
        timeout_ms: float | None = None,
        before_response: bool | None = None,  # noqa: FBT001 # Klime.Plug's option
    ) -> None:
        from asgiref.sync import iscoroutinefunction, markcoroutinefunction  # noqa: PLC0415 # comes with Django
        from django.conf import settings  # noqa: PLC0415 # see asgiref
        from django.core.signals import request_finished  # noqa: PLC0415 # see asgiref

        named = "timeout_ms"
        if timeout_ms is None:
            named = "the setting KLIME_FLUSH_TIMEOUT_MS"
            timeout_ms = getattr(settings, "KLIME_FLUSH_TIMEOUT_MS", None)
        if before_response is None:
            before_response = getattr(settings, "KLIME_FLUSH_BEFORE_RESPONSE", False)
        self.get_response = get_response
        self._flush = Flush(client, timeout_ms, named)
        self._before_response = before_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)
        if not before_response:
            # Not the response's own close(): a middleware above may answer with another response, or pickle this one.
            request_finished.connect(self._after_response)

    def __call__(self, request: Any) -> Any:
        """The response, or in asynchronous Django a coroutine that returns it."""
        if self._is_async:
            return self._respond_async(request)
        response = self.get_response(request)
        if self._before_response:
            self._flush.now()
        return response

    async def _respond_async(self, request: Any) -> Any:
        response = await self.get_response(request)
        if self._before_response:
            await self._flush.anow()
        return response

    def _after_response(self, **_: Any) -> None:
        # Django calls this in the request's thread; asynchronous Django in one beside the event loop.
        self._flush.now()
