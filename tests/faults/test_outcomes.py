"""The outcome table, line by line: what an answer does to a batch, to the ledger and to the callbacks."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest

import klime_mp
from support.clients import Stopwatch, error_lines, serials_of, track, wait_for_retry
from support.ledger import assert_ledger
from support.sockets import closed_port

PERMANENT = [400, 401, 402, 403, 404, 405, 409, 410, 418, 422, 451]
RETRYABLE = [408, 425, 429, 500, 502, 503, 504, 599]
REDIRECTS = [300, 301, 302, 303, 304, 307, 308]
MIB = 1024 * 1024


def arrival_times(collector):
    """Unix seconds of each arrival; a fault with `keep` makes each try one."""
    return [datetime.fromisoformat(meta["receivedAt"].replace("Z", "+00:00")).timestamp() for meta in collector.meta()]


def assert_one_arrival_each(collector, ids):
    assert sorted(event["messageId"] for event in collector.events()) == sorted(ids)


# --- 2xx


@pytest.mark.parametrize("status", [200, 201, 202, 206])
def test_delivered(client, seen, collector, status):
    collector.faults({"status": status, "keep": True})
    ids = track(client, *range(5))
    assert client.flush()
    assert_ledger(client, delivered=5, requests=1, retries=0)
    assert_one_arrival_each(collector, ids)
    assert collector.serials() == [0, 1, 2, 3, 4]
    assert seen.successes == [klime_mp.BatchResponse("ok", 5, 0, [])]
    assert not seen.errors
    assert not seen.drops


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 204},
        {"status": 200, "body": ""},
        {"status": 200, "body": "<html>all well</html>"},
        {"status": 200, "body": "[]"},
        {"status": 200, "body": "null"},
        {"status": 200, "body": '{"errors": "none"}'},
        {"status": 200, "body": "[" * 200_000},
        {"status": 200, "headers": {"Content-Encoding": "gzip"}, "body": "this is not gzip"},
        {"half": True},
        {"huge_body_bytes": 2 * MIB},
        {"reject": [1], "huge_body_bytes": MIB},  # more than is read: what it says is not known
    ],
    ids="-".join,
)
def test_an_answer_that_says_nothing_counts_as_accepted(client, seen, collector, fault):
    collector.faults({**fault, "keep": True})
    track(client, 0, 1, 2)
    assert client.flush()
    assert seen.successes == [klime_mp.BatchResponse("ok", 3, 0, [])]
    assert not seen.errors
    track(client, 3)  # and the connection is not confused by it
    assert client.flush()
    assert_ledger(client, delivered=4, requests=2, retries=0)
    assert collector.serials() == ([0, 2, 3] if "reject" in fault else [0, 1, 2, 3])


def test_a_long_answer_is_read_up_to_a_mebibyte(client, seen, collector):
    collector.faults({"reject": [1], "huge_body_bytes": MIB - 1000})
    track(client, 0, 1, 2)
    assert client.flush()
    assert_ledger(client, delivered=2, rejected=1, requests=1)
    assert seen.failed() == [1]


def test_rejected_events_are_told_apart(client, seen, collector):
    collector.faults({"reject": [0, 2]})
    track(client, *range(5))
    assert client.flush()
    assert_ledger(client, delivered=3, rejected=2, requests=1, retries=0)
    assert collector.serials() == [1, 3, 4]
    (response,) = seen.successes
    assert (response.status, response.accepted, response.failed) == ("ok", 3, 2)
    assert [(error.index, error.code) for error in response.errors] == [(0, "fault"), (2, "fault")]
    error = seen.the_error()
    assert serials_of(error.events) == [0, 2]
    assert error.status_code == 200
    assert "rejected by the fault script" in error.message


def test_all_rejected(client, seen, collector):
    collector.faults({"reject": [0, 1, 2]})
    track(client, 0, 1, 2)
    assert client.flush()
    assert_ledger(client, rejected=3, requests=1)
    assert collector.events() == []
    assert seen.failed() == [0, 1, 2]


def test_errors_that_name_no_event_of_the_batch_are_ignored(client, seen, collector):
    indexes = [99, -1, "1", True, None, 1.0, 1]
    errors = [*({"index": index, "message": "bad"} for index in indexes), "odd", None, {}, {"index": 1}]
    collector.faults({"status": 200, "body": {"status": 7, "errors": errors}, "keep": True})
    track(client, 0, 1)
    assert client.flush()
    assert_ledger(client, delivered=1, rejected=1)
    assert seen.failed() == [1]


# --- permanent


@pytest.mark.parametrize("status", PERMANENT)
def test_permanent_refusal_is_not_retried(client, seen, collector, caplog, status):
    collector.faults({"status": status, "keep": True, "headers": {"Retry-After": "60"}})
    track(client, *range(3))
    assert client.flush()
    assert_ledger(client, failed=3, requests=1, retries=0)
    error = seen.the_error()
    assert error.status_code == status
    assert str(status) in error.message
    assert error.events == collector.events()  # as sent, in order
    assert not seen.successes
    assert len(error_lines(caplog)) == 1
    track(client, 3)  # it is the batch that was given up, not the client
    assert client.flush(5000)
    assert_ledger(client, failed=3, delivered=1, requests=2)


@pytest.mark.parametrize("status", REDIRECTS)
def test_redirect_is_not_followed(client, seen, collector, status):
    location = f"{collector.endpoint}/v1/batch?moved"
    collector.faults({"status": status, "headers": {"Location": location}})
    track(client, 0, 1)
    assert client.flush()
    assert_ledger(client, failed=2, requests=1, retries=0)
    assert collector.summary()["requests"] == 1
    error = seen.the_error()
    assert error.status_code == status
    assert location in error.message
    assert serials_of(error.events) == [0, 1]


def test_redirect_without_location(client, seen, collector):
    collector.faults({"status": 302})
    track(client, 0)
    assert client.flush()
    assert "302" in seen.the_error().message


# --- 413


@pytest.mark.parametrize(("least_refused", "requests"), [(2, 9), (3, 5), (5, 3), (6, 1)])
def test_too_large_a_batch_is_halved(client, seen, collector, least_refused, requests):
    collector.faults({"status": 413, "min_events": least_refused, "times": None})
    track(client, *range(5))
    assert client.flush()
    assert_ledger(client, delivered=5, requests=requests, retries=0)
    assert collector.serials() == [0, 1, 2, 3, 4]
    assert sum(response.accepted for response in seen.successes) == 5
    assert not seen.errors


def test_too_large_a_single_event_is_rejected(client, seen, collector):
    collector.faults({"status": 413, "times": None})
    track(client, *range(3))
    assert client.flush()
    assert_ledger(client, rejected=3, requests=5, retries=0)
    assert [serials_of(events) for _, events in seen.errors] == [[0], [1], [2]]
    assert {error.status_code for error, _ in seen.errors} == {413}
    assert all("413" in error.message for error, _ in seen.errors)
    assert not seen.successes


def test_the_halves_have_outcomes_of_their_own(client, seen, collector):
    collector.faults({"status": 413}, {"status": 400}, {"status": 503}, {"reject": [1]})
    track(client, *range(4))
    assert client.flush()
    assert_ledger(client, delivered=1, failed=2, rejected=1, requests=4, retries=1)
    assert collector.serials() == [2]
    assert seen.failed() == [0, 1, 3]


# --- retried


@pytest.mark.parametrize("fault", [*({"status": status} for status in RETRYABLE), {"drop": True}], ids=str)
@pytest.mark.parametrize("failures", [1, 2])
def test_retry_recovers(client, seen, collector, fault, failures):
    collector.faults({**fault, "times": failures})
    ids = track(client, *range(3))
    assert client.flush()
    assert_ledger(client, delivered=3, requests=failures + 1, retries=failures)
    assert collector.summary()["requests"] == failures + 1
    assert_one_arrival_each(collector, ids)
    assert collector.serials() == [0, 1, 2]
    assert [response.accepted for response in seen.successes] == [3]
    assert not seen.errors


@pytest.mark.parametrize("fault", [*({"status": status} for status in RETRYABLE), {"drop": True}], ids=str)
def test_retries_end(client, seen, collector, caplog, fault):
    collector.faults({**fault, "times": None})
    track(client, *range(3))
    assert client.flush()
    assert_ledger(client, failed=3, requests=3, retries=2)
    assert collector.summary()["requests"] == 3
    error = seen.the_error()
    assert error.status_code == fault.get("status")
    assert serials_of(error.events) == [0, 1, 2]
    assert "3 times" in error.message
    assert not seen.successes
    assert len(error_lines(caplog)) == 1


@pytest.mark.parametrize("attempts", [1, 4])
def test_refused_connection(make_client, seen, attempts):
    client = make_client(endpoint=f"http://127.0.0.1:{closed_port()}", retry_max_attempts=attempts)
    track(client, 0, 1)
    assert client.flush()
    assert_ledger(client, failed=2, requests=attempts, retries=attempts - 1)
    error = seen.the_error()
    assert error.status_code is None
    assert "refused" in error.message
    assert "0x" not in error.message  # no object addresses


def test_timeout_is_retried(make_client, seen, collector):
    client = make_client(request_timeout=1500)
    collector.faults({"hang": True, "times": 2})
    ids = track(client, 0, 1)
    assert client.flush()
    assert_ledger(client, delivered=2, requests=3, retries=2)
    assert_one_arrival_each(collector, ids)
    assert not seen.errors


def test_timeouts_end(make_client, seen, collector):
    client = make_client(request_timeout=150, retry_max_attempts=2)
    collector.faults({"hang": True, "times": None})
    track(client, 0, 1)
    assert client.flush()
    assert_ledger(client, failed=2, requests=2, retries=1)
    assert seen.the_error().status_code is None
    assert collector.events() == []


def test_half_an_answer_is_judged_by_its_status(client, collector):
    collector.faults({"half": True, "status": 503}, {"half": True, "status": 400})
    track(client, 0)
    assert client.flush()
    assert_ledger(client, failed=1, requests=2, retries=1)


def test_no_batch_overtakes_one_that_is_retried(make_client, collector):
    client = make_client(max_batch_size=2)
    collector.faults({"status": 503, "times": 2})
    track(client, *range(6))
    assert client.flush()
    assert collector.serials() == [0, 1, 2, 3, 4, 5]
    assert_ledger(client, delivered=6, requests=5, retries=2)


@pytest.mark.parametrize("fault", [{"drop": True}, {"status": 503}], ids=str)
def test_a_lost_answer_means_the_same_event_twice(client, collector, fault):
    collector.faults({**fault, "keep": True})
    ids = track(client, 0, 1)
    assert client.flush()
    assert_ledger(client, delivered=2, requests=2, retries=1)
    assert sorted(event["messageId"] for event in collector.events()) == sorted(ids * 2)
    assert collector.summary()["duplicates"] == 2
    first, second = collector.events()[:2], collector.events()[2:]
    assert first == second  # messageId, timestamp and all


def test_the_back_off_doubles(make_client, collector):
    client = make_client(retry_initial_delay=200)
    collector.faults({"status": 503, "times": None, "keep": True})
    track(client, 0)
    assert client.flush()
    first, second, third = arrival_times(collector)
    # Random in [d/2, d]. The clock of the collector shows milliseconds.
    assert second - first >= 0.098
    assert third - second >= 0.198
    assert third - first < 0.6 + 2


# --- Retry-After


def test_retry_after_seconds(client, collector):
    collector.faults({"status": 503, "headers": {"Retry-After": "1"}, "keep": True})
    track(client, 0)
    assert client.flush()
    first, second = arrival_times(collector)
    assert 0.99 <= second - first < 3
    assert_ledger(client, delivered=1, requests=2, retries=1)


def test_retry_after_date(client, collector):
    until = (datetime.now(timezone.utc) + timedelta(seconds=2)).replace(microsecond=0)
    collector.faults({"status": 429, "headers": {"Retry-After": format_datetime(until, usegmt=True)}, "keep": True})
    track(client, 0)
    assert client.flush()
    _, second = arrival_times(collector)
    assert -0.01 <= second - until.timestamp() < 2
    assert_ledger(client, delivered=1, requests=2, retries=1)


@pytest.mark.parametrize(
    "nonsense",
    ["soon", "", "-5", "0", "nan", "inf", "1e3", "0x10", "12 parsecs", "Thu, 01 Jan 1970 00:00:00 GMT", "\u0663\u0660"],
)
def test_retry_after_nonsense_is_ignored(client, collector, nonsense):
    collector.faults({"status": 503, "headers": {"Retry-After": nonsense}})
    track(client, 0)
    assert client.flush(timeout_ms=10_000)
    assert_ledger(client, delivered=1, requests=2, retries=1)


@pytest.mark.parametrize("asked_by", ["the sender", "a sync call"])
def test_retry_after_is_obeyed_by_every_batch_of_the_client(make_client, collector, caplog, asked_by):
    caplog.set_level(logging.INFO, "klime_mp")
    client = make_client(max_batch_size=1)
    seconds = 1 if asked_by == "the sender" else 3
    collector.faults({"status": 503, "headers": {"Retry-After": str(seconds)}, "keep": True})
    if asked_by == "the sender":
        track(client, 0)
        wait_for_retry(caplog)
        assert client.track_sync("Tested", {"serial": 1}, user_id="user_1").accepted == 1
    else:
        with pytest.raises(klime_mp.SendError):  # the endpoint wants more time than there is
            client.track_sync("Tested", {"serial": 0}, user_id="user_1", timeout_ms=2500)
        track(client, 1)
    track(client, 2, 3)
    assert client.flush()
    first, *others = arrival_times(collector)
    assert all(seconds - 0.01 <= other - first < seconds + 3 for other in others), (first, others)
    if asked_by == "the sender":
        assert sorted(collector.serials()) == [0, 0, 1, 2, 3]
        assert_ledger(client, delivered=4, requests=5, retries=1)
    else:
        assert collector.serials() == [0, 1, 2, 3]
        assert_ledger(client, delivered=3, failed=1, requests=4, retries=0)


def test_retry_after_of_the_last_try_is_obeyed_by_the_next_batch(make_client, collector):
    client = make_client(retry_max_attempts=1)
    collector.faults({"status": 503, "headers": {"Retry-After": "1"}, "keep": True})
    track(client, 0)
    assert client.flush()
    assert_ledger(client, failed=1, requests=1)
    track(client, 1)
    assert client.flush()
    first, second = arrival_times(collector)
    assert 0.99 <= second - first < 3


def test_a_sync_call_that_cannot_wait_for_retry_after_makes_no_request(make_client, collector, caplog):
    caplog.set_level(logging.INFO, "klime_mp")
    client = make_client(max_batch_size=1)
    collector.faults({"status": 503, "headers": {"Retry-After": "60"}})
    track(client, 0)
    wait_for_retry(caplog)
    with Stopwatch() as took, pytest.raises(klime_mp.SendError):
        client.track_sync("Tested", {"serial": 1}, user_id="user_1", timeout_ms=500)
    assert took.seconds < 1.5
    assert collector.summary()["requests"] == 1
    assert_ledger(client, failed=1, pending=1, requests=1)


# --- the write key


def fragments(key, length=6):
    return {key[start : start + length] for start in range(len(key) - length + 1)}


def assert_secret(key, *texts):
    """At most the last four characters of the key are shown; no longer piece of it."""
    for text in texts:
        shown = [piece for piece in fragments(key) if piece in text]
        assert not shown, text


def test_wrong_key_is_one_clear_line(make_client, seen, collector, caplog):
    caplog.set_level(logging.DEBUG)
    client = make_client(max_batch_size=1)
    collector.faults({"status": 401, "times": None})
    track(client, *range(5))
    assert client.flush()
    assert_ledger(client, failed=5, requests=5, retries=0)
    (line,) = error_lines(caplog)
    assert "refused the write key" in line
    assert "401" in line
    assert seen.failed() == [0, 1, 2, 3, 4]
    assert_secret(collector.write_key, caplog.text, repr(client), *(str(error) for error, _ in seen.errors))


@pytest.mark.parametrize("status", [401, 403, 400, 404])
@pytest.mark.parametrize("before", [0, 180, 190, 199])
def test_an_endpoint_that_echoes_the_key(client, seen, collector, caplog, status, before):
    caplog.set_level(logging.DEBUG)
    collector.faults({"status": status, "body": "x" * before + f"{collector.write_key} is unknown", "times": None})
    track(client, 0)
    assert client.flush()
    with pytest.raises(klime_mp.SendError) as raised:
        client.track_sync("Tested", user_id="user_1")
    assert raised.value.status_code == status
    error = seen.the_error()
    assert_secret(collector.write_key, caplog.text, error.message, str(error), repr(error), repr(raised.value))


def test_an_endpoint_that_redirects_to_the_key(client, seen, collector, caplog):
    caplog.set_level(logging.DEBUG)
    collector.faults({"status": 302, "headers": {"Location": f"https://login.invalid/?key={collector.write_key}"}})
    track(client, 0)
    assert client.flush()
    assert_secret(collector.write_key, caplog.text, repr(seen.the_error()))


def test_an_endpoint_that_rejects_an_event_with_the_key(client, seen, collector, caplog):
    caplog.set_level(logging.DEBUG)
    errors = [{"index": 0, "message": f"not allowed for {collector.write_key}"}]
    collector.faults({"status": 200, "body": {"status": "ok", "errors": errors}})
    track(client, 0)
    assert client.flush()
    assert_secret(collector.write_key, caplog.text, repr(seen.the_error()))
