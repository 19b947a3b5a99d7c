"""The user's callbacks: called where the contract says, with what they raise logged and swallowed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from klime_mp._encoding import decode
from klime_mp._log import RateLimitedLog
from klime_mp._response import BatchResponse
from klime_mp._signals import raised_by_signal
from klime_mp.exceptions import SendError

if TYPE_CHECKING:
    from klime_mp._config import Config


class Callbacks:
    """One client's callbacks in one process.

    Events are kept as JSON on the road; they become dicts here, and only when somebody wants to see them.
    """

    def __init__(self, config: Config, log: RateLimitedLog) -> None:
        self._on_error = config.on_error
        self._on_success = config.on_success
        self._on_drop = config.on_drop
        self._before_send = config.before_send
        self._log = log
        self.filters = config.before_send is not None
        self.hears_of_drops = config.on_drop is not None
        self._inside: set[int] = set()  # threads in on_error or on_success
        self._dropping: set[int] = set()  # threads in on_drop

    def inside(self) -> bool:
        """Is this thread in `on_error` or `on_success`? Who would wait for the sender there waits for itself."""
        return threading.get_ident() in self._inside

    def before_send(self, body: bytes) -> Any:
        """The user's last look; raises what the user's function raises."""
        assert self._before_send is not None  # noqa: S101 # asked for by `filters`
        return self._before_send(decode(body))

    def success(self, response: BatchResponse) -> None:
        """A batch was answered 2xx."""
        if self._on_success is not None:
            self._call("on_success", self._on_success, response)

    def retrying(self, because: str, status: int | None, count: int) -> None:  # noqa: ARG002 # the listener's signature
        """A batch will be tried again; nobody's callback, but worth a line to who looks for a reason."""
        self._log("retry", logging.INFO, f"{because}; {count} events will be sent again")

    def error(self, message: str, status: int | None, bodies: Iterable[bytes]) -> None:
        """Events were given up."""
        if self._on_error is not None:
            events = [decode(body) for body in bodies]
            self._call("on_error", self._on_error, SendError(message, status_code=status, events=events), events)

    def make_room(self, where: str, bodies: Iterable[bytes], count: int) -> None:
        """`count` events had to make room, in the queue or in the spool; `bodies` are those that can be shown."""
        text = "the %s is full: %d of the oldest events dropped"
        self._log("queue_full", logging.WARNING, text, where, count, count=count)
        if self.hears_of_drops:
            for body in bodies:
                self.drop(body, "queue_full")

    def drop(self, body: bytes | None, reason: str) -> None:
        """An event was dropped; runs in the caller's thread, where waiting for the sender is allowed.

        What `on_drop` itself tracks, and has to be dropped, is counted and logged, but not told: it would never end.
        """
        ident = threading.get_ident()
        if self._on_drop is not None and ident not in self._dropping:
            try:
                self._dropping.add(ident)
                self._on_drop(None if body is None else decode(body), reason)
            except Exception as error:  # the user's code
                if raised_by_signal(error):
                    raise
                self.raised("on_drop", error)
            finally:
                self._dropping.discard(ident)

    def raised(self, name: str, error: BaseException) -> None:
        """Say that a callback raised."""
        self._log(f"{name} raised", logging.ERROR, f"{name} raised {type(error).__name__}: {_words(error)}")

    def _call(self, name: str, callback: Callable[..., object], *args: Any) -> None:
        ident = threading.get_ident()
        try:
            self._inside.add(ident)
            callback(*args)
        except BaseException as error:  # the user's code
            # On the main thread an exit may be the process's own; it passes on, like what a signal handler raised.
            exits = not isinstance(error, Exception) and threading.current_thread() is threading.main_thread()
            if exits or raised_by_signal(error):
                raise
            self.raised(name, error)
        finally:
            self._inside.discard(ident)


def _words(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 # the user's exception class
        return "(its text cannot be shown)"
