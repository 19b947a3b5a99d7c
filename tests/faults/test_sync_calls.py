"""The sync calls: an answer or an exception, in time, and a place in the ledger."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import klime_mp
from support.clients import Stopwatch, track, wait_for_retry
from support.ledger import assert_ledger
from support.script import run_script
from support.sockets import DrippingBody, FullBacklog, SilentServer, closed_port

GRACE = 0.5


def send(client, serial=0, **options):
    return client.track_sync("Tested", {"serial": serial}, user_id="user_1", **options)


@pytest.fixture
def closed_afterwards():
    with contextlib.ExitStack() as stack:
        yield stack.enter_context


def test_delivered(client, collector, seen):
    response = client.track_sync("Tested", {"serial": 0}, "user_1", "group_1", message_id="m-1", context={"ip": "::1"})
    assert response == klime_mp.BatchResponse("ok", 1, 0, [])
    assert client.identify_sync("user_1", {"name": "x"}).accepted == 1
    assert client.group_sync("group_1", {"name": "y"}, "user_1").accepted == 1
    tracked, identified, grouped = collector.events()
    assert tracked["messageId"] == "m-1"
    assert (tracked["event"], tracked["userId"], tracked["groupId"]) == ("Tested", "user_1", "group_1")
    assert tracked["context"]["ip"] == "::1"
    assert (identified["type"], identified["userId"], identified["traits"]) == ("identify", "user_1", {"name": "x"})
    assert (grouped["type"], grouped["groupId"], grouped["userId"]) == ("group", "group_1", "user_1")
    assert_ledger(client, delivered=3, requests=3, retries=0)
    assert seen.nothing()


def test_rejected(client, collector, seen):
    collector.faults({"reject": [0]})
    response = send(client)
    assert (response.accepted, response.failed) == (0, 1)
    assert [(error.index, error.code) for error in response.errors] == [(0, "fault")]
    assert_ledger(client, rejected=1, requests=1)
    assert collector.events() == []
    assert seen.nothing()


@pytest.mark.parametrize("body", ["", "ok", "[]", "{"])
def test_an_answer_that_says_nothing_counts_as_accepted(client, collector, body):
    collector.faults({"status": 200, "body": body})
    assert send(client) == klime_mp.BatchResponse("ok", 1, 0, [])
    assert_ledger(client, delivered=1)


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 413])
def test_a_permanent_refusal(client, collector, seen, status):
    collector.faults({"status": status, "keep": True, "headers": {"Location": "/elsewhere"}})
    with pytest.raises(klime_mp.SendError, match=str(status)) as raised:
        send(client)
    assert raised.value.status_code == status
    assert raised.value.events == collector.events()
    assert collector.write_key not in str(raised.value)
    place = "rejected" if status == 413 else "failed"
    assert_ledger(client, **{place: 1}, requests=1, retries=0)
    assert seen.nothing()


@pytest.mark.parametrize("fault", [{"status": 503}, {"status": 429}, {"drop": True}], ids=str)
def test_retries(client, collector, seen, fault):
    collector.faults({**fault, "times": 2})
    assert send(client, message_id="m-1").accepted == 1
    assert_ledger(client, delivered=1, requests=3, retries=2)
    assert [event["messageId"] for event in collector.events()] == ["m-1"]
    assert seen.nothing()


@pytest.mark.parametrize("fault", [{"status": 503}, {"status": 429}, {"drop": True}], ids=str)
def test_retries_end(client, collector, seen, fault):
    collector.faults({**fault, "times": None})
    with pytest.raises(klime_mp.SendError, match="3 times") as raised:
        send(client)
    assert raised.value.status_code == fault.get("status")
    assert_ledger(client, failed=1, requests=3, retries=2)
    assert seen.nothing()


def test_refused_connection(make_client):
    client = make_client(endpoint=f"http://127.0.0.1:{closed_port()}")
    with pytest.raises(klime_mp.SendError, match="refused"):
        send(client)
    assert_ledger(client, failed=1, requests=3)


# --- time


@pytest.mark.parametrize("hang", ["connect", "silence", "drip"])
def test_timeout(make_client, closed_afterwards, collector, seen, hang):
    collector.faults({"drip_ms": 300, "status": 503, "times": None})
    endpoint = {
        "connect": lambda: closed_afterwards(FullBacklog()).url,
        "silence": lambda: closed_afterwards(SilentServer()).url,
        "drip": lambda: collector.endpoint,
    }[hang]()
    client = make_client(endpoint=endpoint)
    with Stopwatch() as took, pytest.raises(klime_mp.SendError) as raised:
        send(client, timeout_ms=400)
    assert 0.39 < took.seconds < 0.4 + GRACE
    assert raised.value.status_code is None
    assert raised.value.events[0]["properties"] == {"serial": 0}
    assert_ledger(client, failed=1, requests=1)
    assert seen.nothing()


def test_a_body_that_drips(make_client, closed_afterwards):
    client = make_client(endpoint=closed_afterwards(DrippingBody(0.3)).url)
    with Stopwatch() as took, contextlib.suppress(klime_mp.SendError):
        assert send(client, timeout_ms=400).accepted == 1  # "200" has come
    assert took.seconds < 0.4 + GRACE
    stats = client.stats()
    assert stats.delivered + stats.failed == 1


def test_the_default_timeout_is_request_timeout_in_total(make_client, collector):
    client = make_client(request_timeout=2000, retry_max_attempts=50, retry_initial_delay=100)
    collector.faults({"status": 503, "delay_ms": 100, "times": None})
    with Stopwatch() as took, pytest.raises(klime_mp.SendError):
        send(client)
    assert took.seconds < 2 + GRACE
    assert client.stats().requests >= 2
    assert_ledger(client, failed=1)


def test_a_back_off_beyond_the_timeout_says_why(make_client, collector):
    client = make_client(retry_initial_delay=10_000)
    collector.faults({"status": 503})
    with Stopwatch() as took, pytest.raises(klime_mp.SendError, match="503"):
        send(client, timeout_ms=4000)
    assert took.seconds < 3
    assert_ledger(client, failed=1, requests=1)


def test_a_back_off_beyond_the_timeout_has_the_status_of_the_last_answer(make_client, collector):
    client = make_client(retry_initial_delay=10_000)
    collector.faults({"status": 503})
    with pytest.raises(klime_mp.SendError) as raised:
        send(client, timeout_ms=4000)
    assert raised.value.status_code == 503


def test_no_time_at_all(client, collector):
    for timeout_ms in (0, -1):
        with pytest.raises(klime_mp.SendError):
            send(client, timeout_ms=timeout_ms)
    assert collector.summary()["requests"] == 0
    assert_ledger(client, failed=2, requests=0)


@pytest.mark.parametrize("late", [{}, {"status": 400}, {"reject": [0]}], ids=str)
def test_a_late_answer_changes_nothing(client, collector, seen, threads, late):
    collector.faults({"delay_ms": 2500, **late})
    with pytest.raises(klime_mp.SendError):
        send(client, timeout_ms=500)
    assert_ledger(client, failed=1, requests=1)
    before = client.stats()
    threads.wait_for_none()
    assert client.stats() == before
    assert seen.nothing()


# --- beside the queue


def test_it_does_not_wait_for_the_queue(make_client, collector, caplog):
    caplog.set_level(logging.INFO, "klime_mp")
    client = make_client(retry_initial_delay=10_000, max_batch_size=1)
    collector.faults({"status": 503})
    track(client, 0, 1)
    wait_for_retry(caplog)
    with Stopwatch() as took:
        assert send(client, 2).accepted == 1
    assert took.seconds < 3
    assert collector.serials() == [2]
    assert_ledger(client, delivered=1, pending=2)
    assert client.shutdown()
    assert collector.serials() == [2, 0, 1]


def test_flush_and_shutdown_do_not_wait_for_it(make_client, collector):
    client = make_client()
    collector.faults({"delay_ms": 1500})
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(send, client)
        collector.wait_for_requests(1)
        assert client.queue_size() == 1
        with Stopwatch() as took:
            assert client.flush()
            assert client.shutdown()
        assert took.seconds < 1
        assert_ledger(client, pending=1)
        assert call.result().accepted == 1
    assert_ledger(client, delivered=1)


def test_many_threads(make_client, collector):
    client = make_client(retry_max_attempts=10)  # one of them may draw all the failures
    collector.faults({"delay_ms": 50, "times": 4}, {"status": 503, "times": 3}, {"reject": [0], "times": 3})

    def work(number):
        return [send(client, number * 10 + i) for i in range(5)]

    with ThreadPoolExecutor(8) as pool:
        responses = [response for responses in pool.map(work, range(8)) for response in responses]
    assert len(responses) == 40
    assert sum(response.accepted for response in responses) == 37
    assert sum(response.failed for response in responses) == 3
    assert len(set(collector.serials())) == len(collector.serials()) == 37
    assert_ledger(client, delivered=37, rejected=3, requests=43, retries=3)


# --- refused at the door


def test_a_closed_client(client, seen):
    client.shutdown()
    with pytest.raises(klime_mp.SendError, match="shut down"):
        send(client)
    assert_ledger(client, dropped={"shutdown": 1}, requests=0)
    assert seen.nothing()


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("track_sync", ("Tested",)),
        ("track_sync", ("", None, "user_1")),
        ("track_sync", ("Tested", [1], "user_1")),
        ("track_sync", ("Tested", None, True)),
        ("track_sync", (None, None, "user_1")),
        ("identify_sync", (None,)),
        ("identify_sync", ("",)),
        ("group_sync", (None,)),
        ("group_sync", (1.5,)),
    ],
    ids=str,
)
def test_invalid(client, seen, method, arguments):
    with pytest.raises(klime_mp.InvalidEventError):
        getattr(client, method)(*arguments)
    assert_ledger(client, dropped={"invalid": 1}, requests=0)
    assert seen.nothing()


def test_too_large(client, collector, seen):
    with pytest.raises(klime_mp.InvalidEventError, match="200 KiB"):
        client.track_sync("Tested", {"pad": "x" * 204_800}, user_id="user_1")
    assert_ledger(client, dropped={"too_large": 1}, requests=0)
    assert seen.nothing()


# --- interrupted


def test_interrupted_while_it_waits(client, collector, threads, seen):
    collector.faults({"delay_ms": 1500})

    def interrupt():
        collector.wait_for_requests(1)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with Stopwatch() as took, pytest.raises(KeyboardInterrupt):
        send(client)
    thread.join(10)
    assert took.seconds < 1
    assert_ledger(client, failed=1, requests=1)
    before = client.stats()
    threads.wait_for_none()  # the answer has come
    assert client.stats() == before
    assert client.queue_size() == 0
    assert send(client, 1).accepted == 1  # no lock stayed held
    assert client.flush(timeout_ms=1000)


def test_ctrl_c_ends_a_program_in_a_sync_call(collector):
    collector.faults({"hang": True, "times": 1})
    finished = run_script(
        """
import klime_mp, signal, threading, urllib.request
client = klime_mp.Client()

def arrived():
    summary = f"{os.environ['KLIME_ENDPOINT']}/summary?writeKey={os.environ['KLIME_WRITE_KEY']}"
    with urllib.request.urlopen(summary) as answer:
        return json.load(answer)["requests"]

def strike():
    while not arrived():
        time.sleep(0.01)
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

threading.Thread(target=strike, daemon=True).start()
try:
    client.track_sync("Tested", {"serial": 0}, user_id="user_1")
except KeyboardInterrupt:
    say_ledger(client)
client.track("Tested", {"serial": 1}, user_id="user_1")
say(main_ended=time.monotonic())
""",
        collector,
    )
    assert finished.facts["stats"]["failed"] == 1
    assert finished.facts["stats"]["pending"] == 0
    assert collector.serials() == [1]
    assert finished.ended - finished.facts["main_ended"] < 5


def test_a_call_while_the_endpoint_has_asked_for_a_rest(make_client, collector):
    """No request was made, and the error says why."""
    client = make_client(retry_max_attempts=1)
    collector.faults({"status": 429, "headers": {"Retry-After": "60"}})
    with pytest.raises(klime_mp.SendError, match="429"):
        send(client, 0)
    with pytest.raises(klime_mp.SendError, match="Retry-After") as caught:
        send(client, 1)
    assert caught.value.status_code is None
    assert client.stats().requests == 1
