"""Batches and bounds: what is sent together and when, what is too large, what is too much."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import Counter
from datetime import datetime

import pytest

import klime_mp
from support.clients import serials_of, size_as_sent, track, wait_until
from support.ledger import assert_ledger

MAX_EVENT = 204_800
MAX_BODY = 10_485_760
ENVELOPE = len('{"batch":[]}')


def batch_sizes(collector):
    """Events of each request, in order of arrival."""
    return list(Counter(meta["request"] for meta in collector.meta()).values())


def seconds(timestamp):
    return datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp()


@pytest.fixture
def overhead(make_client):
    """The size of an event whose `pad` is empty; `{"serial": 0}` to `{"serial": 9}`."""
    sent = []
    client = make_client(before_send=sent.append, on_drop=None)  # `append` returns None: nothing is kept
    client.track("Tested", {"serial": 0, "pad": ""}, user_id="user_1")
    return size_as_sent(sent[0])


# --- batches


def test_an_event_is_sent_alone_after_the_interval(make_client, collector):
    client = make_client(flush_interval=400)
    track(client, 0)
    (event,) = collector.wait_for(1)
    (meta,) = collector.meta()
    waited = seconds(meta["receivedAt"]) - seconds(event["timestamp"])
    assert 0.398 <= waited < 2.4
    wait_until(lambda: client.queue_size() == 0, "the outcome")
    assert_ledger(client, delivered=1, requests=1)


def test_events_within_the_interval_travel_together(make_client, collector):
    client = make_client(flush_interval=2000)
    track(client, *range(7))
    collector.wait_for(7)
    assert batch_sizes(collector) == [7]


def test_the_interval_counts_from_the_oldest_event(make_client, collector):
    client = make_client(flush_interval=2000)
    track(client, 0)
    first = threading.Event()
    first.wait(1)  # the second event is half an interval younger, whatever else happens
    track(client, 1)
    collector.wait_for(2)
    waited = seconds(collector.meta()[0]["receivedAt"]) - seconds(collector.events()[0]["timestamp"])
    assert batch_sizes(collector) == [2]
    assert waited < 2.9


def test_a_full_batch_does_not_wait(make_client, collector):
    client = make_client(max_batch_size=3)  # and the interval is a minute
    track(client, 0, 1)
    assert client.queue_size() == 2
    track(client, 2, 3)
    collector.wait_for(3)
    assert batch_sizes(collector) == [3]
    wait_until(lambda: client.queue_size() == 1, "the outcome of the batch")
    assert collector.serials() == [0, 1, 2]
    assert client.flush()
    assert batch_sizes(collector) == [3, 1]


def test_no_batch_has_more_events_than_allowed(make_client, collector):
    client = make_client(max_batch_size=20)
    track(client, *range(50))
    assert client.flush()
    assert batch_sizes(collector) == [20, 20, 10]
    assert collector.serials() == list(range(50))


def test_more_than_a_hundred_events_a_batch_is_taken_as_a_hundred(make_client, collector, caplog):
    client = make_client(max_batch_size=500)
    assert "max_batch_size 500" in caplog.text
    track(client, *range(150))
    assert client.flush()
    assert batch_sizes(collector) == [100, 50]
    assert_ledger(client, delivered=150, requests=2)


# --- bytes


def test_a_body_is_at_most_ten_mebibytes(make_client, collector):
    client = make_client(max_batch_size=100)
    for serial in range(100):
        track(client, serial, pad="x" * 190 * 1024)
    assert client.flush()
    assert collector.serials() == list(range(100))
    # The collector answers 413 to more, and a 413 would have made more requests of it.
    assert_ledger(client, delivered=100, requests=2, retries=0)


@pytest.mark.parametrize("over", [0, 1])
def test_a_body_of_exactly_ten_mebibytes(make_client, collector, overhead, over):
    client = make_client(max_batch_size=100)
    count, size = 53, 198_000
    sizes = [size] * (count - 1)
    sizes.append(MAX_BODY - ENVELOPE - (count - 1) - sum(sizes) + over)
    for size in sizes:
        track(client, 1, pad="x" * (size - overhead))
    assert client.flush()
    assert batch_sizes(collector) == ([52, 1] if over else [53])
    assert sum(map(size_as_sent, collector.events())) + (count - 1) + ENVELOPE == MAX_BODY + over
    assert_ledger(client, delivered=53, requests=1 + over, retries=0)


def test_an_event_of_exactly_200_kib(make_client, collector, seen, overhead):
    client = make_client()
    track(client, 0, pad="x" * (MAX_EVENT - overhead))
    assert client.track("Tested", {"serial": 1, "pad": "x" * (MAX_EVENT - overhead + 1)}, user_id="user_1") is None
    assert client.flush()
    assert [size_as_sent(event) for event in collector.events()] == [MAX_EVENT]
    assert_ledger(client, delivered=1, dropped={"too_large": 1})
    assert seen.dropped() == [(1, "too_large")]
    assert not seen.errors


def test_size_is_measured_in_bytes(make_client, collector, seen, overhead):
    client = make_client()
    room = MAX_EVENT - overhead
    track(client, 0, pad="é" * (room // 2))
    assert client.track("Tested", {"serial": 1, "pad": "é" * (room // 2 + 1)}, user_id="user_1") is None
    assert client.flush()
    assert MAX_EVENT - 1 <= size_as_sent(collector.events()[0]) <= MAX_EVENT
    assert_ledger(client, delivered=1, dropped={"too_large": 1})


# --- the bounded queue


def test_a_full_queue_drops_the_oldest(make_client, collector, seen, caplog):
    client = make_client(max_queue_size=3)
    track(client, *range(5))
    assert seen.dropped() == [(0, "queue_full"), (1, "queue_full")]
    assert client.queue_size() == 3
    assert client.flush()
    assert collector.serials() == [2, 3, 4]
    assert_ledger(client, delivered=3, dropped={"queue_full": 2})
    assert sum("queue is full" in record.getMessage() for record in caplog.records) == 1


def test_a_full_queue_drops_nothing_that_is_in_flight(make_client, collector, seen):
    client = make_client(max_queue_size=4, max_batch_size=2, request_timeout=1000)
    collector.faults({"hang": True})
    track(client, 0, 1)
    collector.wait_for_requests(1)
    track(client, 2, 3, 4, 5)
    assert client.queue_size() == 4
    assert seen.dropped() == [(2, "queue_full"), (3, "queue_full")]
    assert client.flush()
    assert collector.serials() == [0, 1, 4, 5]
    assert_ledger(client, delivered=4, dropped={"queue_full": 2}, retries=1)


def test_a_queue_full_of_bytes_drops_the_oldest(make_client, collector, seen, overhead):
    client = make_client(max_queue_bytes=3 * (overhead + 1000))
    for serial in range(5):
        track(client, serial, pad="x" * 1000)
    assert seen.dropped() == [(0, "queue_full"), (1, "queue_full")]
    track(client, 5, pad="x" * 2000)  # needs the room of two
    assert seen.dropped()[2:] == [(2, "queue_full"), (3, "queue_full")]
    assert client.flush()
    assert collector.serials() == [4, 5]
    track(client, 6, 7, 8)  # what was delivered takes no room
    assert client.flush()
    assert_ledger(client, delivered=5, dropped={"queue_full": 4})


def test_an_event_larger_than_the_queue(make_client, seen):
    client = make_client(max_queue_bytes=1000)
    assert client.track("Tested", {"serial": 0, "pad": "x" * 1000}, user_id="user_1") is None
    assert seen.dropped() == [(0, "queue_full")]
    assert client.flush()
    assert_ledger(client, dropped={"queue_full": 1})


def test_an_overload_is_a_few_log_lines_with_counts(make_client, caplog):
    client = make_client(max_queue_size=1)
    track(client, *range(1000))
    assert client.shutdown()
    lines = [record.getMessage() for record in caplog.records if record.name == "klime_mp"]
    assert len(lines) <= 2
    assert "998" in lines[-1]  # 999 were dropped; the first of them is in the first line
    assert_ledger(client, delivered=1, dropped={"queue_full": 999})


# --- a client that keeps nothing


def test_a_disabled_client_keeps_nothing(collector, seen, threads, caplog):
    caplog.set_level(logging.DEBUG)
    client = klime_mp.Client(enabled=False, endpoint=collector.endpoint, **seen.callbacks())
    assert client.track("Tested", {"serial": 0}, user_id="user_1") is None
    assert client.identify("user_1") is None
    assert client.group("group_1") is None
    assert client.track_sync("Tested", user_id="user_1") == klime_mp.BatchResponse("disabled", 0, 0)
    assert not threads.now()
    assert client.flush()
    assert client.shutdown()
    assert client.track("Tested", {"serial": 0}, user_id="user_1") is None
    client.restart()
    assert client.track("Tested", {"serial": 0}, user_id="user_1") is None
    assert_ledger(client, dropped={"disabled": 6}, requests=0)
    assert [reason for _, reason in seen.drops] == ["disabled"] * 5
    assert serials_of([seen.drops[0][0]]) == [0]
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


# --- threads


def test_no_thread_is_left_in_an_idle_process(make_client, collector, threads):
    def tasks():
        return set(os.listdir("/proc/self/task")) if sys.platform == "linux" else set()  # noqa: PTH208 # numbers, not paths

    before = tasks()
    client = make_client()
    assert not threads.now()
    track(client, *range(30))
    (thread,) = threads.now()
    assert thread.daemon
    assert client.flush()
    assert client.track_sync("Tested", user_id="user_1").accepted == 1
    wait_until(lambda: not threads.now() and tasks() <= before, "no thread left", timeout=1.5)
    track(client, 30)
    assert client.flush()
    assert_ledger(client, delivered=32)
