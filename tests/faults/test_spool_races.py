"""A client with a spool, whose sender is in the middle of something: no event is let go of and sent."""

from __future__ import annotations

from collections import Counter

import pytest

from klime_mp._segment import Segment
from support.clients import track, wait_until
from support.ledger import assert_balanced, assert_ledger
from support.pause import Pause
from support.spool import DOWN, descriptors, drain, files, folder_of, is_locked, lines, plant

SERIALS = list(range(60))


@pytest.fixture(params=["its own", "adopted"])
def backlog(request, spooling, collector, spool):
    """A function that makes a client with 60 events that wait in the spool, and has its sender begin with them."""

    def make():
        client = spooling(flush_interval=10, max_batch_size=20, retry_initial_delay=100, retry_max_attempts=1)
        if request.param == "adopted":
            plant(folder_of(spool, collector), lines(*SERIALS))
            return client, client._adopt
        collector.faults(DOWN)
        track(client, *SERIALS)
        wait_until(lambda: client._here()._queue.on_disk == 60, "the failure of the first tries")
        return client, collector.faults

    return make


def assert_nothing_is_negative(client):
    queue = client._here()._queue
    assert min(queue.on_disk, queue.adopted_on_disk, queue.let_go) >= 0
    assert_balanced(client.stats())


def test_a_shutdown_while_the_sender_reads(spooling, backlog, collector, spool, threads):
    client, begin = backlog()
    with Pause(client._here()._spool, "next", after=True) as pause:
        begin()
        pause.wait()
        client.shutdown(200)
        assert_nothing_is_negative(client)
        drain(spooling, collector)
    threads.wait_for_none()
    assert_nothing_is_negative(client)
    drain(spooling, collector)
    assert Counter(collector.serials()) == Counter(SERIALS)
    assert files(spool) == descriptors(spool) == []
    client.restart()
    track(client, "again")
    assert client.flush(5000)
    assert client._flush_adopted(5000)
    assert client.stats().pending == 0


def test_what_a_shutdown_let_go_of_is_not_dropped(spooling, backlog, collector, seen, threads):
    """Whoever comes back from reading it finds an endpoint that fails, too."""
    client, begin = backlog()
    with Pause(client._here()._spool, "next", after=True) as pause:
        begin()
        pause.wait()
        client.shutdown(200)
        collector.faults(DOWN)
    threads.wait_for_none()
    drain(spooling, collector)
    assert Counter(collector.serials()) == Counter(SERIALS)
    assert seen.drops == seen.errors == []
    assert_nothing_is_negative(client)
    assert client.stats().failed == 0


def test_a_deadline_between_the_outcome_and_its_note(spooling, collector, spool, threads):
    client = spooling()
    track(client, *range(5))
    with Pause(client._here()._spool, "acknowledge") as pause:
        client.flush(0)
        pause.wait()
        client.shutdown(200)
        drain(spooling, collector)
    threads.wait_for_none()
    drain(spooling, collector)
    assert collector.serials() == list(range(5))
    assert_ledger(client, delivered=5)
    assert files(spool) == []


def test_a_file_that_is_let_go_of_while_it_is_read(spooling, collector, spool, threads):
    """Another client of the process has it when nobody uses the descriptor: closing that costs the lock."""
    path = plant(folder_of(spool, collector), lines(*SERIALS))
    one, other = spooling(flush_interval=10, max_batch_size=20), spooling(flush_interval=10)
    with Pause(Segment, "_read") as pause:
        one._adopt()
        pause.wait()
        one.shutdown(200)
        assert other._here()._spool.adopt() == 0
    threads.wait_for_none()
    assert other._here()._spool.adopt() == 60
    assert is_locked(path)
    for segment in other._here()._spool.take_all():
        segment.close()
    drain(spooling, collector)
    assert Counter(collector.serials()) == Counter(SERIALS)


def test_a_restart_while_the_sender_lets_go(spooling, collector, spool):
    """What is tracked after it keeps its file, whenever the sender looked last."""
    client = spooling()
    track(client, 1)
    with Pause(client._here()._dispatch, "let_go") as pause:
        client.shutdown()
        pause.wait()
        client.restart()
        track(client, 2)
        (path,) = files(spool)
        pause.see_it_off()
    assert is_locked(path)
    assert_ledger(client, delivered=1, pending=1)
    assert client.flush()
    assert collector.serials() == [1, 2]
