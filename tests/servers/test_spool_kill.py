"""SIGKILL at random moments under the real servers: with a spool, what was tracked arrives.

Each test prints how many events came twice: those whose process was killed between the answer and the note of it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from signal import SIGKILL

import pytest
from program import Program, exists
from scenarios import NEVER

from support.spool import DOWN

SOON = 100  # milliseconds, for `flush_interval`: a worker that is killed is often in the middle of sending
VISITORS = 4
BATCH = 20  # events, `max_batch_size`
PAUSE = 0.01  # seconds between two requests of a visitor

# A family of processes that track; it does not end by itself.
FAMILY = """
import os, sys, time
from journal import track
for _ in range(int(sys.argv[1])):
    if os.fork() == 0:
        break
while True:
    track("Worked")
    time.sleep(0.002)
"""

# The same, with a new file for every dozen events.
ROTATING = "import klime_mp._disk_spool\nklime_mp._disk_spool.SEGMENT_BYTES = 4_000" + FAMILY


class Moments:
    """Random moments, and the seed that they come from."""

    def __init__(self):
        self.seed = random.randrange(2**32)
        self._random = random.Random(self.seed)

    def wait(self, most, least=0.0):
        time.sleep(self._random.uniform(least, most))

    def choose(self, pids):
        return self._random.choice(sorted(pids))


@pytest.fixture
def moments():
    return Moments()


def options(folder, **more):
    return {"spool_dir": folder / "spool", **more}


def children(pid):
    """The living children of a process."""
    found = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread has just ended
            found |= {int(child) for child in path.read_text().split()}
    return {child for child in found if exists(child)}


def kill_workers(server, moments, times, most, work=lambda: None):
    """SIGKILL so many times to a child of the server's master, at most `most` seconds apart; they are replaced."""
    found = []

    def found_some():
        found[:] = children(server.pid)
        return found

    for _ in range(times):
        work()
        moments.wait(most)
        server.wait_until(found_some, "a worker is there")
        with contextlib.suppress(ProcessLookupError):
            os.kill(moments.choose(found), SIGKILL)


@contextlib.contextmanager
def visitors(server):
    """Requests without end, until the block ends."""
    over = threading.Event()

    def visit():
        while not over.wait(PAUSE):
            server.get()

    threads = [threading.Thread(target=visit) for _ in range(VISITORS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def start_drain(program):
    return subprocess.Popen(
        [sys.executable, "-m", "klime_mp.cli", "drain"],
        env=program._environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def drain(program):
    """What is left is delivered, and nothing stays behind."""
    process = start_drain(program)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 0, said
    left = [path for folder in (program.folder / "spool").iterdir() for path in folder.iterdir()]
    assert not left, said


def assert_nothing_lost(program, inbox, moments, kills, at_once=1, batch=BATCH):
    """Each event of the journal arrived; what arrived more often has the same messageId, and is a batch a kill at most.

    An event whose process was killed before it could write the journal may have arrived as well, `at_once` of them.
    """
    tracked = Counter(serial for _, serial in program.journal())
    ids = defaultdict(list)
    for event in inbox.events():
        ids[event["properties"]["serial"]].append(event["messageId"])
    twice = {serial: found for serial, found in ids.items() if len(found) > 1}
    copies = sum(len(found) - 1 for found in twice.values())
    summary = (
        f"seed {moments.seed}: {kills} kills, {len(tracked)} tracked, {len(ids)} arrived, "
        f"{copies} copies ({copies / len(tracked):.2%})"
    )
    print(summary)
    lost = sorted(set(tracked) - set(ids))
    assert not lost, f"{summary}, lost {lost}\n{program.log()[-5000:]}"
    assert all(len(set(found)) == 1 for found in twice.values()), f"{summary}; {twice}"
    assert copies <= kills * batch, summary
    unknown = set(ids) - set(tracked)
    assert len(unknown) <= kills * at_once, f"{summary}; nobody tracked {sorted(unknown)}"


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("sync", "announcing_hooks.py"),
        ("sync", "announcing.py"),
        ("gthread", "announcing.py"),
        ("gevent", "announcing.py"),
    ],
    ids=["sync, our hooks", "sync", "gthread", "gevent"],
)
def test_gunicorn(kind, config, collector, tmp_path, moments):
    pytest.importorskip("gunicorn")
    if kind == "gevent":
        pytest.importorskip("gevent")
    from scenarios.gunicorn import KINDS, Server  # noqa: PLC0415 # loads gunicorn

    chosen = next(each for each in KINDS if each.name == kind)
    klime = options(tmp_path, flush_interval=SOON)
    with Server(tmp_path, collector, chosen, preload=True, config=config, klime=klime) as server:
        with visitors(server):
            kill_workers(server, moments, 50, 0.2)
        server.settle()
        server.stop()
    drain(server)
    assert_nothing_lost(server, collector, moments, 50, at_once=VISITORS)


def test_uwsgi(collector, tmp_path, moments):
    pytest.importorskip("pyuwsgi")
    from uwsgi_process import Uwsgi  # noqa: PLC0415 # as above

    # uWSGI takes two workers that die in a second for a mistake of the application's, and waits.
    quick = ("--master", "--forkbomb-delay", "0")
    with Uwsgi(tmp_path, collector, *quick, klime=options(tmp_path, flush_interval=SOON)) as server:
        collector.wait_for(1)  # what the master tracked: the worker that has it is not to be killed before it keeps it
        with visitors(server):
            kill_workers(server, moments, 30, 0.2)
        server.wait_until(lambda: server.get("/ready") == 200, "ready again")
        server.stop()
    drain(server)
    assert_nothing_lost(server, collector, moments, 30)


@pytest.mark.parametrize("processes", [1, 2])
def test_uwsgi_without_a_master(processes, collector, tmp_path):
    """The process that loaded the application serves it: what it held, and what it tracks, is on disk."""
    pytest.importorskip("pyuwsgi")
    from uwsgi_process import Uwsgi  # noqa: PLC0415 # as above

    collector.faults(DOWN)  # what it held it sends at once
    klime = options(tmp_path, flush_interval=NEVER)
    with Uwsgi(tmp_path, collector, "--processes", processes, klime=klime) as server:
        assert server.load(10) == 10
        tracked = [serial for _, serial in server.journal()]
        kept = b"".join(path.read_bytes() for path in (tmp_path / "spool").glob("*/*"))
    assert len(tracked) == 11
    assert [serial for serial in tracked if f'"{serial}"'.encode() not in kept] == []
    collector.faults()
    drain(server)
    assert Counter(collector.serials()) == Counter(tracked)


@pytest.mark.skipif(
    importlib.util.find_spec("celery") is None or shutil.which("redis-server") is None, reason="no Celery, or no Redis"
)
def test_celery_prefork(collector, tmp_path, moments):
    from celery_process import CeleryWorker, RedisBroker  # noqa: PLC0415 # as above

    klime = options(tmp_path, flush_interval=SOON)
    pool = ("--pool", "prefork", "--concurrency", "2")
    # Not the broker of files: with that one Celery's processes share a queue, and its lock dies with who holds it.
    with RedisBroker() as broker, CeleryWorker(tmp_path, collector, *pool, broker=broker, klime=klime) as worker:
        worker.send(*["work"] * 20)
        worker.wait_for_events(10)
        kill_workers(worker, moments, 20, 0.5, lambda: worker.send(*["work"] * 20))
        worker.send(*["work"] * 10)
        seen = len(worker.journal())
        worker.wait_for_events(seen + 1)
        worker.stop()
    drain(worker)
    assert_nothing_lost(worker, collector, moments, 20)


def kill_a_family(folder, inbox, moments, klime, size=4):
    """All processes at once, parent and children, each with events that it has not sent."""
    with Program(folder, inbox, "python", "-c", FAMILY, size, klime=klime) as family:
        family.wait_until(lambda: len(list((folder / "spool").glob("*/*"))) > size, "all of them have tracked")
        family.wait_for_events(100 * (size + 1))
        moments.wait(0.2)
    return family  # the end of the block kills the process group


def test_a_whole_process_group(collector, tmp_path, moments):
    # Full batches are sent, so that some are in the middle of it.
    family = kill_a_family(tmp_path, collector, moments, options(tmp_path, flush_interval=NEVER))
    assert len(list((tmp_path / "spool").glob("*/*"))) == 5
    drain(family)
    assert_nothing_lost(family, collector, moments, 5)


def test_killed_in_the_middle_of_draining(collector, tmp_path, moments):
    family = kill_a_family(tmp_path, collector, moments, options(tmp_path, flush_interval=NEVER))
    collector.faults({"delay_ms": 500, "times": None})
    kills = 0
    for _ in range(8):
        before = collector.summary()["requests"]
        process = start_drain(family)
        while process.poll() is None and collector.summary()["requests"] == before:
            time.sleep(PAUSE)
        moments.wait(0.2)
        kills += process.poll() is None
        process.kill()
        process.communicate()
    assert kills > 2
    collector.faults()
    drain(family)
    assert_nothing_lost(family, collector, moments, 5 + kills)


def test_killed_in_the_middle_of_adopting(collector, tmp_path, moments):
    """Pairs of processes that start, take over what the last ones left, and are killed soon."""
    klime = options(tmp_path, flush_interval=SOON)
    kill_a_family(tmp_path, collector, moments, {**klime, "flush_interval": NEVER})
    collector.faults({"delay_ms": 5, "times": None})
    rounds = 8
    for _ in range(rounds):
        with Program(tmp_path, collector, "python", "-c", FAMILY, 1, klime=klime) as family:
            tracked = len(family.journal())
            family.wait_for_events(tracked + 1)
            moments.wait(0.6)
    collector.faults()
    drain(family)
    assert_nothing_lost(family, collector, moments, 5 + 2 * rounds)


def test_killed_in_the_middle_of_rotating(collector, tmp_path, moments):
    klime = options(tmp_path, flush_interval=SOON)
    rounds, most_files = 10, 0
    for _ in range(rounds):
        with Program(tmp_path, collector, "python", "-c", ROTATING, 1, klime=klime) as family:
            tracked = len(family.journal())
            family.wait_for_events(tracked + 100)
            moments.wait(0.1)
        most_files = max(most_files, len(list((tmp_path / "spool").glob("*/*"))))
    assert most_files > 2, "no process had a second file"
    drain(family)
    assert_nothing_lost(family, collector, moments, 2 * rounds)
