"""What one `track` does, counted and not timed: the interpreter's instructions and the calls into C.

The same on every machine and under every load. The limits have a third to spare; whoever needs more has a reason.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections import Counter

import pytest

import klime_mp
from klime_mp import _encoding

PROPERTIES = {"report": "Quarterly", "rows": 42, "seconds": 12.75, "scheduled": False, "filter": {"team": "sales"}}

# Of CPython 3.10 to 3.13, the most is 527 instructions and 15 calls.
MOST_INSTRUCTIONS = 700
MOST_CALLS = 20

# Calls that are counted, of which the least counts: the first call of a second writes that second anew.
TIMES = 3


@pytest.fixture
def tracking(collector):
    """Makes a `client.track` that is warm: the sender is asleep, its thread is there, and no batch is due."""
    with contextlib.ExitStack() as clients:

        def make(**options):
            client = clients.enter_context(
                klime_mp.Client(
                    collector.write_key,
                    endpoint=collector.endpoint,
                    flush_interval=600_000,
                    max_batch_size=100,
                    **options,
                )
            )

            def call():
                assert client.track("Report Exported", PROPERTIES, "user_123", "org_456")

            for _ in range(10):
                call()
            return call

        yield make


@pytest.fixture
def track(tracking):
    return tracking()


def instructions(call):
    """Instructions that the interpreter runs in the package."""
    return min(_instructions(call) for _ in range(TIMES))


def _instructions(call):
    count = 0

    def trace(frame, event, _):
        nonlocal count
        if "klime_mp" not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    sys._getframe().f_trace_opcodes = True  # CPython 3.12 looks whether any frame wants them before it traces
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(None)
    assert count, "nothing was counted"
    return count


def c_calls(call):
    """Calls of functions written in C, by name."""
    return min((_c_calls(call) for _ in range(TIMES)), key=Counter.total)


def _c_calls(call):
    found = Counter()

    def note(_frame, event, function):
        if event == "c_call":
            found[function.__name__] += 1

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    del found["setprofile"]
    return found


@pytest.mark.skipif(_encoding.orjson is None, reason="orjson is not installed")
def test_a_call_is_short(track):
    assert instructions(track) <= MOST_INSTRUCTIONS
    assert c_calls(track).total() <= MOST_CALLS


def test_a_full_queue_costs_less_than_a_call(tracking):
    """As when the endpoint is down: each event that comes makes the oldest one go."""
    assert instructions(tracking(max_queue_size=5)) <= 1.7 * instructions(tracking())


@pytest.mark.skipif(_encoding.orjson is None, reason="orjson is not installed")
def test_each_thing_is_done_once(track):
    calls = c_calls(track)
    assert calls["dumps"] == calls["getpid"] == calls["monotonic"] == calls["time"] == 1, calls
    assert calls["append"] <= 2, calls  # the event, and what is nested in its properties
    assert not calls.keys() & {"urandom", "uuid4", "strftime", "allocate_lock", "release", "acquire"}, calls


def test_a_payload_that_is_twice_as_long_costs_no_more_than_twice(track, monkeypatch):
    """What the count can see of a check that is made in a loop within a loop."""
    one = instructions(track)
    monkeypatch.setitem(PROPERTIES, "more", {str(n): n for n in range(100)})
    two = instructions(track)
    monkeypatch.setitem(PROPERTIES, "more", {str(n): n for n in range(200)})
    assert instructions(track) - two <= 1.1 * (two - one)


def test_the_sender_is_woken_once_a_batch(collector):
    with klime_mp.Client(
        collector.write_key, endpoint=collector.endpoint, flush_interval=600_000, max_batch_size=10
    ) as client:
        dispatch = client._here()._dispatch
        wakes = Counter()
        wake = dispatch._wake
        dispatch._wake = lambda: (wakes.update([os.getpid()]), wake())
        for _ in range(100):
            client.track("e", user_id=1)
        assert wakes.total() <= 11
