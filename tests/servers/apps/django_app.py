"""Django, synchronous and asynchronous, that tracks an event for each request.

It flushes as FLUSH_TIMEOUT_MS and FLUSH_BEFORE say, and without the first of them not at all.

    /           one event
    /ready      no event
    /stream     one event before the response, one while its body is made
    /file       one event; the answer is this file
    /error      one event, then an exception
    /tagged     one event; who has the tag gets another response, "not modified"

`application` is WSGI, `asgi_application` ASGI, `with_lifespan` the latter with our middleware around it.
"""

import os
from pathlib import Path

import django
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from django.urls import path
from journal import track

from klime_mp.integrations.asgi import LifespanMiddleware

settings.configure(
    ALLOWED_HOSTS=["*"],
    KLIME_FLUSH_BEFORE_RESPONSE="FLUSH_BEFORE" in os.environ,
    KLIME_FLUSH_TIMEOUT_MS=float(os.environ.get("FLUSH_TIMEOUT_MS", "1000")),
    MIDDLEWARE=[
        "django.middleware.http.ConditionalGetMiddleware",  # replaces responses
        "django.middleware.cache.UpdateCacheMiddleware",  # pickles them
        *(["klime_mp.integrations.django.FlushMiddleware"] if "FLUSH_TIMEOUT_MS" in os.environ else []),
    ],
    ROOT_URLCONF=__name__,
    SECRET_KEY="no secret",
)
django.setup()


def ready(request):
    return HttpResponse("ready")


def index(request):
    track("Requested")
    return HttpResponse(str(os.getpid()))


def stream(request):
    track("Requested")

    def body():
        yield "first "
        track("Streamed")
        yield "second"

    async def async_body():
        for part in body():
            yield part

    return StreamingHttpResponse(async_body() if hasattr(request, "scope") else body())


def file(request):
    track("Requested")
    return FileResponse(Path(__file__).open("rb"))


def error(request):
    track("Requested")
    raise RuntimeError("on purpose")


def tagged(request):
    track("Requested")
    return HttpResponse("tagged", headers={"ETag": '"tag"'})


urlpatterns = [
    path("ready", ready),
    path("", index),
    path("stream", stream),
    path("file", file),
    path("error", error),
    path("tagged", tagged),
]
application = WSGIHandler()
asgi_application = ASGIHandler()
with_lifespan = LifespanMiddleware(asgi_application)
