"""The WSGI middleware under the standard library's server: what it does to an answer, and when it flushes."""

from __future__ import annotations

import io
import os
import signal
import threading
from wsgiref.handlers import SimpleHandler
from wsgiref.util import FileWrapper, setup_testing_defaults
from wsgiref.validate import validator

import pytest

import klime_mp
from klime_mp.integrations.wsgi import FlushMiddleware
from support.clients import FAST, Stopwatch, track

HEADERS = [("Content-Type", "text/plain")]
both = pytest.mark.parametrize("before", [False, True], ids=["after", "before"])


class Visitor(io.BytesIO):
    """Where the server writes to; notes how many events had arrived at each write."""

    def __init__(self, inbox):
        super().__init__()
        self._inbox = inbox
        self.arrived = []

    def write(self, data):
        self.arrived.append(len(self._inbox.serials()))
        return super().write(data)

    def body(self):
        return self.getvalue().partition(b"\r\n\r\n")[2]

    def headers(self):
        return self.getvalue().partition(b"\r\n\r\n")[0].decode()


class Server(SimpleHandler):
    """wsgiref's. Raises what the application raises."""

    http_version = "1.1"
    os_environ = {}  # noqa: RUF012 # the server's name for it

    def __init__(self, visitor, *, file_wrapper=FileWrapper):
        self.wsgi_file_wrapper = file_wrapper
        environ = {"QUERY_STRING": ""}
        setup_testing_defaults(environ)
        super().__init__(io.BytesIO(), visitor, io.StringIO(), environ, multithread=False)

    def handle_error(self):
        raise  # noqa: PLE0704 # called where the exception is handled

    def log_exception(self, exc_info):
        pass


@pytest.fixture
def client(collector):
    client = klime_mp.Client(collector.write_key, endpoint=collector.endpoint, **FAST)
    yield client
    collector.faults()
    client.shutdown(timeout_ms=300)


@pytest.fixture
def visit(collector, client):
    """`visit(app, **options)`: the visitor of one request to that application, with our middleware around it."""

    def visit(app, *, server=Server, checked=True, **options):
        wrapped = FlushMiddleware(validator(app) if checked else app, **{"client": client, **options})
        visitor = Visitor(collector)
        server(visitor).run(validator(wrapped) if checked else wrapped)
        return visitor

    return visit


def test_after_the_response(visit, client, collector):
    def app(environ, start_response):
        start_response("200 OK", HEADERS)
        track(client, 0)
        return [b"a", b"b"]

    visitor = visit(app)
    assert visitor.body() == b"ab"
    assert set(visitor.arrived) == {0}
    assert collector.serials() == [0]


@pytest.mark.parametrize("checked", [False, True])  # the validator makes an iterator of the list
def test_before_the_response(checked, visit, client, collector):
    def app(environ, start_response):
        start_response("200 OK", HEADERS)
        track(client, 0)
        return [b"a", b"b"]

    visitor = visit(app, checked=checked, before_response=True)
    assert visitor.body() == b"ab"
    assert set(visitor.arrived) == {1}


def test_before_the_response_of_a_generator_that_tracks(visit, client, collector):
    # Nothing of it has run when the application returns it.
    def app(environ, start_response):
        start_response("200 OK", HEADERS)
        track(client, 0)
        yield b"a"
        track(client, 1)
        yield b"b"

    visitor = visit(app, before_response=True)
    assert visitor.body() == b"ab"
    assert set(visitor.arrived) == {1}
    assert collector.serials() == [0]
    assert client.queue_size() == 1  # one flush a request


@both
def test_a_body_without_anything(before, visit, client, collector):
    def app(environ, start_response):
        start_response("204 No Content", [])
        track(client, 0)
        return iter(())

    assert visit(app, before_response=before).body() == b""
    assert collector.serials() == [0]


@pytest.mark.parametrize(("before", "arrived"), [(False, 0), (True, 1)], ids=["after", "before"])
def test_the_write_callable(before, arrived, visit, client, collector):
    def app(environ, start_response):
        write = start_response("200 OK", HEADERS)
        track(client, 0)
        write(b"a")
        write(b"b")
        return [b"c"]

    visitor = visit(app, before_response=before)
    assert visitor.body() == b"abc"
    assert set(visitor.arrived) == {arrived}
    assert collector.serials() == [0]


@both
def test_the_length_of_a_single_item_is_the_length_of_the_response(before, visit):
    def app(environ, start_response):
        start_response("200 OK", HEADERS)
        return [b"12345"]

    assert "Content-Length: 5" in visit(app, before_response=before, checked=False).headers()


@both
def test_a_body_without_length_has_none(before, client):
    def app(environ, start_response):
        return iter([b"a"])

    body = FlushMiddleware(app, client, before_response=before)({}, None)
    assert not hasattr(body, "__len__")
    assert bool(body)


@both
def test_the_body_is_closed_first(before, visit, client, collector):
    class Body:
        def __iter__(self):
            return iter([b"a"])

        def close(self):
            track(client, 0)

    def app(environ, start_response):
        start_response("200 OK", HEADERS)
        return Body()

    visit(app, before_response=before)
    assert collector.serials() == ([] if before else [0])
    assert client.queue_size() == (1 if before else 0)


def test_a_close_that_raises(visit, client, collector):
    class Body:
        def __iter__(self):
            return iter([b"a"])

        def close(self):
            raise RuntimeError("on purpose")

    def app(environ, start_response):
        start_response("200 OK", HEADERS)
        track(client, 0)
        return Body()

    with pytest.raises(RuntimeError, match="on purpose"):
        visit(app, checked=False)
    assert collector.serials() == [0]


@both
@pytest.mark.parametrize("where", ["call", "body"])
def test_an_application_that_raises(where, before, visit, client, collector):
    def body():
        track(client, 0)
        raise RuntimeError("on purpose")
        yield

    def app(environ, start_response):
        if where == "call":
            next(body())
        start_response("200 OK", HEADERS)
        return body()

    with pytest.raises(RuntimeError, match="on purpose"):
        visit(app, before_response=before)
    assert collector.serials() == [0]


def test_what_ends_the_process_is_not_held_up(visit, client, collector):
    def app(environ, start_response):
        track(client, 0)
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        visit(app)
    assert collector.serials() == []
    assert client.queue_size() == 1


@both
def test_a_file_reaches_the_server_in_its_own_wrapper(before, visit, client, collector, tmp_path):
    sent = []

    class SendsFiles(Server):
        def sendfile(self):
            sent.append(self.result)
            return False

    path = tmp_path / "file"
    path.write_bytes(b"content")
    opened = path.open("rb")

    def app(environ, start_response):
        start_response("200 OK", HEADERS)
        track(client, 0)
        return environ["wsgi.file_wrapper"](opened)

    visitor = visit(app, server=SendsFiles, checked=False, before_response=before)
    assert visitor.body() == b"content"
    assert [type(result) for result in sent] == [FileWrapper]
    assert set(visitor.arrived) == {1 if before else 0}
    assert collector.serials() == [0]
    assert opened.closed


def test_a_file_wrapper_that_cannot_be_changed_is_flushed_before(visit, client, collector):
    # As of servers written in C: better an early flush than a file read through Python.
    class Slotted:
        __slots__ = ("_file",)

        def __init__(self, file):
            self._file = file

        def __iter__(self):
            return iter([self._file.read()])

        def close(self):
            self._file.close()

    content = io.BytesIO(b"content")

    def app(environ, start_response):
        start_response("200 OK", HEADERS)
        track(client, 0)
        return environ["wsgi.file_wrapper"](content)

    visitor = visit(app, server=lambda visitor: Server(visitor, file_wrapper=Slotted), checked=False)
    assert visitor.body() == b"content"
    assert set(visitor.arrived) == {1}
    assert content.closed


@both
def test_a_file_wrapper_that_is_a_function(before, client, collector):
    # uWSGI's returns the file itself, and recognises it by identity.
    content = io.BytesIO(b"content")

    def app(environ, start_response):
        track(client, 0)
        return environ["wsgi.file_wrapper"](content, 8192)

    answer = FlushMiddleware(app, client, before_response=before)({"wsgi.file_wrapper": lambda file, size: file}, None)
    assert answer is content
    assert collector.serials() == ([0] if before else [])
    answer.close()
    assert collector.serials() == [0]
    assert content.closed


@both
def test_a_servers_token_is_passed_on(before, client, collector):
    token = object()

    def app(environ, start_response):
        track(client, 0)
        return token

    assert FlushMiddleware(app, client, before_response=before)({}, None) is token
    assert collector.serials() == [0]


@both
def test_nothing_pending_takes_no_thread(before, visit, client, monkeypatch):
    def app(environ, start_response):
        start_response("200 OK", HEADERS)
        return [b"a"]

    track(client, 0)
    client.flush()
    monkeypatch.setattr(threading.Thread, "start", lambda thread: pytest.fail(f"{thread} was started"))
    visit(app, before_response=before)


def test_without_a_client_all_of_them_are_flushed(visit, client, collector):
    another = klime_mp.Client(collector.write_key, endpoint=collector.endpoint, **FAST)

    def app(environ, start_response):
        start_response("200 OK", HEADERS)
        track(client, 0)
        track(another, 1)
        return [b"a"]

    visit(app, client=None)
    assert sorted(collector.serials()) == [0, 1]
    another.shutdown()


def test_another_client_is_left_alone(visit, client, collector):
    another = klime_mp.Client(collector.write_key, endpoint=collector.endpoint, **FAST)

    def app(environ, start_response):
        start_response("200 OK", HEADERS)
        track(client, 0)
        track(another, 1)
        return [b"a"]

    visit(app)
    assert collector.serials() == [0]
    another.shutdown()


def test_all_clients_share_the_time_and_none_waits_for_another(visit, collector_process, collector):
    """The first to be asked hangs; the others' events arrive all the same."""
    from support.collector import Inbox  # noqa: PLC0415 # for a write key that has its own faults

    with Inbox(collector_process) as hanging:
        hanging.faults({"hang": True, "times": None})
        clients = [
            klime_mp.Client(inbox.write_key, endpoint=inbox.endpoint, **FAST)
            for inbox in (hanging, collector, hanging, collector, hanging)
        ]

        def app(environ, start_response):
            start_response("200 OK", HEADERS)
            for serial, each in enumerate(clients):
                track(each, serial)
            return [b"a"]

        with Stopwatch() as took:
            visit(app, client=None, timeout_ms=1500)
        assert sorted(collector.serials()) == [1, 3]
        assert 1.45 < took.seconds < 2.9  # hanging in turns would take 4.5
        for each in clients:
            each.shutdown(timeout_ms=1)


class Broken(klime_mp.Client):
    """A client with a defect."""

    def flush(self, timeout_ms=None):
        raise RuntimeError("on purpose")


@both
def test_a_defect_does_not_concern_the_request(before, visit, collector):
    broken = Broken(collector.write_key, endpoint=collector.endpoint)

    def app(environ, start_response):
        start_response("200 OK", HEADERS)
        return [b"a"]

    assert visit(app, client=broken, before_response=before).body() == b"a"


@pytest.mark.skipif(not hasattr(signal, "SIGUSR2"), reason="signals of POSIX")
def test_what_a_signal_handler_raises_passes(visit, client, collector):
    class OutOfTimeError(Exception):
        pass

    def handler(number, frame):
        raise OutOfTimeError

    def app(environ, start_response):
        start_response("200 OK", HEADERS)
        track(client, 0)
        return [b"a"]

    collector.faults({"hang": True, "times": None})
    previous = signal.signal(signal.SIGUSR2, handler)

    def interrupt():
        collector.wait_for_requests(1)
        os.kill(os.getpid(), signal.SIGUSR2)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(OutOfTimeError):
            visit(app, timeout_ms=20_000)
    finally:
        thread.join()
        signal.signal(signal.SIGUSR2, previous)


@pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf"), True, "1000"])
def test_a_bad_timeout(bad, client):
    with pytest.raises(klime_mp.ConfigurationError, match="timeout_ms"):
        FlushMiddleware(lambda *_: [], client, bad)


def test_a_bad_client():
    with pytest.raises(TypeError, match="Client"):
        FlushMiddleware(lambda *_: [], 500)
