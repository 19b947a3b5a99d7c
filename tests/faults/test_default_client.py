"""The program's default client: made once, from the environment if need be, and replaced without loss."""

from __future__ import annotations

import logging
import threading

import pytest

import klime_mp
from klime_mp import _default
from support.clients import FAST, Stopwatch, track, wait_until
from support.collector import Inbox
from support.ledger import assert_ledger


@pytest.fixture(autouse=True)
def no_default_client(monkeypatch):
    monkeypatch.setattr(_default, "_default", {})
    monkeypatch.setattr(_default, "_complained", set())
    yield
    klime_mp.shutdown(timeout_ms=300)


@pytest.fixture
def environment(collector, monkeypatch):
    monkeypatch.setenv("KLIME_ENDPOINT", collector.endpoint)
    monkeypatch.setenv("KLIME_WRITE_KEY", collector.write_key)
    monkeypatch.setenv("KLIME_FLUSH_INTERVAL", "60000")


def test_configure(collector):
    client = klime_mp.configure(write_key=collector.write_key, endpoint=collector.endpoint, **FAST)
    assert klime_mp.get_client() is client
    assert klime_mp.track("Tested", {"serial": 0}, user_id="user_1")
    assert klime_mp.identify("user_1", {"name": "x"})
    assert klime_mp.group("group_1", {"name": "y"})
    assert klime_mp.flush()
    assert klime_mp.track_sync("Tested", {"serial": 1}, user_id="user_1").accepted == 1
    assert klime_mp.identify_sync("user_1").accepted == 1
    assert klime_mp.group_sync("group_1").accepted == 1
    kinds = [event["type"] for event in collector.events()]
    assert kinds == ["track", "identify", "group", "track", "identify", "group"]
    assert klime_mp.shutdown()
    assert klime_mp.track("Tested", user_id="user_1") is None
    with pytest.raises(klime_mp.SendError):
        klime_mp.track_sync("Tested", user_id="user_1")
    klime_mp.restart()
    assert klime_mp.track("Tested", {"serial": 2}, user_id="user_1")
    assert klime_mp.flush()
    assert_ledger(client, delivered=7, dropped={"shutdown": 2})


def test_from_the_environment_at_first_use(collector, environment):
    assert klime_mp.track("Tested", {"serial": 0}, user_id="user_1")
    assert klime_mp.flush(timeout_ms=10_000)
    assert collector.serials() == [0]
    assert klime_mp.get_client() is klime_mp.get_client()


def test_one_client_whoever_is_first(collector, environment):
    barrier = threading.Barrier(8)
    clients = []

    def use():
        barrier.wait(10)
        clients.append(klime_mp.get_client())

    users = [threading.Thread(target=use) for _ in range(8)]
    for user in users:
        user.start()
    for user in users:
        user.join(10)
    assert len(clients) == 8
    assert len(set(map(id, clients))) == 1


@pytest.mark.parametrize(
    ("variable", "value"),
    [("KLIME_WRITE_KEY", ""), ("KLIME_FLUSH_INTERVAL", "soon"), ("KLIME_ENDPOINT", "ftp://x"), ("KLIME_ENABLED", "si")],
)
def test_one_that_cannot_be_built(collector, environment, monkeypatch, caplog, variable, value):
    monkeypatch.setenv(variable, value)
    for _ in range(3):
        assert klime_mp.track("Tested", {"serial": 0}, user_id="user_1") is None
        assert klime_mp.identify("user_1") is None
        assert klime_mp.group("group_1") is None
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.name == "klime_mp"
    assert variable in record.getMessage()
    assert collector.write_key not in caplog.text
    for call in (
        klime_mp.get_client,
        lambda: klime_mp.track_sync("Tested", user_id="user_1"),
        lambda: klime_mp.identify_sync("user_1"),
        lambda: klime_mp.group_sync("group_1"),
    ):
        with pytest.raises(klime_mp.ConfigurationError, match=variable):
            call()
    assert klime_mp.flush() is True
    assert klime_mp.shutdown() is True
    monkeypatch.setenv(
        variable, {"KLIME_WRITE_KEY": collector.write_key, "KLIME_ENDPOINT": collector.endpoint}.get(variable, "1")
    )
    assert klime_mp.track("Tested", {"serial": 1}, user_id="user_1")  # as soon as it can be
    assert klime_mp.flush()
    assert collector.serials() == [1]


def test_without_a_client(threads):
    assert klime_mp.flush() is True
    assert klime_mp.flush(timeout_ms=1) is True
    assert klime_mp.shutdown() is True
    klime_mp.restart()
    assert not threads.now()


def test_configure_again_shuts_the_previous_one_down_first(collector, collector_process):
    previous = klime_mp.configure(write_key=collector.write_key, endpoint=collector.endpoint, **FAST)
    klime_mp.track("Tested", {"serial": 0}, user_id="user_1")
    with Inbox(collector_process) as other:
        current = klime_mp.configure(write_key=other.write_key, endpoint=other.endpoint, **FAST)
        assert collector.serials() == [0]  # already
        assert_ledger(previous, delivered=1)
        assert previous.track("Tested", user_id="user_1") is None
        klime_mp.track("Tested", {"serial": 1}, user_id="user_1")
        assert klime_mp.get_client() is current
        assert klime_mp.flush()
        assert other.serials() == [1]
        assert collector.serials() == [0]


def test_configure_with_a_mistake_changes_nothing(collector):
    client = klime_mp.configure(write_key=collector.write_key, endpoint=collector.endpoint, **FAST)
    for options in ({}, {"write_key": "k", "flush_interval": -1}, {"write_key": "k", "no_such_option": 1}):
        with pytest.raises(klime_mp.ConfigurationError):
            klime_mp.configure(**options)
    assert klime_mp.get_client() is client
    track(client, 0)
    assert klime_mp.flush()


def test_configure_again_while_the_endpoint_hangs(collector, seen):
    options = {"write_key": collector.write_key, "endpoint": collector.endpoint, **FAST, "shutdown_timeout": 400}
    previous = klime_mp.configure(**options, **seen.callbacks())
    collector.faults({"hang": True})
    klime_mp.track("Tested", {"serial": 0}, user_id="user_1")
    with Stopwatch() as took:
        klime_mp.configure(**options)
    assert took.seconds < 0.4 + 0.5 + 0.3  # and a client is built
    assert_ledger(previous, failed=1)
    # The sender may have written the outcome at that very moment; then it tells of it, and nobody waits any more.
    wait_until(seen.failed, "the report")
    assert seen.failed() == [0]


def test_set_client(make_client, collector):
    first, second = make_client(), make_client()
    klime_mp.set_client(first)
    assert klime_mp.get_client() is first
    klime_mp.track("Tested", {"serial": 0}, user_id="user_1")
    klime_mp.set_client(first)  # itself again: nothing happens
    assert_ledger(first, pending=1)
    klime_mp.set_client(second)
    assert collector.serials() == [0]
    assert first.track("Tested", user_id="user_1") is None
    klime_mp.track("Tested", {"serial": 1}, user_id="user_1")
    assert klime_mp.flush()
    assert collector.serials() == [0, 1]
    with pytest.raises(TypeError):
        klime_mp.set_client("client")
    assert klime_mp.get_client() is second


def test_restart_reaches_every_live_client(make_client, collector):
    clients = [make_client() for _ in range(3)]
    for client in clients:
        client.shutdown()
    klime_mp.restart()
    for serial, client in enumerate(clients):
        track(client, serial)
        assert client.flush()
    assert collector.serials() == [0, 1, 2]


def test_the_name_of_the_official_sdk():
    assert klime_mp.KlimeClient is klime_mp.Client
