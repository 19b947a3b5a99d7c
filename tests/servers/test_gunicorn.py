"""Real gunicorn: whatever becomes of its processes, what was tracked arrives, once."""

import os
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from gunicorn_process import HOOKS, Gunicorn

pytest.importorskip("gunicorn")

WORKERS = 2
# Longer than any test: what arrives was sent because a batch was full or because a process ended.
NEVER = 600_000


def options(worker_class="sync", *more, preload=True, hooks=False):
    chosen = ["--worker-class", worker_class, "--workers", str(WORKERS), "--graceful-timeout", "10", *more]
    if worker_class == "gthread":
        chosen += ["--threads", "3"]
    if preload:
        chosen += ["--preload"]
    if hooks:
        chosen += ["--config", str(HOOKS)]
    return chosen


def assert_all_arrived_once(server, inbox):
    tracked = Counter(serial for _, serial in server.journal())
    arrived = Counter(inbox.serials())
    lost, surplus = tracked - arrived, arrived - tracked
    assert not lost, f"lost {sorted(lost)}, surplus {sorted(surplus.elements())}\n{server.log()}"
    assert not surplus, f"surplus {sorted(surplus.elements())}\n{server.log()}"


def exists(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def pids_that_loaded(inbox):
    return sorted(int(event["properties"]["serial"].split("-")[0]) for event in inbox.events(event="Loaded"))


@pytest.mark.parametrize("hooks", [False, True], ids=["no_hooks", "hooks"])
@pytest.mark.parametrize("preload", [True, False], ids=["preload", "no_preload"])
@pytest.mark.parametrize("worker_class", ["sync", "gthread"])
def test_every_event_arrives_once(worker_class, preload, hooks, collector, tmp_path):
    recycling = ["--max-requests", "25", "--max-requests-jitter", "5"]
    chosen = options(worker_class, *recycling, preload=preload, hooks=hooks)
    # Without hooks by the clock as well, as programs are; with them by fullness and exit alone.
    klime = {"flush_interval": NEVER if hooks else 500}
    with Gunicorn(tmp_path, collector, *chosen, klime=klime) as server:
        answered = server.load(60)

        before = server.workers()
        with ThreadPoolExecutor(1) as background:
            during = background.submit(server.load, 60)
            server.signal(signal.SIGHUP)
            server.wait_until(lambda: not before & server.workers(), "reloaded")
        answered += during.result()

        answered += server.load(20)
        server.stop()

    assert answered > 100
    assert "Autorestarting worker" in server.log()
    assert len(server.booted()) > 2 * WORKERS
    assert_all_arrived_once(server, collector)
    assert pids_that_loaded(collector) == ([server.pid] if preload else sorted(server.booted()))


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGINT])
@pytest.mark.parametrize("worker_class", ["sync", "gthread"])
def test_a_quick_shutdown_loses_nothing(worker_class, number, collector, tmp_path):
    with Gunicorn(tmp_path, collector, *options(worker_class), klime={"flush_interval": NEVER}) as server:
        assert server.load(10) == 10
        server.stop(number)
    assert_all_arrived_once(server, collector)


def test_a_worker_that_exceeds_its_timeout_still_sends(collector, tmp_path):
    # gunicorn aborts the worker (SIGABRT), which raises SystemExit in the stuck request, and waits for a second.
    chosen = options("sync", "--timeout", "2")
    with Gunicorn(tmp_path, collector, *chosen, klime={"flush_interval": NEVER}) as server:
        assert server.get("/stuck") != 200
        [stuck] = [int(serial.split("-")[0]) for event, serial in server.journal() if event == "Requested"]
        server.wait_until(lambda: not exists(stuck), "rid of the stuck worker")
        server.stop()
    assert f"WORKER TIMEOUT (pid:{stuck})" in server.log()
    assert_all_arrived_once(server, collector)


@pytest.mark.parametrize("hooks", [False, True], ids=["no_hooks", "hooks"])
@pytest.mark.parametrize("worker_class", ["sync", "gthread"])
def test_a_hanging_endpoint_does_not_hold_up_the_stop(worker_class, hooks, collector, tmp_path):
    # The exit handlers share one deadline: two of them in a row would take 4 s, the hanging request 10 s.
    klime = {"flush_interval": 100, "shutdown_timeout": 2000}
    with Gunicorn(tmp_path, collector, *options(worker_class, hooks=hooks), klime=klime) as server:
        collector.wait_for(1)  # the master's own; it would wait after its workers did
        collector.faults({"hang": True, "times": None})
        assert server.load(8) == 8
        seconds = server.stop()
    assert seconds < 3.5
