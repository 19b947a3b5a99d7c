"""A client with a spool, and what goes wrong: the endpoint, the disk, the bound, the folder."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

import klime_mp
from klime_mp import _sender
from klime_mp.integrations.gunicorn import child_exit
from support.clients import Stopwatch, error_lines, track, wait_until
from support.ledger import assert_balanced, assert_ledger
from support.program import run_program
from support.sockets import SilentServer, closed_port
from support.spool import (
    DOWN,
    descriptors,
    drain,
    files,
    folder_of,
    forget_files,
    lines,
    plant,
    total_bytes,
    wait_for_disk,
)

# --- a clean run


def test_nothing_is_made_before_the_first_event(spooling, spool, threads):
    client = spooling()
    client.flush()
    client.restart()
    client.track_sync("Tested", {"serial": 1}, user_id=1)
    assert not spool.exists()
    assert not threads.now()
    track(client, 2)
    assert len(files(spool)) == 1


def test_sync_calls_do_not_touch_the_spool(spooling, collector, spool):
    client = spooling()
    track(client, 1)
    (path,) = files(spool)
    before = path.read_bytes()
    client.track_sync("Tested", {"serial": 2}, user_id=1)
    collector.faults(DOWN)
    with pytest.raises(klime_mp.SendError):
        client.track_sync("Tested", {"serial": 3}, user_id=1, timeout_ms=300)
    assert files(spool) == [path]
    assert path.read_bytes() == before
    assert_ledger(client, delivered=1, failed=1, pending=1)


def test_an_event_is_on_disk_before_track_returns(spooling, spool):
    client = spooling()
    for n in range(20):
        (message_id,) = track(client, n)
        assert message_id.encode() in b"".join(path.read_bytes() for path in files(spool))


def test_invalid_and_refused_events_are_not_on_disk(spooling, spool):
    client = spooling(before_send=lambda event: None)
    assert client.track("Tested", user_id=1) is None
    assert client.track("", user_id=1) is None
    assert spooling(enabled=False).track("Tested", user_id=1) is None
    closed = spooling()
    closed.shutdown()
    assert closed.track("Tested", user_id=1) is None
    assert files(spool) == []


@pytest.mark.parametrize("answer", [{"status": 400}, {"reject": [0, 1]}, {"status": 413, "times": None}])
def test_an_event_that_has_its_outcome_is_gone(spooling, collector, seen, spool, answer):
    collector.faults(answer)
    client = spooling()
    track(client, 1, 2)
    assert client.flush()
    assert client.shutdown()
    assert files(spool) == []
    assert sorted(seen.failed()) == [1, 2]


def test_ten_thousand_batches_leave_nothing(spooling, collector, spool, threads):
    """No descriptor, no file, no duplicate; while they last, files come and go."""
    client = spooling(max_batch_size=1, spool_max_bytes=200_000)
    open_before = len(descriptors("/"))
    for n in range(0, 10_000, 100):
        track(client, *range(n, n + 100))
        assert client.flush()
        assert len(descriptors(spool)) <= 10
    assert client.shutdown()
    threads.wait_for_none()
    assert files(spool) == []
    assert Counter(collector.serials()) == Counter(range(10_000))
    assert len(descriptors("/")) <= open_before
    assert_ledger(client, delivered=10_000)


def test_the_file_goes_with_the_sender(spooling, spool, threads):
    clients = [spooling(flush_interval=10) for _ in range(3)]
    for n, client in enumerate(clients):
        track(client, n)
    threads.wait_for_none()
    assert files(spool) == []
    assert descriptors(spool) == []


# --- the endpoint is down


def test_flush_does_not_wait_for_an_endpoint_that_is_down(spooling, collector):
    client = spooling(retry_initial_delay=20_000, retry_max_attempts=5, max_batch_size=100)
    collector.faults(DOWN)
    track(client, *range(50))
    with Stopwatch() as took:
        assert client.flush() is False
    assert took.seconds < 8
    assert_ledger(client, pending=50)


def test_flush_does_not_wait_for_a_back_off_that_has_begun(spooling, collector):
    client = spooling(retry_initial_delay=20_000, retry_max_attempts=5, flush_interval=10)
    collector.faults(DOWN)
    track(client, 1)
    collector.wait_for_requests(1)
    wait_until(lambda: client._here()._dispatch.in_vain, "the failure of a try")
    with Stopwatch() as took:
        assert client.flush(9000) is False
    assert took.seconds < 8


def test_a_backlog_of_an_outage(spooling, collector, spool, seen):
    """It costs disk, not memory; it comes back once, and new events do not queue behind it."""
    count, window = 100_000, 500
    client = spooling(flush_interval=100, max_queue_size=window, max_batch_size=100)
    collector.faults(DOWN)
    most = 0
    for n in range(count):
        assert client.track("Tested", {"serial": n}, user_id="user_1")
        if n % 500 == 0:
            most = max(most, len(client._here()._queue))
    assert most <= window
    assert client.flush() is False
    assert_ledger(client, pending=count)
    collector.faults()
    wait_until(lambda: client.stats().delivered, "the end of the outage", 20)
    began = time.monotonic()
    track(client, "new")
    wait_until(lambda: "new" in collector.serials(), "a new event", 5)
    took = time.monotonic() - began
    left = client.stats().pending
    assert left > 1000, "nothing was shown: the backlog was gone"
    assert took < 5
    wait_until(lambda: not client.stats().pending, "all of the backlog", 90)
    assert_ledger(client, delivered=count + 1)
    assert Counter(collector.serials()) == Counter([*range(count), "new"])
    assert seen.errors == seen.drops == []
    assert client.shutdown()
    assert files(spool) == []


def test_memory_in_an_outage(collector, tmp_path):
    """What 100,000 events cost beyond the first 2,000 is a small part of their size."""
    ended = run_program(
        """
        import gc, tracemalloc
        client = klime_mp.Client(retry_initial_delay=50, retry_max_attempts=2, max_queue_size=500, flush_interval=50)
        tracemalloc.start()
        sizes = []
        for n in range(102_000):
            assert client.track("e", {"serial": n, "pad": "x" * 300}, user_id=1)
            if n in (1_999, 101_999):
                gc.collect()
                sizes.append(tracemalloc.get_traced_memory()[0])
        assert client.stats().pending == 102_000 and balanced(client.stats())
        say(sizes=sizes)
        client.shutdown(1)
        """,
        collector,
        KLIME_SPOOL_DIR=str(tmp_path),
        KLIME_ENDPOINT=f"http://127.0.0.1:{closed_port()}",
    )
    before, after = ended.all("sizes")
    assert after - before < 1_500_000, (before, after)  # the events are 50 MB
    assert total_bytes(tmp_path) > 50_000_000


# --- the bound


def test_the_spools_bound(spooling, collector, spool, seen):
    client = spooling(spool_max_bytes=100_000, max_queue_size=50, flush_interval=50)
    collector.faults(DOWN)
    most = 0
    for n in range(2000):
        assert client.track("Tested", {"serial": n}, user_id="user_1")
        most = max(most, total_bytes(spool)) if n % 20 == 0 else most
    assert most <= 105_000, most
    assert client.flush() is False
    stats = client.stats()
    assert_balanced(stats)
    assert stats.failed == 0
    assert 1000 < stats.dropped["queue_full"] < 1900
    assert len(seen.drops) == stats.dropped["queue_full"]
    collector.faults()
    wait_until(lambda: not client.stats().pending, "the rest", 30)
    stats = client.stats()
    assert (stats.failed, stats.delivered) == (0, 2000 - stats.dropped["queue_full"])
    dropped = {serial for serial, reason in seen.dropped() if reason == "queue_full"}
    assert Counter(collector.serials()) == Counter(set(range(2000)) - dropped)
    assert len([serial for serial in dropped if serial > 1900]) == 0
    assert seen.errors == []


def test_a_spool_smaller_than_the_memory(spooling, collector, spool, seen):
    """Each event has one end, and whoever asked to be told is told."""
    client = spooling(spool_max_bytes=20_000, max_queue_size=200, flush_interval=50)
    collector.faults(DOWN)
    for n in range(1000):
        assert client.track("Tested", {"serial": n}, user_id="user_1")
    assert client.flush() is False
    collector.faults()
    wait_until(lambda: not client.stats().pending, "the rest", 30)
    stats = client.stats()
    assert_balanced(stats)
    assert stats.failed == len(seen.failed())
    assert stats.dropped["queue_full"] == len(seen.drops)
    assert Counter([*collector.serials(), *(serial for serial, _ in seen.dropped())]) == Counter(range(1000))


def test_a_dead_processs_events_make_room(spooling, collector, spool, seen):
    folder = folder_of(spool, collector)
    for mark in range(5):
        plant(folder, lines(*(f"{mark}-{n}" for n in range(100)), pad="x" * 50), mark=mark)
    collector.faults(DOWN)
    client = spooling(spool_max_bytes=100_000, max_queue_size=50)
    track(client, *range(20))
    stats = client.stats()
    assert stats.dropped["queue_full"] == len(seen.drops) > 0
    assert {serial.partition("-")[0] for serial, _ in seen.dropped()} < set("01234")
    assert_balanced(stats)
    assert total_bytes(spool) <= 105_000


ROOM_FOR_THREE = {"spool_max_bytes": 24_000, "max_batch_size": 100}
LARGE = {"pad": "x" * 8000}  # a file for each


def almost_full(make, inbox, **options):
    """A client whose spool has no room for a fourth event: the first is on disk only, two more in memory as well."""
    inbox.faults(DOWN)
    client = make(**{**ROOM_FOR_THREE, "retry_initial_delay": 16_000, "retry_max_attempts": 1, **options})
    track(client, 0, **LARGE)
    assert client.flush() is False
    wait_for_disk(client, 1)
    track(client, 1, 2, **LARGE)
    return client


def test_room_is_made_while_the_sender_looks(spooling, collector, spool, seen, monkeypatch):
    """To read what is dropped takes time, in which it neither waits nor has gone."""
    client = almost_full(spooling, collector, retry_initial_delay=200)
    waiting, looked, patience = client._here()._spool, threading.Event(), [0.4]
    really_next, really_pread = waiting.next, os.pread

    def next_(*how):
        found = really_next(*how)
        looked.set()
        return found

    def pread(*arguments):
        if patience and threading.current_thread() is threading.main_thread():
            looked.wait(patience.pop())
        return really_pread(*arguments)

    monkeypatch.setattr(waiting, "next", next_)
    monkeypatch.setattr(os, "pread", pread)
    track(client, 3, **LARGE)
    monkeypatch.undo()
    assert client._here()._queue.on_disk >= 0
    assert_balanced(client.stats())
    collector.faults()
    wait_until(lambda: client.flush(2000), "the outcomes")
    assert client._here()._queue.on_disk == 0
    assert_ledger(client, delivered=3, dropped={"queue_full": 1})
    assert collector.serials() == [1, 2, 3]
    assert seen.dropped() == [(0, "queue_full")]


def test_a_file_that_makes_room_and_cannot_be_read(spooling, collector, spool, seen, caplog, monkeypatch):
    client = almost_full(spooling, collector)
    (oldest,) = [path for path in files(spool) if b'"serial":0' in path.read_bytes()]

    def pread(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", pread)
    track(client, 3, **LARGE)
    monkeypatch.undo()
    assert not oldest.exists()
    assert sorted(descriptors(spool)) == sorted(map(str, files(spool)))
    assert_ledger(client, pending=3, dropped={"queue_full": 1})
    assert error_lines(caplog) == []
    collector.faults()
    assert client.shutdown()
    assert collector.serials() == [1, 2, 3]
    assert files(spool) == []


@pytest.mark.parametrize("on_drop", [None, print], ids=["nobody", "somebody"])
def test_what_is_dropped_is_read_for_who_wants_to_see_it(spooling, collector, monkeypatch, on_drop):
    client = almost_full(spooling, collector, on_drop=on_drop)
    really_pread, readers = os.pread, []

    def pread(*arguments):
        readers.append(threading.current_thread())
        return really_pread(*arguments)

    monkeypatch.setattr(os, "pread", pread)
    track(client, 3, **LARGE)
    monkeypatch.undo()
    assert (threading.main_thread() in readers) is (on_drop is not None)
    assert_ledger(client, pending=3, dropped={"queue_full": 1})


# --- disks


def memory_mode_works(client, collector, caplog, *serials):
    track(client, *serials)
    assert client.flush()
    assert Counter(collector.serials()) == Counter(serials)
    errors = error_lines(caplog)
    assert len(errors) == 1, errors
    assert "memory" in errors[0]


def test_a_file_in_the_place_of_the_folder(spooling, collector, spool, caplog):
    spool.write_text("mine")
    memory_mode_works(spooling(), collector, caplog, *range(30))
    assert spool.read_text() == "mine"


def test_a_symbolic_link_in_the_place_of_the_folder(spooling, collector, spool, tmp_path, caplog):
    planted = plant(tmp_path / "elsewhere", lines("secret"))
    folder = folder_of(spool, collector)
    folder.parent.mkdir()
    folder.symlink_to(planted.parent)
    memory_mode_works(spooling(), collector, caplog, *range(30))
    assert files(planted.parent) == [planted]


@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "FIFO", "folder", "another user's", "note"])
def test_what_is_planted_in_the_folder(spooling, collector, spool, tmp_path, caplog, kind):
    if kind == "another user's" and os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    folder = folder_of(spool, collector)
    path = plant(folder, text := lines("planted"))
    elsewhere = tmp_path / "elsewhere"
    if kind in ("symbolic link", "hard link", "note"):
        path.rename(elsewhere)
    if kind == "symbolic link":
        path.symlink_to(elsewhere)
    elif kind == "hard link":
        path.hardlink_to(elsewhere)
    elif kind == "note":
        (folder / "note").write_text("mine")
    elif kind == "another user's":
        os.chown(path, 12345, 12345)
    else:
        path.unlink()
        os.mkfifo(path) if kind == "FIFO" else path.mkdir()
    client = spooling(flush_interval=10, spool_max_bytes=3000)  # it has to make room, too
    for n in range(100):
        track(client, n)
        if n % 10 == 0:
            assert client.flush()
    assert client.shutdown()
    assert Counter(collector.serials()) == Counter(range(100))
    assert not elsewhere.exists() or elsewhere.read_bytes() == text
    if kind == "another user's":
        assert path.read_bytes() == text
    else:
        assert len(list(folder.iterdir())) == 1, "what is not ours was cleared away"


def test_the_folder_is_deleted_while_it_is_used(spooling, collector, spool, caplog, monkeypatch):
    monkeypatch.setattr(_sender, "LOOK_INTERVAL", 0.05)
    client = spooling(flush_interval=10)
    collector.faults(DOWN)
    track(client, *range(30))
    shutil.rmtree(spool)
    tracked = 30

    def is_there_again():
        nonlocal tracked
        track(client, tracked)
        tracked += 1
        return files(spool)

    wait_until(is_there_again, "the folder")
    collector.faults()
    wait_until(lambda: not client.stats().pending, "the outcomes")
    assert Counter(collector.serials()) == Counter(range(tracked))
    assert_ledger(client, delivered=tracked)
    assert error_lines(caplog) == []


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root can mount a file system")
def test_a_full_disk(spooling, collector, spool, caplog):
    spool.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(spool)], check=False)
    if mounted.returncode:
        pytest.skip("mounting is not permitted here")
    try:
        client = spooling(flush_interval=60_000, max_queue_size=10_000)
        collector.faults(DOWN)
        for n in range(1000):
            track(client, n)
        assert len(error_lines(caplog)) == 1
        assert client.flush() is False or client.stats().failed
        collector.faults()
        client.flush(20_000)
        wait_until(lambda: not client.stats().pending, "the outcomes", 20)
        stats = client.stats()
        assert_balanced(stats)
        arrived = Counter(collector.serials())
        assert sum(arrived.values()) == len(arrived) == stats.delivered
        assert stats.delivered + stats.failed == 1000
        client.shutdown()
    finally:
        forget_files(spool)
        subprocess.run(["umount", "-l", str(spool)], check=True)


def test_a_limit_on_the_size_of_files(collector, tmp_path):
    """Nothing raises; what does not fit is in memory; after the process's death the rest is whole."""
    ended = run_program(
        """
        import resource, logging
        class Lines(list, logging.Handler):
            handle = list.append
            level = logging.INFO
        lines = Lines()
        logging.getLogger("klime_mp").addHandler(lines)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
        client = klime_mp.Client(flush_interval=60_000, max_batch_size=100)
        pid = os.fork()
        if not pid:
            for n in range(99):
                assert client.track("e", {"serial": n}, user_id=1)
            assert [line.levelno for line in lines] == [logging.ERROR], [line.getMessage() for line in lines]
            stats = client.stats()
            assert balanced(stats) and stats.pending == 99
            os._exit(0)
        assert join(pid) == 0
        while client._adopt():
            assert client._flush_adopted(10_000)
        say(adopted=client.stats().adopted)
        """,
        collector,
        KLIME_SPOOL_DIR=str(tmp_path),
    )
    (adopted,) = ended.all("adopted")
    assert 20 < adopted < 90
    assert collector.serials() == list(range(adopted))
    assert files(tmp_path) == []


def no_space(*_):
    raise OSError(28, "No space left on device")


def test_a_shutdown_with_events_that_found_no_space(spooling, collector, spool, monkeypatch):
    """One try in vain is enough for those on disk. Those in memory only have all their tries."""
    client = spooling()
    track(client, "on disk")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", no_space)
        track(client, *range(5))
    collector.faults({"status": 503})
    assert client.shutdown() is True
    assert collector.serials() == ["on disk", *range(5)]
    assert_ledger(client, delivered=6)
    assert files(spool) == []


@pytest.mark.parametrize("cut", [-1, -30], ids=["lacks its newline", "is torn"])
def test_what_a_full_disk_has_is_delivered_all_the_same(spooling, collector, spool, monkeypatch, cut):
    """Whose owner died in the middle of a line: nothing can be written, and this is what makes room."""
    plant(folder_of(spool, collector), lines(1, 2, 3)[:cut])
    monkeypatch.setattr(os, "write", no_space)
    drain(spooling, collector)
    whole = [1, 2, 3] if cut == -1 else [1, 2]
    assert collector.serials() == whole
    assert files(spool) == []


def test_a_shutdown_while_the_master_looks_after_its_file(spooling, spool, monkeypatch):
    client = spooling()
    track(client, 1)
    really_lstat, shutdowns = os.lstat, [threading.Thread(target=client.shutdown)]

    def lstat(path, *rest):
        found = really_lstat(path, *rest)
        if shutdowns and str(path).startswith(str(spool)) and threading.current_thread() is threading.main_thread():
            thread = shutdowns.pop()
            thread.start()
            thread.join()
        return found

    monkeypatch.setattr(os, "lstat", lstat)
    child_exit(None, SimpleNamespace(pid=99999999))
    assert shutdowns == []


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EACCES], ids=errno.errorcode.get)
def test_no_locks(spooling, collector, spool, caplog, monkeypatch, number):
    """As on some network file systems; as under AppArmor or SELinux."""
    fcntl = pytest.importorskip("fcntl")

    def lockf(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", lockf)
    memory_mode_works(spooling(), collector, caplog, *range(30))
    assert files(spool) == []
    assert descriptors(spool) == []


def test_a_read_that_fails_costs_nothing(spooling, collector, monkeypatch):
    """An error of the disk that passes: what is there is there still."""
    client = spooling(flush_interval=10, max_queue_size=5)
    collector.faults(DOWN)
    track(client, *range(50))
    assert client.flush() is False
    really_pread, failures = os.pread, [1]

    def pread(*arguments):
        if failures:
            failures.pop()
            raise OSError(5, "Input/output error")
        return really_pread(*arguments)

    monkeypatch.setattr(os, "pread", pread)
    for segment in client._here()._spool._segments:
        segment._ahead.clear()  # what was read ahead would need no reading
    collector.faults()
    wait_until(lambda: not failures and not client.stats().pending, "the outcomes", 20)
    assert_ledger(client, delivered=50)
    assert Counter(collector.serials()) == Counter(range(50))


# --- other people's events


def test_flush_does_not_wait_for_what_others_tracked(spooling, collector, spool):
    """A worker that adopts a large backlog goes on answering requests, which flush."""
    plant(folder_of(spool, collector), lines(*range(2000)))
    collector.faults({"delay_ms": 40, "times": None})
    client = spooling(flush_interval=10)
    assert client._adopt() == 2000
    wait_until(lambda: client.stats().delivered, "a part of the backlog")
    track(client, "mine")
    flushed = client.flush(8000)
    assert client.stats().pending > 100, "nothing was shown: the backlog was gone"
    assert flushed
    collector.faults()
    wait_until(lambda: not client.stats().pending, "the rest", 30)


@pytest.mark.parametrize("how", ["flush", "shutdown"])
def test_ones_own_events_on_disk_go_first(spooling, collector, spool, how):
    plant(folder_of(spool, collector), lines(*range(4000)))
    collector.faults({"delay_ms": 1500}, {"delay_ms": 40, "times": None})
    client = spooling(flush_interval=10, max_queue_size=20, max_batch_size=20)
    assert client._adopt() == 4000
    own = [f"own-{n}" for n in range(40)]
    track(client, *own)
    assert client._here()._queue.on_disk, "nothing is shown: all of them are in memory"
    assert getattr(client, how)(8000)
    assert client.stats().pending > 100, "nothing was shown: the backlog was gone"
    assert sorted(serial for serial in collector.serials() if str(serial).startswith("own")) == sorted(own)


def test_what_arrived_damaged_is_said(spooling, collector, spool, caplog):
    text = bytearray(lines(1, 2, 3))
    text[30] ^= 1
    plant(folder_of(spool, collector), bytes(text))
    stats = drain(spooling, collector)
    assert (stats.adopted, stats.delivered, stats.failed) == (2, 2, 0)
    assert collector.serials() == [2, 3]
    assert caplog.records, "nobody was told"


def test_what_had_to_make_room_is_told_at_a_shutdown(spooling, spool, seen):
    """It is in memory only, there is no time, and its file is gone: it does not vanish without a word."""
    with SilentServer() as silent:
        client = spooling(endpoint=silent.url, spool_max_bytes=20_000, flush_interval=20, max_batch_size=100)
        ids = [client.track("Tested", {"serial": n, "text": "x" * 200}, user_id=1) for n in range(200)]
        assert not client.shutdown(300)
    kept = b"".join(Path(file).read_bytes() for file in files(spool)).decode()
    told = [event["messageId"] for event, reason in seen.drops if reason == "queue_full"]
    assert [each for each in ids if each not in kept and each not in told] == []
    assert len(told) == client.stats().dropped["queue_full"] > 0


SIGNALS_AND_A_THREAD = """
import signal, threading, time
import klime_mp

client = klime_mp.Client(endpoint="http://127.0.0.1:9", max_queue_size=20, max_batch_size=10, flush_on_shutdown=False)
calls = [0, 0]
def in_handler(*_):
    client.track("In handler", user_id=1)
    calls[0] += 1
    signal.setitimer(signal.ITIMER_REAL, 0.0007)
def in_thread():
    while True:
        client.track("In thread", user_id=1)
        calls[1] += 1
signal.signal(signal.SIGALRM, in_handler)
threading.Thread(target=in_thread, daemon=True).start()
signal.setitimer(signal.ITIMER_REAL, 0.001)
until = time.monotonic() + 3
while time.monotonic() < until:
    client.track("Tested", user_id=1)
signal.setitimer(signal.ITIMER_REAL, 0)
say(handled=calls[0], tracked=calls[1])
"""


def test_signal_handlers_that_track_beside_another_thread(collector, tmp_path):
    """Neither waits for a lock of the dispatch's with one of the spool's in hand."""
    ended = run_program(SIGNALS_AND_A_THREAD, collector, KLIME_SPOOL_DIR=str(tmp_path))
    assert ended.all("handled")[0] > 50
    assert ended.all("tracked")[0] > 50


def test_a_flush_in_a_handler_that_struck_in_a_step_of_the_spool(spooling):
    """The sender cannot go on before the handler returns: not a moment is waited."""
    client = spooling()
    track(client, 0)
    with client._here()._spool._lock, Stopwatch() as took:
        assert not client.flush(5000)
    assert took.seconds < 1
