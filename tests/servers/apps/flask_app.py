"""A Flask application that tracks an event for each request.

It flushes as FLUSH_TIMEOUT_MS and FLUSH_BEFORE say.

    /           one event
    /ready      no event
    /stream     one event before the response, one while its body is made
    /file       one event; the answer is this file
    /error      one event, then an exception
"""

import os

from flask import Flask, send_file
from journal import track

from klime_mp.integrations.wsgi import FlushMiddleware

application = Flask(__name__)


@application.get("/ready")
def ready():
    return "ready"


@application.get("/")
def index():
    track("Requested")
    return str(os.getpid())


@application.get("/stream")
def stream():
    track("Requested")

    def body():
        yield "first "
        track("Streamed")
        yield "second"

    return body()


@application.get("/file")
def file():
    track("Requested")
    return send_file(__file__)


@application.get("/error")
def error():
    track("Requested")
    raise RuntimeError("on purpose")


application.wsgi_app = FlushMiddleware(
    application.wsgi_app,
    timeout_ms=float(os.environ.get("FLUSH_TIMEOUT_MS", "1000")),
    before_response="FLUSH_BEFORE" in os.environ,
)
