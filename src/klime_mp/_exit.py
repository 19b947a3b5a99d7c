"""The ways out of a process: the only module that knows `atexit` and multiprocessing's finalizers.

A process registers its ways out when it first uses a client; importing this module has registered one before. Exit
handlers run last-registered first: the early registration therefore runs late, and also catches what other people's
exit handlers tracked. What is tracked later still, in handlers older than the import, has nobody left who would wait
for it, so the call itself does. All of it shares one allowance of time: what a handler has spent, the next one does not
have. (Not a deadline counted from the first one: Celery's test worker, or a hook called in the wrong process, can make
an end look near that is not, and the real one still needs its time.)

The ends that only a server knows are asked of `_host`. Handlers are inherited by fork, and may run twice, in any order,
and be interrupted: each run sends what is there.
"""

from __future__ import annotations

import atexit
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from klime_mp import _hold, _host
from klime_mp._clock import NEVER
from klime_mp._fork import PerProcess, getpid

if TYPE_CHECKING:
    from typing_extensions import Self

# multiprocessing runs finalizers from the highest priority to the lowest, the negative ones after it has waited for
# the process's own children: ours come late, as what others do there may track events.
_FINALIZER_PRIORITY = -100

# Handlers of one end follow each other closely. Seconds after which the next one belongs to another end.
_ANOTHER_END = 10.0

T = TypeVar("T")


class Drains(Protocol):
    """What the exit asks of a sender."""

    @property
    def exit_timeout(self) -> float | None:
        """Seconds the exit may spend on it, None when it must not send by itself."""

    def has_work(self) -> bool:
        """Is anything pending?"""

    def hurry(self, deadline: float) -> bool:
        """Begin to send what is pending by `deadline`, without waiting; False when no thread is to be had."""

    def relax(self, deadline: float) -> None:
        """The hurry is over."""

    def drain(self, deadline: float) -> bool:
        """Send what is pending by `deadline`, give up the rest."""

    def tidy(self) -> None:
        """Leave nothing behind on disk that is not needed."""


class _Exit:
    """One process's exit: who has to be flushed, and how much time that has taken so far."""

    def __init__(self) -> None:
        self.has_begun = False
        self.registered = False
        self.handlers_are_over = False
        self.known: weakref.WeakValueDictionary[int, Drains] = weakref.WeakValueDictionary()
        self.held: dict[int, Drains] = {}
        self._spent = 0.0
        self._since: float | None = None  # the outermost handler under way began then
        self._left = -NEVER  # the last one ended then
        self._depth = 0

    def __enter__(self) -> Self:
        """A handler runs: its time is counted, and handlers inside it, or beside it, share its deadline."""
        now = time.monotonic()  # first: after it, nothing is called, and so nothing can strike
        if self._since is None:
            self._since = now
            if now > self._left + _ANOTHER_END:
                self._spent = 0.0
        self._depth += 1
        self.has_begun = True
        return self

    def __exit__(self, *_: object) -> None:
        now = time.monotonic()
        self._depth -= 1
        if self._depth <= 0 and self._since is not None:
            self._spent += now - self._since
            self._since = None
            self._left = now

    def deadline(self, timeout: float) -> float:
        """When all handlers together have taken `timeout` seconds, if one of them runs now."""
        return (time.monotonic() if self._since is None else self._since) + timeout - self._spent

    def restart(self) -> None:
        """The end that seemed near was none."""
        self.has_begun = self.handlers_are_over = False
        self._spent, self._since, self._depth = 0.0, None, 0

    def release(self, busy: list[Drains]) -> None:
        """Those that are held have nothing to do any more, these apart."""
        for key, sender in list(self.held.items()):
            if sender not in busy:
                self.held.pop(key, None)

    def senders(self) -> list[Drains]:
        known = [reference() for reference in self.known.valuerefs()]
        alive = [sender for sender in [*known, *self.held.values()] if sender is not None]
        return list({id(sender): sender for sender in alive}.values())


_exit: PerProcess[_Exit] = PerProcess(lambda _parents: _Exit())


def know(sender: Drains) -> None:
    """Flush `sender` at exit. The first one in a process registers the process's ways out.

    Refers to it weakly: a sender whose client was collected lives as long as its thread works.
    """
    here = _exit.here()
    here.known[id(sender)] = sender
    if not here.registered:
        here.registered = True  # at once: a signal handler that tracks may strike in here
        try:
            atexit.register(run)
            _register_finalizer()
            _host.register_ways_out(run)
        except BaseException:  # a signal's; the next first use does it all again, which does no harm
            here.registered = False
            raise


def hold(sender: Drains) -> None:
    """Keep a sender that has events, and no thread, until they are sent."""
    _exit.here().held[id(sender)] = sender


def run(then: Callable[[], None] = lambda: None) -> None:
    """Send what is pending in this process, all clients together by one deadline, and give up the rest.

    May be called any number of times; what is tracked afterwards needs another call.

    Args:
        then: called before the senders are told that the hurry is over.
    """
    _hold.arrive()
    hurried: list[tuple[Drains, float]] = []
    with _exit.here() as here:
        try:
            while True:
                busy = [(sender, sender.exit_timeout) for sender in here.senders() if sender.has_work()]
                deadlines = [(sender, here.deadline(timeout)) for sender, timeout in busy if timeout is not None]
                here.release([sender for sender, _ in busy])
                if not deadlines:
                    for sender in here.senders():
                        sender.tidy()
                    return
                hurried += deadlines
                if not _drain(deadlines) or time.monotonic() >= max(deadline for _, deadline in deadlines):
                    # What is not done now will not be done: a callback does not return, or has called this; the
                    # endpoint is down, and events stay in the spool.
                    return
        finally:
            then()
            for sender, deadline in hurried:
                sender.relax(deadline)


def _drain(deadlines: list[tuple[Drains, float]]) -> bool:
    """Has any of them sent all it had?"""
    drained = False
    # All begin at once, so that a client that hangs takes no time from the others. Those that no thread works for
    # take turns in this one.
    threadless = [sender for sender, deadline in deadlines if not sender.hurry(deadline)]
    # (These first: a thread that hangs would not leave them any.)
    for sender, deadline in sorted(deadlines, key=lambda each: each[0] not in threadless):
        now = time.monotonic()
        turn = (deadline - now) / len(threadless) if sender in threadless else deadline - now
        drained |= sender.drain(now + turn)
        if sender in threadless:
            threadless.remove(sender)
    return drained


def restart() -> None:
    """The exit that seemed to have begun has not: another one will have its full time."""
    _exit.here().restart()


def has_begun() -> bool:
    """Has a handler run in this process?"""
    here = _exit.peek()
    return here is not None and here.has_begun


def within(timeout: float, work: Callable[[float], T]) -> T:
    """`work(seconds)` for a shutdown of at most `timeout` seconds; in an exit under way, as one of its handlers."""
    if not has_begun():
        return work(timeout)
    with _exit.here() as here:
        return work(min(timeout, here.deadline(timeout) - time.monotonic()))


def no_more_threads() -> bool:
    """Is the interpreter being torn down? Other threads are frozen then; before 3.12 a new one hangs its starter."""
    return sys.is_finalizing()


def main_thread_is_over() -> bool:
    """Do exit handlers run? If no thread can be started there (Python 3.12), none will ever be."""
    return not threading.main_thread().is_alive()


def handlers_are_over() -> bool:
    """Has the last exit handler of this process run, so that nobody will wait for a new event?"""
    here = _exit.peek()
    return here is not None and here.handlers_are_over


# Is it so in this process, or was it in an ancestor? Then there is a pid in it. To be asked first, at each event.
over_somewhere: list[int] = []


def _handlers_are_over() -> None:
    over_somewhere.append(getpid())
    _exit.here().handlers_are_over = True


def run_last() -> None:
    """`run`, where no handler of ours comes after it: what is tracked from now on is sent by the call itself."""
    run(_handlers_are_over)


def _register_finalizer() -> None:
    """The end of a multiprocessing child runs finalizers, and before Python 3.13 nothing else."""
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None:
        util.Finalize(None, _finalize, exitpriority=_FINALIZER_PRIORITY)
        # A child wipes its finalizers when it starts, and spawn imports the main module, which may track, before that.
        util.register_after_fork(_anchor, _Anchor.in_child)


def _finalize() -> None:
    # A child's threads, and finalizers of a lower priority, come after this one, and nothing of ours does.
    is_child = sys.modules["multiprocessing"].parent_process() is not None
    run(_handlers_are_over) if is_child else run()


class _Anchor:
    """multiprocessing refers weakly to what it calls back."""

    def in_child(self) -> None:
        util: Any = sys.modules["multiprocessing.util"]
        util.Finalize(None, _finalize, exitpriority=_FINALIZER_PRIORITY)


_anchor = _Anchor()

# The first handler of ours to be registered is the last to run. Also for a program that first tracks in an exit handler
# of its own, when registering has no effect any more.
atexit.register(run_last)
