from __future__ import annotations

import contextlib
import gc
import itertools
from collections import deque
from functools import partial

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from test_interruption import AtLine

import support.values  # noqa: F401 # hypothesis's profile
from klime_mp._batch import Batch, bodies_of
from klime_mp._queue import Queue
from klime_mp._stats import Ledger
from support.ledger import assert_balanced

NOW = 1000.0


def test_what_is_adopted_comes_before_everything_for_every_flush():
    held, mine = Bench(), Bench()
    held.append(b"1", b"2", b"3")
    mine.append(b"4")  # a thread was faster than the adoption
    held.queue.prepare(lambda _body: None)
    mine.queue.adopt(held.queue)
    assert mine.take(2).bodies() == [b"1", b"2"]
    assert mine.queue.unfinished(1)
    assert mine.queue.head()[0] < 1
    assert mine.ledger.adopted == 3
    assert held.queue.head() is None


def test_what_was_tracked_after_the_hand_over_began_is_not_handed_over():
    bench = Bench()
    bench.append(b"1", b"2")
    held = bench.queue.last_serial
    bench.append(b"3")  # a signal handler
    bench.queue.hand_over(held)
    assert bench.take().bodies() == [b"3"]
    assert bench.ledger.handed_over == 2


def test_the_garbage_collector_does_not_walk_the_queue():
    bench = Bench()
    bench.append(*(str(number).encode() for number in range(100)))
    gc.collect()
    assert not any(map(gc.is_tracked, bench.queue.waiting))


class Bench:
    """A queue, its ledger, and short words for both. Bodies are serials, as bytes, unless told otherwise."""

    def __init__(self, *, max_events=1000, max_bytes=10**6):
        self.ledger = Ledger()
        self.queue = Queue(self.ledger, max_events=max_events, max_bytes=max_bytes)

    def append(self, *bodies):
        """The bodies that had to leave."""
        return [left for body in bodies for left in bodies_of(self.queue.append(body, NOW))]

    def take(self, max_events=100, max_bytes=10**6):
        return self.queue.take(max_events, max_bytes)

    def take_alone(self, body):
        batch = Batch(alone=True)
        self.queue.take_alone(batch, body, NOW)
        return batch

    def waiting(self):
        return bodies_of(self.queue.waiting)

    def stats(self):
        stats = self.ledger.snapshot(self.queue.pending())
        assert_balanced(stats)
        return stats


@pytest.fixture
def bench():
    return Bench()


def interrupt(_bench):
    raise SystemExit


@pytest.mark.parametrize("bounds", [{"max_events": 2}, {"max_bytes": 5}], ids=str)
@pytest.mark.parametrize("act", [lambda bench: bench.append(b"nested"), interrupt], ids=["nested", "interrupted"])
def test_the_bytes_are_those_of_the_events_whatever_strikes_an_eviction(act, bounds):
    """A signal handler may track, or raise, at any line."""
    for n in itertools.count():
        bench = Bench(**bounds)
        bench.append(b"1", b"22")
        with contextlib.suppress(SystemExit), (at_line := AtLine(n, partial(act, bench))):
            bench.append(b"333")
        assert bench.queue._bytes == sum(map(len, bench.waiting())), f"line {n}"
        bench.stats()
        if not at_line.reached:
            assert n > 10, "the eviction was not traced"
            break


def test_a_batch_is_the_oldest_events_in_order(bench):
    bench.append(b"1", b"2", b"3")
    batch = bench.take(max_events=2)
    assert batch.bodies() == [b"1", b"2"]
    assert [serial for serial, _, _, _ in batch.entries] == [1, 2]
    assert {since for _, since, _, _ in batch.entries} == {NOW}
    assert bench.waiting() == [b"3"]
    assert (len(bench.queue), bench.queue.pending(), bench.queue.head()[0]) == (1, 3, 3)


def test_an_empty_queue(bench):
    assert bench.queue.head() is None
    assert bench.take().bodies() == []
    assert bench.queue.pending() == 0


@pytest.mark.parametrize(
    ("max_bytes", "count"),
    [(5, 1), (9, 1), (10, 1), (11, 2), (16, 2), (17, 3), (100, 3)],  # 5 + comma + 5 + comma + 5
)
def test_the_commas_count(bench, max_bytes, count):
    bench.append(b"aaaaa", b"bbbbb", b"ccccc")
    assert len(bench.take(max_bytes=max_bytes).entries) == count


def test_an_event_larger_than_a_body_goes_alone(bench):
    bench.append(b"x" * 50, b"y")
    assert bench.take(max_bytes=10).bodies() == [b"x" * 50]


def test_the_oldest_leaves_a_full_queue():
    bench = Bench(max_events=2)
    assert bench.append(b"1", b"2", b"3", b"4") == [b"1", b"2"]
    assert bench.waiting() == [b"3", b"4"]
    assert bench.stats().dropped["queue_full"] == 2
    assert bench.stats().tracked == 4


def test_bytes_are_bounded():
    bench = Bench(max_bytes=10)
    assert bench.append(b"aaaa", b"bbbb", b"cc") == []
    assert bench.append(b"dddddd") == [b"aaaa", b"bbbb"]
    assert bench.waiting() == [b"cc", b"dddddd"]


def test_an_event_larger_than_the_queue_is_dropped_itself():
    bench = Bench(max_bytes=10)
    assert bench.append(b"a", b"b" * 11) == [b"a", b"b" * 11]
    assert bench.stats().dropped["queue_full"] == 2
    assert bench.append(b"c" * 10) == []


def test_what_is_in_flight_takes_room_and_is_never_dropped():
    bench = Bench(max_events=3)
    bench.append(b"1", b"2", b"3")
    batch = bench.take(max_events=2)
    assert bench.append(b"4", b"5") == [b"3", b"4"]
    assert batch.bodies() == [b"1", b"2"]
    bench.queue.settle(batch, delivered=2)
    assert bench.append(b"6", b"7") == []


def test_an_outcome_is_written_once(bench):
    bench.append(b"1", b"2", b"3")
    batch = bench.take()
    assert bodies_of(bench.queue.settle(batch, delivered=1, rejected=1, failed=1)) == [
        b"1",
        b"2",
        b"3",
    ]
    assert bench.queue.settle(batch, failed=3) == []
    stats = bench.stats()
    assert (stats.delivered, stats.rejected, stats.failed, stats.pending) == (1, 1, 1, 0)


def test_a_batch_is_halved_the_first_half_first(bench):
    bench.append(b"1", b"2", b"3")
    batch = bench.take()
    first, second = bench.queue.split(batch)
    assert (first.bodies(), second.bodies()) == ([b"1", b"2"], [b"3"])
    assert batch.bodies() == []
    assert bench.queue.split(batch) == []
    assert bench.stats().pending == 3


def test_what_is_put_back_waits_before_all_others(bench):
    bench.append(b"1", b"2", b"3")
    batch = bench.take(max_events=2)
    bench.append(b"4")
    bench.queue.put_back(batch)
    assert bench.waiting() == [b"1", b"2", b"3", b"4"]
    assert bench.queue.settle(batch, failed=2) == []


def test_what_a_flush_waits_for(bench):
    bench.append(b"1", b"2", b"3")
    assert not bench.queue.unfinished(0)
    batch = bench.take(max_events=2)
    assert bench.queue.unfinished(1)
    bench.queue.settle(batch, delivered=2)
    assert bench.queue.unfinished(2)  # its callbacks are running
    bench.queue.finish(batch)
    assert not bench.queue.unfinished(2)
    assert bench.queue.unfinished(3)


def test_a_half_is_waited_for_as_the_whole_was(bench):
    bench.append(b"1", b"2")
    batch = bench.take()
    first, second = bench.queue.split(batch)
    for done in (batch, first):
        bench.queue.settle(done, delivered=len(done.entries))
        bench.queue.finish(done)
    assert bench.queue.unfinished(2)
    bench.queue.settle(second, delivered=1)
    bench.queue.finish(second)
    assert not bench.queue.unfinished(2)


def test_a_sync_calls_event_is_pending_and_nobodys_to_wait_for():
    bench = Bench(max_events=1)
    batch = bench.take_alone(b"alone")
    assert bench.stats().pending == 1
    assert bench.queue.batches() == []
    assert not bench.queue.unfinished(10)
    bench.queue.settle(batch, delivered=1)
    bench.queue.finish(batch)
    assert bench.stats().delivered == 1


def test_everything_up_to_an_event_can_be_taken_at_once(bench):
    bench.append(*[b"x" * size for size in range(50)])
    assert [serial for serial, _, _, _ in bench.queue.take_up_to(30).entries] == list(range(1, 31))
    assert len(bench.queue.take_up_to(1000).entries) == 20
    assert bench.waiting() == []


def test_finishing_twice_is_harmless(bench):
    batch = bench.take()
    bench.queue.finish(batch)
    bench.queue.finish(batch)


MAX_EVENTS, MAX_BYTES = 8, 120


@settings(max_examples=100, stateful_step_count=40)
class QueueMachine(RuleBasedStateMachine):
    """Any sequence of steps, against a model in which each event is in one named place."""

    def __init__(self):
        super().__init__()
        self.bench = Bench(max_events=MAX_EVENTS, max_bytes=MAX_BYTES)
        self.queue = self.bench.queue
        self.waiting = deque()
        self.flying = []  # (batch, the bodies it should hold)
        self.outcomes = dict.fromkeys(("delivered", "rejected", "failed"), 0)
        self.tracked = self.dropped = 0

    def body(self, size):
        """Bodies tell events apart."""
        self.tracked += 1
        return str(self.tracked).encode().rjust(size, b"0")

    def in_memory(self):
        bodies = [*self.waiting, *(body for _, held in self.flying for body in held)]
        return len(bodies), sum(map(len, bodies))

    @rule(size=st.integers(3, 40))
    def append(self, size):
        body = self.body(size)
        self.waiting.append(body)
        leaving = []
        while self.waiting and (self.in_memory()[0] > MAX_EVENTS or self.in_memory()[1] > MAX_BYTES):
            leaving.append(self.waiting.popleft())
        self.dropped += len(leaving)
        assert self.bench.append(body) == leaving

    @rule(max_events=st.integers(1, 10), max_bytes=st.integers(0, 100))
    def take(self, max_events, max_bytes):
        batch = self.queue.take(max_events, max_bytes)
        held = batch.bodies()
        assert held == [self.waiting.popleft() for _ in held]
        assert len(held) <= max_events
        assert len(held) <= 1 or len(b",".join(held)) <= max_bytes
        if self.waiting and len(held) < max_events:
            assert len(b",".join([*held, self.waiting[0]])) > max_bytes, "there was room for one more"
        self.flying.append((batch, held))

    @rule(size=st.integers(3, 40))
    def take_alone(self, size):
        body = self.body(size)
        self.flying.append((self.bench.take_alone(body), [body]))

    @rule()
    def take_everything(self):
        self.flying.append((self.queue.take_up_to(self.queue.last_serial), list(self.waiting)))
        self.waiting.clear()

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), twice=st.booleans())
    def settle(self, data, twice):
        batch, held = data.draw(st.sampled_from(self.flying), "batch")
        delivered = data.draw(st.integers(0, len(held)), "delivered")
        rejected = data.draw(st.integers(0, len(held) - delivered), "rejected")
        counts = {"delivered": delivered, "rejected": rejected, "failed": len(held) - delivered - rejected}
        assert bodies_of(self.queue.settle(batch, **counts)) == held
        if twice:
            assert self.queue.settle(batch, failed=len(held)) == []
        for name, count in counts.items():
            self.outcomes[name] += count
        held.clear()

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def split(self, data):
        batch, held = data.draw(st.sampled_from(self.flying), "batch")
        halves = self.queue.split(batch)
        assert [body for half in halves for body in half.bodies()] == held
        assert len(halves) == min(2, len(held))
        assert all(abs(len(half.entries) - len(held) / 2) <= 0.5 for half in halves)
        assert all(half.alone is batch.alone for half in halves)
        held.clear()
        self.flying += [(half, half.bodies()) for half in halves]

    @precondition(lambda self: any(not batch.alone for batch, _ in self.flying))
    @rule(data=st.data())
    def put_back(self, data):
        batch, held = data.draw(st.sampled_from([one for one in self.flying if not one[0].alone]), "batch")
        self.queue.put_back(batch)
        self.waiting.extendleft(reversed(held))
        held.clear()

    @precondition(lambda self: any(not held for _, held in self.flying))
    @rule(data=st.data())
    def finish(self, data):
        done = data.draw(st.sampled_from([one for one in self.flying if not one[1]]), "batch")
        self.queue.finish(done[0])
        self.flying.remove(done)

    @invariant()
    def each_event_is_where_it_should_be(self):
        assert self.bench.waiting() == list(self.waiting)
        assert [batch.bodies() for batch, _ in self.flying] == [held for _, held in self.flying]
        assert set(self.queue.batches()) == {batch for batch, _ in self.flying if not batch.alone}

    @invariant()
    def the_ledger_balances(self):
        stats = self.bench.stats()
        assert {name: getattr(stats, name) for name in self.outcomes} == self.outcomes
        assert (stats.tracked, stats.dropped["queue_full"]) == (self.tracked, self.dropped)
        assert (stats.pending, self.queue._bytes) == self.in_memory()

    @invariant()
    def a_flush_is_told_what_is_unfinished(self):
        if not self.waiting and all(batch.alone for batch, _ in self.flying):
            assert not self.queue.unfinished(self.queue.last_serial)
        if self.waiting:
            assert self.queue.unfinished(self.queue.last_serial)

    def teardown(self):
        """When all has its outcome nothing is left."""
        self.take_everything()
        for batch, held in self.flying:
            self.queue.settle(batch, failed=len(held))
            self.queue.finish(batch)
        assert (self.queue.pending(), self.queue._bytes, self.queue._taken) == (0, 0, set())


test_any_sequence_of_steps = QueueMachine.TestCase
