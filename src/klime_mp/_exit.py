"""The ways out of a process: the only module that knows `atexit` and multiprocessing's finalizers.

A process registers its ways out at its first event, and the program once more when it builds its first client. Exit
handlers run last-registered first: the early registration therefore runs late, and also catches what other people's
exit handlers tracked. What is tracked later still, in handlers older than the first client, has nobody left who would
wait for it, so the call itself does. All of it shares one deadline, counted from the first handler that ran.

Handlers are inherited by fork, and may run twice, in any order, and be interrupted: each run sends what is there.
"""

from __future__ import annotations

import atexit
import sys
import time
from collections.abc import Hashable
from typing import Any, Protocol

from klime_mp._clock import NEVER
from klime_mp._fork import PerProcess

# multiprocessing runs finalizers from the highest priority to the lowest, the negative ones after it has waited for
# the process's own children: ours come late, as what others do there may track events.
_FINALIZER_PRIORITY = -100


class Drains(Protocol):
    """What the exit asks of a sender."""

    exit_timeout: float | None

    def has_work(self) -> bool:
        """Is anything pending?"""

    def hurry(self) -> bool:
        """Begin to send what is pending, without waiting for it; False when no thread is to be had."""

    def drain(self, deadline: float) -> bool:
        """Send what is pending by `deadline`, give up the rest."""


class _Exit:
    """One process's exit."""

    def __init__(self) -> None:
        self.began: float | None = None
        self.registered = False
        self.handlers_are_over = False
        # Strong references: events of a client that was collected are sent as well.
        self.watched: dict[Hashable, Drains] = {}

    def begin(self) -> float:
        if self.began is None:
            self.began = time.monotonic()
        return self.began

    def deadline(self, timeout: float) -> float:
        return self.begin() + timeout


_exit: PerProcess[_Exit] = PerProcess(lambda _parents: _Exit())
_program_registered = False


def register_program() -> None:
    """Called when a client is built: register the handler that runs last."""
    global _program_registered  # noqa: PLW0603 # once a program; children inherit the registration
    if not _program_registered:
        _program_registered = True
        atexit.register(_run_last)


def watch(key: Hashable, sender: Drains) -> None:
    """Flush `sender` at exit, as long as `key` is watched. The first call in a process registers its ways out."""
    here = _exit.get()
    here.watched[key] = sender
    if not here.registered:
        here.registered = True
        atexit.register(run)
        _register_finalizer()


def unwatch(key: Hashable) -> None:
    """`key` has nothing to flush any more."""
    _exit.get().watched.pop(key, None)


def run() -> None:
    """Send what is pending in this process, all clients together by one deadline, and give up the rest.

    May be called any number of times; what is tracked afterwards needs another call.
    """
    here = _exit.get()
    here.begin()
    while True:
        senders = {id(sender): sender for sender in list(here.watched.values())}.values()
        busy = [(sender, sender.exit_timeout) for sender in senders if sender.has_work()]
        deadlines = [(sender, here.deadline(timeout)) for sender, timeout in busy if timeout is not None]
        if not deadlines:
            return
        # All at once, so that a client that hangs takes no time from the others. Those that no thread works for take
        # turns in this one.
        threadless = [sender for sender, _ in deadlines if not sender.hurry()]
        for sender, deadline in deadlines:
            now = time.monotonic()
            turn = (deadline - now) / len(threadless) if sender in threadless else deadline - now
            sender.drain(now + turn)
            if sender in threadless:
                threadless.remove(sender)
        if time.monotonic() >= max(deadline for _, deadline in deadlines):
            return  # what is not done now (a callback that does not return) never will be


def latest_end(timeout: float) -> float:
    """The deadline that a `timeout` in seconds means in an exit that has begun; NEVER before that."""
    here = _exit.peek()
    return NEVER if here is None or here.began is None else here.deadline(timeout)


def no_more_threads() -> bool:
    """Is the interpreter being torn down? Other threads are frozen then, and before 3.12 a new one hangs its starter."""
    return sys.is_finalizing()


def handlers_are_over() -> bool:
    """Has the last exit handler of this process run, so that nobody will wait for a new event?"""
    here = _exit.peek()
    return here is not None and here.handlers_are_over


def _run_last() -> None:
    try:
        run()
    finally:
        _exit.get().handlers_are_over = True


def _register_finalizer() -> None:
    """The end of a multiprocessing child runs finalizers, and before Python 3.13 nothing else."""
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None:
        util.Finalize(None, run, exitpriority=_FINALIZER_PRIORITY)
        # A child wipes its finalizers when it starts, and spawn imports the main module, which may track, before that.
        util.register_after_fork(_anchor, _Anchor.in_child)


class _Anchor:
    """multiprocessing refers weakly to what it calls back."""

    def in_child(self) -> None:
        util: Any = sys.modules["multiprocessing.util"]
        util.Finalize(None, run, exitpriority=_FINALIZER_PRIORITY)


_anchor = _Anchor()
