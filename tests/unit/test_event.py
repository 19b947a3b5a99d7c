"""An event's arguments, checked and encoded; and, through a client, that nothing anybody passes makes a call raise."""

from __future__ import annotations

import contextlib
import enum
import json
import logging
import re
from datetime import date, datetime, timedelta, timezone, tzinfo
from types import MappingProxyType
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import klime_mp
from klime_mp import _event
from klime_mp._encoding import TooLargeError
from klime_mp._event import MAX_EVENT_BYTES, build, check, to_json
from klime_mp.exceptions import InvalidEventError
from support.ledger import assert_balanced, assert_ledger
from support.values import ZONES, CustomMapping, Level, Plan, Raising, Text, anything

UTC = timezone.utc
UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.ASCII)
LIBRARY = {"name": "klime-mp", "version": klime_mp.__version__}


def track(**arguments):
    return build("track", **{"event": "Button Clicked", "user_id": "user_123", **arguments})


def sent(event):
    return json.loads(to_json(event))


def invalid(words):
    return pytest.raises(InvalidEventError, match=words)


# --- an event as it is sent


def test_track():
    event = sent(
        track(
            group_id="org_456",
            payload={"button": "sign-up"},
            timestamp=datetime(2026, 11, 22, 10, 0, 0, 123999, UTC),
            message_id="message",
            context={"ip": "127.0.0.1"},
        )
    )
    assert list(event.items()) == [
        ("type", "track"),
        ("messageId", "message"),
        ("timestamp", "2026-11-22T10:00:00.123Z"),
        ("event", "Button Clicked"),
        ("userId", "user_123"),
        ("groupId", "org_456"),
        ("properties", {"button": "sign-up"}),
        ("context", {"library": LIBRARY, "ip": "127.0.0.1"}),
    ]


def test_identify():
    event = sent(build("identify", user_id="user_123", payload={"plan": "free"}))
    assert list(event) == ["type", "messageId", "timestamp", "userId", "traits", "context"]
    assert (event["type"], event["userId"], event["traits"]) == ("identify", "user_123", {"plan": "free"})


def test_group():
    event = sent(build("group", group_id="org_456", user_id="user_123", payload={"plan": "free"}))
    assert list(event) == ["type", "messageId", "timestamp", "userId", "groupId", "traits", "context"]
    assert (event["type"], event["groupId"], event["traits"]) == ("group", "org_456", {"plan": "free"})


@pytest.mark.parametrize("group_id", [None, ""])
@pytest.mark.parametrize("mapping", [None, {}, MappingProxyType({})], ids=repr)
def test_what_is_absent_or_empty_is_left_out(mapping, group_id):
    event = track(payload=mapping, context=mapping, group_id=group_id)
    assert list(event) == ["type", "messageId", "timestamp", "event", "userId", "context"]


def test_message_ids_are_uuid4_and_differ():
    ids = {track()["messageId"] for _ in range(100)}
    assert len(ids) == 100
    assert all(UUID4.fullmatch(one) for one in ids)


@pytest.mark.parametrize("absent", [None, ""])
def test_an_absent_message_id_is_made(absent):
    assert UUID4.fullmatch(track(message_id=absent)["messageId"])


# --- names and ids


@pytest.mark.parametrize(
    "event", [None, "", b"name", 1, True, ["name"], Raising()], ids=lambda value: type(value).__name__
)
def test_an_event_needs_a_name(event):
    with invalid("^event must be a non-empty str, not "):
        track(event=event)


@pytest.mark.parametrize("event", ["Button Clicked", " ", Text("Button Clicked"), Plan.FREE], ids=repr)
def test_any_other_str_is_a_name(event):
    assert sent(track(event=event))["event"] == str.__str__(event)


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("user", "user"),
        (" ", " "),
        (0, "0"),
        (-5, "-5"),
        (10**40, "1" + "0" * 40),
        (UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (Text("user"), "user"),
        (Plan.FREE, "free"),
        (Level.LOW, "1"),
        (np.str_("user"), "user"),
    ],
    ids=repr,
)
@pytest.mark.parametrize(
    ("argument", "name"), [("user_id", "userId"), ("group_id", "groupId"), ("message_id", "messageId")]
)
def test_ids(argument, name, given, written):
    event = track(**{argument: given})
    assert type(event[name]) is str
    assert event[name] == written


@pytest.mark.parametrize(
    "given",
    [True, False, 1.5, float("nan"), b"user", ["user"], {}, object(), np.int64(5), np.True_, 10**5000],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("argument", ["user_id", "group_id", "message_id"])
def test_what_is_no_id(argument, given):
    with invalid(f"^{argument} "):
        track(**{argument: given})


@pytest.mark.parametrize("absent", [None, ""])
def test_ids_that_cannot_be_absent(absent):
    with invalid("^track needs a user_id or a group_id$"):
        track(user_id=absent)
    with invalid("^identify needs a user_id$"):
        build("identify", user_id=absent, group_id="org_456")
    with invalid("^group needs a group_id$"):
        build("group", group_id=absent, user_id="user_123")


def test_either_id_is_enough_to_track():
    assert "userId" not in track(user_id=None, group_id=0)
    assert "groupId" not in track(user_id=0)


# --- properties, traits, context


@pytest.mark.parametrize("kind", ["track", "identify", "group"])
@pytest.mark.parametrize(
    "given", ["text", b"", 0, False, [], [("a", 1)], {"a"}, object()], ids=lambda value: type(value).__name__
)
def test_payload_and_context_are_mappings(kind, given):
    arguments = {"event": "e", "user_id": 1, "group_id": 2}
    with invalid(f"^{'properties' if kind == 'track' else 'traits'} must be a mapping or None, not "):
        build(kind, **arguments, payload=given)
    with invalid("^context must be a mapping or None, not "):
        build(kind, **arguments, context=given)


class Unreadable(CustomMapping):
    def __getitem__(self, key):
        raise ZeroDivisionError


def test_a_mapping_that_cannot_be_read_is_named():
    for argument, name in (("payload", "properties"), ("context", "context")):
        with invalid(f"^{name} cannot be read: it raised ZeroDivisionError"):
            track(**{argument: Unreadable({"a": 1})})


@pytest.mark.parametrize("make", [dict, MappingProxyType, CustomMapping])
def test_any_mapping_will_do(make):
    event = sent(track(payload=make({"a": 1}), context=make({"b": 2})))
    assert event["properties"] == {"a": 1}
    assert event["context"] == {"library": LIBRARY, "b": 2}


def test_context_may_replace_the_librarys():
    assert track(context={"library": {"name": "mine"}})["context"] == {"library": {"name": "mine"}}


def test_what_is_wrong_is_told_by_its_name():
    for argument, name in (("payload", "properties"), ("context", "context")):
        with invalid(f"^{name} cannot be written as JSON: RuntimeError was raised"):
            to_json(track(**{argument: {"object": Raising()}}))
    with invalid("^traits cannot be written as JSON: it is nested more than 254 levels deep or contains itself"):
        traits = {}
        traits["self"] = traits
        to_json(build("identify", user_id=1, payload=traits))


def test_what_is_shown_of_a_wrong_value_is_short():
    for value in ("x" * 10_000, 10**5000, [list(range(10_000))]):
        with pytest.raises(InvalidEventError) as caught:
            track(context=value)
        assert len(str(caught.value)) < 100


# --- timestamps


@pytest.mark.parametrize(
    ("moment", "written"),
    [
        (datetime(2026, 11, 22, 10, 0, 0, 123456, UTC), "2026-11-22T10:00:00.123Z"),
        (datetime(2026, 11, 22, 10, 0, 0, 999999, UTC), "2026-11-22T10:00:00.999Z"),  # not rounded
        (datetime(2026, 11, 22, 10, tzinfo=UTC), "2026-11-22T10:00:00.000Z"),
        (datetime(2026, 11, 22, 1, tzinfo=timezone(timedelta(hours=2))), "2026-11-21T23:00:00.000Z"),
        (datetime(2026, 11, 22, 10, tzinfo=timezone(timedelta(seconds=1))), "2026-11-22T09:59:59.000Z"),
        (datetime(1, 1, 1, tzinfo=UTC), "0001-01-01T00:00:00.000Z"),
        (datetime.max.replace(tzinfo=UTC), "9999-12-31T23:59:59.999Z"),
    ],
)
def test_timestamps_are_utc_in_milliseconds(moment, written):
    assert track(timestamp=moment)["timestamp"] == written


@given(st.datetimes(timezones=ZONES))
def test_a_timestamp_means_the_same_moment(moment):
    try:
        written = track(timestamp=moment)["timestamp"]
    except InvalidEventError:
        assert moment.year in {1, 9999}, "only at the ends of time"
        return
    read = datetime.fromisoformat(written[:-1]).replace(tzinfo=UTC)
    assert timedelta(0) <= moment - read < timedelta(milliseconds=1)


def test_now_in_a_process_that_has_not_asked_before(monkeypatch):
    for now, written in [(0.25, "1970-01-01T00:00:00.250Z"), (-0.5, "1969-12-31T23:59:59.500Z")]:
        monkeypatch.setattr(_event, "_this_second", _event.NO_SECOND)
        monkeypatch.setattr(_event.time, "time", lambda now=now: now)
        assert track()["timestamp"] == written


def test_without_a_timestamp_it_is_now():
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    read = datetime.fromisoformat(track()["timestamp"][:-1]).replace(tzinfo=UTC)
    assert before <= read <= datetime.now(UTC)


class Nowhere(tzinfo):
    def __init__(self, error=None):
        self._error = error

    def utcoffset(self, _moment):
        if self._error is not None:
            raise self._error


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 11, 22),  # noqa: DTZ001 # naive
        datetime(2026, 11, 22, tzinfo=Nowhere()),
        datetime(2026, 11, 22, tzinfo=Nowhere(RuntimeError())),
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1))),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
        date(2026, 11, 22),
        "2026-11-22T10:00:00Z",
        0,
        False,
        1.7e9,
        np.datetime64("2026-11-22"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_timestamp(moment):
    with invalid("^timestamp "):
        track(timestamp=moment)


# --- sizes


def event_of(size):
    event = track(payload={"filler": ""})
    event["properties"]["filler"] = "é" * ((size - len(to_json(event))) // 2) + "x" * ((size - len(to_json(event))) % 2)
    assert len(to_json(event)) == size
    return event


def test_the_limit_is_two_hundred_kib_of_what_is_sent():
    assert MAX_EVENT_BYTES == 204_800
    dropped = []
    with klime_mp.Client(
        enabled=False, on_drop=lambda event, reason: dropped.append((event["type"], reason))
    ) as client:
        for size in (204_800, 204_801):
            event = event_of(size)
            arguments = {"message_id": event["messageId"], "user_id": event["userId"]}
            assert client.track(event["event"], event["properties"], **arguments) is None
        assert dropped == [("track", "disabled"), ("track", "too_large")]
        assert_ledger(client, dropped={"disabled": 1, "too_large": 1})


def test_the_largest_event_strictly():
    with klime_mp.Client(enabled=False, strict=True) as client:
        with invalid("200 KiB"):
            client.track("e", {"filler": "x" * 204_800}, 1)
        with invalid("200 KiB"):
            client.track_sync("e", {"filler": "x" * 204_800}, 1)


def test_what_cannot_fit_is_not_written_out():
    with pytest.raises(TooLargeError):
        to_json(track(payload={"number": 1 << 10_000_000}))


# --- what before_send gives back


def test_an_unchanged_event_passes():
    event = sent(track(group_id=1, payload={"a": 1}))
    assert check(json.loads(json.dumps(event))) == event


def test_a_changed_event_follows_the_same_rules():
    event = sent(track(payload={"a": 1}))
    moment = datetime(2026, 11, 22, tzinfo=UTC)
    changed = {**event, "userId": 5, "groupId": UUID(int=5), "timestamp": moment, "properties": None, "context": {}}
    assert check(MappingProxyType(changed)) == {
        "type": "track",
        "messageId": event["messageId"],
        "timestamp": "2026-11-22T00:00:00.000Z",
        "event": "Button Clicked",
        "userId": "5",
        "groupId": "00000000-0000-0000-0000-000000000005",
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"type": "page"}, "event of type"),
        ({"type": ["track"]}, "event of type"),
        ({"type": None}, "event of type"),
        ({"messageId": None}, "without messageId"),
        ({"messageId": 1.5}, "message_id"),
        ({"userId": ""}, "track needs a user_id or a group_id"),
        ({"userId": True}, "user_id"),
        ({"groupId": []}, "group_id"),
        ({"event": ""}, "without a name"),
        ({"event": 5}, "without a name"),
        ({"timestamp": "yesterday"}, "timestamp"),
        ({"timestamp": "2026-11-22T10:00:00Z"}, "timestamp"),
        ({"properties": "text"}, "properties"),
        ({"context": []}, "context"),
        ({"type": "identify", "userId": None, "groupId": 1}, "identify needs a user_id"),
        ({"type": "group"}, "group needs a group_id"),
    ],
)
def test_a_change_that_breaks_a_rule(changes, words):
    with invalid(words):
        check({**sent(track()), **changes})


@pytest.mark.parametrize("returned", [True, "event", [], 5, object()], ids=lambda value: type(value).__name__)
def test_what_is_no_event(returned):
    with invalid("before_send must return the event or None"):
        check(returned)


class Disabled:
    """A client that drops all events, and the events as they would have been sent."""

    def __init__(self, **options):
        self.drops = []
        self.client = klime_mp.Client(enabled=False, on_drop=lambda *drop: self.drops.append(drop), **options)

    def dropped(self):
        """The one event, and why it was dropped."""
        assert_balanced(self.client.stats())
        (drop,) = self.drops
        return drop


def test_before_send_sees_what_would_be_sent():
    seen = []
    disabled = Disabled(before_send=lambda event: seen.append(event) or event)
    disabled.client.track("e", {1: datetime(2026, 11, 22, tzinfo=UTC), "set": {5}}, 0, message_id="m")
    assert seen[0]["properties"] == {"1": "2026-11-22T00:00:00+00:00", "set": [5]}
    assert seen[0]["userId"] == "0"
    assert disabled.dropped() == (seen[0], "disabled")


def test_before_send_cannot_touch_what_the_caller_has():
    def change(event):
        event["properties"]["list"].append("changed")
        event["context"]["library"]["name"] = "changed"
        return event

    properties = {"list": [1]}
    disabled = Disabled(before_send=change)
    disabled.client.track("e", properties, "u")
    event, _ = disabled.dropped()
    assert event["properties"] == {"list": [1, "changed"]}
    assert properties == {"list": [1]}
    assert track()["context"] == {"library": LIBRARY}


def test_before_send_filters():
    disabled = Disabled(before_send=lambda event: None)
    assert disabled.client.track("e", {"a": 1}, "u") is None
    event, reason = disabled.dropped()
    assert (event["event"], event["properties"], reason) == ("e", {"a": 1}, "filtered")


@pytest.mark.parametrize(
    "returned", [True, "garbage", [], {}, {"type": "track"}, Raising()], ids=lambda v: type(v).__name__
)
def test_garbage_from_before_send_is_invalid(returned):
    disabled = Disabled(before_send=lambda event: returned)
    assert disabled.client.track("e", None, "u") is None
    assert disabled.dropped() == (None, "invalid")


def test_before_send_may_return_what_has_no_json():
    disabled = Disabled(before_send=lambda event: {**event, "properties": {"object": Raising()}})
    disabled.client.track("e", None, "u")
    assert disabled.dropped() == (None, "invalid")


def test_before_send_may_return_too_much():
    disabled = Disabled(before_send=lambda event: {**event, "properties": {"filler": "x" * 204_800}})
    disabled.client.track("e", None, "u")
    event, reason = disabled.dropped()
    assert (event["event"], reason) == ("e", "too_large")


def test_a_raising_before_send_lets_the_event_pass_unchanged(caplog):
    def change_and_raise(event):
        event["properties"].clear()
        event["userId"] = "changed"
        raise RuntimeError("no")

    disabled = Disabled(before_send=change_and_raise)
    disabled.client.track("e", {"a": 1}, "u")
    event, reason = disabled.dropped()
    assert (event["userId"], event["properties"], reason) == ("u", {"a": 1}, "disabled")
    assert "before_send raised RuntimeError: no" in caplog.text


def test_callbacks_see_integers_of_any_size():
    """More digits than Python likes to read: neither a filter nor its event may be passed over for that."""
    seen = []
    disabled = Disabled(before_send=lambda event: seen.append(event) or event)
    disabled.client.track("e", {"number": 10**5000}, "u")
    event, reason = disabled.dropped()
    assert seen == [event]
    assert (event["properties"], reason) == ({"number": 10**5000}, "disabled")


def test_a_sync_calls_error_has_integers_of_any_size():
    client = klime_mp.Client("key", endpoint="http://127.0.0.1:9")
    client.shutdown()
    with pytest.raises(klime_mp.SendError) as caught:
        client.track_sync("e", {"number": 10**5000}, "u")
    assert caught.value.events[0]["properties"] == {"number": 10**5000}


# --- nothing that is passed makes a call raise

CALLS = st.one_of(
    st.tuples(st.just("track"), st.lists(anything, min_size=1, max_size=4)),
    st.tuples(st.just("identify"), st.lists(anything, min_size=1, max_size=2)),
    st.tuples(st.just("group"), st.lists(anything, min_size=1, max_size=3)),
    # Mostly right, so that the payload is what matters.
    st.tuples(st.just("track"), st.tuples(st.just("name"), st.dictionaries(st.text(), anything), st.just("user"))),
)
KEYWORDS = st.fixed_dictionaries({}, optional=dict.fromkeys(("timestamp", "message_id", "context"), anything))


def silent_logger():
    logger = logging.Logger("silent")  # noqa: LOG001 # not one of the program's
    logger.addHandler(logging.NullHandler())
    return logger


def broken(*_):
    raise RuntimeError("a broken callback")


def garbage(*_):
    return Raising()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"on_drop": broken, "before_send": broken},
        {"on_drop": garbage, "before_send": garbage},
        {"before_send": lambda event: event},
        {"logger": Raising()},
    ],
    ids=["none", "raising", "garbage", "identity", "logger"],
)
@settings(max_examples=50)
@given(calls=st.lists(st.tuples(CALLS, KEYWORDS), min_size=1, max_size=3))
def test_nothing_that_is_passed_makes_a_call_raise(options, calls):
    logger = options.get("logger")
    if logger is not None:
        logger.log = broken
    client = klime_mp.Client(enabled=False, **{"logger": silent_logger(), **options})
    for count, ((name, arguments), keywords) in enumerate(calls, 1):
        assert getattr(client, name)(*arguments, **keywords) is None
        stats = client.stats()
        assert_balanced(stats)
        assert stats.tracked == sum(stats.dropped.values()) == count


@given(CALLS, KEYWORDS)
def test_strictly_what_is_raised_is_an_invalid_event_error(call, keywords):
    name, arguments = call
    client = klime_mp.Client(enabled=False, strict=True, logger=silent_logger())
    with contextlib.suppress(InvalidEventError):
        assert getattr(client, name)(*arguments, **keywords) is None
    stats = client.stats()
    assert_balanced(stats)
    assert set(stats.dropped) == {"invalid", "filtered", "too_large", "queue_full", "shutdown", "disabled"}
    assert stats.tracked == 1


@given(CALLS, KEYWORDS)
def test_the_sync_calls_raise_nothing_else(call, keywords):
    name, arguments = call
    client = klime_mp.Client(enabled=False, logger=silent_logger())
    with contextlib.suppress(InvalidEventError):
        assert getattr(client, f"{name}_sync")(*arguments, **keywords) == klime_mp.BatchResponse("disabled", 0, 0)
    assert_balanced(client.stats())


def test_an_invalid_event_is_logged_once_with_what_was_wrong(caplog):
    client = klime_mp.Client(enabled=False)
    for _ in range(3):
        client.track("e", user_id=None)
        client.identify("u", {"object": Raising()})
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "track was dropped: track needs a user_id or a group_id"
    client.shutdown()
    assert caplog.messages[1:] == ["invalid: 5 more"]


def test_an_event_is_encoded_at_the_call():
    """What the caller changes afterwards changes nothing: the event that is kept is bytes."""
    properties = {"list": [1]}
    body = to_json(track(payload=properties))
    properties["list"].append(2)
    assert json.loads(body)["properties"] == {"list": [1]}


class Interrupting(enum.Enum):
    MEMBER = 1

    @property
    def value(self):
        raise KeyboardInterrupt


def test_an_interrupt_passes_and_the_ledger_balances():
    def interrupt(_event):
        raise KeyboardInterrupt

    client = klime_mp.Client(enabled=False, before_send=interrupt)
    with pytest.raises(KeyboardInterrupt):
        client.track("e", {"member": Interrupting.MEMBER}, "u")
    with pytest.raises(KeyboardInterrupt):
        client.track("e", None, "u")
    assert_ledger(client)
