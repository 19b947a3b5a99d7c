"""FastAPI applications that track an event for each request.

`with_lifespan`, `with_its_own_lifespan` and `with_middleware` send what is pending when the server stops;
`application` flushes at each request, as FLUSH_TIMEOUT_MS and FLUSH_BEFORE say.

    /           one event
    /ready      no event
    /stream     one event before the response, one while its body is made
    /error      one event, then an exception
"""

import os
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse, StreamingResponse
from journal import track

from klime_mp.integrations.asgi import FlushMiddleware, LifespanMiddleware, lifespan


def make(**options):
    app = FastAPI(**options)

    @app.get("/ready")
    async def ready():
        return PlainTextResponse("ready")

    @app.get("/")
    async def index():
        track("Requested")
        return PlainTextResponse(str(os.getpid()))

    @app.get("/stream")
    async def stream():
        track("Requested")

        async def body():
            yield b"first "
            track("Streamed")
            yield b"second"

        return StreamingResponse(body())

    @app.get("/error")
    async def error():
        track("Requested")
        raise RuntimeError("on purpose")

    return app


@asynccontextmanager
async def its_own_lifespan(app):
    track("Started")
    async with lifespan(app):
        yield
        track("Stopped")


with_lifespan = make(lifespan=lifespan)
with_its_own_lifespan = make(lifespan=its_own_lifespan)
with_middleware = make()
with_middleware.add_middleware(LifespanMiddleware)
application = make()
application.add_middleware(
    FlushMiddleware,
    timeout_ms=float(os.environ.get("FLUSH_TIMEOUT_MS", "1000")),
    before_response="FLUSH_BEFORE" in os.environ,
)

track("Loaded")
