"""Celery's workers: what is sent when they end, and when a task does.

Nothing here is needed: `autodetect` does it all when a process first uses a client. `install()` makes it explicit, and
can have every task wait for its events:

    from klime_mp.integrations.celery import install

    install(flush_after_task=True)      # beside the Celery application, in the module that workers load

A child of the prefork pool ends by `os._exit`: no exit handler runs, no finalizer, only the signal
`worker_process_shutdown`. With the other pools the tasks run in the worker itself, which ends as a program does; only
its restart (HUP) goes past the exit handlers, after the signal `worker_shutdown`.
"""

from __future__ import annotations

import importlib
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import klime_mp
from klime_mp._signals import raised_by_signal

# The name by which Celery knows a receiver as ours: connecting it again, in a child that inherited it, changes nothing.
_UID = "klime_mp"


def autodetect(run: Callable[[], None]) -> None:
    """Have `run` called when this process ends, if it may be one of Celery's. Never raises.

    Called when a process first uses a client. Connects nothing when Celery's signals are not loaded, and imports
    nothing: an import that was under way at a fork would hang the child.

    Args:
        run: sends what is pending in this process; may be called any number of times. (A pool process's end is also
            the last of ours there: see `_connect_exit`.)
    """
    signals = sys.modules.get("celery.signals")
    if signals is None:
        return
    try:
        _connect_exit(signals, run)
    except Exception as error:  # a Celery that we do not know; the caller is in the middle of `track`
        if raised_by_signal(error):
            raise


def install(*, flush_after_task: bool = False, timeout_ms: float = 1000, client: klime_mp.Client | None = None) -> None:
    """Connect to the signals of Celery's workers. Call it once where the application is made; the last call counts.

    A new pool process starts afresh, and one that ends, like the worker itself, sends what is pending: all clients
    together, for at most `shutdown_timeout`. Both happen without this call as well; only `flush_after_task` adds
    something. Starts no thread, opens no file or connection. Call it in the process that loads the tasks, before its
    pool is forked or later.

    Args:
        flush_after_task: wait at the end of each task until its process's events are sent, so that not even a SIGKILL
            that strikes later can lose them. Costs each task that tracked a request to Klime; a task does not fail,
            nor is its result changed, when that is slow or fails.
        timeout_ms: milliseconds that a task waits at most for it, all clients together.
        client: the one to flush after a task; None: every live client.

    Raises:
        ConfigurationError: Celery is not installed, or `timeout_ms` is not a number of milliseconds above 0.
        TypeError: `client` is not a Client.
    """
    # Not at the top: both import the exit module, which imports this one.
    from klime_mp import _exit  # noqa: PLC0415
    from klime_mp.integrations._flush import Flush  # noqa: PLC0415

    flush = Flush(client, timeout_ms)
    try:
        signals: Any = importlib.import_module("celery.signals")
    except ImportError as error:
        raise klime_mp.ConfigurationError(
            f"klime_mp.integrations.celery.install() needs Celery (pip install celery): {error}"
        ) from error

    def on_start(**_: object) -> None:
        klime_mp.restart()

    def on_task(**_: object) -> None:
        flush.now()

    _connect_exit(signals, _exit.run)
    signals.worker_process_init.connect(on_start, weak=False, dispatch_uid=_UID)
    signals.task_postrun.disconnect(dispatch_uid=_UID)  # of an earlier call, with other options
    if flush_after_task:
        signals.task_postrun.connect(on_task, weak=False, dispatch_uid=_UID)


def _connect_exit(signals: Any, run: Callable[[], None]) -> None:
    def on_process_end(**_: object) -> None:
        from klime_mp import _exit  # noqa: PLC0415 # it imports this module; loaded, so this is no import any more

        _exit.run_last()  # other receivers, called later, may track
        _outlive_goodbye()

    def on_worker_end(**_: object) -> None:
        # A worker in another thread is embedded in a program (Celery's own test worker is) that goes on after it.
        if threading.current_thread() is threading.main_thread():
            run()

    # Celery holds receivers weakly unless told otherwise: these would be collected, and silently gone.
    signals.worker_process_shutdown.connect(on_process_end, weak=False, dispatch_uid=_UID)
    signals.worker_shutdown.connect(on_worker_end, weak=False, dispatch_uid=_UID)


def _outlive_goodbye() -> None:
    """Ignore the SIGTERM that answers a pool process's goodbye, if it would kill: the process ends by itself anyway.

    billiard, the pool below Celery, writes a goodbye to a queue that the children share, with SIGTERM blocked: the
    parent's answer must not strike before the queue's lock is released. It is blocked in that one thread, though, and
    the kernel then gives it to another: our sender's, which lingers for a moment. After a cold shutdown (the first
    SIGTERM has set the default action) that killed the process, and left its siblings waiting for the lock for ever.
    """
    number = getattr(sys.modules.get("billiard.common"), "TERM_SIGNAL", None)
    if number is None or threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(number) is signal.SIG_DFL:
        signal.signal(number, signal.SIG_IGN)
