"""An endpoint that never answers: `flush`, `shutdown` and the exit end in time, and an outcome is written once."""

from __future__ import annotations

import contextlib
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import klime_mp
from klime_mp import _sender
from klime_mp._dispatch import Dispatch
from klime_mp._queue import Queue
from support.clients import Stopwatch, track, wait_for_retry, wait_until
from support.ledger import assert_balanced, assert_ledger
from support.script import assert_ended_in_time, run_script
from support.sockets import DrippingBody, FullBacklog, SilentServer

GRACE = 0.5  # seconds the contract allows beyond the deadline
PROMPT = 1.5  # seconds: at once, on a machine that has other things to do

HANGS = ["connect", "silence", "answer", "headers drip", "body drips"]


@pytest.fixture(params=HANGS)
def hanging(request, collector):
    """The URL of an endpoint that hangs, each in its own way."""
    with contextlib.ExitStack() as stack:
        match request.param:
            case "connect":
                yield stack.enter_context(FullBacklog()).url
            case "silence":
                yield stack.enter_context(SilentServer()).url
            case "answer":
                collector.faults({"hang": True, "times": None})
                yield collector.endpoint
            case "headers drip":
                collector.faults({"drip_ms": 1000, "status": 503, "times": None})
                yield collector.endpoint
            case "body drips":
                yield stack.enter_context(DrippingBody(1.0)).url


# --- flush


def test_flush_returns_in_time(make_client, seen, hanging):
    client = make_client(endpoint=hanging)
    track(client, 0, 1, 2)
    with Stopwatch() as took:
        assert client.flush(timeout_ms=300) is False
    assert 0.29 < took.seconds < 0.3 + GRACE
    assert_ledger(client, pending=3, requests=1)
    assert client.queue_size() == 3
    assert seen.nothing()


def test_a_flush_that_gave_up_changes_nothing(make_client, collector, seen):
    client = make_client(request_timeout=1500)
    collector.faults({"hang": True})
    track(client, 0, 1)
    assert client.flush(timeout_ms=100) is False
    collector.wait_for_requests(1)
    track(client, 2)
    assert client.flush(timeout_ms=0) is False
    assert client.flush(timeout_ms=-5) is False
    assert client.flush() is True
    assert_ledger(client, delivered=3, requests=3, retries=1)
    assert collector.serials() == [0, 1, 2]
    assert not seen.errors


def test_flush_of_nothing(client, threads):
    assert client.flush() is True
    assert client.flush(timeout_ms=0) is True
    assert not threads.now()


def test_flush_does_not_shorten_a_back_off(make_client, collector, caplog):
    caplog.set_level(logging.INFO, "klime_mp")
    client = make_client(retry_initial_delay=2000)
    collector.faults({"status": 503})
    track(client, 0)
    with Stopwatch() as took:
        assert client.flush(timeout_ms=300) is False
        wait_for_retry(caplog)
        assert collector.summary()["requests"] == 1
        assert client.flush() is True
    assert took.seconds > 0.99  # d/2
    assert_ledger(client, delivered=1, requests=2, retries=1)


@pytest.mark.parametrize("timeout_ms", ["soon", True, float("nan"), [1]], ids=repr)
def test_a_timeout_that_is_no_number(client, timeout_ms):
    for call in (client.flush, client.shutdown, lambda ms: client.track_sync("T", user_id=1, timeout_ms=ms)):
        with pytest.raises(ValueError, match="timeout_ms"):
            call(timeout_ms)
    assert_ledger(client)
    track(client, 0)
    assert client.flush()


def test_flushes_of_many_threads(make_client, collector):
    client = make_client()

    def work(number):
        track(client, *range(number * 100, number * 100 + 25))
        return client.flush(timeout_ms=20_000)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    assert sorted(collector.serials()) == sorted(n * 100 + i for n in range(8) for i in range(25))
    assert_ledger(client, delivered=200)


# --- shutdown


def test_shutdown_returns_in_time(make_client, seen, hanging):
    client = make_client(endpoint=hanging)
    track(client, 0, 1, 2)
    assert client.flush(timeout_ms=200) is False  # the request is under way, and knows no deadline but its own
    with Stopwatch() as took:
        assert client.shutdown(timeout_ms=700) is False
    assert took.seconds < 0.7 + GRACE
    assert_ledger(client, failed=3, requests=1)
    assert seen.failed() == [0, 1, 2]
    assert "deadline" in seen.the_error().message
    assert not seen.successes


def test_shutdown_that_begins_the_request_returns_in_time(make_client, seen, hanging):
    client = make_client(endpoint=hanging)
    track(client, 0, 1, 2)
    with Stopwatch() as took:
        in_time = client.shutdown(timeout_ms=700)
    assert took.seconds < 0.7 + GRACE
    if in_time:  # "200" has come, if not what follows it: both outcomes are right, but only one of them is there
        assert_ledger(client, delivered=3, requests=1)
        assert not seen.errors
        assert len(seen.successes) == 1
    else:
        assert_ledger(client, failed=3, requests=1)
        assert seen.failed() == [0, 1, 2]
        assert not seen.successes


def test_the_default_deadline_is_shutdown_timeout(make_client, seen, collector):
    collector.faults({"hang": True, "times": None})
    client = make_client(shutdown_timeout=400)
    track(client, 0)
    with Stopwatch() as took:
        assert client.shutdown() is False
    assert 0.39 < took.seconds < 0.4 + GRACE
    assert seen.failed() == [0]


def test_a_callback_that_runs_at_the_deadline_may_end(make_client, collector, monkeypatch):
    """As when the sender itself has given up just in time: who exits next would kill it in the middle."""
    collector.faults({"status": 400})
    begun, has_come, ended = threading.Event(), threading.Event(), []
    is_telling = Dispatch.is_telling

    def at_the_deadline(*args):
        telling = is_telling(*args)
        has_come.set()
        return telling

    def on_error(*_):
        begun.set()
        ended.append(has_come.wait(10))

    monkeypatch.setattr(Dispatch, "is_telling", at_the_deadline)
    monkeypatch.setattr(_sender, "HEAR_OUT", 10)
    client = make_client(on_error=on_error)
    track(client, 0)
    client.flush(timeout_ms=0)
    assert begun.wait(10)
    client.shutdown(timeout_ms=200)
    assert ended == [True]
    assert_ledger(client, failed=1, requests=1)


def test_a_callback_that_does_not_end_keeps_no_shutdown(make_client, collector):
    collector.faults({"status": 400})
    begun, release = threading.Event(), threading.Event()

    def on_error(*_):
        begun.set()
        release.wait(60)

    client = make_client(on_error=on_error)
    try:
        track(client, 0)
        client.flush(timeout_ms=0)
        assert begun.wait(10)
        with Stopwatch() as took:
            client.shutdown(timeout_ms=300)
        assert took.seconds < 0.3 + _sender.HEAR_OUT + GRACE
    finally:
        release.set()


def test_a_flush_waits_for_the_callbacks_of_what_a_shutdown_gave_up(make_client, collector):
    collector.faults({"hang": True, "times": None})
    begun, release, told = threading.Event(), threading.Event(), []

    def on_error(*_):
        begun.set()
        told.append(release.wait(20))

    client = make_client(on_error=on_error)
    track(client, 1)
    closing = threading.Thread(target=client.shutdown, args=(200,))
    closing.start()
    assert begun.wait(20)
    assert client.flush(50) is False
    release.set()
    assert client.flush(20_000) is True
    assert told == [True]
    closing.join()


def test_a_restart_beside_a_shutdown_says_that_something_is_left(make_client, collector):
    collector.faults({"hang": True, "times": None})
    client = make_client()
    track(client, 1)
    client.flush(0)
    collector.wait_for_requests(1)
    answers = []
    closing = threading.Thread(target=lambda: answers.append(client.shutdown(1000)))
    closing.start()
    wait_until(lambda: client._here()._dispatch._closers, "the shutdown")
    client.restart()
    closing.join()
    assert answers == [False]


@pytest.mark.parametrize("where", ["take_up_to", "put_off", "settle"])
def test_a_shutdown_that_is_interrupted_while_it_gives_up(make_client, collector, monkeypatch, where):
    """By Ctrl-C, say: what had no outcome then is sent after all, and nothing is counted twice or not at all."""
    collector.faults({"hang": True})
    client = make_client(max_batch_size=2, request_timeout=2000)
    track(client, *range(5))
    client.flush(timeout_ms=0)
    collector.wait_for_requests(1)
    step = getattr(Queue, where)

    def interrupted(*args, **kwargs):
        if where == "take_up_to":
            step(*args, **kwargs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Queue, where, interrupted)
        with pytest.raises(KeyboardInterrupt):
            client.shutdown(timeout_ms=200)
    assert_balanced(client.stats())
    client.restart()
    assert client.shutdown(timeout_ms=20_000)
    assert_ledger(client, delivered=5)
    assert sorted(collector.serials()) == list(range(5))


def test_shutdown_fails_what_waits_behind_a_request_that_hangs(make_client, seen, collector):
    collector.faults({"hang": True, "times": None})
    client = make_client(max_batch_size=2)
    track(client, *range(5))
    client.flush(timeout_ms=0)
    collector.wait_for_requests(1)
    assert client.shutdown(timeout_ms=300) is False
    assert_ledger(client, failed=5, requests=1)
    assert sorted(seen.failed()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("late", [{}, {"status": 400}, {"status": 413}, {"status": 503}, {"reject": [0]}], ids=str)
def test_a_late_answer_changes_nothing(make_client, collector, seen, threads, late):
    collector.faults({"delay_ms": 2500, **late})
    client = make_client()
    track(client, 0, 1)
    client.flush(timeout_ms=0)
    collector.wait_for_requests(1)
    assert client.shutdown(timeout_ms=200) is False
    assert_ledger(client, failed=2, requests=1)
    before = client.stats()
    threads.wait_for_none()  # the answer has come, and the sender has gone
    assert client.stats() == before
    assert seen.failed() == [0, 1]
    assert len(seen.errors) == 1
    assert not seen.successes
    assert collector.summary()["requests"] == 1


def test_an_answer_at_the_moment_of_the_deadline(make_client, collector, seen, threads):
    collector.faults({"delay_ms": 60, "times": None})
    client = make_client(max_batch_size=3)
    for serial in range(0, 60, 3):
        track(client, serial, serial + 1, serial + 2)
        in_time = client.shutdown(timeout_ms=55 + serial / 3)
        assert in_time == (seen.failed()[-3:] != [serial, serial + 1, serial + 2])
        client.restart()
    threads.wait_for_none()
    stats = client.stats()
    # Whichever came first: callbacks and ledger tell the same story, and each event is in it once.
    assert len(set(seen.failed())) == len(seen.failed()) == stats.failed
    assert sum(response.accepted for response in seen.successes) == stats.delivered
    assert_ledger(client, delivered=60 - stats.failed, failed=stats.failed)
    assert collector.summary()["duplicates"] == 0


def test_an_answer_in_time_counts(make_client, collector, seen):
    collector.faults({"delay_ms": 300})
    client = make_client()
    track(client, 0)
    assert client.shutdown(timeout_ms=10_000) is True
    assert_ledger(client, delivered=1)
    assert not seen.errors


def test_shutdown_is_idempotent(make_client, collector, seen):
    client = make_client()
    track(client, 0, 1)
    assert client.shutdown() is True
    with Stopwatch() as took:
        assert client.shutdown() is True
        assert client.flush() is True
    assert took.seconds < PROMPT
    assert_ledger(client, delivered=2, requests=1)
    assert len(seen.successes) == 1


def test_concurrent_shutdowns(make_client, collector, seen):
    collector.faults({"delay_ms": 200})
    client = make_client(max_batch_size=5)
    track(client, *range(20))
    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(lambda _: client.shutdown(timeout_ms=10_000), range(6)))
    assert_ledger(client, delivered=20, requests=4)
    assert collector.serials() == list(range(20))


def test_concurrent_shutdowns_of_an_endpoint_that_hangs(make_client, collector, seen):
    collector.faults({"hang": True, "times": None})
    client = make_client(max_batch_size=5)
    track(client, *range(20))
    with Stopwatch() as took, ThreadPoolExecutor(6) as pool:
        assert not any(pool.map(client.shutdown, [1300, 1320, 1340, 1300, 1300, 1800]))
    assert took.seconds < 1.8 + GRACE
    assert_ledger(client, failed=20)
    assert sorted(seen.failed()) == list(range(20))


def test_a_closed_client(make_client, collector, seen, caplog):
    client = make_client()
    client.shutdown()
    assert client.track("Tested", {"serial": 0}, user_id="user_1") is None
    assert client.identify("user_1") is None
    assert seen.drops[0][0]["properties"] == {"serial": 0}
    assert [reason for _, reason in seen.drops] == ["shutdown", "shutdown"]
    with pytest.raises(klime_mp.SendError, match="shut down") as raised:
        client.track_sync("Tested", {"serial": 1}, user_id="user_1")
    assert raised.value.events[0]["properties"] == {"serial": 1}
    assert raised.value.status_code is None
    assert_ledger(client, dropped={"shutdown": 3}, requests=0)
    assert "shut down" in caplog.text
    assert "closed" in repr(client)


def test_tracking_while_it_shuts_down(make_client, collector, seen):
    collector.faults({"delay_ms": 300})
    client = make_client()
    track(client, 0)
    closing = threading.Thread(target=client.shutdown)
    closing.start()
    collector.wait_for_requests(1)
    assert client.track("Tested", {"serial": 1}, user_id="user_1") is None
    closing.join(10)
    assert_ledger(client, delivered=1, dropped={"shutdown": 1})
    assert seen.dropped() == [(1, "shutdown")]


def test_context_manager(make_client, collector):
    with make_client() as client:
        track(client, 0, 1)
    assert collector.serials() == [0, 1]
    assert client.track("Tested", user_id="user_1") is None
    with contextlib.suppress(ZeroDivisionError), make_client() as other:
        track(other, 2)
        raise ZeroDivisionError
    assert collector.serials() == [0, 1, 2]


# --- restart


def test_restart_after_shutdown(make_client, collector, threads):
    client = make_client()
    track(client, 0)
    assert client.shutdown()
    client.restart()
    threads.wait_for_none()
    client.restart()
    assert not threads.now()  # it makes none by itself
    track(client, 1)
    assert client.track_sync("Tested", {"serial": 2}, user_id="user_1").accepted == 1
    assert client.flush()
    assert sorted(collector.serials()) == [0, 1, 2]
    assert_ledger(client, delivered=3)


def test_restart_loses_nothing_that_is_pending(make_client, collector):
    client = make_client(max_batch_size=2)
    collector.faults({"delay_ms": 200})
    track(client, 0, 1, 2)
    client.restart()
    track(client, 3, 4)
    client.restart()
    assert client.flush()
    assert collector.serials() == [0, 1, 2, 3, 4]
    assert_ledger(client, delivered=5)


def test_restart_beside_a_request_that_still_hangs(make_client, collector, seen, threads):
    collector.faults({"hang": True})
    client = make_client(request_timeout=4000)
    track(client, 0)
    client.flush(timeout_ms=0)
    collector.wait_for_requests(1)
    assert client.shutdown(timeout_ms=200) is False
    client.restart()
    track(client, 1)
    with Stopwatch() as took:
        assert client.flush()
    assert took.seconds < PROMPT  # it does not wait for the old request
    threads.wait_for_none()
    assert collector.serials() == [1]
    assert_ledger(client, delivered=1, failed=1)
    assert seen.failed() == [0]


# --- shutdown and waiting


@pytest.fixture
def backing_off(make_client, collector, caplog):
    """A function that brings a client into a back-off of five seconds or more, or into a Retry-After."""
    caplog.set_level(logging.INFO, "klime_mp")

    def back_off(*faults, **options):
        collector.faults(*faults)
        client = make_client(**{"retry_initial_delay": 10_000, "max_batch_size": 1, **options})
        track(client, 0)
        wait_for_retry(caplog)
        return client

    return back_off


def test_shutdown_cuts_a_back_off_short(backing_off, collector, seen):
    client = backing_off({"status": 503})
    with Stopwatch() as took:
        assert client.shutdown(timeout_ms=4000) is True
    assert took.seconds < 3
    assert_ledger(client, delivered=1, requests=2, retries=1)
    assert collector.serials() == [0]
    assert not seen.errors


def test_the_last_try_is_the_last(backing_off, collector, seen):
    client = backing_off({"status": 503, "times": None})
    with Stopwatch() as took:
        assert client.shutdown(timeout_ms=4000) is False
    assert took.seconds < 3
    assert_ledger(client, failed=1, requests=2, retries=1)
    assert seen.failed() == [0]
    assert "503" in seen.the_error().message


def test_what_a_shutdown_gives_up_has_the_status_of_the_last_answer(backing_off, seen):
    client = backing_off({"status": 503, "times": None})
    client.shutdown(timeout_ms=4000)
    assert seen.the_error().status_code == 503


def test_every_batch_is_tried_in_a_shutdown(backing_off, collector, seen):
    client = backing_off({"status": 503}, {"status": 400})
    track(client, 1, 2)
    assert client.shutdown(timeout_ms=5000) is True
    assert_ledger(client, delivered=2, failed=1, requests=4, retries=1)
    assert seen.failed() == [0]


def test_a_short_back_off_is_waited_for_in_a_shutdown(make_client, collector, seen):
    collector.faults({"status": 503, "times": 3})
    client = make_client(retry_initial_delay=50, retry_max_attempts=5)
    track(client, 0)
    assert client.shutdown(timeout_ms=10_000) is True
    assert_ledger(client, delivered=1, requests=4, retries=3)


def test_retry_after_beyond_the_deadline(backing_off, collector, seen):
    client = backing_off({"status": 503, "headers": {"Retry-After": "60"}, "times": None})
    track(client, 1, 2)
    with Stopwatch() as took:
        assert client.shutdown(timeout_ms=700) is False
    assert took.seconds < 0.7 + GRACE
    assert_ledger(client, failed=3, requests=1)
    assert sorted(seen.failed()) == [0, 1, 2]
    assert collector.summary()["requests"] == 1


def test_retry_after_within_the_deadline(backing_off, collector, seen):
    client = backing_off({"status": 503, "headers": {"Retry-After": "1"}})
    with Stopwatch() as took:
        assert client.shutdown(timeout_ms=10_000) is True
    assert took.seconds < 4
    assert_ledger(client, delivered=1, requests=2, retries=1)
    assert not seen.errors


# --- the end of a program


PROGRAM = """
say_when_over()
import atexit, klime_mp, socket

def stall(*args, **kwargs):
    time.sleep(30)

def on_error(error, events):
    say(failed=[event["properties"]["serial"] for event in events], message=error.message)

atexit.register(lambda: say_ledger(client))
client = klime_mp.Client(shutdown_timeout=1000, on_error=on_error)
if os.environ.get("STALL"):
    socket.getaddrinfo = stall
for serial in range(3):
    client.track("Tested", {"serial": serial}, user_id="user_1")
say(main_ended=time.monotonic())
"""


def test_exit_ends_in_time(request, collector, hanging):
    finished = run_script(PROGRAM, collector, KLIME_ENDPOINT=hanging)
    assert_ended_in_time(finished, 1.0)
    stats = finished.facts["stats"]
    assert (stats["pending"], stats["delivered"] + stats["failed"]) == (0, 3)
    assert finished.facts.get("failed", []) == [0, 1, 2][: stats["failed"]]
    # Only where a 2xx has come, though not all of its body, is there something to be glad about.
    assert stats["failed"] == 3 or request.node.callspec.params["hanging"] == "body drips"


def test_a_resolver_that_stalls(collector):
    finished = run_script(PROGRAM, collector, KLIME_ENDPOINT="https://klime.invalid", STALL="1")
    assert_ended_in_time(finished, 1.0)
    assert finished.facts["failed"] == [0, 1, 2]


def test_shutdown_and_sync_calls_beside_a_resolver_that_stalls(collector):
    program = """
    client.shutdown(500)
    say(shutdown_ended=time.monotonic())
    client.restart()
    try:
        client.track_sync("Tested", user_id="user_1", timeout_ms=500)
    except klime_mp.SendError as error:
        say(sync_ended=time.monotonic(), sync=error.message)
    """
    source = PROGRAM + "".join(line[4:] for line in program.splitlines(keepends=True))
    finished = run_script(source, collector, KLIME_ENDPOINT="https://klime.invalid", STALL="1")
    facts = finished.facts
    assert facts["shutdown_ended"] - facts["main_ended"] < 0.5 + GRACE
    assert facts["sync_ended"] - facts["shutdown_ended"] < 0.5 + GRACE
    assert facts["failed"] == [0, 1, 2]
    assert finished.ended - facts["sync_ended"] < PROMPT


def test_exit_cuts_a_back_off_short(collector):
    collector.faults({"status": 503})
    program = """
    say_when_over()
    import klime_mp, logging, threading
    failed_once = threading.Event()

    class Handler(logging.Handler):
        def emit(self, record):
            if "will be sent again" in record.getMessage():
                failed_once.set()

    logging.getLogger("klime_mp").addHandler(Handler())
    logging.getLogger("klime_mp").setLevel(logging.INFO)
    client = klime_mp.Client(retry_initial_delay=16_000, max_batch_size=1)
    client.track("Tested", {"serial": 0}, user_id="user_1")
    assert failed_once.wait(20)
    say(main_ended=time.monotonic())
    """
    finished = run_script(program, collector)
    assert collector.serials() == [0]
    assert collector.summary()["requests"] == 2
    assert_ended_in_time(finished, 2.0)
