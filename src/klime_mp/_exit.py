"""The ways out of a process: the only module that knows `atexit` and multiprocessing's finalizers.

A process registers its ways out when it first uses a client; importing this module has registered one before. Exit
handlers run last-registered first: the early registration therefore runs late, and also catches what other people's
exit handlers tracked. What is tracked later still, in handlers older than the import, has nobody left who would wait
for it, so the call itself does. All of it shares one deadline, counted from the first handler that ran.

Handlers are inherited by fork, and may run twice, in any order, and be interrupted: each run sends what is there.
"""

from __future__ import annotations

import atexit
import sys
import time
import weakref
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

    def hurry(self, deadline: float) -> bool:
        """Begin to send what is pending by `deadline`, without waiting; False when no thread is to be had."""

    def relax(self, deadline: float) -> None:
        """The hurry is over."""

    def drain(self, deadline: float) -> bool:
        """Send what is pending by `deadline`, give up the rest."""


class _Exit:
    """One process's exit."""

    def __init__(self) -> None:
        self.began: float | None = None
        self.registered = False
        self.handlers_are_over = False
        self.known: weakref.WeakValueDictionary[int, Drains] = weakref.WeakValueDictionary()
        self.held: dict[int, Drains] = {}

    def begin(self) -> float:
        if self.began is None:
            self.began = time.monotonic()
        return self.began

    def deadline(self, timeout: float) -> float:
        return self.begin() + timeout

    def senders(self) -> list[Drains]:
        known = [reference() for reference in self.known.valuerefs()]
        alive = [sender for sender in [*known, *self.held.values()] if sender is not None]
        return list({id(sender): sender for sender in alive}.values())


_exit: PerProcess[_Exit] = PerProcess(lambda _parents: _Exit())


def know(sender: Drains) -> None:
    """Flush `sender` at exit. The first one in a process registers the process's ways out.

    Refers to it weakly: a sender whose client was collected lives as long as its thread works.
    """
    here = _exit.get()
    here.known[id(sender)] = sender
    if not here.registered:
        here.registered = True
        atexit.register(run)
        _register_finalizer()


def hold(sender: Drains) -> None:
    """Keep a sender that has events, and no thread, until they are sent."""
    _exit.get().held[id(sender)] = sender


def run() -> None:
    """Send what is pending in this process, all clients together by one deadline, and give up the rest.

    May be called any number of times; what is tracked afterwards needs another call.
    """
    here = _exit.get()
    here.begin()
    while True:
        busy = [(sender, sender.exit_timeout) for sender in here.senders() if sender.has_work()]
        deadlines = [(sender, here.deadline(timeout)) for sender, timeout in busy if timeout is not None]
        here.held = {id(sender): sender for sender, _ in busy}
        if not deadlines:
            return
        _drain(deadlines)
        if time.monotonic() >= max(deadline for _, deadline in deadlines):
            return  # what is not done now (a callback that does not return) never will be


def _drain(deadlines: list[tuple[Drains, float]]) -> None:
    try:
        # All begin at once, so that a client that hangs takes no time from the others. Those that no thread works for
        # take turns in this one.
        threadless = [sender for sender, deadline in deadlines if not sender.hurry(deadline)]
        for sender, deadline in deadlines:
            now = time.monotonic()
            turn = (deadline - now) / len(threadless) if sender in threadless else deadline - now
            sender.drain(now + turn)
            if sender in threadless:
                threadless.remove(sender)
    finally:
        for sender, deadline in deadlines:
            sender.relax(deadline)


def restart() -> None:
    """The exit that seemed to have begun has not: another one will have its full time."""
    _exit.get().began = None


def latest_end(timeout: float) -> float:
    """The deadline that a `timeout` in seconds means in an exit that has begun; NEVER before that."""
    here = _exit.peek()
    return NEVER if here is None or here.began is None else here.deadline(timeout)


def no_more_threads() -> bool:
    """Is the interpreter being torn down? Other threads are frozen then; before 3.12 a new one hangs its starter."""
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
        util.Finalize(None, _finalize, exitpriority=_FINALIZER_PRIORITY)
        # A child wipes its finalizers when it starts, and spawn imports the main module, which may track, before that.
        util.register_after_fork(_anchor, _Anchor.in_child)


def _finalize() -> None:
    try:
        run()
    finally:
        if sys.modules["multiprocessing"].parent_process() is not None:
            # A child's threads, and finalizers of a lower priority, come after this one, and nothing of ours does.
            _exit.get().handlers_are_over = True


class _Anchor:
    """multiprocessing refers weakly to what it calls back."""

    def in_child(self) -> None:
        util: Any = sys.modules["multiprocessing.util"]
        util.Finalize(None, _finalize, exitpriority=_FINALIZER_PRIORITY)


_anchor = _Anchor()

# The first handler of ours to be registered is the last to run. Also for a program that first tracks in an exit handler
# of its own, when registering has no effect any more.
atexit.register(_run_last)
