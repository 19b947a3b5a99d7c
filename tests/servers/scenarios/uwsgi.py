"""uWSGI. It runs no exit handlers in a worker that is stopped in the middle of a request: these are stopped idle."""

import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from program import APPS
from uwsgi_process import Uwsgi

from scenarios import NEVER, scenario

WITHOUT_THREADS = "uwsgi-2.0.26"
STOPPED_WITHOUT_MASTER = 30  # the exit status of a worker


def uwsgi(name, *needs):
    return scenario("uWSGI", name, needs=("pyuwsgi", *needs))


def serve(folder, inbox, *options, flush_interval=NEVER, **more):
    return Uwsgi(folder, inbox, *options, klime={"flush_interval": flush_interval}, **more)


def life(*options, loads=1, **more):
    """Some requests, then TERM; `loads` processes load the application."""

    def live(folder, inbox):
        with serve(folder, inbox, *options, **more) as server:
            server.wait_for_log("WSGI app 0 (mountpoint='') ready", count=loads)
            assert server.load(40) == 40
            return server.stop()

    return live


for name, options in {
    "default": ["--master"],
    "--threads 4": ["--master", "--threads", "4"],
    "--py-call-osafterfork": ["--master", "--py-call-osafterfork"],
    "--py-call-uwsgi-fork-hooks": ["--master", "--py-call-uwsgi-fork-hooks"],
    "--skip-atexit-teardown": ["--master", "--skip-atexit-teardown"],
}.items():
    uwsgi(name)(life(*options))


uwsgi("--lazy-apps")(life("--master", "--lazy-apps", loads=2))


@uwsgi("no request, ever")
def no_request(folder, inbox):
    """What the master tracked while it loaded the application is delivered without anybody's doing."""
    with serve(folder, inbox, "--master", flush_interval=100) as server:
        inbox.wait_for(1)
        return server.stop()


@uwsgi("a second INT during the last flush")
def interrupted_twice(folder, inbox):
    """As when Ctrl-C reaches the workers, and the master's own signal as well."""
    with serve(folder, inbox, "--master", "--processes", "1") as server:
        assert server.load(19) == 19
        server.settle()
        before = inbox.summary()["requests"]
        inbox.faults({"delay_ms": 1500})
        server.signal(signal.SIGINT)
        inbox.wait_for_requests(before + 1)
        for worker in server.spawned():
            os.kill(worker, signal.SIGINT)
        return server.ended()


@uwsgi("no master")
def no_master(folder, inbox):
    with serve(folder, inbox) as server:
        assert server.load(40) == 40
        return server.stop_all(signal.SIGTERM, statuses=[STOPPED_WITHOUT_MASTER])


@uwsgi("gracefully_kill_them_all, TERM while requests are served")
def graceful(folder, inbox):
    """A worker that is stopped in a request runs no exit handlers, unless uWSGI is told to let it finish."""
    hook = "unix_signal:15 gracefully_kill_them_all"
    with serve(folder, inbox, "--master", "--hook-master-start", hook) as server, ThreadPoolExecutor(1) as background:
        answered = background.submit(server.load, 2000)
        server.wait_for_events(100)
        server.signal(signal.SIGTERM)
        seconds = server.ended()
    assert 50 < answered.result() < 2000, "it was stopped in the middle"
    return seconds


@uwsgi("reload (HUP), TERM")
def reload(folder, inbox):
    with serve(folder, inbox, "--master") as server:
        assert server.load(20) == 20
        before = server.spawned()
        server.settle()
        server.signal(signal.SIGHUP)
        server.wait_until(lambda: len(server.spawned()) >= 2 * len(before), "reloaded")
        server.wait_until(lambda: server.get("/ready") == 200, "ready again")
        assert server.load(20) == 20
        return server.stop()


@uwsgi("--max-requests")
def recycle(folder, inbox):
    with serve(folder, inbox, "--master", "--max-requests", "25", "--min-worker-lifetime", "0") as server:
        # One at a time: a worker that is about to end takes no second request.
        assert server.load(60, concurrency=1) > 50
        server.wait_for_log("Respawned uWSGI worker")
        # uWSGI that is stopped while it respawns a worker waits a minute for it.
        server.wait_until(lambda: len(server.spawned()) == 2 + server.log().count("is done. Seeya!"), "quiet")
        return server.stop()


@uwsgi("worker 1 killed before its first event, respawned")
def respawned(folder, inbox):
    """The respawned worker is a copy of the master from before; what was handed over once is there again."""
    with serve(folder, inbox, "--master", flush_interval=100) as server:
        inbox.wait_for(1)
        server.wait_until(lambda: len(server.spawned()) == 2, "complete")  # one of them was fast enough
        for worker in server.spawned():
            os.kill(worker, signal.SIGKILL)
        server.wait_for_log("Respawned uWSGI worker", count=2)
        server.wait_until(lambda: server.get("/ready") == 200, "ready again")
        assert server.load(20) == 20
        return server.stop()


@uwsgi("a mule")
def mule(folder, inbox):
    with serve(folder, inbox, "--master", "--mule=" + str(APPS / "counting_mule.py"), flush_interval=300) as server:
        assert server.load(20) == 20
        server.wait_until(lambda: sum(event == "Worked" for event, _ in server.journal()) == 5, "done by the mule")
        inbox.wait_for(5)
        return server.stop()


for name, hooks in {
    "@postfork that calls klime_mp.restart()": "postfork",
    "uwsgidecorators imported last": "overwrite",
    "integrations.uwsgi.install()": "install",
}.items():
    uwsgi(name)(life("--master", application="counting_uwsgi.py", env={"UWSGI_HOOKS": hooks}))


@uwsgi("uwsgidecorators imported last, a worker that forks before its first event")
def forking_worker(folder, inbox):
    """What the master held is a worker's; a child of the worker has no part in it."""
    env = {"UWSGI_HOOKS": "overwrite"}
    with serve(folder, inbox, "--master", application="counting_uwsgi.py", env=env) as server:
        for _ in range(4):
            assert server.get("/fork") == 200
        assert server.load(10) == 10
        return server.stop()


@uwsgi("2.0.26 without threads", f"environment:{WITHOUT_THREADS}")
def without_threads(folder, inbox):
    with serve(folder, inbox, "--master", module=Path(sys.prefix, WITHOUT_THREADS)) as server:
        assert server.load(40) == 40
        seconds = server.stop()
    assert server.log().count("start it with --enable-threads") == 1
    return seconds
