"""Real gunicorn, where it is about more than its workers: a Ctrl-C, an endpoint that hangs.

Its lives and their events are in scenarios/gunicorn.py.
"""

import signal
from collections import Counter

import pytest
from gunicorn_process import HOOKS, Gunicorn
from scenarios import NEVER

pytest.importorskip("gunicorn")

WORKERS = 2


def options(worker_class, *, hooks=False):
    chosen = ["--worker-class", worker_class, "--workers", str(WORKERS), "--graceful-timeout", "10", "--preload"]
    if worker_class == "gthread":
        # Without keep-alive: a QUIT (which a Ctrl-C is to workers) that comes while a connection is handed to the
        # threads hangs the worker, and one that is kept alive is handed over once more when the visitor closes it.
        chosen += ["--threads", "3", "--keep-alive", "0"]
    if hooks:
        chosen += ["--config", str(HOOKS)]
    return chosen


def assert_all_arrived_once(server, inbox):
    tracked = Counter(serial for _, serial in server.journal())
    arrived = Counter(inbox.serials())
    lost, surplus = tracked - arrived, arrived - tracked
    assert not lost, f"lost {sorted(lost)}, surplus {sorted(surplus.elements())}\n{server.log()}"
    assert not surplus, f"surplus {sorted(surplus.elements())}\n{server.log()}"


@pytest.mark.parametrize("worker_class", ["sync", "gthread"])
def test_ctrl_c_loses_nothing(worker_class, collector, tmp_path):
    with Gunicorn(tmp_path, collector, *options(worker_class), klime={"flush_interval": NEVER}) as server:
        assert server.load(10) == 10
        server.stop(signal.SIGINT)
    assert_all_arrived_once(server, collector)


@pytest.mark.parametrize("hooks", [False, True], ids=["no_hooks", "hooks"])
@pytest.mark.parametrize("worker_class", ["sync", "gthread"])
def test_a_hanging_endpoint_does_not_hold_up_the_stop(worker_class, hooks, collector, tmp_path):
    # The exit handlers share one deadline: two of them in a row would take 6 s, the hanging request 10 s.
    klime = {"flush_interval": 100, "shutdown_timeout": 3000}
    with Gunicorn(tmp_path, collector, *options(worker_class, hooks=hooks), klime=klime) as server:
        collector.wait_for(1)  # the master's own; it would wait after its workers did
        collector.faults({"hang": True, "times": None})
        assert server.load(8) == 8
        seconds = server.stop()
    assert seconds < 5.5
