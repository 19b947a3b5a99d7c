"""Celery: every pool, every way a worker or one of its children ends, two brokers."""

from __future__ import annotations

import contextlib
from signal import SIGHUP, SIGQUIT

from scenarios import NEVER, scenario

TASKS = 30
SOME = 12  # of them: enough for both children to have worked, while others wait

# Only an end can have sent anything: no batch is ever full, and none waits long enough.
KLIME = {"flush_interval": NEVER, "max_batch_size": 100}
PREFORK = ("--pool", "prefork", "--concurrency", "2")
RECYCLE = (*PREFORK, "--max-tasks-per-child", "5")

ON_FILES = ("celery",)
ON_REDIS = ("celery", "redis", "command:redis-server")


@contextlib.contextmanager
def worker(folder, inbox, *options, tasks=("work",) * TASKS, **more):
    """A worker with these tasks to do, ready."""
    from celery_process import CeleryWorker  # noqa: PLC0415 # loads Celery, which may not be installed

    program = CeleryWorker(folder, inbox, *options, klime=KLIME, **more)
    program.send(*tasks)
    with program:
        yield program


@contextlib.contextmanager
def busy_worker(folder, inbox, **more):
    """A worker whose children are both in the middle of a task that does not end by itself."""
    with worker(folder, inbox, *PREFORK, tasks=["work"] * SOME, **more) as program:
        program.wait_for_events(1 + SOME)
        program.send("stuck", "stuck")
        program.wait_for_events(1 + SOME + 2)
        # A cold shutdown ends the tasks that the worker knows to have begun, and waits for the others.
        program.wait_for_log("Task accepted: celery_tasks.stuck", 2)
        yield program


@contextlib.contextmanager
def redis():
    from celery_process import RedisBroker  # noqa: PLC0415 # see above

    with RedisBroker() as broker:
        yield broker


@scenario("celery", "prefork, warm stop (TERM)", needs=ON_FILES)
def prefork(folder, inbox):
    with worker(folder, inbox, *PREFORK) as program:
        program.wait_for_events(SOME)
        return program.stop()


@scenario("celery", "prefork, --max-tasks-per-child", needs=ON_FILES)
def prefork_recycle(folder, inbox):
    with worker(folder, inbox, *RECYCLE) as program:
        program.wait_for_events(1 + TASKS)
        return program.stop()


@scenario("celery", "prefork, cold stop (QUIT) in the middle of tasks", needs=ON_FILES)
def prefork_cold(folder, inbox):
    with busy_worker(folder, inbox) as program:
        return program.stop(SIGQUIT)


@scenario("celery", "prefork, soft stop (QUIT, worker_soft_shutdown_timeout)", needs=ON_FILES)
def prefork_soft(folder, inbox):
    with busy_worker(folder, inbox, celery={"worker_soft_shutdown_timeout": 1}) as program:
        return program.stop(SIGQUIT)


@scenario("celery", "prefork, restart (HUP)", needs=ON_FILES)
def prefork_restart(folder, inbox):
    with worker(folder, inbox, *PREFORK) as program:
        program.wait_for_events(SOME)
        program.signal(SIGHUP)
        program.wait_until_ready(times=2)
        return program.stop()


@scenario("celery", "prefork, warm stop (TERM), install()", needs=ON_FILES)
def prefork_installed(folder, inbox):
    with worker(folder, inbox, *PREFORK, install={}) as program:
        program.wait_for_events(SOME)
        return program.stop()


@scenario("celery", "prefork, install(flush_after_task=True)", needs=ON_FILES)
def prefork_flushing(folder, inbox):
    with worker(folder, inbox, *PREFORK, install={"flush_after_task": True}) as program:
        inbox.wait_for(TASKS, timeout=40)  # while the worker runs
        return program.stop()


@scenario("celery", "threads, warm stop (TERM)", needs=ON_FILES)
def threads(folder, inbox):
    with worker(folder, inbox, "--pool", "threads", "--concurrency", "2") as program:
        program.wait_for_events(SOME)
        return program.stop()


@scenario("celery", "solo, warm stop (TERM)", needs=ON_FILES)
def solo(folder, inbox):
    with worker(folder, inbox, "--pool", "solo") as program:
        program.wait_for_events(SOME)
        return program.stop()


@scenario("celery", "gevent, warm stop (TERM)", needs=("celery", "gevent"))
def gevent(folder, inbox):
    with worker(folder, inbox, "--pool", "gevent", "--concurrency", "2") as program:
        program.wait_for_events(SOME)
        return program.stop()


@scenario("celery", "prefork on Redis, warm stop (TERM)", needs=ON_REDIS)
def prefork_redis(folder, inbox):
    with redis() as broker, worker(folder, inbox, *PREFORK, broker=broker) as program:
        # With this broker a child that is stopped while the worker has not read all its results waits for 30 s.
        program.wait_for_events(1 + TASKS)
        program.wait_for_log("Task accepted", TASKS)
        return program.stop()


@scenario("celery", "prefork on Redis, --max-tasks-per-child", needs=ON_REDIS)
def prefork_redis_recycle(folder, inbox):
    with redis() as broker, worker(folder, inbox, *RECYCLE, broker=broker) as program:
        program.wait_for_events(1 + TASKS)
        program.wait_for_log("Task accepted", TASKS)
        return program.stop()
