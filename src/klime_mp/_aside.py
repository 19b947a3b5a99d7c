"""Work done in a thread beside the caller's, so that the caller can stop waiting for it.

A deadline has to stand outside the call it limits: `getaddrinfo` knows no timeout. The thread is a daemon and may be
left behind. `ThreadPoolExecutor` would not do: its threads are joined at exit, and it takes no work during one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from threading import Thread
from typing import Generic, TypeVar

from klime_mp._clock import NEVER, Latch
from klime_mp._signals import raised_by_signal

T = TypeVar("T")


class Aside(Generic[T]):
    """A call under way in a thread of its own, or made at once in this one where no thread can be started.

    Args:
        work: what to call.
        done: called in that thread when it has returned or raised.
    """

    def __init__(self, work: Callable[[], T], done: Callable[[Aside[T]], None] | None = None) -> None:
        self._work = work
        self._done = done
        self._latch = Latch()
        self._result: list[T] = []
        self._error: BaseException | None = None
        try:
            Thread(target=self._run, name="klime-mp call", daemon=True).start()
        except Exception as error:  # RuntimeError at exit or out of threads, uWSGI's
            if raised_by_signal(error):
                raise
            self._run()
            self._let_exits_pass()

    def wait(self, seconds: float) -> bool:
        """Wait for the call to end; False when `seconds` were over first."""
        return self._latch.wait(seconds)

    def result(self) -> T:
        """What the call returned, or what it raised is raised; only after it has ended."""
        if self._error is not None:
            raise self._error
        return self._result[0]

    def _let_exits_pass(self) -> None:
        """An exit or a Ctrl-C struck this thread, not one beside it."""
        if self._error is not None and not isinstance(self._error, Exception):
            raise self._error

    def _run(self) -> None:
        try:
            self._result.append(self._work())
        except BaseException as error:  # noqa: BLE001 # it is raised where the result is asked for
            self._error = error
        finally:
            self._latch.open()
            if self._done is not None:
                self._done(self)


class LoopLatch:
    """A `Latch` that a coroutine waits for; any thread opens it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def open(self) -> None:
        """Let the waiting coroutine pass."""
        try:
            self._loop.call_soon_threadsafe(self._event.set)
        except RuntimeError:  # the loop was closed: nobody waits any more
            pass

    async def wait(self, seconds: float) -> bool:
        """Wait until it opens; False when `seconds` (`NEVER` allowed) were over first."""
        try:
            await asyncio.wait_for(self._event.wait(), None if seconds == NEVER else max(0.0, seconds))
        except asyncio.TimeoutError:
            return False
        return True


async def run_aside(work: Callable[[], T]) -> T:
    """`await` a blocking call without blocking the event loop. Cancelling stops the waiting, not the call."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ended.done():
            ended.set_result(None)

    def done(_aside: Aside[T]) -> None:
        try:
            loop.call_soon_threadsafe(wake)
        except RuntimeError:  # the loop was closed: nobody waits any more
            pass

    aside = Aside(work, done)
    await ended
    return aside.result()
