"""A Starlette application that tracks an event for each request.

It flushes as FLUSH_TIMEOUT_MS and FLUSH_BEFORE say.

    /           one event
    /ready      no event
    /stream     one event before the response, one while its body is made
    /error      one event, then an exception
"""

import os

from journal import track
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from klime_mp.integrations.asgi import FlushMiddleware


async def ready(request):
    return PlainTextResponse("ready")


async def index(request):
    track("Requested")
    return PlainTextResponse(str(os.getpid()))


async def stream(request):
    track("Requested")

    def body():
        yield b"first "
        track("Streamed")
        yield b"second"

    return StreamingResponse(body())


async def background(request):
    return PlainTextResponse("later", background=BackgroundTask(track, "Backgrounded"))


async def error(request):
    track("Requested")
    raise RuntimeError("on purpose")


application = Starlette(
    routes=[
        Route("/ready", ready),
        Route("/", index),
        Route("/stream", stream),
        Route("/background", background),
        Route("/error", error),
    ],
    middleware=[
        Middleware(
            FlushMiddleware,
            timeout_ms=float(os.environ.get("FLUSH_TIMEOUT_MS", "1000")),
            before_response="FLUSH_BEFORE" in os.environ,
        )
    ],
)
