from __future__ import annotations

import gzip
import json
import re

import pytest
import requests

from klime_mp.collector._batch import MAX_BODY_BYTES
from support.collector import CollectorProcess, Inbox, track_event


@pytest.fixture
def whole_collector():
    """A collector that no other test has sent anything to: for what counts all write keys together."""
    with CollectorProcess() as process, Inbox(process) as inbox:
        yield inbox


def call(inbox, method, path, **rest):
    with requests.Session() as session:
        session.trust_env = False
        return session.request(method, inbox.endpoint + path, timeout=30, **rest)


def test_accepts_events(collector):
    events = [track_event(serial) for serial in range(3)]
    answer = collector.post(events)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.json() == {"status": "ok", "accepted": 3, "failed": 0, "errors": []}
    assert collector.events() == events
    assert collector.serials() == [0, 1, 2]


def test_rejects_event_by_event(collector):
    good = track_event(1)
    answer = collector.post([track_event(type="page"), good, None])
    assert answer.status_code == 200
    body = answer.json()
    assert (body["accepted"], body["failed"]) == (1, 2)
    assert [error["index"] for error in body["errors"]] == [0, 2]
    assert all(set(error) == {"index", "message", "code"} and error["message"] for error in body["errors"])
    assert collector.events() == [good]
    assert collector.summary()["rejected"] == 2


def test_empty_batch_checks_a_key(collector):
    answer = collector.post([])
    assert (answer.status_code, answer.json()["accepted"]) == (200, 0)
    assert collector.summary()["requests"] == 1


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer ", "Basic a2V5", "key-1", "Bearer a b"])
def test_no_key(collector, authorization):
    headers = {} if authorization is None else {"Authorization": authorization}
    answer = call(collector, "POST", "/v1/batch", json={"batch": [track_event("no key")]}, headers=headers)
    assert answer.status_code == 401
    assert answer.json()["status"] == "error"
    assert answer.json()["message"]
    assert "no key" not in call(collector, "GET", "/events").text


def test_the_scheme_is_spelt_in_any_case(collector):
    assert collector.post([track_event()], Authorization=f"bEARER {collector.write_key}").status_code == 200
    assert len(collector.events()) == 1


def test_unknown_key():
    with CollectorProcess("--write-key", "known-1", "known-2", "--write-key", "known-3") as process:
        for key, expected in [("known-1", 200), ("known-2", 200), ("known-3", 200), ("known", 401)]:
            with Inbox(process, key) as inbox:
                answer = inbox.post([track_event()])
                assert answer.status_code == expected
                assert inbox.summary()["requests"] == 1
                assert len(inbox.events()) == (expected == 200)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"[]",
        b"{}",
        b'{"batch":{}}',
        b'{"batch":[NaN]}',
        b"\xff",
        gzip.compress(b'{"batch":[]}', mtime=0),
    ],
)
def test_bad_body(collector, body):
    answer = collector.post(body)
    assert answer.status_code == 400
    assert answer.json()["status"] == "error"
    assert collector.summary() == {
        "requests": 1,
        "accepted": 0,
        "rejected": 0,
        "duplicates": 0,
        "duplicateMessageIds": [],
    }


def test_compressed_bodies_are_not_understood(collector):
    body = gzip.compress(json.dumps({"batch": [track_event()]}).encode())
    assert collector.post(body, **{"Content-Encoding": "gzip"}).status_code == 400


def test_a_hundred_events_a_batch(collector):
    assert collector.post([track_event(serial) for serial in range(100)]).json()["accepted"] == 100
    answer = collector.post([track_event(serial) for serial in range(101)])
    assert (answer.status_code, answer.json()["status"]) == (400, "error")
    assert len(collector.events()) == 100


def test_body_limit_is_exact(collector):
    body = json.dumps({"batch": [track_event()]}).encode()
    assert collector.post(body.ljust(MAX_BODY_BYTES)).status_code == 200
    answer = collector.post(body.ljust(MAX_BODY_BYTES + 1))
    assert (answer.status_code, answer.json()["status"]) == (413, "error")
    assert collector.summary()["requests"] == 2
    assert collector.summary()["accepted"] == 1


def test_an_event_too_large_is_rejected_alone(collector):
    body = collector.post([track_event("x" * 204_801), track_event(1)]).json()
    assert (body["accepted"], body["errors"][0]["index"], body["errors"][0]["code"]) == (1, 0, "too_large")


def test_events_are_returned_as_they_were_sent(collector):
    text = json.dumps(track_event(properties={"price": "PRICE", "big": "BIG"}), indent=2)
    text = text.replace('"PRICE"', "1.10").replace('"BIG"', "9" * 5000 + r', "smile": "\ud83d\ude00 é"')
    assert collector.post(b'{"batch": [' + text.encode() + b"]}").json()["accepted"] == 1
    shown = call(collector, "GET", "/events", params={"writeKey": collector.write_key})
    assert shown.content.decode() == '{"events":[' + text + '],"count": 1}'


def test_filters(collector):
    identify = track_event(type="identify", event=..., userId="user_2")
    group = track_event(type="group", event=..., userId=..., groupId="org_1")
    other = track_event(event="Other")
    tested = track_event(event="Tested é", groupId="org_1")
    collector.post([identify, group, other, tested])
    assert collector.events() == [identify, group, other, tested]
    assert collector.events(type="identify") == [identify]
    assert collector.events(event="Tested é") == [tested]
    assert collector.events(userId="user_1") == [other, tested]
    assert collector.events(groupId="org_1") == [group, tested]
    assert collector.events(groupId="org_1", type="track") == [tested]
    assert collector.events(messageId=other["messageId"]) == [other]
    assert collector.events(messageId="another") == []


def test_limit_keeps_the_newest(collector):
    collector.post([track_event(serial) for serial in range(5)])
    for limit, serials in [(0, []), (2, [3, 4]), (5, [0, 1, 2, 3, 4]), (9, [0, 1, 2, 3, 4])]:
        params = {"writeKey": collector.write_key, "limit": limit}
        shown = call(collector, "GET", "/events", params=params).json()
        assert [event["properties"]["serial"] for event in shown["events"]] == serials
        assert shown["count"] == 5


@pytest.mark.parametrize("query", ["limit=-1", "limit=x", "limit=", "limit=1.5", "limit=²", "meta=yes", "user_id=u"])
def test_bad_query(collector, query):
    answer = call(collector, "GET", f"/events?{query}")
    assert answer.status_code == 400
    assert answer.json()["message"]


def test_meta_shows_how_events_came_and_never_a_key(collector):
    collector.post([track_event(), track_event()])
    collector.post([track_event()])
    first, second, third = collector.meta()
    assert first["request"] == second["request"] < third["request"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["receivedAt"])
    assert first["key"] == "…" + collector.write_key[-4:]
    collector.faults({"hang": True, "times": None})
    for path in ("/events?meta=1", "/summary", "/faults"):
        assert collector.write_key not in call(collector, "GET", path).text


def test_short_keys_are_not_shown_at_all(collector_process):
    with Inbox(collector_process, "abcd") as inbox:
        inbox.post([track_event()])
        assert [meta["key"] for meta in inbox.meta()] == ["…"]
        inbox.clear()


def test_duplicates_are_kept_and_counted(collector):
    twice, thrice, once = (track_event(name) for name in ("twice", "thrice", "once"))
    collector.post([twice, thrice, once])
    collector.post([twice, thrice])
    collector.post([thrice])
    assert collector.serials() == ["twice", "thrice", "once", "twice", "thrice", "thrice"]
    assert collector.summary() == {
        "requests": 3,
        "accepted": 6,
        "rejected": 0,
        "duplicates": 3,
        "duplicateMessageIds": [twice["messageId"], thrice["messageId"]],
    }


def test_what_is_no_unicode_can_still_be_asked_about(collector):
    odd = track_event(messageId="\ud800")
    collector.post([odd, odd])
    assert collector.summary()["duplicateMessageIds"] == ["\ud800"]
    assert collector.events() == [odd, odd]
    with requests.Session() as session:
        headers = {"Authorization": b"Bearer key-\xff\xfe\xfd\xfc"}
        session.post(collector.endpoint + "/v1/batch", json={"batch": [odd]}, headers=headers, timeout=5)
    assert call(collector, "GET", "/events?meta=1").status_code == 200


def test_at_most_a_hundred_duplicates_are_listed(collector):
    events = [track_event(serial) for serial in range(60)]
    more = [track_event(serial) for serial in range(60)]
    for batch in (events, more, events, more):
        collector.post(batch)
    summary = collector.summary()
    assert (summary["duplicates"], len(summary["duplicateMessageIds"])) == (120, 100)


def test_keys_are_apart(whole_collector):
    collector = whole_collector
    with Inbox(collector.process) as other:
        same = track_event()
        collector.post([same])
        other.post([same, None])
        assert collector.events() == other.events() == [same]
        assert collector.summary()["duplicates"] == other.summary()["duplicates"] == 0
        assert (collector.summary()["rejected"], other.summary()["rejected"]) == (0, 1)
        of_all = call(collector, "GET", "/summary").json()
        assert of_all["duplicateMessageIds"] == [same["messageId"]]
        other.clear()
        assert other.events() == []
        assert other.summary()["requests"] == other.summary()["rejected"] == 0
        assert collector.events() == [same]


def test_forget_everything(whole_collector):
    whole_collector.post([track_event(), None])
    assert call(whole_collector, "DELETE", "/events").status_code == 204
    assert call(whole_collector, "GET", "/events").json() == {"events": [], "count": 0}
    assert call(whole_collector, "GET", "/summary").json() == {
        "requests": 0,
        "accepted": 0,
        "rejected": 0,
        "duplicates": 0,
        "duplicateMessageIds": [],
    }


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/", 404), ("POST", "/v2", 404), ("GET", "/v1/batch", 405)]
)
def test_other_routes(collector, method, path, status):
    answer = call(collector, method, path)
    assert answer.status_code == status
    assert answer.json()["status"] == "error"
    assert answer.headers.get("Allow") == ("POST" if status == 405 else None)


def test_a_client_that_does_not_wait_for_the_answer_is_heard(collector):
    for serial in range(50):
        collector.open_post([track_event(serial)]).close()
    collector.wait_for(50)
    assert sorted(collector.serials()) == list(range(50))


def test_wait_for_says_what_arrived(collector):
    collector.post([track_event("only one")])
    with pytest.raises(AssertionError, match=r"1 of 2 events in 0\.1 s.*only one"):
        collector.wait_for(2, timeout=0.1)
    with pytest.raises(AssertionError, match="not 3 requests"):
        collector.wait_for_requests(3, timeout=0.1)
