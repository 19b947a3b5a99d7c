"""A plain ASGI application that tracks an event when it is imported, and one for each request.

    /           one event; the answer's body is the pid
    /ready      no event

`application` knows no lifespan; `with_lifespan` is the same with our middleware around it.
"""

import os

from journal import track

from klime_mp.integrations.asgi import LifespanMiddleware


async def application(scope, receive, send):
    if scope["type"] != "http":
        raise ValueError(f"this application serves HTTP, not {scope['type']}")
    if scope["path"] != "/ready":
        track("Requested")
    body = str(os.getpid()).encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


with_lifespan = LifespanMiddleware(application)

track("Loaded")
