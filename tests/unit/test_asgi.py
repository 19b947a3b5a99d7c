"""The ASGI middlewares, called as a server calls them: when they flush, and what they say about the lifespan."""

from __future__ import annotations

import asyncio
import threading

import pytest

import klime_mp
from klime_mp import _exit
from klime_mp.integrations.asgi import FlushMiddleware, LifespanMiddleware, lifespan
from support.clients import FAST, Stopwatch, track
from support.ledger import assert_ledger

START = {"type": "http.response.start", "status": 200, "headers": []}
STARTUP, SHUTDOWN = {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}
STARTED, STOPPED = "lifespan.startup.complete", "lifespan.shutdown.complete"

both = pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
every_middleware = pytest.mark.parametrize("middleware", [LifespanMiddleware, FlushMiddleware])


@pytest.fixture(autouse=True)
def an_exit_of_its_own():
    """The time that a lifespan's end took is not missing to the other tests of this process."""
    yield
    _exit.restart()


@pytest.fixture
def client(collector):
    client = klime_mp.Client(collector.write_key, endpoint=collector.endpoint, **FAST, shutdown_timeout=1500)
    yield client
    collector.faults()
    client.shutdown(timeout_ms=300)


class Server:
    """Calls an application once; notes each message it sends, and how many events had arrived by then."""

    def __init__(self, inbox, *messages, refuse=""):
        self._inbox = inbox
        self._refuse = refuse or "nothing"
        self._messages = list(messages)
        self.said = []
        self.arrived = []

    async def receive(self):
        return self._messages.pop(0)

    async def send(self, message):
        if message["type"].startswith(self._refuse):
            raise AssertionError(f"{message['type']} has no place here")
        self.said.append(message["type"])
        self.arrived.append(len(self._inbox.serials()))

    def call(self, app, kind="http"):
        asyncio.run(self.acall(app, kind))

    async def acall(self, app, kind="http"):
        await app({"type": kind}, self.receive, self.send)


def body(data=b"", **more):
    return {"type": "http.response.body", "body": data, **more}


class Ticker:
    """Ticks while the event loop is free."""

    async def __aenter__(self):
        self.ticks = 0
        self._task = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_):
        self._task.cancel()

    async def _tick(self):
        while True:
            await asyncio.sleep(0.005)
            self.ticks += 1


# --- FlushMiddleware


@pytest.mark.parametrize(("before", "arrived"), [(False, 0), (True, 1)], ids=["after", "before"])
def test_a_response(before, arrived, client, collector):
    async def app(scope, receive, send):
        track(client, 0)
        await send({"type": "http.response.early_hint", "links": []})
        await send({**START, "trailers": True})
        await send(body(b"a", more_body=True))
        await send(body(b"b"))
        await send({"type": "http.response.trailers", "headers": []})

    server = Server(collector)
    server.call(FlushMiddleware(app, client, before_response=before))
    assert [name.rpartition(".")[2] for name in server.said] == ["early_hint", "start", "body", "body", "trailers"]
    assert server.arrived == [0, arrived, arrived, arrived, arrived]
    assert collector.serials() == [0]


def test_what_is_tracked_after_the_response_is_flushed_too(client, collector):
    async def app(scope, receive, send):
        await send(START)
        await send(body())
        track(client, 0)

    Server(collector).call(FlushMiddleware(app, client))
    assert collector.serials() == [0]


def test_before_the_response_there_is_one_flush(client, collector):
    async def app(scope, receive, send):
        track(client, 0)
        await send(START)
        track(client, 1)
        await send(body())

    Server(collector).call(FlushMiddleware(app, client, before_response=True))
    assert collector.serials() == [0]
    assert_ledger(client, delivered=1, pending=1)


@both
def test_an_application_that_raises(before, client, collector):
    async def app(scope, receive, send):
        track(client, 0)
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        Server(collector).call(FlushMiddleware(app, client, before_response=before))
    assert collector.serials() == [0]


@both
def test_an_application_that_does_not_answer(before, client, collector):
    # As when the visitor has gone.
    async def app(scope, receive, send):
        assert (await receive())["type"] == "http.disconnect"
        track(client, 0)

    Server(collector, {"type": "http.disconnect"}).call(FlushMiddleware(app, client, before_response=before))
    assert collector.serials() == [0]


@both
@pytest.mark.parametrize("where", ["app", "flush"])
def test_a_request_that_is_cancelled_ends_at_once(where, before, client, collector):
    collector.faults({"hang": True, "times": None})

    async def app(scope, receive, send):
        track(client, 0)
        if where == "app":
            await asyncio.Event().wait()
        await send(START)
        await send(body())

    async def main():
        request = asyncio.create_task(Server(collector).acall(FlushMiddleware(app, client, 20_000, before)))
        if where == "flush":
            await asyncio.to_thread(collector.wait_for_requests, 1)
        else:
            await asyncio.sleep(0)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request

    with Stopwatch() as took:
        asyncio.run(main())
    assert took.seconds < 10
    assert_ledger(client, pending=1)


@both
def test_a_websocket_is_flushed_when_it_ends(before, client, collector):
    async def app(scope, receive, send):
        track(client, 0)
        await send({"type": "websocket.accept"})
        track(client, 1)
        await send({"type": "websocket.close"})

    server = Server(collector)
    server.call(FlushMiddleware(app, client, before_response=before), "websocket")
    assert server.arrived == [0, 0]
    assert collector.serials() == [0, 1]


def test_other_scopes_are_not_ours(client, collector):
    async def app(scope, receive, send):
        assert scope["type"] == "telepathy"
        track(client, 0)

    Server(collector).call(FlushMiddleware(app, client), "telepathy")
    assert_ledger(client, pending=1)


@both
def test_nothing_pending_takes_no_thread(before, client, collector, monkeypatch):
    async def app(scope, receive, send):
        await send(START)
        await send(body())

    track(client, 0)
    client.flush()
    monkeypatch.setattr(threading.Thread, "start", lambda thread: pytest.fail(f"{thread} was started"))
    Server(collector).call(FlushMiddleware(app, client, before_response=before))


@both
def test_the_loop_runs_on_while_an_endpoint_hangs(before, client, collector):
    collector.faults({"hang": True, "times": None})

    async def app(scope, receive, send):
        track(client, 0)
        await send(START)
        await send(body())

    async def main():
        async with Ticker() as ticker:
            with Stopwatch() as took:
                await Server(collector).acall(FlushMiddleware(app, client, 600, before))
        assert 0.59 < took.seconds < 3
        assert ticker.ticks > 20

    asyncio.run(main())
    assert_ledger(client, pending=1)


def test_without_a_client_all_of_them_are_flushed(client, collector):
    another = klime_mp.Client(collector.write_key, endpoint=collector.endpoint, **FAST)

    async def app(scope, receive, send):
        track(client, 0)
        track(another, 1)

    Server(collector).call(FlushMiddleware(app))
    assert sorted(collector.serials()) == [0, 1]
    another.shutdown()


class Broken(klime_mp.Client):
    """A client with a defect."""

    async def aflush(self, timeout_ms=None):
        raise RuntimeError("on purpose")


@both
def test_a_defect_does_not_concern_the_request(before, collector):
    broken = Broken(collector.write_key, endpoint=collector.endpoint, **FAST)

    async def app(scope, receive, send):
        track(broken, 0)
        await send(START)
        await send(body())

    collector.faults({"delay_ms": 200})  # else it would be delivered before anybody has to wait
    server = Server(collector)
    server.call(FlushMiddleware(app, broken, before_response=before))
    assert len(server.said) == 2
    broken.shutdown()


def test_bad_arguments(client):
    with pytest.raises(klime_mp.ConfigurationError, match="timeout_ms"):
        FlushMiddleware(None, client, -1)
    with pytest.raises(TypeError, match="Client"):
        FlushMiddleware(None, 500)


@pytest.mark.parametrize(("before", "arrived"), [(False, 0), (True, 1)], ids=["after", "before"])
@pytest.mark.parametrize("outermost", [False, True])
def test_beside_a_middleware_that_relays_the_response(outermost, before, arrived, client, collector):
    applications = pytest.importorskip("starlette.applications")
    responses = pytest.importorskip("starlette.responses")
    base = pytest.importorskip("starlette.middleware.base")

    async def pass_on(request, call_next):
        return await call_next(request)

    app = applications.Starlette()
    ours = (FlushMiddleware, {"client": client, "before_response": before})
    relay = (base.BaseHTTPMiddleware, {"dispatch": pass_on})
    for kind, options in (relay, ours) if outermost else (ours, relay):  # what is added last is outermost
        app.add_middleware(kind, **options)

    async def index(request):
        track(client, 0)
        return responses.PlainTextResponse("fine")

    app.add_route("/", index)
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
    server = Server(collector, {"type": "http.request", "body": b"", "more_body": False})
    asyncio.run(app(scope, server.receive, server.send))
    assert set(server.arrived) == {arrived}
    assert collector.serials() == [0]


# --- the lifespan


async def speaks_lifespan(scope, receive, send):
    assert (await receive()) == STARTUP
    await send({"type": STARTED})
    assert (await receive()) == SHUTDOWN
    await send({"type": STOPPED})


async def raises_at_once(scope, receive, send):
    raise ValueError(f"not my kind: {scope['type']}")


async def returns_at_once(scope, receive, send):
    pass


async def answers_as_if_it_were_a_request(scope, receive, send):
    await send(START)


async def leaves_after_startup(scope, receive, send):
    await receive()
    await send({"type": STARTED})


async def only_listens(scope, receive, send):
    await receive()
    await receive()


@every_middleware
@pytest.mark.parametrize(
    "app",
    [
        speaks_lifespan,
        raises_at_once,
        returns_at_once,
        answers_as_if_it_were_a_request,
        leaves_after_startup,
        only_listens,
    ],
    ids=lambda app: app.__name__,
)
def test_pending_events_are_sent_before_the_server_hears_of_the_end(app, middleware, client, collector):
    track(client, 0)
    server = Server(collector, STARTUP, SHUTDOWN, refuse="http.")
    server.call(middleware(app), "lifespan")
    assert list(zip(server.said, server.arrived, strict=True)) == [(STARTED, 0), (STOPPED, 1)]
    assert track(client, 1)  # the client is not closed
    assert_ledger(client, delivered=1, pending=1)


@every_middleware
def test_what_the_application_tracks_when_it_stops(middleware, client, collector):
    async def app(scope, receive, send):
        await receive()
        await send({"type": STARTED})
        await receive()
        track(client, 0)
        await send({"type": "lifespan.shutdown.failed", "message": "on purpose"})

    server = Server(collector, STARTUP, SHUTDOWN)
    server.call(middleware(app), "lifespan")
    assert list(zip(server.said, server.arrived, strict=True)) == [(STARTED, 0), ("lifespan.shutdown.failed", 1)]


def test_an_application_that_cannot_start(client, collector):
    async def app(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "on purpose"})

    server = Server(collector, STARTUP)
    server.call(LifespanMiddleware(app), "lifespan")
    assert server.said == ["lifespan.startup.failed"]


@pytest.mark.parametrize("heard", [1, 2], ids=["startup", "shutdown"])
def test_what_the_application_raises_passes(heard, client, collector):
    async def app(scope, receive, send):
        await receive()
        if heard == 2:
            await send({"type": STARTED})
            await receive()
            track(client, 0)
        raise RuntimeError("on purpose")

    server = Server(collector, STARTUP, SHUTDOWN)
    with pytest.raises(RuntimeError, match="on purpose"):
        server.call(LifespanMiddleware(app), "lifespan")
    assert server.said == [STARTED][: heard - 1]
    assert collector.serials() == [0][: heard - 1]


@pytest.mark.parametrize("way", ["raises", "says so"])
def test_a_lifespan_that_fails_in_mid_life_is_ended_by_the_server(way, client, collector):
    """Heard of a failure, a server would go on serving, and tell nobody of its shutdown."""

    async def app(scope, receive, send):
        await receive()
        await send({"type": STARTED})
        if way == "says so":
            await send({"type": "lifespan.shutdown.failed", "message": "on purpose"})
        raise RuntimeError("on purpose")

    class Serving(Server):
        async def receive(self):
            message = await super().receive()
            if message == SHUTDOWN:
                track(client, 0)  # the requests in between
            return message

    server = Serving(collector, STARTUP, SHUTDOWN)
    with pytest.raises(RuntimeError, match="on purpose"):
        server.call(LifespanMiddleware(app), "lifespan")
    assert collector.serials() == [0]
    assert server.arrived == ([0] if way == "raises" else [0, 1])


def test_an_endpoint_that_hangs_does_not_keep_the_server(client, collector):
    collector.faults({"hang": True, "times": None})

    async def main():
        track(client, 0)
        server = Server(collector, STARTUP, SHUTDOWN)
        async with Ticker() as ticker:
            with Stopwatch() as took:
                await server.acall(FlushMiddleware(LifespanMiddleware(speaks_lifespan)), "lifespan")
        assert server.said == [STARTED, STOPPED]
        assert 1.45 < took.seconds < 2.9  # both of them together
        assert ticker.ticks > 50

    asyncio.run(main())
    assert_ledger(client, failed=1)


def test_each_lifespan_of_a_process_has_its_full_time(client, collector):
    for serial in range(2):
        collector.faults({"hang": True, "times": 1})
        track(client, serial)
        with Stopwatch() as took:
            Server(collector, STARTUP, SHUTDOWN).call(LifespanMiddleware(speaks_lifespan), "lifespan")
        assert took.seconds > 1.45
    track(client, 2)
    Server(collector, STARTUP, SHUTDOWN).call(LifespanMiddleware(speaks_lifespan), "lifespan")
    assert collector.serials() == [2]


@every_middleware
def test_requests_and_websockets_pass(middleware, collector):
    async def app(scope, receive, send):
        await send({"type": f"{scope['type']}.message"})

    for kind in ("http", "websocket"):
        server = Server(collector)
        server.call(middleware(app), kind)
        assert server.said == [f"{kind}.message"]


def test_the_context_manager(client, collector):
    async def main():
        async with lifespan():
            track(client, 0)
            assert collector.serials() == []
        assert collector.serials() == [0]

    asyncio.run(main())
    assert_ledger(client, delivered=1)


def test_the_context_manager_of_a_program_that_raises(client, collector):
    async def main():
        async with lifespan(None):
            track(client, 0)
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        asyncio.run(main())
    assert collector.serials() == [0]


@pytest.mark.parametrize("framework", ["starlette.applications:Starlette", "fastapi:FastAPI"])
@pytest.mark.parametrize("helper", ["argument", "middleware", "flush_middleware"])
def test_in_a_framework(helper, framework, client, collector):
    module, _, name = framework.partition(":")
    make = getattr(pytest.importorskip(module), name)
    if helper == "argument":
        app = make(lifespan=lifespan)
    else:
        app = make()
        app.add_middleware(LifespanMiddleware if helper == "middleware" else FlushMiddleware)
    track(client, 0)
    server = Server(collector, STARTUP, SHUTDOWN)

    async def main():
        await app({"type": "lifespan", "app": app, "state": {}}, server.receive, server.send)

    asyncio.run(main())
    assert list(zip(server.said, server.arrived, strict=True)) == [(STARTED, 0), (STOPPED, 1)]
