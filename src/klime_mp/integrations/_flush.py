"""A flush at the end of a unit of work, a request or a task, which that work does not notice."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from klime_mp._client import Client, live_clients
from klime_mp._log import RateLimitedLog
from klime_mp._signals import raised_by_signal
from klime_mp.exceptions import ConfigurationError

DEFAULT_TIMEOUT_MS = 1000

_log = RateLimitedLog(logging.getLogger("klime_mp"), time.monotonic, str)


class Flush:
    """The flush: nothing that goes wrong in it concerns whoever asked for it.

    Args:
        client: whose events; None: those of every live client.
        timeout_ms: milliseconds in total; None: the default.
        named: what the user calls `timeout_ms`.

    Raises:
        TypeError: `client` is not a Client.
        ConfigurationError: `timeout_ms` is not a positive number.
    """

    def __init__(self, client: Client | None, timeout_ms: float | None, named: str = "timeout_ms") -> None:
        if client is not None and not isinstance(client, Client):
            raise TypeError(f"client must be a klime_mp.Client or None, not {type(client).__name__}")
        self._client = client
        self._seconds = _checked(DEFAULT_TIMEOUT_MS if timeout_ms is None else timeout_ms, named) / 1000

    def now(self) -> None:
        """Wait for what is pending, in this thread."""
        deadline = time.monotonic() + self._seconds
        for client in self._begin():
            with unnoticed():
                client.flush(_milliseconds_until(deadline))

    async def anow(self) -> None:
        """Wait for what is pending, without blocking the event loop."""
        deadline = time.monotonic() + self._seconds
        for client in self._begin():
            with unnoticed():
                await client.aflush(_milliseconds_until(deadline))

    def _begin(self) -> list[Client]:
        """Have all clients begin to send, so that none waits for another one; those that have something to send."""
        busy = []
        for client in live_clients() if self._client is None else [self._client]:
            with unnoticed():
                if not client.flush(0):
                    busy.append(client)
        return busy


@contextmanager
def unnoticed() -> Iterator[None]:
    """Log what goes wrong, and go on; what a signal handler raised passes."""
    try:
        yield
    except Exception as error:  # a defect of ours, or no memory
        if raised_by_signal(error):
            raise
        _log("flush", logging.ERROR, f"a flush failed: {type(error).__name__}: {error}")


def _checked(timeout_ms: Any, named: str) -> float:
    is_number = isinstance(timeout_ms, (int, float)) and not isinstance(timeout_ms, bool)
    if not is_number or not 0 < timeout_ms < math.inf:
        raise ConfigurationError(f"{named} must be a positive number of milliseconds, not {timeout_ms!r}")
    return float(timeout_ms)


def _milliseconds_until(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic()) * 1000
