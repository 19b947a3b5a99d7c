"""SystemExit at any line of a call: it passes on, no lock stays held, the ledger balances, nothing else suffers.

gunicorn's QUIT and ABRT handlers and Celery's soft time limit raise like this, inside whatever call is running.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections import Counter

import pytest

import klime_mp
from klime_mp import _sender, _steps
from support.clients import quiet_logger
from support.ledger import assert_balanced
from support.program import run_program

PACKAGE = klime_mp.__file__.rpartition("/")[0]


class AtLine:
    """Calls `act` at the n-th line that this thread runs in the package."""

    def __init__(self, n, act):
        self.left = n
        self.act = act
        self.reached = False

    def __enter__(self):
        sys.settrace(self._trace)

    def __exit__(self, *_):
        sys.settrace(None)

    def _trace(self, frame, event, _):
        code = frame.f_code
        if not code.co_filename.startswith(PACKAGE):
            return None
        if code.co_name in {"close", "get"} and code.co_filename.endswith(("_connection.py", "_transport.py")):
            return None  # may be called by a finalizer, where Python swallows whatever is raised
        if event == "line" and not self.reached:
            self.left -= 1
            if self.left < 0:
                self.reached = True
                self.act()
        return self._trace


def interrupt():
    raise SystemExit("interrupted")


def assert_lock_is_free(client):
    got = []

    def take():
        lock = client._here()._dispatch._lock
        got.append(lock.acquire(timeout=5))
        lock.release()

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    assert got == [True], "the lock stayed held"


def fresh_client(collector, **options):
    logger = quiet_logger(collector.write_key)
    return klime_mp.Client(
        collector.write_key, endpoint=collector.endpoint, retry_initial_delay=1, logger=logger, **options
    )


def prepare_first_event(client):
    pass


def prepare_event_waiting(client):
    client.track("e", {"serial": "before"}, user_id=1)


def prepare_full_queue(client):
    for n in range(3):
        client.track("e", {"serial": f"before-{n}"}, user_id=1)


CALLS = {
    "track, the first event": ({}, prepare_first_event, "track"),
    "track, the sender is there": ({}, prepare_event_waiting, "track"),
    "track into a full queue": ({"max_queue_size": 3, "flush_interval": 60_000}, prepare_full_queue, "track"),
    "track, invalid": ({}, prepare_first_event, "invalid"),
    "flush": ({"flush_interval": 60_000}, prepare_event_waiting, "flush"),
    "flush, nothing to do": ({}, prepare_first_event, "flush"),
    "shutdown": ({"flush_interval": 60_000}, prepare_event_waiting, "shutdown"),
    "track_sync": ({}, prepare_event_waiting, "track_sync"),
}


def call(client, what):
    if what == "track":
        client.track("e", {"serial": "interrupted"}, user_id=1)
    elif what == "invalid":
        client.track("", user_id=1)
    elif what == "track_sync":
        client.track_sync("e", {"serial": "interrupted"}, user_id=1)
    else:
        getattr(client, what)()


class NoThread:
    def __init__(self, **_):
        pass

    def start(self):
        raise RuntimeError("can't start new thread")


# Who is interrupted in the middle of a request leaves its socket to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("threads", [True, False], ids=["", "no threads"])
@pytest.mark.parametrize(("options", "prepare", "what"), CALLS.values(), ids=CALLS)
def test_system_exit_at_each_line(collector, monkeypatch, options, prepare, what, threads):
    """Without threads (exit handlers on Python 3.12+) the interrupted thread does the sending itself."""
    monkeypatch.setattr(_steps, "START_PATIENCE", 0.02)  # what an interrupted start costs, at every second line
    if not threads:
        monkeypatch.setattr(_sender, "Thread", NoThread)
    n = 0
    while True:
        collector.clear()
        client = fresh_client(collector, **options)
        prepare(client)
        at_line = AtLine(n, interrupt)
        passed_on = False
        with at_line:
            try:
                call(client, what)
            except SystemExit:
                passed_on = True
        if not at_line.reached:
            assert n > 10, "the call was not traced"
            break
        assert passed_on, f"line {n}: SystemExit was swallowed"
        assert_lock_is_free(client)
        assert_balanced(client.stats())
        # And the client goes on working.
        client.restart()
        assert client.track("e", {"serial": "after"}, user_id=1)
        assert client.flush(10_000), f"line {n}: the sender is gone"
        stats = client.stats()
        assert_balanced(stats)
        assert stats.pending == 0
        arrived = Counter(collector.serials())
        assert arrived["after"] == 1
        if threads:  # else the interrupted request's answer is lost, and the batch is sent again
            assert max(arrived.values()) == 1, f"line {n}: {arrived}"
            if what != "track_sync":  # an interrupted sync call does not know whether its event arrived
                assert sum(arrived.values()) == stats.delivered
        if "max_queue_size" not in options:
            assert bool(arrived["before"]) == (prepare is prepare_event_waiting)
        assert client.shutdown()
        n += 1 if threads else 3  # the whole sending is in the call then: several hundred lines


@pytest.mark.parametrize("what", ["track", "flush"])
def test_signal_handler_that_tracks_at_each_line(collector, what):
    """A handler runs in the thread it interrupts, which may hold the lock."""
    n = 0
    while True:
        collector.clear()
        client = fresh_client(collector)
        prepare_event_waiting(client)
        at_line = AtLine(n, lambda client=client: client.track("e", {"serial": "handler"}, user_id=1))
        with at_line:
            call(client, what)
        if not at_line.reached:
            break
        assert client.flush(10_000)
        assert_balanced(client.stats())
        expected = ["before", "handler"] + (["interrupted"] if what == "track" else [])
        assert Counter(collector.serials()) == Counter(expected), f"line {n}"
        assert client.shutdown()
        n += 1


class SoftTimeLimit(Exception):  # noqa: N818 - as Celery's, which is an Exception, not a BaseException
    pass


class Struck:
    """Its str() is interrupted by a signal."""

    def __str__(self):
        signal.raise_signal(signal.SIGUSR2)
        return "not reached"


def strike(*_):
    str(Struck())


@pytest.fixture
def soft_time_limit():
    def handler(_signum, _frame):
        raise SoftTimeLimit

    previous = signal.signal(signal.SIGUSR2, handler)
    yield
    signal.signal(signal.SIGUSR2, previous)


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({}, {"properties": {"value": Struck()}, "user_id": 1}),
        ({"before_send": strike}, {"user_id": 1}),
        ({"on_drop": strike}, {"user_id": None}),
    ],
    ids=["while encoding", "in before_send", "in on_drop"],
)
def test_an_exception_raised_by_a_signal_handler_passes_on(collector, soft_time_limit, options, arguments):
    """It is not mistaken for one that the caller's objects or callbacks raise, which never get out."""
    with fresh_client(collector, **options) as client:
        with pytest.raises(SoftTimeLimit):
            client.track("e", **arguments)
        with pytest.raises(SoftTimeLimit):
            client.track("e", **arguments)
        assert_lock_is_free(client)
        assert_balanced(client.stats())


def test_real_signals_at_random_moments(collector):
    """The same with what really happens: a handler that raises, somewhere in the middle.

    In an interpreter of its own: here it would strike hypothesis's and pytest's code as well.
    """
    ended = run_program(
        """
        client = klime_mp.Client(max_queue_size=100_000)
        accepted = []

        def handler(_signum, _frame):
            raise SystemExit

        signal.signal(signal.SIGALRM, handler)
        for n in range(600):
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-5 + (n % 50) * 1e-5)
                for m in range(200):
                    if client.track("e", {"serial": f"{n}-{m}"}, user_id=1):
                        accepted.append(f"{n}-{m}")
                client.flush(50)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except SystemExit:
                pass
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        assert client.flush(20_000), "a lock is held, or the sender is gone"
        assert balanced(client.stats())
        say(accepted=accepted, delivered=client.stats().delivered, tracked=client.stats().tracked)
        """,
        collector,
    )
    arrived = Counter(collector.serials())
    assert max(arrived.values()) == 1
    assert [sum(arrived.values())] == ended.all("delivered") == ended.all("tracked")
    assert not set(ended.all("accepted")) - set(arrived), "an event whose messageId was returned is lost"
