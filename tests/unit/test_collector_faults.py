from __future__ import annotations

import contextlib
import json
import time

import pytest
import requests

from support.collector import Inbox, track_event


def exchange(inbox, *events, timeout=5):
    """Sends a batch over a bare socket: the bytes that came back until the end."""
    received = b""
    with inbox.open_post(list(events)) as connection, contextlib.suppress(ConnectionResetError):
        connection.settimeout(timeout)
        while piece := connection.recv(65536):
            received += piece
    return received


def split(received):
    head, _, body = received.partition(b"\r\n\r\n")
    [length] = [int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
    return head, body, length


def statuses(inbox, n, events=1):
    return [inbox.post([track_event() for _ in range(events)]).status_code for _ in range(n)]


def test_status_headers_body(collector):
    collector.faults(
        {"status": 503, "headers": {"Retry-After": "1", "content-type": "text/x"}, "body": "gârbage"},
        {"status": 429, "body": {"why": ["é"]}},
        {"status": 500},
    )
    first, second, third = (collector.post([track_event()]) for _ in range(3))
    assert (first.status_code, first.headers["Retry-After"], first.content.decode()) == (503, "1", "gârbage")
    assert first.headers["Content-Type"] == "text/x"
    assert (second.status_code, second.json()) == (429, {"why": ["é"]})
    assert (third.status_code, third.json()["status"]) == (500, "error")
    assert collector.events() == []
    assert collector.summary()["requests"] == 3
    assert statuses(collector, 1) == [200]


def test_redirect(collector):
    collector.faults({"status": 301, "headers": {"Location": "/elsewhere"}})
    answer = collector.post([track_event()])
    assert (answer.status_code, answer.headers["Location"]) == (301, "/elsewhere")


def test_2xx_keeps_nothing_unless_told(collector):
    collector.faults(
        {"status": 202},
        {"status": 200, "body": ""},
        {"status": 201, "keep": True},
        {"status": 204, "keep": True},
    )
    answers = [collector.post([track_event(serial)]) for serial in range(4)]
    assert [answer.status_code for answer in answers] == [202, 200, 201, 204]
    assert answers[0].json() == answers[2].json() == {"status": "ok", "accepted": 1, "failed": 0, "errors": []}
    assert answers[1].content == answers[3].content == b""
    assert collector.serials() == [2, 3]


def test_delay(collector):
    collector.faults({"delay_ms": 150}, {"delay_ms": 150, "status": 503})
    for status in (200, 503):
        started = time.monotonic()
        assert collector.post([track_event(status)]).status_code == status
        assert time.monotonic() - started >= 0.15
    assert collector.serials() == [200]


def test_a_delayed_batch_is_kept_before_the_delay(collector):
    collector.faults({"delay_ms": 60_000})
    with pytest.raises(TimeoutError):
        exchange(collector, track_event("late"), timeout=0.1)
    collector.wait_for(1)
    assert collector.serials() == ["late"]


@pytest.mark.parametrize("keep", [False, True])
def test_drop(collector, keep):
    collector.faults({"drop": True, "keep": keep})
    assert exchange(collector, track_event(1)) == b""
    assert collector.serials() == [1] * keep
    assert collector.summary()["requests"] == 1


def test_drop_is_a_connection_error_to_a_client(collector):
    collector.faults({"drop": True})
    with pytest.raises(requests.ConnectionError):
        collector.post([track_event()])


@pytest.mark.parametrize("keep", [False, True])
def test_half(collector, keep):
    collector.faults({"half": True, "keep": keep})
    received = exchange(collector, track_event(1))
    head, body, length = split(received)
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert len(body) == length // 2 > 0
    assert b'{"status": "ok", "accepted": 1,'.startswith(body)
    assert collector.serials() == [1] * keep


def test_half_of_another_answer(collector):
    collector.faults({"half": True, "status": 503, "body": "12345678", "headers": {"Retry-After": "7"}})
    head, body, length = split(exchange(collector, track_event()))
    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"Retry-After: 7" in head
    assert (body, length) == (b"1234", 8)


@pytest.mark.parametrize("keep", [False, True])
def test_hang(collector, keep):
    collector.faults({"hang": True, "keep": keep})
    with pytest.raises(TimeoutError):
        exchange(collector, track_event(1), timeout=0.2)
    collector.wait_for_requests(1)
    assert collector.serials() == [1] * keep
    assert collector.summary()["requests"] == 1
    assert statuses(collector, 1) == [200]


def test_drip(collector):
    collector.faults({"drip_ms": 2})
    started = time.monotonic()
    received = exchange(collector, track_event(1))
    finished = time.monotonic()
    head, body, length = split(received)
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert len(body) == length
    assert json.loads(body)["accepted"] == 1
    assert finished - started >= 0.002 * (len(received) - 1)
    assert collector.serials() == [1]


def test_drip_drips_the_status_line_too(collector):
    collector.faults({"drip_ms": 60, "keep": False})
    with collector.open_post([track_event()]) as connection:
        pieces = [connection.recv(65536), connection.recv(65536)]
    assert b"HTTP/1.1 200 OK\r\n".startswith(b"".join(pieces))
    assert collector.events() == []


def test_reject(collector):
    collector.faults({"reject": [0, 2, 9]})
    body = collector.post([track_event(0), None, track_event(2), track_event(3)]).json()
    assert (body["accepted"], body["failed"]) == (1, 3)
    assert [error["index"] for error in body["errors"]] == [0, 1, 2]
    assert collector.serials() == [3]
    assert collector.summary()["rejected"] == 3


def test_huge_body(collector):
    collector.faults({"huge_body_bytes": 2_000_000}, {"huge_body_bytes": 10, "status": 500, "body": "x"})
    answer = collector.post([track_event(1)])
    assert len(answer.content) == 2_000_000 + len(answer.content.rstrip())
    assert answer.json()["accepted"] == 1
    assert collector.post([track_event(2)]).content == b"x" + b" " * 10
    assert collector.serials() == [1]


def test_order_and_times(collector):
    collector.faults({"delay_ms": 0, "times": 2}, {"status": 503}, {"status": 500, "times": 2})
    assert statuses(collector, 6) == [200, 200, 503, 500, 500, 200]
    assert collector.faults_left() == []


def test_until_replaced(collector):
    collector.faults({"status": 503, "times": None})
    assert statuses(collector, 4) == [503] * 4
    assert collector.faults_left() == [{"status": 503, "times": None, "key": "…" + collector.write_key[-4:]}]
    collector.faults()
    assert statuses(collector, 1) == [200]


def test_what_is_left(collector):
    collector.faults({"status": 503, "times": 3}, {"drop": True})
    assert statuses(collector, 2) == [503] * 2
    assert [(fault["times"], fault.get("status")) for fault in collector.faults_left()] == [
        (1, 503),
        (1, None),
    ]


def test_only_batches_of_so_many_events(collector):
    collector.faults({"status": 413, "min_events": 3, "times": None}, {"status": 503})
    assert statuses(collector, 2, events=4) == [413, 413]
    assert statuses(collector, 2, events=2) == [503, 200]
    assert statuses(collector, 1, events=3) == [413]
    assert collector.post(b"nonsense").status_code == 400


def test_only_one_key(collector, collector_process):
    collector.faults({"status": 503, "times": None})
    with Inbox(collector_process) as other:
        assert statuses(other, 1) == [200]
        other.clear()


def test_every_key_and_none(collector):
    script = {"faults": [{"status": 503, "times": 2}]}
    assert requests.put(collector.endpoint + "/faults", json=script, timeout=5).json() == script
    assert requests.post(collector.endpoint + "/v1/batch", timeout=5).status_code == 503
    assert statuses(collector, 2) == [503, 200]


def test_faults_come_before_klimes_own_refusals(collector):
    collector.faults({"status": 503}, {"delay_ms": 1})
    assert collector.post(b"nonsense").status_code == 503
    assert collector.post(b"nonsense").status_code == 400


def test_delete(collector):
    collector.faults({"status": 503})
    assert requests.delete(collector.endpoint + "/faults", timeout=5).status_code == 204
    assert collector.faults_left() == []
    assert statuses(collector, 1) == [200]


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        (7, "must be an object"),
        ({}, "nothing would happen"),
        ({"keep": True, "times": 2}, "nothing would happen"),
        ({"drop": False}, "nothing would happen"),
        ({"statsu": 503}, "unknown field 'statsu'"),
        ({"status": 503, "times": 0}, "times must be"),
        ({"status": 503, "times": True}, "times must be"),
        ({"status": 503, "times": 1.5}, "times must be"),
        ({"status": 503, "writeKey": ""}, "writeKey must be"),
        ({"status": 503, "min_events": -1}, "min_events must be"),
        ({"status": 99}, "status must be"),
        ({"status": 600}, "status must be"),
        ({"status": "503"}, "status must be"),
        ({"status": 503, "headers": ["Retry-After"]}, "headers must be"),
        ({"status": 503, "headers": {"Retry-After": 1}}, "headers must be"),
        ({"status": 503, "headers": {"X": "a\r\nY: b"}}, "headers must be"),
        ({"status": 503, "headers": {"content-length": "5"}}, "headers must be"),
        ({"status": 503, "body": 5}, "body must be"),
        ({"body": "x", "delay_ms": 1}, "need a status"),
        ({"headers": {}, "drop": True}, "need a status"),
        ({"delay_ms": -1}, "delay_ms must be"),
        ({"delay_ms": float("inf")}, "delay_ms must be"),
        ({"drip_ms": float("nan")}, "drip_ms must be"),
        ({"drop": 1}, "drop must be"),
        ({"drop": True, "hang": True}, "exclude each other"),
        ({"half": True, "drip_ms": 1}, "exclude each other"),
        ({"hang": True, "status": 503}, "goes with delay_ms only"),
        ({"drop": True, "reject": [1]}, "goes with delay_ms only"),
        ({"reject": [1], "status": 200}, "exclude each other"),
        ({"reject": 1}, "reject must be"),
        ({"reject": [-1]}, "reject must be"),
        ({"huge_body_bytes": -1}, "huge_body_bytes must be"),
    ],
)
def test_a_fault_with_a_mistake(collector, fault, complaint):
    collector.faults({"status": 503})
    body = json.dumps({"faults": [{"hang": True}, fault]})
    answer = requests.put(collector.endpoint + "/faults", data=body, timeout=5)
    assert answer.status_code == 400
    assert answer.json()["message"].startswith("faults[1]")
    assert complaint in answer.json()["message"]
    assert len(collector.faults_left()) == 1


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"faults":{}}', b'{"faults":[],"more":1}', b"[" * 100_000, b"\xff"]
)
def test_a_script_that_is_none(collector, body):
    answer = requests.put(collector.endpoint + "/faults", data=body, timeout=5)
    assert answer.status_code == 400
    assert answer.json()["message"]
