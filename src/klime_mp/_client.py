"""The public client: its methods' words, and the way from a call to what this process owns."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Any, TypeAlias

from klime_mp import _exit, _hold, _host  # noqa: F401 # _exit early: it registers the exit handler that is to run last
from klime_mp._fork import PerProcess, getpid

# What takes time to import (logging, requests and what they need) is loaded when a client is built.
if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Mapping
    from datetime import datetime
    from types import TracebackType
    from uuid import UUID

    from typing_extensions import Self

    from klime_mp._config import Config
    from klime_mp._response import BatchResponse
    from klime_mp._state import ProcessState
    from klime_mp._stats import Stats
    from klime_mp.exceptions import SendError

Id: TypeAlias = "str | int | UUID | None"
Properties: TypeAlias = "Mapping[Any, Any] | None"

_live: weakref.WeakValueDictionary[str, Client] = weakref.WeakValueDictionary()  # by origin


class Client:
    """A Klime client. Build one a program, at import if you like: it is safe to build, and to use, before any fork.

    Building starts no thread and opens no file or connection. In each process that uses the client it keeps a queue
    and a sender thread of that process's own; a child starts clean, and what its parent had pending stays the parent's.
    Every method may be called from any thread and after any fork; `track`, `identify` and `group` from a signal
    handler, too. At the end of a process what is pending is sent, with nothing to configure.

    All durations are milliseconds. `None` means the default. Options with a plain value can also be given in the
    environment as `KLIME_<NAME>`; arguments win.

    Args:
        write_key: the key of your Klime source; `$KLIME_WRITE_KEY`. Required unless `enabled=False`.
        endpoint: base URL, default `https://i.klime.com`; requests go to `{endpoint}/v1/batch`.
        flush_interval: the longest an event waits for company, default 2000.
        max_batch_size: events a request, default 20, at most 100.
        max_queue_size: events in memory, default 1000; beyond it the oldest is dropped.
        max_queue_bytes: bytes in memory, default 64 MiB; same policy.
        retry_max_attempts: tries of one batch, the first included, default 5.
        retry_initial_delay: first back-off, default 1000; doubles up to 16 s, with jitter.
        request_timeout: to connect, and to wait for each part of the answer, default 10000.
        shutdown_timeout: total time of `shutdown()` and of the exit handlers, retries included, default 5000.
        flush_on_shutdown: default True; False: nothing is sent by itself at exit.
        on_error: `on_error(error, events)`, a `SendError` and a list of dicts as sent: events were given up or
            rejected. Called on the sender's thread, as is `on_success`; what they raise is logged.
        on_success: `on_success(response)`, a `BatchResponse`: a batch was answered 2xx.
        on_drop: `on_drop(event, reason)`: an event was dropped before delivery was tried; `event` is a dict, or None
            if none could be built. Called in the call, as is `before_send`: keep them short.
        before_send: `before_send(event)`: last look at the event, a dict as it would be sent; return it, changed or
            not, or None to drop it.
        logger: default `logging.getLogger("klime_mp")`, which has only a NullHandler.
        spool_dir: a directory for events: they are on disk before `track` returns, survive SIGKILL and an endpoint that
            is down for longer than the retries, and are delivered by any process with the same directory. Default None:
            memory only.
        spool_max_bytes: bound of the spool, default 256 MiB; beyond it the oldest events are dropped.
        enabled: default True; False: nothing is kept or sent (tests, opt-out).
        strict: default False; True: `track`, `identify` and `group` raise `InvalidEventError` (development, tests).

    Raises:
        ConfigurationError: an option is missing, unknown or wrong; names it, the value, and what would be right.
    """

    def __init__(
        self,
        write_key: str | None = None,
        *,
        endpoint: str | None = None,
        flush_interval: float | None = None,
        max_batch_size: int | None = None,
        max_queue_size: int | None = None,
        max_queue_bytes: int | None = None,
        retry_max_attempts: int | None = None,
        retry_initial_delay: float | None = None,
        request_timeout: float | None = None,
        shutdown_timeout: float | None = None,
        flush_on_shutdown: bool | None = None,
        on_error: Callable[[SendError, list[dict[str, Any]]], object] | None = None,
        on_success: Callable[[BatchResponse], object] | None = None,
        on_drop: Callable[[dict[str, Any] | None, str], object] | None = None,
        before_send: Callable[[dict[str, Any]], Mapping[str, Any] | None] | None = None,
        logger: logging.Logger | None = None,
        spool_dir: str | None = None,
        spool_max_bytes: int | None = None,
        enabled: bool | None = None,
        strict: bool | None = None,
        **unknown: Any,
    ) -> None:
        options = dict(locals())
        del options["self"], options["unknown"]
        from klime_mp._config import Config  # noqa: PLC0415 # see the imports above

        self._set_up(Config.resolve({**options, **unknown}), os.urandom(16).hex())

    def _set_up(self, config: Config, origin: str) -> None:
        # Loads requests. Here, not in the sender: an import that is under way at a fork hangs a child that wants it.
        from klime_mp._state import ProcessState  # noqa: PLC0415 # see the imports above

        def begin(inherited: ProcessState | None) -> ProcessState:
            return ProcessState(config, parents=inherited)

        self._config = config
        self._origin = origin
        self._states: PerProcess[ProcessState] = PerProcess(begin, ProcessState.arrive)
        _live[origin] = self
        if _host.only_loads():
            _hold.keep(lambda: self._here().arrive())
        if config.is_exposed:
            config.warn(f"endpoint {config.endpoint} is plain http: the write key and the events travel unencrypted")

    # --- events

    def track(
        self,
        event: str,
        properties: Properties = None,
        user_id: Id = None,
        group_id: Id = None,
        *,
        timestamp: datetime | None = None,
        message_id: str | None = None,
        context: Properties = None,
    ) -> str | None:
        """Record that something happened. Needs a `user_id` or a `group_id`, or both.

        Returns at once: no network I/O, no waiting for a lock that is held during I/O. Never raises (unless `strict`),
        whatever is passed; an invalid event is dropped with a log line. Safe in any thread, after a fork, and in a
        signal handler. Only in the last exit handlers of a process, when nobody is left to send the event, it waits.

        Args:
            event: its name, a non-empty str.
            properties: a mapping of any values; encoded now, so later changes to it change nothing.
            user_id: who did it: str, int or UUID; None and "" mean absent.
            group_id: the organisation it happened in; same types.
            timestamp: when, an aware datetime; None: now.
            message_id: the event's identity, kept through all retries; None: a new uuid4.
            context: merged over the library's own context.

        Returns:
            The event's messageId when it was accepted, None when it was dropped.
        """
        here = self._states[getpid()]
        return here.submit("track", event, properties, user_id, group_id, timestamp, message_id, context)

    def identify(
        self,
        user_id: Id,
        traits: Properties = None,
        *,
        timestamp: datetime | None = None,
        message_id: str | None = None,
        context: Properties = None,
    ) -> str | None:
        """Record who a user is: `traits` such as name, email, plan. Otherwise like `track`."""
        here = self._states[getpid()]
        return here.submit("identify", None, traits, user_id, None, timestamp, message_id, context)

    def group(
        self,
        group_id: Id,
        traits: Properties = None,
        user_id: Id = None,
        *,
        timestamp: datetime | None = None,
        message_id: str | None = None,
        context: Properties = None,
    ) -> str | None:
        """Record what an organisation is and, with a `user_id`, that the user is part of it. Otherwise like `track`."""
        here = self._states[getpid()]
        return here.submit("group", None, traits, user_id, group_id, timestamp, message_id, context)

    def track_sync(
        self,
        event: str,
        properties: Properties = None,
        user_id: Id = None,
        group_id: Id = None,
        *,
        timestamp: datetime | None = None,
        message_id: str | None = None,
        context: Properties = None,
        timeout_ms: float | None = None,
    ) -> BatchResponse:
        """Like `track`, but send the event now, alone, and wait for the answer.

        Counted in `stats()`; callbacks are not called, apart from `before_send`.

        Args:
            event: as in `track`, as are the other arguments.
            properties: see `track`.
            user_id: see `track`.
            group_id: see `track`.
            timestamp: see `track`.
            message_id: see `track`.
            context: see `track`.
            timeout_ms: milliseconds in total, retries included; None: `request_timeout`.

        Returns:
            The endpoint's answer, also when it rejected the event: look at `.failed`. A client that is not enabled
            answers with the status "disabled", an event that `before_send` dropped with "filtered".

        Raises:
            SendError: it was not delivered: no answer in time, a refusal, a closed client.
            InvalidEventError: an argument breaks a rule, or the event is over 200 KiB.
            ValueError: `timeout_ms` is not a number.
        """
        return self._here().submit_now(
            timeout_ms, "track", event, properties, user_id, group_id, timestamp, message_id, context
        )

    def identify_sync(
        self,
        user_id: Id,
        traits: Properties = None,
        *,
        timestamp: datetime | None = None,
        message_id: str | None = None,
        context: Properties = None,
        timeout_ms: float | None = None,
    ) -> BatchResponse:
        """`identify`, sent and answered as by `track_sync`."""
        return self._here().submit_now(
            timeout_ms, "identify", None, traits, user_id, None, timestamp, message_id, context
        )

    def group_sync(
        self,
        group_id: Id,
        traits: Properties = None,
        user_id: Id = None,
        *,
        timestamp: datetime | None = None,
        message_id: str | None = None,
        context: Properties = None,
        timeout_ms: float | None = None,
    ) -> BatchResponse:
        """`group`, sent and answered as by `track_sync`."""
        return self._here().submit_now(
            timeout_ms, "group", None, traits, user_id, group_id, timestamp, message_id, context
        )

    # --- life

    def flush(self, timeout_ms: float | None = None) -> bool:
        """Wait until every event tracked in this process before the call has its outcome.

        Neither a back-off nor a Retry-After is shortened. From inside `on_error` or `on_success` it returns False at
        once, as it would wait for itself.

        Args:
            timeout_ms: milliseconds to wait; None: as long as the retries take.

        Returns:
            True when all have their outcome and the callbacks have returned, False when the deadline came first. With a
            spool also False as soon as a try failed: the events are safe, and tried again.

        Raises:
            ValueError: `timeout_ms` is not a number.
        """
        return self._here().flush(timeout_ms)

    def shutdown(self, timeout_ms: float | None = None) -> bool:
        """Send what is pending in this process, then close the client. Idempotent.

        Cuts a back-off short, with one last try. What is undelivered at the deadline has failed, and goes to
        `on_error`; with a spool it stays on disk, for any process with the same folder. A closed client drops events
        (reason `shutdown`), its sync calls raise `SendError`; `restart()` opens it again. You need not call this at
        exit: it happens by itself.

        Args:
            timeout_ms: milliseconds in total; None: `shutdown_timeout`.

        Returns:
            True when every pending event had its outcome by the usual rules, False when time ran out for some, or
            when called from inside `on_error` or `on_success` (the client closes then without being waited for).

        Raises:
            ValueError: `timeout_ms` is not a number.
        """
        return self._here().shutdown(timeout_ms)

    def restart(self) -> None:
        """Start this process afresh: the hook for servers that have one, such as gunicorn's `post_fork`.

        Not needed after a fork, which is noticed anyway. Loses nothing that is pending in this process, and makes a
        closed client usable again. Makes no thread, file or connection by itself.
        """
        self._here().restart()

    async def aflush(self, timeout_ms: float | None = None) -> bool:
        """`flush` for asyncio: does not block the event loop. Cancelling stops the waiting only."""
        return await self._here().aflush(timeout_ms)

    async def ashutdown(self, timeout_ms: float | None = None) -> bool:
        """`shutdown` for asyncio: does not block the event loop. Cancelling stops the waiting only."""
        from klime_mp._aside import run_aside  # noqa: PLC0415 # loads asyncio, as whoever awaits this has done

        if self._here().waits_for_nobody():
            return self.shutdown(timeout_ms)  # which, in a callback, another thread would not know
        return await run_aside(lambda: self.shutdown(timeout_ms))

    # --- looking at it

    def queue_size(self) -> int:
        """Events of this process that wait for their outcome, in flight included."""
        return self._here().pending()

    def stats(self) -> Stats:
        """This process's ledger: what became of every event; starts at zero in a child."""
        return self._here().stats()

    def __repr__(self) -> str:
        state = self._states.peek()
        shown = "unused here" if state is None else f"{'closed' if state.closed else 'open'}, {state.pending()} pending"
        key = self._config.key_hint if self._config.write_key else "none"
        return f"<klime_mp.Client {self._config.endpoint} key={key} pid={getpid()} {shown}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()

    # --- copies: there is one client

    def __copy__(self) -> Client:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Client:
        return self

    def __reduce__(self) -> tuple[Callable[..., Client], tuple[str, Config]]:
        import pickle  # noqa: PLC0415 # whoever asks has loaded it

        for name in ("on_error", "on_success", "on_drop", "before_send", "logger"):
            try:
                pickle.dumps(getattr(self._config, name))
            except Exception as error:
                raise pickle.PicklingError(
                    f"the client's {name} cannot be pickled ({error}); pass a function defined at a module's top level"
                ) from error
        return _revive, (self._origin, self._config)

    def _here(self) -> ProcessState:
        """What this process owns of the client."""
        return self._states.here()

    def _adopt(self, pid: int | None = None) -> int:
        """Take over a file of a dead process's in the spool; how many events it had."""
        return self._here().adopt(pid)

    def _flush_adopted(self, timeout_ms: float | None = None) -> bool:
        """`flush` for what was adopted as well."""
        return self._here().flush_adopted(timeout_ms)


# Clients that came out of a pickle, by origin. Strong references: a pool unpickles its arguments for each task, and
# the client must outlive the task.
_revived: dict[str, Client] = {}


def _revive(origin: str, config: Config) -> Client:
    """The live client of that origin in this process, or a new one. Safe in any thread."""
    living = _live.get(origin)
    if living is not None:
        return living
    client = Client.__new__(Client)
    client._set_up(config, origin)  # noqa: SLF001 # our own class
    client = _live[origin] = _revived.setdefault(origin, client)  # of threads that race, the first one's
    return client


def live_clients() -> list[Client]:
    """Every client of this process that has not been collected."""
    # valuerefs() is one step; iterating would fail when another thread builds a client.
    return [client for client in (reference() for reference in _live.valuerefs()) if client is not None]
