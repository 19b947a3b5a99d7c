from __future__ import annotations

import json

import pytest

from klime_mp.collector._batch import Sent, read_batch
from klime_mp.collector._checks import MAX_EVENT_BYTES, problem
from support.collector import track_event


def code(event, text=None):
    found = problem(Sent(text or json.dumps(event), event))
    return found and found.code


def identify(**changes):
    return track_event(**{"type": "identify", "event": ..., "properties": ..., "traits": {"a": 1}, **changes})


def group(**changes):
    return identify(**{"type": "group", "userId": ..., "groupId": "org_1", **changes})


@pytest.mark.parametrize(
    "event",
    [
        track_event(),
        track_event(userId=..., groupId="org_1"),
        track_event(groupId="org_1", context={"library": {}}),
        track_event(properties=...),
        track_event(timestamp="2024-02-29T23:59:59.999Z"),
        track_event(somethingNew=[1]),
        identify(),
        identify(traits=...),
        group(),
        group(userId="user_1"),
    ],
)
def test_fine(event):
    assert code(event) is None


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (None, "invalid_event"),
        ([], "invalid_event"),
        ("track", "invalid_event"),
        ({}, "invalid_type"),
        (track_event(type="page"), "invalid_type"),
        (track_event(type=["track"]), "invalid_type"),
        (track_event(messageId=...), "invalid_message_id"),
        (track_event(messageId=""), "invalid_message_id"),
        (track_event(messageId=7), "invalid_message_id"),
        (track_event(timestamp=...), "invalid_timestamp"),
        (track_event(timestamp=1732270000), "invalid_timestamp"),
        (track_event(timestamp="2026-11-22T10:00:00Z"), "invalid_timestamp"),
        (track_event(timestamp="2026-11-22T10:00:00.123456Z"), "invalid_timestamp"),
        (track_event(timestamp="2026-11-22T10:00:00.123+00:00"), "invalid_timestamp"),
        (track_event(timestamp="2026-11-22 10:00:00.123Z"), "invalid_timestamp"),
        (track_event(timestamp="2026-02-31T10:00:00.123Z"), "invalid_timestamp"),
        (track_event(timestamp="2026-11-22T10:00:00.123Z\n"), "invalid_timestamp"),
        (track_event(timestamp="٢٠٢٦-11-22T10:00:00.123Z"), "invalid_timestamp"),
        (track_event(event=...), "invalid_event_name"),
        (track_event(event=""), "invalid_event_name"),
        (track_event(event=1), "invalid_event_name"),
        (track_event(userId=...), "missing_id"),
        (track_event(userId=""), "invalid_id"),
        (track_event(userId=None), "invalid_id"),
        (track_event(userId=5), "invalid_id"),
        (track_event(groupId=True), "invalid_id"),
        (identify(userId=..., groupId="org_1"), "missing_id"),
        (group(groupId=..., userId="user_1"), "missing_id"),
        (group(userId=0), "invalid_id"),
        (track_event(properties=None), "invalid_properties"),
        (track_event(properties=[]), "invalid_properties"),
        (identify(traits="a"), "invalid_traits"),
        (track_event(context=3), "invalid_context"),
    ],
)
def test_broken(event, expected):
    assert code(event) == expected


def sized(size, char="x"):
    room = size - len(terse(track_event(properties={"p": ""})))
    return track_event(properties={"p": char * (room // len(char.encode()))})


def terse(event):
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()


def test_size_limit_is_exact():
    largest = sized(MAX_EVENT_BYTES)
    assert len(terse(largest)) == MAX_EVENT_BYTES
    assert code(largest) is None
    assert code(sized(MAX_EVENT_BYTES + 1)) == "too_large"


def test_size_is_that_of_the_tersest_spelling():
    event = sized(MAX_EVENT_BYTES - 10, "é")
    escaped = json.dumps(event, indent=4)
    assert len(escaped) > 2 * MAX_EVENT_BYTES
    assert code(event, escaped) is None


def test_a_large_event_of_what_python_will_not_write():
    text = terse(track_event(properties={"n": "N", "s": "S"})).replace(b'"N"', b"1" * 300_000).replace(b"S", b"\\ud800")
    [sent] = read_batch(b'{"batch":[%s]}' % text)
    assert problem(sent).code == "too_large"
