"""The middlewares under real servers and frameworks: what a request tracked has arrived with its response, or after it.

The clock sends nothing here, and no process ends: what arrives was flushed.
"""

from __future__ import annotations

import contextlib
import http.client
from functools import partial

import pytest
from gunicorn_process import Gunicorn
from program import APPS, REQUEST_SECONDS
from uvicorn_process import Uvicorn
from uwsgi_process import Uwsgi

from support.clients import Stopwatch

NEVER = 600_000
LONG_MS = 4000  # what nobody may have waited for, even on a busy machine, in SHORTER seconds
SHORTER = 3.0
BRIEF_MS = 600
PATIENT = 3.0  # seconds a busy machine may add

GTHREAD = ("--worker-class", "gthread", "--threads", "8")
SERVERS = {
    "flask-sync": (partial(Gunicorn, application="flask_app:application"), ["flask", "gunicorn"]),
    "flask-gthread": (partial(Gunicorn, application="flask_app:application"), ["flask", "gunicorn"]),
    "flask-uwsgi": (partial(Uwsgi, application="flask_app.py"), ["flask", "pyuwsgi"]),
    "django-sync": (partial(Gunicorn, application="django_app:application"), ["django", "gunicorn"]),
    "django-uvicorn": (partial(Uvicorn, application="django_app:asgi_application"), ["django", "uvicorn"]),
    "starlette-uvicorn": (partial(Uvicorn, application="starlette_app:application"), ["starlette", "uvicorn"]),
    "fastapi-uvicorn": (partial(Uvicorn, application="fastapi_app:application"), ["fastapi", "uvicorn"]),
}
OPTIONS = {"flask-gthread": GTHREAD, "flask-uwsgi": ("--log-sendfile", "true")}

every_server = pytest.mark.parametrize("name", SERVERS)
# Those that answer another request while one waits for its flush; one process each.
several_at_once = pytest.mark.parametrize("name", [name for name in SERVERS if "gthread" in name or "uvicorn" in name])
files = pytest.mark.parametrize("name", [name for name in SERVERS if "flask" in name or "django" in name])


@pytest.fixture
def serve(collector, tmp_path):
    """`serve(name, timeout_ms=..., before=...)`: that server, running."""
    with contextlib.ExitStack() as running:

        def start(name, *, timeout_ms=REQUEST_SECONDS * 1000, before=False):
            server, needs = SERVERS[name]
            for need in needs:
                pytest.importorskip(need)
            env = {"FLUSH_TIMEOUT_MS": timeout_ms, **({"FLUSH_BEFORE": 1} if before else {})}
            klime = {"flush_interval": NEVER}
            return running.enter_context(server(tmp_path, collector, *OPTIONS.get(name, ()), klime=klime, env=env))

        yield start


def get(server, path="/", **headers):
    """Status and body."""
    with contextlib.closing(connection_to(server)) as connection:
        return get_on(connection, path, **headers)


def get_on(connection, path="/", **headers):
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def connection_to(server):
    return http.client.HTTPConnection("127.0.0.1", server.port, timeout=REQUEST_SECONDS)


def names(events):
    return sorted(event["event"] for event in events if event["event"] != "Loaded")


@every_server
def test_before_the_response(name, serve, collector):
    server = serve(name, before=True)
    for count in range(1, 6):
        status, body = get(server)
        arrived = collector.events(event="Requested")
        assert (status, len(arrived)) == (200, count)
        assert arrived[-1]["properties"]["serial"].startswith(f"{body.decode()}-")


@every_server
def test_after_the_response(name, serve, collector):
    server = serve(name)
    before = len(server.journal())  # an application that tracks when it is loaded
    for count in range(1, 6):
        assert get(server)[0] == 200
        collector.wait_for(before + count)
    assert sorted(collector.serials()) == sorted(serial for _, serial in server.journal())


@several_at_once
@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
def test_a_connection_that_is_kept_alive(before, name, serve, collector):
    server = serve(name, before=before)
    with contextlib.closing(connection_to(server)) as connection:
        connection.connect()
        sock = connection.sock
        for _ in range(5):
            assert get_on(connection)[0] == 200
            assert connection.sock is sock
        collector.wait_for(len(server.journal()))


@every_server
def test_nobody_waits_for_a_flush_after_the_response(name, serve, collector):
    server = serve(name, timeout_ms=LONG_MS)
    collector.faults({"hang": True, "times": None})
    with Stopwatch() as took:
        status, body = get(server)
    assert (status, body.decode()) == (200, server.journal()[-1][1].partition("-")[0])
    assert took.seconds < SHORTER
    assert names(collector.events()) == []


@several_at_once
def test_others_are_served_while_a_request_waits_for_its_flush(name, serve, collector):
    # An event loop that is blocked by the flush of one request serves the next one LONG_MS later.
    server = serve(name, timeout_ms=LONG_MS)
    collector.faults({"hang": True, "times": None})
    with Stopwatch() as took:
        for _ in range(5):
            assert get(server)[0] == 200
    assert took.seconds < SHORTER


@every_server
def test_an_endpoint_that_hangs_costs_the_timeout_and_no_more(name, serve, collector):
    server = serve(name, timeout_ms=BRIEF_MS, before=True)
    collector.faults({"hang": True, "times": None})
    for _ in range(2):
        with Stopwatch() as took:
            assert get(server)[0] == 200
        assert BRIEF_MS / 1000 * 0.95 < took.seconds < BRIEF_MS / 1000 + PATIENT
    collector.wait_for_requests(1)


@several_at_once
def test_requests_wait_for_their_flushes_side_by_side(name, serve, collector):
    server = serve(name, timeout_ms=LONG_MS, before=True)
    collector.faults({"hang": True, "times": None})
    with Stopwatch() as took:
        assert server.load(4, concurrency=4) == 4
    assert LONG_MS / 1000 * 0.95 < took.seconds < LONG_MS / 1000 + SHORTER


@every_server
@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
def test_an_endpoint_that_is_down_does_not_concern_the_request(before, name, serve, collector):
    server = serve(name, timeout_ms=BRIEF_MS, before=before)
    collector.faults({"status": 503, "times": None})
    assert [get(server)[0] for _ in range(2)] == [200, 200]
    collector.wait_for_requests(1)


@every_server
def test_what_is_tracked_while_a_body_streams_is_flushed_after_it(name, serve, collector):
    server = serve(name)
    for count in range(1, 3):
        assert get(server, "/stream") == (200, b"first second")
        collector.wait_for(len(server.journal()))  # not 2 * count: an application may track when it is loaded
        assert names(collector.events(event="Streamed")) == ["Streamed"] * count


@every_server
@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
def test_a_request_that_fails_is_flushed_as_well(before, name, serve, collector):
    server = serve(name, before=before)
    for _ in range(2):
        assert get(server, "/error")[0] == 500
        collector.wait_for(len(server.journal()))


@files
@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
def test_files_are_sent_as_they_were(before, name, serve, collector):
    server = serve(name, before=before)
    source = APPS / f"{name.partition('-')[0]}_app.py"
    for count in range(1, 3):
        assert get(server, "/file") == (200, source.read_bytes())
        if before:
            assert len(collector.events(event="Requested")) == count
        collector.wait_for(count)
    if "uwsgi" in name:
        server.wait_for_log("via sendfile()", 2)


@pytest.mark.parametrize("name", ["django-sync", "django-uvicorn"])
def test_django_when_a_middleware_above_answers_with_a_response_of_its_own(name, serve, collector):
    server = serve(name)
    assert get(server, "/tagged")[0] == 200
    collector.wait_for(1)
    assert get(server, "/tagged", **{"If-None-Match": '"tag"'})[0] == 304
    collector.wait_for(2)


def test_background_tasks_of_starlette_come_before_the_flush(serve, collector):
    server = serve("starlette-uvicorn")
    assert get(server, "/background") == (200, b"later")
    assert names(collector.wait_for(1)) == ["Backgrounded"]
