"""Track, stop, restart, shutdown and flush in every order of their atomic steps: no event is left behind.

Two threads: really every order. Three and more: every order with at most two preemptions. The number of schedules is
asserted so that a scenario that no longer interleaves anything is noticed.
"""

from __future__ import annotations

import pytest

from support.roads import stepped_road
from support.schedule import every_schedule

pytestmark = pytest.mark.timeout(600)  # thousands of schedules: half a minute, and minutes on a busy machine


def test_an_event_while_the_sender_stops(monkeypatch):
    """Deciding to stop and accepting an event are one step each, whichever comes first."""

    def scenario(schedule):
        road = stepped_road(schedule, monkeypatch)
        road.track(1)  # from here there are two threads: the sender with this event, and the task
        schedule.run(lambda: road.track(2))
        road.assert_arrived(1, 2)

    assert every_schedule(scenario, time_jumps=3) > 1000


def test_two_events_and_a_sender_that_stops(monkeypatch):
    def scenario(schedule):
        road = stepped_road(schedule, monkeypatch)
        schedule.run(lambda: road.track(1), lambda: road.track(2))
        road.assert_arrived(1, 2)

    assert every_schedule(scenario, preemptions=2) > 100


def test_an_event_after_a_flush(monkeypatch):
    def scenario(schedule):
        road = stepped_road(schedule, monkeypatch, flush_interval=1)

        def one_after_the_other():
            road.track(1)
            road.flush(None)
            road.track(2)

        schedule.run(one_after_the_other)
        road.assert_arrived(1, 2)

    assert every_schedule(scenario, preemptions=2) > 500


def test_track_and_flush(monkeypatch):
    def scenario(schedule):
        road = stepped_road(schedule, monkeypatch, max_batch_size=1)
        flushed = []

        def track_and_flush():
            road.track(1)
            flushed.append(road.flush(None))
            assert 1 in road.arrived

        schedule.run(track_and_flush, lambda: road.track(2))
        assert flushed == [True]
        road.assert_arrived(1, 2)

    assert every_schedule(scenario, time_jumps=0, preemptions=2) > 200


def test_track_and_shutdown(monkeypatch):
    """Either the event was accepted, and arrives, or it was refused, and the caller knows."""

    def scenario(schedule):
        road = stepped_road(schedule, monkeypatch)
        accepted = []

        def track():
            accepted.extend(serial for serial in (1, 2) if road.track(serial))

        schedule.run(track, lambda: road.shutdown(600_000))
        assert road.closed
        road.assert_arrived(*accepted)

    assert every_schedule(scenario, time_jumps=0, preemptions=2) > 100


def test_track_shutdown_and_restart(monkeypatch):
    def scenario(schedule):
        road = stepped_road(schedule, monkeypatch)
        accepted = []

        def track():
            if road.track(1):
                accepted.append(1)

        def close_and_open():
            road.shutdown(600_000)
            road.restart()
            assert road.track(2)
            accepted.append(2)

        schedule.run(track, close_and_open)
        assert not road.closed
        road.assert_arrived(*accepted)

    assert every_schedule(scenario, time_jumps=0, preemptions=2) > 100


def test_restart_in_the_middle(monkeypatch):
    def scenario(schedule):
        road = stepped_road(schedule, monkeypatch)
        schedule.run(lambda: road.track(1), road.restart)
        road.assert_arrived(1)

    assert every_schedule(scenario, preemptions=2) > 100


def test_two_shutdowns(monkeypatch):
    def scenario(schedule):
        road = stepped_road(schedule, monkeypatch)
        road_closed = []

        def track_and_close():
            road.track(1)
            road_closed.append(road.shutdown(600_000))

        schedule.run(track_and_close, lambda: road_closed.append(road.shutdown(600_000)))
        assert road_closed == [True, True]
        stats = road.stats()
        assert stats.delivered + stats.dropped["shutdown"] == 1
        assert stats.pending == 0

    assert every_schedule(scenario, time_jumps=0, preemptions=2) > 500


def test_a_shutdown_gives_up_nothing_after_a_restart(monkeypatch):
    """Its deadline passes at any moment: what is tracked after the restart is not its business."""

    def scenario(schedule):
        road = stepped_road(schedule, monkeypatch)
        accepted = []

        def reopen_and_track():
            road.restart()
            if road.track(1):
                accepted.append(1)

        schedule.run(lambda: road.shutdown(1), reopen_and_track)
        stats = road.stats()
        assert stats.pending == 0
        assert stats.delivered + stats.failed == len(accepted)
        if stats.failed:  # only if the shutdown began after the restart
            assert road.closed

    assert every_schedule(scenario, time_jumps=1, preemptions=0) > 5
