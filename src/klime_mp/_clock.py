"""Time and waiting, as something that can be handed in.

Instants are seconds on the monotonic clock; `NEVER` is infinity, so that a deadline is always a float and `min()` of
two deadlines is the earlier one.
"""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

NEVER = math.inf

P = ParamSpec("P")
R = TypeVar("R")


class Latch:
    """A gate that opens once: one thread waits, any thread opens.

    A raw lock, because its acquire is one C call that a signal's exception leaves in a known state. `threading.Event`
    and `Condition` are Python code, which such an exception can stop between two steps with a lock held.
    """

    __slots__ = ("_gate",)

    def __init__(self) -> None:
        # Looked up at each use, never imported by name: gevent replaces it when it patches.
        self._gate = threading.Lock()
        self._gate.acquire()

    def open(self) -> None:
        """Let the waiting thread pass; opening twice is harmless."""
        try:
            self._gate.release()
        except RuntimeError:
            pass

    def wait(self, seconds: float) -> bool:
        """Wait until it opens; False when `seconds` (`NEVER` allowed) were over first."""
        if seconds >= threading.TIMEOUT_MAX:
            return self._gate.acquire()
        return self._gate.acquire(timeout=max(0.0, seconds))


class Clock:
    """The real time, and the real primitives. Tests hand in another one."""

    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)

    def lock(self) -> Any:
        """A lock for `atomic`: re-entrant, since a signal handler may call `track` while `track` holds it."""
        return threading.RLock()

    def latch(self) -> Latch:
        """A new, closed latch."""
        return Latch()

    def deadline(self, timeout_ms: float | None) -> float:
        """The instant `timeout_ms` milliseconds from now, `NEVER` for None; negative counts as 0.

        Raises:
            ValueError: not a number.
        """
        if timeout_ms is None:
            return NEVER
        number: object = timeout_ms
        if isinstance(number, bool) or not isinstance(number, (int, float)) or number != number:  # noqa: PLR0124 # NaN
            raise ValueError(f"timeout_ms must be a number of milliseconds or None, not {timeout_ms!r}")
        try:
            return self.monotonic() + max(0.0, float(timeout_ms)) / 1000.0
        except OverflowError:  # an int that is beyond all floats
            return NEVER if timeout_ms > 0 else self.monotonic()


class _HasLock(Protocol):
    _lock: Any


S = TypeVar("S", bound=_HasLock)


def atomic(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Run a method with `self._lock` held.

    The body stands on the line of its `with` on purpose. CPython looks for signals when a call has returned and at a
    loop's jump back, so none strikes between the lock's `__enter__` and the block. A trace function, though, sees the
    `with` line a second time when a block of several lines ends, and what it raises there would leave the lock held.
    """

    @functools.wraps(method)
    def holding_the_lock(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._lock: return method(self, *args, **kwargs)  # noqa: E701 # fmt: skip

    return holding_the_lock
