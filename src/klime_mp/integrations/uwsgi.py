"""uWSGI: forks in C without Python's fork hooks, imports the application in a master that never runs Python again.

Nothing here has to be called. `install()` is for those who like it explicit:

    from klime_mp.integrations import uwsgi

    uwsgi.install()  # where the application is made; elsewhere than under uWSGI it does nothing

uWSGI has one slot each for what runs in a new worker (`post_fork_hook`) and at a worker's end (`atexit`). Whoever was
there first is kept, and called as well. `uwsgidecorators` replaces the first slot when it is imported, without looking;
with it, `@postfork` on a function that calls `klime_mp.restart()` does what `install()` does.

Facts: uWSGI 2.0.26 and 2.0.30, `plugins/python` and the behaviour of real servers.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

import klime_mp
from klime_mp._fork import getpid

if TYPE_CHECKING:
    import logging

_warned: list[str] = []  # inherited: when the master has warned, its workers need not
_imported_in = getpid()


def install() -> None:
    """Chain `klime_mp.restart()` into uWSGI's `post_fork_hook`, and the exit flush into its `atexit`.

    Call it where the application is loaded, once or more often. Outside uWSGI it does nothing but log why (INFO).
    """
    from klime_mp import _exit  # noqa: PLC0415 # which imports this module

    if _uwsgi() is None:
        _log().info("klime_mp.integrations.uwsgi.install() has no effect: this is not a uWSGI process")
        return
    _chain("post_fork_hook", klime_mp.restart)
    autodetect(_exit.run)


def autodetect(run: Callable[[], None]) -> None:
    """Under uWSGI, have `run` called at the worker's end as well; warn when this uWSGI runs no threads."""
    uwsgi = _uwsgi()
    if uwsgi is None:
        return
    _chain("atexit", _undisturbed(run))
    # Always true since 2.0.27, and absent from what only calls itself uwsgi.
    if not getattr(uwsgi, "has_threads", True):
        _warn_once(
            "uWSGI runs without Python threads: events wait for requests that let threads run, or for the worker's end;"
            " start it with --enable-threads"
        )
    if "async" in uwsgi.opt and "gevent" not in uwsgi.opt:
        _warn_once("uWSGI runs no exit handlers with --async: what a worker has pending when it ends is lost")


def only_loads() -> bool:
    """Is this the process that imports the application, before any worker was forked?

    Without a master that process later becomes worker 1. A child that Python forks from it meanwhile is told by its
    pid, as long as it was not the first to import this package.
    """
    uwsgi = _uwsgi()
    if uwsgi is None or uwsgi.worker_id() != 0:
        return False
    return getpid() == (uwsgi.masterpid() or _imported_in)


def on_arrival(arrive: Callable[[], None]) -> None:
    """Have `arrive` called in each worker that is forked from here, if nobody overwrites the slot."""
    _chain("post_fork_hook", arrive)


def is_worker() -> bool:
    """Is this a worker? Mules and spoolers, which are forked from the same master, are not; nor is a worker's child."""
    uwsgi = _uwsgi()
    number = 0 if uwsgi is None else uwsgi.worker_id()
    return number > 0 and uwsgi.workers()[number - 1]["pid"] == getpid()


def _uwsgi() -> Any:
    """The module that uWSGI itself puts into a process; None elsewhere."""
    module = sys.modules.get("uwsgi")
    is_genuine = type(module) is ModuleType and hasattr(module, "worker_id") and hasattr(module, "masterpid")
    return module if is_genuine else None


def _warn_once(text: str) -> None:
    if text not in _warned:
        _warned.append(text)
        _log().warning(text)


def _log() -> logging.Logger:
    import logging  # noqa: PLC0415 # not when the package is imported

    return logging.getLogger("klime_mp")


def _chain(slot: str, ours: Callable[[], None]) -> None:
    """Put `ours` behind whatever is in the slot, unless it is there already."""
    uwsgi = _uwsgi()
    theirs = getattr(uwsgi, slot, None)
    chained: tuple[str, ...] = getattr(theirs, "klime_mp_chain", ())
    name = f"{ours.__module__}.{ours.__qualname__}"
    if name in chained:
        return

    def both() -> None:
        try:
            if theirs is not None:
                theirs()
        finally:
            ours()

    both.klime_mp_chain = (*chained, name)  # type: ignore[attr-defined] # how we know our own
    setattr(uwsgi, slot, both)


def _undisturbed(run: Callable[[], None]) -> Callable[[], None]:
    """`run`, with INT and TERM ignored.

    Ctrl-C reaches the workers twice, once from the terminal and once from the master, and uWSGI's handler for the
    second one would end the process in the middle of the first one's exit.
    """

    def at_exit() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError):  # not the main thread
                signal.signal(number, signal.SIG_IGN)
        run()

    return at_exit
