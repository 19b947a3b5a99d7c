"""Latches, deadlines, and steps that leave no lock held."""

from __future__ import annotations

import math
import threading

import pytest

from klime_mp._clock import NEVER, Clock, Latch, atomic


def test_a_latch_opens_once_and_for_all():
    latch = Latch()
    assert latch.wait(0) is False
    latch.open()
    latch.open()
    assert latch.wait(NEVER) is True


def test_a_latch_is_opened_from_another_thread():
    latch = Latch()
    threading.Timer(0.01, latch.open).start()
    assert latch.wait(10) is True


@pytest.mark.parametrize("seconds", [-1, -math.inf, 0])
def test_a_wait_that_is_over_before_it_begins(seconds):
    assert Latch().wait(seconds) is False


class Still(Clock):
    monotonic = staticmethod(lambda: 100.0)


@pytest.mark.parametrize(
    ("timeout_ms", "deadline"),
    [(None, NEVER), (1500, 101.5), (0, 100.0), (-5, 100.0), (0.5, 100.0005), (math.inf, NEVER), (1e300, 1e297)],
)
def test_deadline(timeout_ms, deadline):
    assert Still().deadline(timeout_ms) == pytest.approx(deadline)


@pytest.mark.parametrize("bad", ["5", math.nan, True, [], 1j])
def test_bad_timeout_is_named(bad):
    with pytest.raises(ValueError, match="timeout_ms must be a number of milliseconds"):
        Still().deadline(bad)


class Counted:
    def __init__(self):
        self._lock = Clock().lock()

    @atomic
    def nested(self, depth):
        """Its docstring."""
        return 1 + self.nested(depth - 1) if depth else 0

    @atomic
    def fails(self):
        raise KeyError


def test_a_step_may_be_entered_again_and_leaves_the_lock_free():
    counted = Counted()
    assert counted.nested(3) == 3
    with pytest.raises(KeyError):
        counted.fails()
    free = []
    thread = threading.Thread(target=lambda: free.append(counted._lock.acquire(timeout=1)))
    thread.start()
    thread.join()
    assert free == [True]
    assert Counted.nested.__doc__ == "Its docstring."


def test_a_number_beyond_all_floats():
    assert Still().deadline(10**400) == NEVER
    assert Still().deadline(-(10**400)) == Still().monotonic()
