"""The Django middleware, in interpreters of its own: settings are a process's. `tests/servers` serves with it."""

import pytest

from support.script import run_script

DJANGO = """
import asyncio
import django
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpResponse
from django.test import AsyncClient, Client
from django.urls import path
import klime_mp

client = klime_mp.Client(flush_interval=600_000)

def view(request):
    client.track("Requested", user_id="user_1")
    return HttpResponse("fine")

async def async_view(request):
    return view(request)

urlpatterns = [path("", view), path("async", async_view)]

def configure(**more):
    middleware = ["klime_mp.integrations.django.FlushMiddleware"]
    settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, MIDDLEWARE=middleware, **more)
    django.setup()
"""


def test_without_django_it_can_be_imported_and_not_used(collector):
    ended = run_script(
        """
        sys.modules["django"] = sys.modules["asgiref"] = None
        from klime_mp.integrations.django import FlushMiddleware
        try:
            FlushMiddleware(lambda request: None)
        except ImportError as error:
            say(missing=error.name)
        """,
        collector,
    )
    assert ended.facts["missing"] in {"asgiref.sync", "django.conf"}


def test_a_bad_setting_is_named(collector):
    pytest.importorskip("django")
    ended = run_script(
        DJANGO
        + """
configure(KLIME_FLUSH_TIMEOUT_MS="soon")
try:
    WSGIHandler()
except klime_mp.ConfigurationError as error:
    say(error=str(error))
""",
        collector,
    )
    assert "KLIME_FLUSH_TIMEOUT_MS" in ended.facts["error"]
    assert "'soon'" in ended.facts["error"]


@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
def test_each_kind_of_view_in_each_kind_of_django(before, collector):
    pytest.importorskip("django")
    ended = run_script(
        DJANGO
        + f"""
configure(KLIME_FLUSH_BEFORE_RESPONSE={before})

def requests():
    for url in ("/", "/async"):
        assert Client().get(url).content == b"fine"
        yield "sync", url
        assert asyncio.run(AsyncClient().get(url)).content == b"fine"
        yield "async", url

say(pending={{f"{{kind}} {{url}}": client.queue_size() for kind, url in requests()}})
"""
        + "os._exit(0)",  # no exit handler shall send
        collector,
    )
    assert ended.facts["pending"] == dict.fromkeys(["sync /", "async /", "sync /async", "async /async"], 0)
    assert len(collector.events()) == 4


def test_a_handler_that_is_gone_flushes_nothing(collector):
    pytest.importorskip("django")
    ended = run_script(
        DJANGO
        + """
import gc
from django.core.signals import request_finished
configure()
others = len(request_finished.receivers)
handler = WSGIHandler()
say(connected=len(request_finished.receivers) - others)
del handler
gc.collect()
view(None)
request_finished.send(sender=None)
say(pending=client.queue_size())
os._exit(0)
""",
        collector,
    )
    assert ended.facts == {"connected": 1, "pending": 1}
