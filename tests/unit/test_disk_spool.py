"""The spool: what is not done is found by the next process, what is done is gone; bounds, folders, interruptions."""

from __future__ import annotations

import itertools
import logging
import os
import stat
import tempfile
import threading
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from test_interruption import AtLine, assert_lock_is_free, interrupt

import klime_mp
import support.values  # noqa: F401 # hypothesis's profile
from klime_mp import _disk_spool, _hold, _host, _segment, _sender, _spool_folder, _steps
from klime_mp._clock import Clock
from klime_mp._config import Config
from klime_mp._disk_spool import DiskSpool
from klime_mp._segment import line
from klime_mp._spool import NoSpool
from support.clients import quiet_logger
from support.ledger import assert_balanced
from support.spool import descriptors, files, forget_files, is_locked, lines, plant, total_bytes

PLENTY = 10**6


@pytest.fixture(autouse=True)
def nothing_is_left_open(tmp_path):
    yield
    forget_files(tmp_path)


class Bench:
    """A spool, and what it said. Bodies are b'"name"'."""

    def __init__(self, base, *, segment_bytes=None, key="key", **options):
        self.said = []
        self.dropped = []
        self.now = 1000.0
        config = Config.resolve({"write_key": key, "spool_dir": str(base), **options}, {})
        clock = Clock()
        clock.monotonic = lambda: self.now
        self.spool = DiskSpool(str(base), config, self.log, clock, clock.lock(), self)
        if segment_bytes is not None:
            self.spool._segment_bytes = segment_bytes
        self.folder = self.spool.folder

    def log(self, kind, level, text, *, count=1):
        self.said.append((level, text))

    def drop_waiting(self, take):
        self.dropping = take()

    def wants_dropped(self):
        return True

    def say_dropped(self, bodies, count):
        assert count == self.dropping[0]
        self.dropped.append((bodies, *self.dropping))

    def let_go(self):
        for segment in self.spool.take_all():
            segment.close()

    def append(self, *bodies):
        return [self.spool.append(body) for body in bodies]

    def take(self, count=100):
        """All that waits."""
        found = []
        while some := self.spool.next(count, PLENTY):
            found += some
        return found

    def names(self):
        return _spool_folder.names(self.folder)


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def numbered(count, size=100):
    return [b'"%0*d"' % (size - 2, number) for number in range(count)]


def test_no_spool_keeps_nothing():
    spool = NoSpool()
    assert spool.append(b"{}") is None
    assert spool.next(10, 10) == []
    assert spool.adopt() == 0
    for method in (spool.acknowledge, spool.put_off):
        method([None])
    for method in (spool.retire, spool.begin):
        method()


def test_there_is_no_folder_before_the_first_event(tmp_path):
    base = tmp_path / "made" / "by us"
    bench = Bench(base)
    assert bench.spool.adopt() == 0
    bench.spool.retire()
    assert not base.exists()
    bench.append(b"{}")
    assert len(files(base)) == 1
    for folder in (base, base / Path(bench.folder).name):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_programs_share_a_folder_and_not_their_events(tmp_path):
    benches = [Bench(tmp_path), Bench(tmp_path, key="other"), Bench(tmp_path, endpoint="http://localhost:1")]
    assert len({bench.folder for bench in benches}) == 3
    (place,) = benches[0].append(b"{}")
    benches[0].let_go()
    assert [bench.spool.adopt() for bench in benches[1:]] == [0, 0]
    assert place.segment.name in benches[0].names()
    assert benches[0].spool.adopt() == 1
    assert all("key" not in str(path.relative_to(tmp_path)) for path in files(tmp_path))


def test_what_is_done_is_gone(bench, tmp_path):
    places = bench.append(*numbered(10))
    bench.spool.acknowledge(places[:9])
    bench.spool.retire()
    assert len(bench.names()) == 1
    bench.spool.acknowledge([None, places[9]])
    bench.spool.retire()
    assert files(tmp_path) == []
    assert descriptors(tmp_path) == []
    bench.append(b"{}")
    assert len(bench.names()) == 1


def test_files_that_are_done_go_while_others_stay(tmp_path):
    bench = Bench(tmp_path, segment_bytes=500)
    places = bench.append(*numbered(50))
    assert len(bench.names()) == 10
    bench.spool.acknowledge(places[20:45])
    assert len(bench.names()) == 5
    bench.spool.acknowledge(places)  # twice, some of them
    bench.spool.retire()


def test_a_full_file_whose_events_are_done_goes_when_the_next_one_begins(tmp_path):
    """A client that is never idle never retires."""
    bench = Bench(tmp_path, segment_bytes=500)
    for body in numbered(100):
        bench.spool.acknowledge(bench.append(body))
    assert len(bench.names()) <= 2


def test_a_file_whose_events_are_all_done_does_not_grow(bench, tmp_path, monkeypatch):
    """Of a busy client, which never retires and whose endpoint is well."""
    monkeypatch.setattr(_disk_spool, "DONE_BYTES", 5000)
    most = 0
    for body in numbered(500):
        bench.spool.acknowledge(bench.append(body))
        most = max(most, total_bytes(tmp_path))
        assert len(bench.names()) <= 1
    assert 2500 < most < 10_000, most


def test_a_file_with_an_event_that_is_not_done_stays(bench, monkeypatch):
    monkeypatch.setattr(_disk_spool, "DONE_BYTES", 5000)
    (kept,) = bench.append(b'"kept"')
    for body in numbered(200):
        bench.spool.acknowledge(bench.append(body))
    assert bench.names() == [kept.segment.name]
    assert kept.is_safe()
    bench.spool.acknowledge([kept])
    assert bench.names() == []


def test_busy_clients_share_a_small_spool(tmp_path, monkeypatch):
    """What is done takes no room that others need."""
    monkeypatch.setattr(_disk_spool, "DONE_BYTES", 5000)
    benches = [Bench(tmp_path, spool_max_bytes=160_000) for _ in range(12)]  # files of 20,000 bytes
    for body in numbered(150, size=200):
        for bench in benches:
            places = bench.append(body)
            assert None not in places
            bench.spool.acknowledge(places)
    assert [bench.said for bench in benches] == [[]] * 12
    assert [bench.dropped for bench in benches] == [[]] * 12


def test_what_waits_comes_back_oldest_first(tmp_path):
    bench = Bench(tmp_path, segment_bytes=500)
    bodies = numbered(30)
    places = bench.append(*bodies)
    assert bench.take() == []
    bench.spool.put_off(places)
    found = bench.take(4)
    assert [body for body, _ in found] == bodies
    assert [place for _, place in found] == places
    bench.spool.acknowledge(place for _, place in found)
    bench.spool.retire()
    assert files(tmp_path) == []


def test_what_waits_of_a_file_that_was_deleted_is_not_lost(tmp_path):
    bench = Bench(tmp_path)
    bodies = numbered(5)
    places = bench.append(*bodies)
    bench.spool.put_off(places)
    Path(places[0].segment.path).unlink()
    assert [body for body, _ in bench.take()] == bodies
    bench.spool.adopt()  # looks after its own as well
    bench.append(b"{}")
    assert len(bench.names()) == 1


def test_what_waits_in_a_file_that_the_program_has_closed_is_anybodys(bench, tmp_path):
    places = bench.append(b"1", b"2")
    bench.spool.put_off(places)
    os.close(places[0].segment._file.number)
    assert bench.take() == []
    assert bench.spool.has_unfinished()  # elsewhere
    assert not bench.spool.has_waiting()
    assert bench.spool.adopt() == 2
    assert [body for body, _ in bench.take()] == [b"1", b"2"]


def test_the_dead_are_adopted_oldest_first_and_one_at_a_time(bench, tmp_path):
    for mark in range(3):
        path = plant(bench.folder, lines(*range(mark + 1)), mark=mark)
        os.utime(path, ns=(10**18 - mark, 10**18 - mark))
    assert bench.spool.adopt() == 3
    assert bench.spool.adopt() == 0
    found = bench.take()
    assert len(found) == 3
    assert bench.spool.adopt() == 0, "they are not done"
    bench.spool.acknowledge(place for _, place in found)
    assert bench.spool.adopt() == 2


def test_one_process_files_can_be_asked_for(bench):
    plant(bench.folder, lines(1), pid=12345)
    plant(bench.folder, lines(1, 2), pid=1234)
    plant(bench.folder, lines(1, 2, 3), pid=234)
    assert bench.spool.adopt(1234) == 2
    assert bench.spool.adopt(1234) == 0
    assert bench.spool.adopt(34) == 0
    assert bench.spool.adopt(234) == 3, "one that is asked for need not wait"


@pytest.mark.parametrize("text", [b"", b"\n\n", lines(1)[:-40], lines(1, 2) + line(0, b'{"done":[[1,2]]}')])
def test_a_file_without_an_event_is_cleared_away(bench, tmp_path, text):
    plant(bench.folder, text)
    assert bench.spool.adopt() == 0
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["README", "1-0.v1.jsonl", f"1-{0:016x}.v2.jsonl", f"x-{0:016x}.v1.jsonl", f"1-{0:016x}.v1.jsonl~", ".nfs1"]
)
def test_what_is_not_ours_is_left_alone(bench, name):
    path = plant(bench.folder, text := lines(1)).rename(Path(bench.folder) / name)
    assert bench.spool.adopt() == 0
    bench.spool.acknowledge(bench.append(b"{}"))
    bench.spool.retire()
    bench.spool._max_bytes = 1
    bench.append(b"{}")
    assert path.read_bytes() == text


def test_damage_is_said_once_and_costs_what_is_damaged(tmp_path, caplog):
    """A line that is skipped is counted and logged."""
    text = lines(1, 2, 3)
    damaged = bytearray(text)
    damaged[len(lines(1)) + 20] ^= 1
    bench = Bench(tmp_path)
    plant(bench.folder, bytes(damaged))
    assert bench.spool.adopt() == 2
    assert len(bench.take()) == 2
    assert any(level >= logging.WARNING and "1" in text for level, text in bench.said), "nobody was told"


# --- the bound


def test_the_oldest_make_room(tmp_path):
    bench = Bench(tmp_path, spool_max_bytes=8000)
    bodies = numbered(300)
    places = []
    most = 0
    for body in bodies:
        places += bench.append(body)
        bench.spool.put_off(places[-1:])
        most = max(most, total_bytes(tmp_path))
    assert all(places)
    gone = [body for some, count, ours in bench.dropped for body in some]
    assert all(ours and count == len(some) for some, count, ours in bench.dropped)
    assert gone == bodies[: len(gone)]
    assert [body for body, _ in bench.take()] == bodies[len(gone) :]
    assert len(gone) < 260, "much more was dropped than had to be"
    assert most <= 8000 + 200, most


def test_an_event_is_not_safe_in_a_file_that_is_about_to_go(tmp_path, monkeypatch):
    """It may be read for a long time; what is left to it alone meanwhile would be lost."""
    bench = Bench(tmp_path, spool_max_bytes=8000)
    places = []
    safe = []
    monkeypatch.setattr(_segment.Segment, "bodies", lambda *_: safe.append(places[0].is_safe()) or [])
    bench.say_dropped = lambda *_: None
    for body in numbered(100):
        places += bench.append(body)
        bench.spool.put_off(places[-1:])
    assert safe
    assert not any(safe)


def test_one_file_is_enough_for_all_threads_that_want_room(tmp_path, monkeypatch):
    """Also when each of them has seen that the spool is full, and reading what is dropped takes a while."""
    bench = Bench(tmp_path, spool_max_bytes=8000)
    while not bench.dropped:
        bench.spool.put_off(bench.append(*numbered(1)))
    while bench.spool._takes_more(bench.spool._current):
        bench.spool.put_off(bench.append(*numbered(1)))
    told = []
    bench.say_dropped = lambda _, count: told.append(count)
    drop_waiting = bench.drop_waiting

    def step(take):
        with bench.spool._lock:
            drop_waiting(take)

    bench.drop_waiting = step
    came, has_read = threading.Barrier(8), threading.Event()
    used, seen = _disk_spool.used, set()

    def all_look_at_once(*args, **kwargs):
        found = used(*args, **kwargs)
        if threading.get_ident() not in seen:
            seen.add(threading.get_ident())
            came.wait(20)
        return found

    monkeypatch.setattr(_disk_spool, "used", all_look_at_once)
    monkeypatch.setattr(_segment.Segment, "bodies", lambda *_: has_read.wait(0.3) and [])
    with ThreadPoolExecutor(8) as pool:
        assert all(place for (place,) in pool.map(bench.append, numbered(8)))
    assert len(told) == 1
    assert not bench.said


def test_the_dead_make_room_too(tmp_path):
    bench = Bench(tmp_path, spool_max_bytes=8000)
    for mark in range(7):
        plant(bench.folder, lines(*range(7)), mark=mark)
    assert total_bytes(tmp_path) > 8000
    assert all(bench.append(*numbered(5)))
    assert {(count, ours) for _, count, ours in bench.dropped} == {(7, "nobody's")}
    assert total_bytes(tmp_path) <= 8000


def test_a_file_of_the_living_does_not(tmp_path):
    """Here another client of this process, as good as another process."""
    other = Bench(tmp_path, spool_max_bytes=8000)
    theirs = other.append(*numbered(60))
    other.spool.put_off(theirs)
    bench = Bench(tmp_path, spool_max_bytes=8000)
    places = list(itertools.chain.from_iterable(bench.append(body) for body in numbered(60)))
    assert None in places, "the spool is full"
    assert [level for level, _ in bench.said] == [logging.ERROR]
    assert other.dropped == []
    assert len(other.take()) == 60


def test_a_file_that_makes_room_is_read_for_who_wants_to_see_it(tmp_path, monkeypatch):
    bench = Bench(tmp_path, spool_max_bytes=8000)
    bench.wants_dropped = lambda: False
    monkeypatch.setattr(os, "pread", None)
    for body in numbered(100):
        bench.spool.put_off(bench.append(body))
    assert bench.dropped
    assert all(not bodies and count for bodies, count, _ in bench.dropped)
    assert bench.said == []


def test_a_file_that_makes_room_and_cannot_be_read_goes_all_the_same(tmp_path, monkeypatch):
    def pread(*_):
        raise OSError(5, "Input/output error")

    bench = Bench(tmp_path, spool_max_bytes=8000)
    monkeypatch.setattr(os, "pread", pread)
    for body in numbered(200):
        bench.spool.put_off(bench.append(body))
    assert len(bench.dropped) > 1
    assert all(not bodies and count for bodies, count, _ in bench.dropped)
    assert bench.said == []
    assert sorted(descriptors(tmp_path)) == sorted(map(str, files(tmp_path)))


def test_room_is_made_while_events_of_that_file_are_under_way(tmp_path):
    """They are in memory, on their way; whoever puts them off is told that they are not safe any more."""
    bench = Bench(tmp_path, spool_max_bytes=8000)
    places = bench.append(*numbered(20))  # in memory
    while Path(places[0].segment.path).exists():
        more = bench.append(*numbered(5))
        bench.spool.put_off(more)
    safe = [place for place in places if place.is_safe()]
    assert len(safe) < len(places)
    bench.spool.put_off(places)  # the endpoint did not take them
    found = {place for _, place in bench.take()}
    assert found.issuperset(safe)


# --- disks


def test_a_disk_that_fails_is_left_alone_for_a_while(tmp_path):
    base = tmp_path / "file"
    base.write_text("not a folder")
    bench = Bench(base)
    assert bench.append(b"1", b"2", b"3") == [None] * 3
    assert [level for level, _ in bench.said] == [logging.ERROR]
    assert "memory" in bench.said[0][1]
    base.unlink()
    assert bench.append(b"4") == [None]
    bench.now += 3600
    assert None not in bench.append(b"5")


@pytest.mark.parametrize("kind", ["symbolic link", "writable by others", "another user's"])
def test_a_folder_that_is_not_ours_alone(tmp_path, kind):
    """Nothing is written there, read there, or removed from there."""
    bench = Bench(tmp_path / "spool")
    folder = tmp_path / "spool" / Path(bench.folder).name
    elsewhere = tmp_path / "elsewhere"
    path = plant(elsewhere, lines(1, 2))
    if kind == "symbolic link":
        folder.parent.mkdir()
        folder.symlink_to(elsewhere)
    else:
        folder.parent.mkdir()
        elsewhere = elsewhere.rename(folder)
        path = elsewhere / path.name
        if kind == "writable by others":
            elsewhere.chmod(0o777)
        elif os.geteuid() == 0:
            os.chown(elsewhere, 12345, 12345)
        else:
            pytest.skip("only root can give a folder away")
    assert bench.append(b"{}") == [None]
    assert bench.spool.adopt() == 0
    assert path.read_bytes().count(b"\n") == 2
    assert list(elsewhere.iterdir()) == [path]


# --- any sequence of steps


@settings(max_examples=60, stateful_step_count=40)
class SpoolMachine(RuleBasedStateMachine):
    """Against a model in which each event is in memory, waits, or is done; and the process may die at any moment."""

    def __init__(self):
        super().__init__()
        self.base = tempfile.TemporaryDirectory()
        self.serials = itertools.count()
        self.memory, self.waiting = {}, set()
        self.begin()

    def begin(self):
        self.bench = Bench(self.base.name, segment_bytes=300)

    @rule(size=st.integers(8, 120), count=st.integers(1, 4))
    def append(self, size, count):
        for _ in range(count):
            body = b'"%0*d"' % (size, next(self.serials))
            (self.memory[body],) = self.bench.append(body)

    @precondition(lambda self: self.memory)
    @rule(data=st.data())
    def acknowledge(self, data):
        bodies = data.draw(st.sets(st.sampled_from(sorted(self.memory)), min_size=1), "bodies")
        self.bench.spool.acknowledge([self.memory.pop(body) for body in bodies])

    @precondition(lambda self: self.memory)
    @rule(data=st.data())
    def put_off(self, data):
        bodies = data.draw(st.sets(st.sampled_from(sorted(self.memory)), min_size=1), "bodies")
        self.bench.spool.put_off([self.memory.pop(body) for body in bodies])
        self.waiting |= bodies

    @rule(count=st.integers(1, 5))
    def next(self, count):
        found = self.bench.spool.next(count, PLENTY)
        assert bool(found) == bool(self.waiting)
        for body, place in found:
            self.waiting.remove(body)
            self.memory[body] = place

    @rule()
    def adopt(self):
        self.bench.spool.adopt()

    @rule()
    def retire(self):
        self.bench.spool.retire()
        if not self.memory and not self.waiting:
            assert files(self.base.name) == []

    @rule(torn=st.sampled_from([b"", b'{"x', b"\n", b"\0\0"]))
    def die(self, torn):
        self.bench.let_go()
        for path in files(self.base.name):
            if torn:
                with path.open("ab") as file:
                    file.write(torn)
        self.begin()
        everything = {}
        while self.bench.spool.adopt():
            for body, place in self.bench.take(7):
                assert body not in everything, "twice"
                everything[body] = place
            for segment in self.bench.spool._segments:
                segment.adopted = False  # so that the next one is looked for
        assert set(everything) == set(self.memory) | self.waiting
        self.memory, self.waiting = everything, set()
        # Files of one age are adopted in any order; hypothesis wants to see the same run twice.
        oldest = {place.segment: body for body, place in sorted(everything.items(), reverse=True)}
        self.bench.spool._segments.sort(key=oldest.__getitem__)

    @invariant()
    def nothing_was_dropped_or_said(self):
        assert self.bench.dropped == []
        assert all(level < logging.ERROR for level, _ in self.bench.said)  # damage is said

    def teardown(self):
        self.bench.spool.acknowledge(self.memory.values())
        self.bench.spool.acknowledge([place for _, place in self.bench.take()])
        self.bench.spool.retire()
        assert files(self.base.name) == []
        assert descriptors(self.base.name) == []
        self.base.cleanup()


test_any_sequence_of_steps = SpoolMachine.TestCase


def test_threads_append_and_acknowledge_at_once(tmp_path):
    bench = Bench(tmp_path, segment_bytes=2000)
    left, errors = {}, []

    def work(name):
        try:
            for number in range(300):
                body = b'"%d-%d"' % (name, number)
                (place,) = bench.append(body)
                if number % 3:
                    bench.spool.acknowledge([place])
                else:
                    left[body] = place
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    assert bench.said == []
    bench.spool.put_off(left.values())
    found = bench.take()
    assert Counter(body for body, _ in found) == dict.fromkeys(left, 1)
    bench.spool.acknowledge(place for _, place in found)
    bench.spool.retire()
    assert files(tmp_path) == []


# --- a client with a spool


def spooling_client(collector, tmp_path, **options):
    here = {"endpoint": collector.endpoint, "spool_dir": str(tmp_path), "logger": quiet_logger(collector.write_key)}
    return klime_mp.Client(collector.write_key, retry_initial_delay=1, **{**here, **options})


def test_an_event_that_leaves_the_memory_just_when_the_sender_looks(collector, tmp_path, monkeypatch, caplog):
    """It is counted as waiting on disk, and must be found there."""
    logger = quiet_logger(collector.write_key)
    logger.addHandler(caplog.handler)
    client = spooling_client(collector, tmp_path, max_queue_size=1, flush_interval=10, logger=logger)
    spool = client._here()._spool
    looked = threading.Event()
    put_off, next_ = spool.put_off, spool.next

    def put_off_late(places):
        if threading.current_thread() is threading.main_thread():
            looked.wait(2)
        put_off(places)

    def next_and_tell(*how):
        found = next_(*how)
        looked.set()
        return found

    monkeypatch.setattr(spool, "put_off", put_off_late)
    monkeypatch.setattr(spool, "next", next_and_tell)
    collector.faults({"delay_ms": 200})
    for n in range(3):
        assert client.track("e", {"serial": n}, user_id=1)
    assert client.flush(10_000)
    assert client.stats().failed == 0
    own = [record for record in caplog.records if record.name == logger.name]
    assert [record.getMessage() for record in own if record.levelno >= logging.ERROR] == []
    assert sorted(collector.serials()) == [0, 1, 2]
    client.shutdown()


@pytest.mark.parametrize("how", ["flush", "shutdown"])
def test_without_threads_the_caller_works_off_what_waits(collector, tmp_path, monkeypatch, how):
    monkeypatch.setattr(_sender, "Thread", NoThread)
    client = spooling_client(collector, tmp_path, max_queue_size=5, flush_interval=60_000)
    for n in range(100):
        assert client.track("e", {"serial": n}, user_id=1)
    assert getattr(client, how)(10_000)
    assert sorted(collector.serials()) == list(range(100))
    client.shutdown()
    assert files(tmp_path) == []


@pytest.mark.parametrize("is_told", [True, False], ids=["by a hook", "by its first event"])
def test_a_process_that_loads_keeps_on_disk_what_it_holds_once_it_serves(collector, tmp_path, monkeypatch, is_told):
    """uWSGI without a master: the process that loads the application is a worker later."""
    loads = True
    monkeypatch.setattr(_host, "only_loads", lambda: loads)
    monkeypatch.setattr(_host, "on_arrival", lambda _arrive: None)
    monkeypatch.setattr(_hold, "_arrivals", [])
    client = spooling_client(collector, tmp_path, flush_interval=60_000)
    ids = [client.track("e", {"serial": n}, user_id=1) for n in range(3)]
    assert files(tmp_path) == []
    loads = False
    if is_told:
        _hold.arrive()
    ids.append(client.track("e", {"serial": 3}, user_id=1))
    (path,) = files(tmp_path)
    assert all(each.encode() in path.read_bytes() for each in ids)
    assert client.shutdown()
    assert sorted(collector.serials()) == [0, 1, 2, 3]
    assert files(tmp_path) == []


def test_a_process_that_loads_and_does_not_win_its_claim_keeps_nothing(collector, tmp_path, monkeypatch):
    loads = True
    monkeypatch.setattr(_host, "only_loads", lambda: loads)
    monkeypatch.setattr(_host, "on_arrival", lambda _arrive: None)
    monkeypatch.setattr(_hold, "_arrivals", [])
    client = spooling_client(collector, tmp_path, flush_interval=60_000)
    client.track("e", {"serial": "held"}, user_id=1)
    assert os.read(client._here()._road.claim._pipe.number, 1)  # another process's
    loads = False
    _hold.arrive()
    client.track("e", {"serial": "own"}, user_id=1)
    (path,) = files(tmp_path)
    assert b"own" in path.read_bytes()
    assert b"held" not in path.read_bytes()
    assert client.stats().handed_over == 1
    assert client.shutdown()
    assert collector.serials() == ["own"]


def deliver_the_rest(collector, tmp_path):
    """What another process would do."""
    other = spooling_client(collector, tmp_path, flush_interval=5)
    while other._adopt():
        assert other._flush_adopted(10_000)
    assert_balanced(other.stats())
    other.shutdown()


CASES = {
    "track, the first event": ({}, 0, "track"),
    "track": ({}, 1, "track"),
    "track, the memory is full": ({"max_queue_size": 2, "flush_interval": 60_000}, 2, "track"),
    "track, a file begins": ({"spool_max_bytes": 400, "flush_interval": 60_000}, 3, "track"),
    "flush": ({"flush_interval": 60_000}, 2, "flush"),
    "shutdown": ({"flush_interval": 60_000}, 2, "shutdown"),
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("threads", [True, False], ids=["", "no threads"])
@pytest.mark.parametrize(("options", "before", "what"), CASES.values(), ids=CASES)
def test_system_exit_at_each_line(collector, tmp_path, monkeypatch, options, before, what, threads):
    monkeypatch.setattr(_steps, "START_PATIENCE", 0.02)
    if not threads:
        monkeypatch.setattr(_sender, "Thread", NoThread)
    step = 2 if threads else 9
    for n in itertools.count(0, step):
        base = tmp_path / str(n)
        collector.clear()
        client = spooling_client(collector, base, **options)
        ids = [client.track("e", {"serial": f"before-{m}"}, user_id=1) for m in range(before)]
        with (at_line := AtLine(n, interrupt)):
            try:
                if what == "track":
                    ids.append(client.track("e", {"serial": "interrupted"}, user_id=1))
                else:
                    getattr(client, what)()
            except SystemExit as error:
                where = struck_at(error)
        if not at_line.reached:
            assert n > 10, "the call was not traced"
            break
        assert_lock_is_free(client)
        assert_balanced(client.stats())
        client.restart()
        ids.append(client.track("e", {"serial": "after"}, user_id=1))
        assert ids[-1], where
        assert client.flush(10_000), f"{where}: the sender is gone"
        assert client.shutdown()
        assert_balanced(client.stats())
        assert client.stats().pending == 0, where
        deliver_the_rest(collector, base)
        # What an interruption has cut off may still be owned by this process: the next one finds it.
        left = b"".join(path.read_bytes() for path in files(base))
        arrived = {event["messageId"] for event in collector.events()}
        lost = [each for each in ids if each and each not in arrived and each.encode() not in left]
        assert len(lost) <= client.stats().dropped["queue_full"], f"{where}: lost, though its messageId was returned"
        forget_files(base)


def struck_at(error):
    frames = traceback.extract_tb(error.__traceback__)
    return " < ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in frames[-3:-6:-1])


class NoThread:
    def __init__(self, **_):
        pass

    def start(self):
        raise RuntimeError("can't start new thread")


def test_a_file_can_be_adopted_after_a_shutdown(collector, tmp_path):
    collector.faults({"status": 503, "times": None})
    client = spooling_client(collector, tmp_path)
    client.track("e", user_id=1)
    (path,) = files(tmp_path)
    assert is_locked(path)
    assert client.shutdown() is False
    assert not is_locked(path)
    collector.faults()
    deliver_the_rest(collector, tmp_path)
    assert len(collector.events()) == 1


@pytest.fixture
def nothing_can_be_deleted(monkeypatch):
    def refused(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "unlink", refused)
    monkeypatch.setattr(os, "ftruncate", refused)


def test_what_is_done_in_a_file_that_cannot_be_deleted_is_noted_there(tmp_path, nothing_can_be_deleted):
    bench = Bench(tmp_path, segment_bytes=10)
    bench.spool.acknowledge(bench.append(b'"a"'))
    (name,) = bench.names()
    assert b'{"done":[[1,1]]}' in (Path(bench.folder) / name).read_bytes()


def test_room_that_cannot_be_made_is_given_up(tmp_path, nothing_can_be_deleted):
    """To ask for the next file, and the next, would never end."""
    bench = Bench(tmp_path, segment_bytes=1000, spool_max_bytes=8000)
    places = bench.append(*numbered(100))
    assert None in places
    assert "cannot be deleted" in bench.said[-1][1]


def test_one_lock(tmp_path):
    """The dispatch's steps ask the spool, and a signal handler that tracks may strike in a step of the spool's."""
    client = klime_mp.Client("key", endpoint="http://127.0.0.1:9", spool_dir=tmp_path, flush_on_shutdown=False)
    client.track("Tested", user_id=1)
    state = client._here()
    assert state._spool._lock is state._dispatch._lock
    assert [segment._lock for segment in state._spool._segments] == [state._dispatch._lock]
    client.shutdown(0)
