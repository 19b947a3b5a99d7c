"""The end of a client with a spool: what is safe on disk neither keeps it, nor is sent twice, nor forgotten."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest

from klime_mp import _sender
from support.clients import Stopwatch, track, wait_until
from support.ledger import assert_ledger
from support.program import run_program
from support.script import run_script
from support.sockets import SilentServer, closed_port
from support.spool import DOWN, LONG_REST, drain, files, folder_of, is_locked, lines, plant, wait_for_disk

# --- shutdown


def test_shutdown_at_a_dead_endpoint(spooling, spool, seen):
    """It returns soon, the events stay, however often and whatever one asks afterwards."""
    client = spooling(endpoint=f"http://127.0.0.1:{closed_port()}")
    track(client, *range(50))
    with Stopwatch() as took:
        assert client.shutdown() is False
    assert took.seconds < 3
    assert_ledger(client, pending=50)
    (path,) = files(spool)
    assert not is_locked(path)
    client.shutdown()
    client.flush(2000)
    assert_ledger(client, pending=50)
    assert seen.errors == []
    assert files(spool) == [path]


def test_what_a_shutdown_left_is_anybodys(spooling, collector, spool):
    client = spooling()
    collector.faults(DOWN)
    track(client, *range(50))
    client.shutdown()
    client.restart()
    assert_ledger(client, handed_over=50)
    collector.faults()
    track(client, "again")
    assert client.flush(20_000)
    wait_until(lambda: not client.stats().pending, "what it adopted itself")
    stats = drain(spooling, collector)
    assert client.stats().adopted + stats.adopted == 50
    assert Counter(collector.serials()) == Counter([*range(50), "again"])
    assert client.shutdown()


def test_the_same_after_an_exit(collector, tmp_path):
    """What the exit handlers find after a shutdown in vain is on disk, and has not failed."""
    ended = run_program(
        """
        client = klime_mp.Client(retry_initial_delay=50, retry_max_attempts=2, flush_interval=60_000)
        for n in range(50):
            client.track("e", {"serial": n}, user_id=1)
        client.shutdown()
        from klime_mp import _exit
        _exit.run()
        say(failed=client.stats().failed, pending=client.stats().pending, balanced=balanced(client.stats()))
        """,
        collector,
        KLIME_SPOOL_DIR=str(tmp_path),
        KLIME_ENDPOINT=f"http://127.0.0.1:{closed_port()}",
    )
    assert (ended.all("failed"), ended.all("pending"), ended.all("balanced")) == ([0], [50], [True])
    assert len(files(tmp_path)) == 1


def test_a_shutdown_tries_once_more_what_waits(spooling, collector, spool):
    collector.faults({"status": 503})
    client = spooling(**LONG_REST, max_batch_size=5)
    track(client, *range(5))
    wait_for_disk(client, 5)
    with Stopwatch() as took:
        assert client.shutdown() is True
    assert took.seconds < 3
    assert collector.serials() == list(range(5))
    assert_ledger(client, delivered=5)
    assert files(spool) == []


def test_a_shutdown_tries_only_once_more_what_waits(spooling, collector, spool):
    collector.faults(DOWN)
    client = spooling(**LONG_REST)
    track(client, *range(5))
    wait_for_disk(client, 5)
    requests = collector.summary()["requests"]
    with Stopwatch() as took:
        assert client.shutdown() is False
    assert took.seconds < 3
    assert collector.summary()["requests"] == requests + 1
    assert_ledger(client, pending=5)
    (path,) = files(spool)
    assert not is_locked(path)


def test_an_exit_whose_try_was_in_vain_before_it_began_to_wait(spooling, collector):
    """All clients are hurried first, and then waited for one after the other."""
    collector.faults(DOWN)
    client = spooling(**LONG_REST)
    track(client, *range(5))
    wait_for_disk(client, 5)
    sender, dispatch = client._here()._sender, client._here()._dispatch
    in_vain, deadline = dispatch.in_vain, time.monotonic() + 5
    sender.hurry(deadline)
    wait_until(lambda: dispatch.in_vain > in_vain, "its one try")
    with Stopwatch() as took:
        assert not sender.drain(deadline)
    assert took.seconds < 2
    sender.relax(deadline)


@pytest.mark.parametrize(("answer", "arrived"), [({"status": 503}, 5), (DOWN, 0)], ids=["is back", "is down"])
def test_an_exit_tries_once_more_what_waits(collector, tmp_path, answer, arrived):
    collector.faults(answer)
    ended = run_script(
        f"""
        import klime_mp
        client = klime_mp.Client(**{LONG_REST!r}, max_batch_size=5)
        for n in range(5):
            client.track("e", {{"serial": n}}, user_id=1)
        while client._here()._queue.on_disk < 5:
            time.sleep(0.01)
        say(over_at=time.monotonic())
        """,
        collector,
        KLIME_SPOOL_DIR=str(tmp_path),
    )
    assert ended.ended - ended.facts["over_at"] < 3
    assert collector.serials() == list(range(arrived))
    assert len(files(tmp_path)) == (0 if arrived else 1)


def test_a_closed_client_adopts_nothing(spooling, collector, spool, threads, monkeypatch):
    """Least of all what it has just let go of."""
    monkeypatch.setattr(_sender, "LOOK_INTERVAL", 0.0)
    collector.faults(DOWN)
    client = spooling(**LONG_REST)
    track(client, *range(5))
    wait_for_disk(client, 5)
    plant(folder_of(spool, collector), lines(*range(20)))  # the sender sleeps: it has not seen it
    for _ in range(2):
        client.shutdown(100)
        threads.wait_for_none()
        assert_ledger(client, pending=5)
        assert [is_locked(path) for path in files(spool)] == [False, False]


def test_a_shutdown_that_a_hanging_request_outlasts(spooling, spool):
    with SilentServer() as server:
        client = spooling(endpoint=server.url)
        track(client, *range(30))
        with Stopwatch() as took:
            assert client.shutdown(500) is False
        assert 0.4 < took.seconds < 3
        assert_ledger(client, pending=30)
        assert len(files(spool)) == 1
        client.flush(100)
        assert_ledger(client, pending=30)


def test_shutdown_in_a_callback(spooling, collector, spool):
    """It closes the client; what is under way still belongs to this process, and is not delivered again."""
    closed, tracked = [], threading.Event()
    client = spooling(on_success=lambda _: closed.append(tracked.wait(10) and client.shutdown()), on_error=None)
    track(client, *range(60))
    tracked.set()
    collector.wait_for(60)
    wait_until(lambda: client.stats().pending == 0, "the outcomes")
    assert closed[0] is False
    drain(spooling, collector)
    assert Counter(collector.serials()) == Counter(range(60))
    wait_until(lambda: files(spool) == [], "the end of the sender")


def test_a_request_under_way_is_waited_for_though_a_try_was_in_vain(spooling, collector, spool):
    """Its events are safe on disk as well; but it may still be answered, and they would be sent again."""
    collector.faults({"status": 503, "times": 2}, {"delay_ms": 300, "times": None})
    client = spooling(max_batch_size=5, retry_initial_delay=16_000, retry_max_attempts=5)
    track(client, *range(5))
    wait_until(lambda: client._here()._dispatch.in_vain, "the failure of a try")
    track(client, *range(5, 15))
    with Stopwatch() as took:
        client.shutdown(20_000)
    assert took.seconds < 8
    drain(spooling, collector)
    assert files(spool) == []
    assert Counter(collector.serials()) == Counter(range(15))


def test_a_shutdown_that_has_nothing_more_to_try_ends(spooling, collector, spool):
    """The first batch fails, and has had its try; the second is refused for good."""
    collector.faults({"status": 503}, {"status": 400}, DOWN)
    client = spooling(max_batch_size=5, retry_max_attempts=1)
    track(client, *range(4))
    client._here()._sender.hurry(deadline := time.monotonic() + 20)
    wait_for_disk(client, 4)
    track(client, 4)
    with Stopwatch() as took:
        assert client._here()._sender.drain(deadline) is False
    assert took.seconds < 8
    assert_ledger(client, failed=1, pending=4)


def test_after_a_request_that_hangs_nothing_is_left_to_wait_for(spooling, spool):
    with SilentServer() as server:
        client = spooling(endpoint=server.url)
        track(client, 1, 2)
        assert client.shutdown(300) is False
        assert not client._here()._sender.has_work()
        client.restart()
        track(client, 3)
        with Stopwatch() as took:
            client.shutdown(300)
        assert took.seconds < 3
        assert not client._here()._sender.has_work()


def test_what_waits_after_a_restart_does_not_wait_for_an_old_deadline(spooling, collector):
    collector.faults(DOWN)
    client = spooling(max_queue_size=2, retry_max_attempts=1)
    track(client, 1)
    assert client.shutdown(600_000) is False
    client.restart()
    collector.faults()
    track(client, *range(2, 10))
    assert client._here()._queue.on_disk
    assert client.flush(20_000) is True


def test_a_shutdown_beside_a_request_for_later_events_sleeps(spooling, collector):
    """Of two exit handlers the first has given up what was there when it began, and others track meanwhile."""
    collector.faults({"status": 503})
    client = spooling(**LONG_REST, max_batch_size=1)
    track(client, 0)
    wait_for_disk(client, 1)
    collector.faults({"status": 503, "delay_ms": 500}, {"status": 200}, {"status": 503}, {"delay_ms": 2500}, DOWN)
    first = threading.Thread(target=client._here()._drain, args=(8.0,))
    first.start()
    collector.wait_for_requests(2)
    track(client, 1, 2)
    first.join()
    steps = []
    dispatch = client._here()._dispatch
    next_step = dispatch.next_step
    dispatch.next_step = lambda *args, **kwargs: steps.append(1) or next_step(*args, **kwargs)
    client.shutdown(8000)
    assert len(steps) < 100


def test_flush_knows_what_a_shutdown_has_left(spooling, collector):
    collector.faults(DOWN)
    client = spooling()
    track(client, 1, 2)
    assert client.shutdown(5000) is False
    assert client.flush(5000) is False
    assert client.shutdown(5000) is False
    client.restart()
    collector.faults()
    track(client, 3)
    assert client.flush(20_000) is True


def test_a_flush_beside_a_shutdown_does_not_outlast_it(spooling, spool):
    with SilentServer() as server:
        client = spooling(endpoint=server.url)
        track(client, 1, 2)
        assert client.flush(50) is False  # the request is under way
        flushed = []
        beside = threading.Thread(target=lambda: flushed.append(client.flush(30_000)))
        beside.start()
        wait_until(lambda: client._here()._dispatch._waiters, "the flush")
        assert client.shutdown(300) is False
        beside.join(8)
        assert flushed == [False]
        assert_ledger(client, pending=2)


def test_a_client_that_was_closed_in_its_callback_comes_to_rest(spooling, collector, spool, threads):
    """Nobody waits there; the sender itself lets go of what is on disk when the time is up."""
    closed, tracked = [], threading.Event()
    collector.faults({"status": 200}, DOWN)
    client = spooling(
        on_success=lambda _: closed.append(tracked.wait(10) and client.shutdown(500)),
        max_batch_size=2,
        retry_max_attempts=5,
    )
    track(client, *range(4))
    tracked.set()
    wait_until(lambda: closed, "the first answer")
    threads.wait_for_none()
    assert closed == [False]
    assert_ledger(client, delivered=2, pending=2)
    (path,) = files(spool)
    assert not is_locked(path)
