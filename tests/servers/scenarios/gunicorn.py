"""gunicorn: its worker classes, with and without preload, and its odder ways to end a worker."""

import os
import re
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from gunicorn_process import Gunicorn
from program import APPS, exists, sleeps

from scenarios import NEVER, scenario

WORKERS = 2
VISITORS = 8
CLOCK = 300  # milliseconds, for `flush_interval` where the clock shall send as well
SLOW = 1500  # milliseconds: longer than it takes gunicorn to fork its workers


@dataclass(frozen=True)
class Kind:
    """A worker class, and what it says in the log."""

    name: str
    options: tuple[str, ...] = ()
    application: str = "counting:application"
    needs: tuple[str, ...] = ()
    initialized: str = "Initialized"  # from now on a TERM is obeyed
    recycles: str = "Autorestarting worker"
    quits: bool = True  # on QUIT; otherwise it is killed when `graceful_timeout` is over


KINDS = [
    Kind("sync"),
    Kind("gthread", ("--threads", "3")),
    Kind("gevent", needs=("gevent",)),
    Kind("asgi", application="counting_asgi:application", needs=("gunicorn.asgi",)),
    Kind(
        "uvicorn",
        ("--worker-class", "uvicorn_worker.UvicornWorker"),
        # No exit handler runs in this one, so the flush is the lifespan's.
        application="counting_asgi:with_lifespan",
        needs=("uvicorn_worker",),
        initialized="Application startup complete",
        recycles="Maximum request limit",
        quits=False,
    ),
]


class Server(Gunicorn):
    """A gunicorn of one kind."""

    def __init__(self, folder, inbox, kind, *options, preload=False, config="announcing.py", **rest):
        chosen = ["--worker-class", kind.name, *kind.options, "--workers", str(WORKERS), "--graceful-timeout", "10"]
        chosen += ["--config", str(APPS / config), *(["--preload"] if preload else []), *options]
        super().__init__(folder, inbox, *chosen, **{"application": kind.application, **rest})
        self.kind = kind
        self.preload = preload

    def who_said(self, text):
        """The pids of the processes that logged this."""
        return {int(pid) for pid in re.findall(rf"\[(\d+)\] \[\w+\] {re.escape(text)}", self.log())}

    def living(self):
        """The pids of the workers that are still there, whatever they have announced."""
        return {pid for pid in self.booted() if exists(pid)}

    def settle(self):
        """Returns once no worker is being replaced: gunicorn loses the TERM of a worker it has just forked."""
        self.wait_until(self._is_settled, "every worker is initialized, none recycles")

    def _is_settled(self):
        living = self.living()
        return (
            len(living) == WORKERS
            and living <= self.who_said(self.kind.initialized)
            and not living & self.who_said(self.kind.recycles)
        )

    def assert_each_loaded_once(self):
        """The master the application with preload, the workers without."""
        loaded = [int(serial.split("-")[0]) for event, serial in self.journal() if event == "Loaded"]
        assert sorted(loaded) == ([self.pid] if self.preload else sorted(self.booted())), self.log()


def recycle_reload_term(kind, preload, folder, inbox, config="announcing.py"):
    """Workers are replaced because they served enough, then because of a HUP; then all end."""
    recycling = ["--max-requests", "25", "--max-requests-jitter", "5"]
    klime = {"flush_interval": CLOCK if preload else NEVER}
    with Server(folder, inbox, kind, *recycling, preload=preload, config=config, klime=klime) as server:
        # Of two workers one gets 30 of them.
        answered = server.load(70)
        server.wait_until(lambda: server.who_said(kind.recycles), "a worker recycled")
        server.settle()

        before = server.living()
        server.signal(signal.SIGHUP)
        answered += server.load(50)
        server.wait_until(lambda: not before & server.living(), "reloaded")

        answered += server.load(10)
        server.settle()
        seconds = server.stop()
    assert answered > 100, f"only {answered} requests were answered\n{server.log()}"
    assert "Hang up" in server.log()
    assert len(server.booted()) > 2 * WORKERS, server.log()
    server.assert_each_loaded_once()
    return seconds


def quit_at_once(kind, preload, folder, inbox):
    """gunicorn is told to end at once; a worker that does not obey has only the clock to send what is left."""
    klime = {"flush_interval": NEVER if kind.quits else CLOCK}
    # A gthread worker that is told to QUIT while it hands a connection to its threads hangs, by a lock of the pool's. A
    # connection that is kept alive is handed over once more when the visitor closes it, after the answer.
    options = ["--graceful-timeout", "3", "--keep-alive", "0"]
    with Server(folder, inbox, kind, *options, preload=preload, klime=klime) as server:
        assert server.load(45) == 45, server.log()
        server.settle()
        server.wait_until(lambda: all(map(sleeps, server.living())), "the workers at rest")
        seconds = server.stop(signal.SIGQUIT)
    assert ("was sent SIGKILL" in server.log()) is not kind.quits, server.log()
    server.assert_each_loaded_once()
    return seconds


for each in KINDS:
    for preloads in (True, False):
        label = f"{each.name}, preload" if preloads else each.name
        register = partial(scenario, "gunicorn", needs=("gunicorn", *each.needs))
        register(f"{label}: recycle, reload, TERM")(partial(recycle_reload_term, each, preloads))
        register(f"{label}: QUIT")(partial(quit_at_once, each, preloads))
        if each.name in ("sync", "gthread"):
            hooked = partial(recycle_reload_term, each, preloads, config="announcing_hooks.py")
            register(f"{label}, our hooks: recycle, reload, TERM")(hooked)


@scenario("gunicorn", "gthread, 8 threads: TERM under load", needs=("gunicorn",))
def term_under_load(folder, inbox):
    threads = Kind("gthread", ("--threads", str(VISITORS)))
    with Server(folder, inbox, threads, preload=True, klime={"flush_interval": NEVER}) as server:
        server.settle()

        def visit_until_it_is_gone():
            while server.get() == 200:
                pass

        with ThreadPoolExecutor(VISITORS) as pool:
            for _ in range(VISITORS):
                pool.submit(visit_until_it_is_gone)
            server.wait_for_events(60)
            seconds = server.stop()
    server.assert_each_loaded_once()
    return seconds


@scenario("gunicorn", "sync: a worker exceeds its timeout", needs=("gunicorn",))
def timeout(folder, inbox):
    # gunicorn aborts the worker (SIGABRT), which raises SystemExit in the stuck request, and waits for a second.
    klime = {"flush_interval": NEVER}
    with Server(folder, inbox, Kind("sync"), "--timeout", "4", preload=True, klime=klime) as server:
        server.load(10)
        assert server.get("/stuck") != 200
        aborted = {int(pid) for pid in re.findall(r"WORKER TIMEOUT \(pid:(\d+)\)", server.log())}
        assert len(aborted) == 1, server.log()
        server.wait_until(lambda: not aborted & server.living(), "rid of the stuck worker")
        server.settle()
        seconds = server.stop()
    assert aborted == server.who_said("Error handling request GET /stuck"), server.log()
    return seconds


class DirtyServer(Server):
    """Sync workers that leave the work to dirty ones."""

    def __init__(self, folder, inbox, **rest):
        options = ["--dirty-app", "dirty:Work", "--dirty-workers", str(WORKERS), "--dirty-graceful-timeout", "3"]
        # gunicorn keeps one pid file of dirty workers for each name in the temporary folder, and kills whom it names.
        options += ["--name", inbox.write_key]
        kind = Kind("sync", application="dirty:application")
        super().__init__(folder, inbox, kind, *options, preload=True, **rest)

    def dirty_workers(self):
        """The pid of every dirty worker there has been, in order."""
        return [int(pid) for pid in re.findall(r"Dirty worker (\d+) listening", self.log())]

    def have_work_done(self, tasks):
        """Once there are dirty workers."""
        self.wait_until(lambda: len(self.dirty_workers()) >= WORKERS, "every dirty worker is there")
        done = self.tasks_done()
        assert self.load(tasks) == tasks, self.log()
        assert self.tasks_done() == done + tasks, self.log()

    def tasks_done(self):
        return sum(event == "Worked" for event, _ in self.journal())


@scenario("gunicorn", "dirty workers: TERM after the clock has sent", needs=("gunicorn.dirty",))
def dirty_workers_by_the_clock(folder, inbox):
    with DirtyServer(folder, inbox, klime={"flush_interval": CLOCK}) as server:
        server.have_work_done(20)
        server.settle()
        inbox.wait_for(len(server.journal()))
        return server.stop()


# From Python 3.12 on, gunicorn's dirty workers do not end by a TERM once they have been given work: `close()` is not
# called, and they are killed when their graceful timeout is over. (asyncio's Server.wait_closed waits for connections.)
if sys.version_info < (3, 12):

    @scenario("gunicorn", "dirty workers, our hook: replace one, TERM", needs=("gunicorn.dirty",))
    def dirty_workers_by_hook(folder, inbox):
        klime = {"flush_interval": NEVER}
        with DirtyServer(folder, inbox, config="announcing_dirty.py", klime=klime) as server:
            server.have_work_done(20)
            # Not by a HUP to all of them: requests may go unanswered then.
            replaced = server.dirty_workers()[0]
            os.kill(replaced, signal.SIGTERM)
            server.wait_for_log(f"Dirty worker exited (pid:{replaced})")
            server.wait_until(lambda: len(server.dirty_workers()) > WORKERS, "another dirty worker is there")
            server.have_work_done(20)
            server.settle()
            return server.stop()


@scenario("gunicorn", "gevent, master patched, preload: forks in the middle of a request", needs=("gunicorn", "gevent"))
def patched_master(folder, inbox):
    inbox.faults({"delay_ms": SLOW})
    patched = Kind("gevent", application="waiting:application")
    # Should another process take its answer, the master would send the event again, and so before it has to end.
    klime = {"flush_interval": 10, "request_timeout": 3 * SLOW}
    with Server(folder, inbox, patched, preload=True, config="patched_master.py", klime=klime) as server:
        assert server.load(20) == 20, server.log()
        time.sleep(SLOW / 1000)  # the workers are there, and run, when the master's answer comes
        assert server.load(20) == 20, server.log()
        seconds = server.stop()
    assert "Forks with 1 pending" in server.log(), server.log()
    server.assert_each_loaded_once()
    return seconds
