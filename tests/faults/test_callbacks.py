"""The user's functions: when they are called, on which thread, with what, and what they may do."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading

import pytest

import klime_mp
from klime_mp import _exit
from support.clients import Stopwatch, error_lines, track, wait_until
from support.ledger import assert_ledger

OWN = "on_error", "on_success"
PROMPT = 1.0  # seconds: at once, on a machine that has other things to do


class OddError(Exception):
    pass


@pytest.fixture(params=OWN)
def own(request, collector):
    """The name of a callback of the sender, and a collector that makes the first request call it."""
    if request.param == "on_error":
        collector.faults({"status": 400})
    return request.param


def test_where_callbacks_run(make_client, collector, seen, threads):
    here = threading.current_thread()
    filtered_on = []

    def before_send(event):
        filtered_on.append(threading.current_thread())
        return event if event["properties"]["serial"] else None

    client = make_client(before_send=before_send)
    collector.faults({"reject": [0]})
    client.track("Tested", {"serial": 0}, user_id="user_1")
    track(client, 1, 2)
    (sender,) = threads.now()
    assert client.flush()
    assert filtered_on == [here] * 3
    assert seen.threads["on_drop"] == {here}
    assert seen.threads["on_error"] == seen.threads["on_success"] == {sender}
    assert here is not sender


def test_events_are_shown_as_sent(client, seen, collector):
    collector.faults({"status": 400, "keep": True})
    client.track("Tested", {"serial": 0, "set": {1}, "nan": float("nan"), "ü": "\ud800"}, user_id=7, context={"a": 1})
    client.identify("user_1", {"name": "x"})
    client.group("group_1", {"name": "y"}, user_id="user_1")
    assert client.flush()
    assert seen.the_error().events == collector.events()
    assert len(collector.events()) == 3


# --- raising


@pytest.mark.parametrize("error", [OddError("odd"), ValueError(), RecursionError("deep")], ids=repr)
def test_what_they_raise_is_logged_and_swallowed(make_client, collector, caplog, own, error):
    def callback(*_):
        raise error

    client = make_client(max_batch_size=1, **{own: callback})
    track(client, 0, 1, 2)
    assert client.flush()
    delivered = 2 if own == "on_error" else 3
    assert_ledger(client, delivered=delivered, failed=3 - delivered, requests=3)
    (line,) = [line for line in error_lines(caplog) if "raised" in line]
    assert own in line
    assert type(error).__name__ in line


def test_on_drop_may_raise(make_client, caplog):
    def on_drop(event, reason):
        raise OddError

    client = make_client(on_drop=on_drop, max_queue_size=1)
    assert client.track("") is None
    track(client, 0, 1)
    assert client.flush()
    assert_ledger(client, delivered=1, dropped={"invalid": 1, "queue_full": 1})
    assert "on_drop raised OddError" in caplog.text


def test_an_error_that_cannot_be_shown(make_client, collector, caplog, own):
    class UnshowableError(Exception):
        def __str__(self):
            raise RuntimeError

    def callback(*_):
        raise UnshowableError

    client = make_client(max_batch_size=1, **{own: callback})
    track(client, 0, 1)
    assert client.flush()
    assert "UnshowableError" in caplog.text


@pytest.mark.parametrize("error", [SystemExit, GeneratorExit])
def test_an_exit_on_the_senders_thread_strands_no_event(make_client, collector, caplog, own, error):
    # Whatever ends the thread, or does not: what was accepted is sent, and nobody has to ask for it.
    calls = []

    def callback(*_):
        calls.append(1)
        if len(calls) == 1:
            raise error

    client = make_client(max_batch_size=1, **{own: callback})
    track(client, *range(5))
    wait_until(lambda: client.queue_size() == 0, "the outcome of every event", timeout=5)
    failed = 1 if own == "on_error" else 0
    assert_ledger(client, delivered=5 - failed, failed=failed, requests=5)
    assert collector.serials() == list(range(failed, 5))
    track(client, 5)
    assert client.flush()
    assert_ledger(client, delivered=6 - failed, failed=failed, requests=6)
    assert own in caplog.text  # logged and swallowed, as anything else that it raises


def test_an_exit_between_two_halves(make_client, collector):
    def on_success(response):
        raise SystemExit

    client = make_client(on_success=on_success)
    collector.faults({"status": 413, "min_events": 2, "times": None})
    track(client, 0, 1, 2, 3)
    assert client.flush(timeout_ms=5000)
    assert_ledger(client, delivered=4)
    assert collector.serials() == [0, 1, 2, 3]


def test_a_flush_outlives_an_exit_on_the_senders_thread(make_client, collector, own):
    def callback(*_):
        raise SystemExit

    client = make_client(max_batch_size=1, flush_interval=200, **{own: callback})
    track(client, *range(3))
    assert client.flush(timeout_ms=5000)


# --- calling the client


@pytest.mark.parametrize("timeout_ms", [None, 5000])
def test_flush_inside_returns_false_at_once(make_client, collector, own, timeout_ms):
    results = []

    def callback(*_):
        with Stopwatch() as took:
            result = client.flush(timeout_ms)
        results.append((result, took.seconds < PROMPT))

    client = make_client(**{own: callback})
    track(client, 0, 1)
    assert client.flush(10_000)
    assert results == [(False, True)]


@pytest.mark.parametrize("timeout_ms", [None, 5000])
def test_shutdown_inside_returns_false_at_once(make_client, collector, own, timeout_ms):
    results, tracked = [], threading.Event()

    def callback(*_):
        if not results:
            assert tracked.wait(10)
            with Stopwatch() as took:
                result = client.shutdown(timeout_ms)
            results.append((result, took.seconds < PROMPT))

    client = make_client(max_batch_size=2, **{own: callback})
    track(client, 0, 1, 2, 3, 4)
    tracked.set()
    wait_until(lambda: results, "the callback")
    assert client.flush(10_000)  # what was pending is sent all the same
    assert results == [(False, True)]
    assert client.track("Tested", user_id="user_1") is None
    failed = 2 if own == "on_error" else 0
    assert_ledger(client, delivered=5 - failed, failed=failed, dropped={"shutdown": 1})
    assert client.shutdown()


def test_shutdown_inside_keeps_its_deadline(make_client, collector, seen):
    tracked = threading.Event()

    def on_success(response):
        assert tracked.wait(10)
        collector.faults({"hang": True, "times": None})
        assert client.shutdown(300) is False

    client = make_client(max_batch_size=1, on_success=on_success)
    track(client, 0, 1, 2)
    tracked.set()
    with Stopwatch() as took:
        assert client.flush(10_000)
    assert took.seconds < 0.3 + PROMPT + 1
    assert_ledger(client, delivered=1, failed=2)
    assert seen.failed() == [1, 2]


@pytest.mark.parametrize("method", ["aflush", "ashutdown"])
def test_the_asyncio_calls_inside_return_false_at_once(make_client, collector, own, method):
    results = []

    def callback(*_):
        with Stopwatch() as took:
            result = asyncio.run(getattr(client, method)(timeout_ms=3000))
        results.append((result, took.seconds < PROMPT))

    client = make_client(**{own: callback})
    track(client, 0, 1)
    client.flush(10_000)
    assert results == [(False, True)]


def test_track_inside(make_client, collector, own):
    calls = []

    def callback(*_):
        calls.append(1)
        if len(calls) == 1:
            track(client, 99)

    client = make_client(**{own: callback})
    track(client, 0)
    assert client.flush()
    assert client.flush()  # the event of the callback is younger than the first flush
    assert collector.serials() == ([99] if own == "on_error" else [0, 99])


def test_a_sync_call_inside(make_client, collector, own):
    responses = []

    def callback(*_):
        responses.append(client.track_sync("Tested", {"serial": 99}, user_id="user_1"))

    client = make_client(**{own: callback})
    track(client, 0)
    assert client.flush(10_000)
    assert [response.accepted for response in responses] == [1]


def test_restart_and_stats_inside(make_client, collector, own):
    sizes, tracked = [], threading.Event()

    def callback(*_):
        assert tracked.wait(10)
        client.restart()
        sizes.append((client.queue_size(), client.stats().pending, repr(client).count("pending")))

    client = make_client(max_batch_size=1, **{own: callback})
    track(client, 0, 1)
    tracked.set()
    assert client.flush()
    assert sizes[0] == (1, 1, 1)


@pytest.mark.parametrize("method", ["flush", "shutdown"])
def test_on_drop_may_wait_for_the_sender(make_client, collector, method):
    results = []

    def on_drop(event, reason):
        if reason == "queue_full":
            results.append(getattr(client, method)(timeout_ms=10_000))

    client = make_client(max_queue_size=2, on_drop=on_drop)
    track(client, 0, 1, 2)
    assert results == [True]
    assert collector.serials() == [1, 2]
    assert_ledger(client, delivered=2, dropped={"queue_full": 1})


def test_before_send_may_wait_for_the_sender(make_client, collector):
    results = []

    def before_send(event):
        results.append(client.flush(timeout_ms=10_000))
        return event

    client = make_client(before_send=before_send)
    track(client, 0, 1)
    assert results == [True, True]
    assert collector.serials() == [0]
    assert client.flush()


def test_flush_waits_for_a_slow_callback(make_client, collector, own):
    begun, go, done = threading.Event(), threading.Event(), threading.Event()

    def callback(*_):
        begun.set()
        assert go.wait(20)
        done.set()

    client = make_client(**{own: callback})
    track(client, 0)
    assert client.flush(timeout_ms=1) is False
    assert begun.wait(10)
    assert client.queue_size() == 0  # it has its outcome
    with Stopwatch() as took:
        assert client.flush(timeout_ms=200) is False  # but its callback has not returned
    assert 0.19 < took.seconds < 0.2 + PROMPT
    threading.Timer(0.1, go.set).start()
    assert client.flush(timeout_ms=10_000) is True
    assert done.is_set()


# --- before_send


def test_before_send_may_change_the_event(make_client, collector):
    def before_send(event):
        assert event["context"]["library"]["name"] == "klime-mp"
        event["properties"]["serial"] += 1
        del event["properties"]["secret"]
        return event

    client = make_client(before_send=before_send)
    (message_id,) = track(client, 0, secret="s", when={1})
    assert client.flush()
    assert client.track_sync("Tested", {"serial": 10, "secret": "s"}, user_id="user_1").accepted == 1
    first, second = collector.events()
    assert first["properties"] == {"serial": 1, "when": [1]}  # values as they would be sent
    assert first["messageId"] == message_id
    assert second["properties"] == {"serial": 11}


def test_what_before_send_does_to_the_librarys_context_concerns_one_event(make_client, collector):
    names = []

    def before_send(event):
        names.append(event["context"]["library"].pop("name"))
        return event

    client = make_client(before_send=before_send)
    for context in (None, {"a": 1}, None):
        client.track("e", user_id=1, context=context)
    assert client.flush(5000)
    assert names == ["klime-mp"] * 3
    assert not any("name" in event["context"]["library"] for event in collector.events())


def test_before_send_may_drop_the_event(make_client, collector, seen, caplog):
    client = make_client(before_send=lambda event: None)
    assert client.track("Tested", {"serial": 0}, user_id="user_1") is None
    assert seen.dropped() == [(0, "filtered")]
    assert client.track_sync("Tested", {"serial": 1}, user_id="user_1") == klime_mp.BatchResponse("filtered", 0, 0)
    assert seen.dropped() == [(0, "filtered")]  # the caller of a sync call has the answer
    assert_ledger(client, dropped={"filtered": 2}, requests=0)
    assert not error_lines(caplog)


def test_a_before_send_that_raises_lets_the_event_pass(make_client, collector, caplog):
    def before_send(event):
        event["properties"]["serial"] = 99
        raise OddError

    client = make_client(before_send=before_send)
    track(client, 0)
    assert client.track_sync("Tested", {"serial": 1}, user_id="user_1").accepted == 1
    assert client.flush()
    assert sorted(collector.serials()) == [0, 1]  # unchanged
    assert "before_send raised OddError" in caplog.text


@pytest.mark.parametrize("nonsense", [7, "event", [], {}, {"type": "track"}], ids=repr)
def test_a_before_send_that_returns_no_event(make_client, collector, seen, nonsense):
    client = make_client(before_send=lambda event: nonsense)
    assert client.track("Tested", {"serial": 0}, user_id="user_1") is None
    with pytest.raises(klime_mp.InvalidEventError):
        client.track_sync("Tested", user_id="user_1")
    assert_ledger(client, dropped={"invalid": 2}, requests=0)
    assert [reason for _, reason in seen.drops] == ["invalid"]


def test_an_exit_in_before_send_passes_on(make_client, collector):
    def before_send(event):
        raise SystemExit

    client = make_client(before_send=before_send)
    with pytest.raises(SystemExit):
        client.track("Tested", user_id="user_1")
    assert client.flush(1000)
    assert_ledger(client)


# --- dropped events


def test_on_drop_of_an_invalid_event(make_client, seen, caplog):
    caplog.set_level(logging.INFO, "klime_mp")
    client = make_client()
    assert client.track("Tested", {"serial": 0}) is None
    assert client.identify(None) is None
    assert seen.drops == [(None, "invalid")] * 2
    assert_ledger(client, dropped={"invalid": 2})
    assert "user_id" in caplog.text


def test_no_callback_at_all(make_client, collector):
    client = make_client(on_error=None, on_success=None, on_drop=None)
    collector.faults({"status": 400}, {"reject": [0]})
    track(client, 0)
    assert client.flush()
    track(client, 1)
    assert client.flush()
    assert client.track("") is None
    assert_ledger(client, failed=1, rejected=1, dropped={"invalid": 1})


def test_on_drop_that_tracks_into_the_full_queue_ends(make_client, collector):
    """What it tracks drops another event in turn, and so on: that is counted, but not told."""
    told = []

    def on_drop(event, reason):
        told.append(reason)
        client.track("Tested", {"serial": "from on_drop"}, user_id="user_1")

    client = make_client(max_queue_size=3, on_drop=on_drop)
    for serial in range(10):
        client.track("Tested", {"serial": serial}, user_id="user_1")
    assert told == ["queue_full"] * 7
    stats = client.stats()
    assert stats.dropped["queue_full"] == 14
    assert stats.pending == 3
    assert stats.tracked == 17


def looks_at_its_caller():
    caller = sys._getframe(1)
    raise OddError(caller.f_code.co_name)


class Odd:
    def __str__(self):
        return str(looks_at_its_caller())


def test_what_is_raised_by_a_function_that_looks_at_its_callers_frame(make_client, collector):
    """Loggers and debuggers do; such a frame looks much like a signal handler's."""
    client = make_client(before_send=lambda _event: looks_at_its_caller(), on_drop=lambda *_: looks_at_its_caller())
    track(client, 0)
    assert client.track("", user_id=1) is None
    assert client.track("Tested", {"odd": Odd()}, user_id=1) is None
    assert client.flush()
    assert collector.serials() == [0]
    assert client.stats().dropped["invalid"] == 2


def test_a_logging_handler_on_the_senders_thread_that_flushes(make_client, collector):
    """It would wait for itself."""
    took = []

    class Flushing(logging.Handler):
        def emit(self, record):
            if threading.current_thread() is not threading.main_thread():
                with Stopwatch() as watch:
                    assert not client.flush(5000)
                took.append(watch.seconds)

    logger = logging.getLogger("flushing")
    logger.addHandler(Flushing())
    collector.faults({"status": 400})
    client = make_client(logger=logger)
    track(client, 0)
    assert client.flush()
    assert took
    assert max(took) < PROMPT


def test_a_flush_without_threads_ends_although_events_keep_coming(make_client, collector, monkeypatch):
    """Each delivery brings another event: it is not for those that it waits."""
    monkeypatch.setattr(_exit, "no_more_threads", lambda: True)
    client = make_client(on_success=lambda _response: track(client, "more"))
    track(client, 0)
    assert client.flush(5000)
    assert client.stats().requests == 1
