"""Everything one process owns of one client: made at first use there, forgotten after a fork.

Puts the road together, and leads a call along it: build, filter, size, door.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 # needed for host names; first imported in the sender it could hang a fork's child
import logging
from typing import TYPE_CHECKING, Any

from klime_mp import _exit, _host
from klime_mp._batch import bodies_of
from klime_mp._callbacks import Callbacks
from klime_mp._clock import NEVER, Clock
from klime_mp._delivery import Delivery
from klime_mp._disk_spool import DiskSpool
from klime_mp._dispatch import Dispatch
from klime_mp._encoding import TooLargeError, UnencodableError, encode
from klime_mp._event import MAX_EVENT_BYTES, build, check, to_json, unwritable
from klime_mp._fork import getpid
from klime_mp._hold import Claim, Hold
from klime_mp._log import RateLimitedLog
from klime_mp._message_ids import message_ids
from klime_mp._queue import Queue
from klime_mp._response import BatchResponse
from klime_mp._retry import RetryPolicy
from klime_mp._segment import leave_inherited_files
from klime_mp._sender import Sender
from klime_mp._signals import raised_by_signal
from klime_mp._spool import NoSpool, Spool
from klime_mp._stats import Ledger, Stats
from klime_mp._steps import Evicted, Refused, Shift
from klime_mp._sync import SyncCalls
from klime_mp._transport import Transport
from klime_mp.exceptions import InvalidEventError, SendError

if TYPE_CHECKING:
    from collections.abc import Callable

    from klime_mp._config import Config
    from klime_mp._spool import Place, Whose


class ProcessState:
    """A client's share of this process. Making one makes no thread, file or connection."""

    def __init__(self, config: Config, *, parents: ProcessState | None = None, clock: Clock | None = None) -> None:
        """`parents` is the state of the process this one was forked from: a child of a closed client is closed."""
        clock = clock or Clock()
        closed = parents is not None and parents.closed
        only_loads = _host.only_loads()
        ledger = Ledger()
        self.pid = getpid()
        self._config = config
        self._clock = clock
        self._log = RateLimitedLog(config.logger, clock.monotonic, config.redact)
        self._callbacks = Callbacks(config, self._log)
        self._filters = self._callbacks.filters
        policy = RetryPolicy(config.retry_max_attempts, config.retry_initial_delay / 1000.0)
        self._draw_id = message_ids()
        self._refusal = None if config.enabled else "disabled"
        lock = clock.lock()
        self._spool: Spool = NoSpool()
        if config.spool_dir is not None:
            # In a process that only loads nothing is written: every worker would inherit the file.
            self._spool = DiskSpool(config.spool_dir, config, self._log, clock, lock, self, asleep=only_loads)
        self._queue = Queue(
            ledger,
            max_events=config.max_queue_size,
            max_bytes=config.max_queue_bytes,
            put_off=self._spool.put_off,
        )
        self._dispatch = Dispatch(
            self._queue,
            ledger,
            max_batch_size=config.max_batch_size,
            flush_interval=config.flush_interval / 1000.0,
            refusal="shutdown" if closed else self._refusal,
            clock=clock,
            lock=lock,
            holding=only_loads,
        )
        self._sender = Sender(
            self._dispatch,
            Delivery(policy, self._dispatch, self._callbacks, self._spool, self._log, clock),
            self._transport,
            self._callbacks,
            self._log,
            clock,
            self._spool,
            config.shutdown_timeout / 1000.0 if config.flush_on_shutdown else None,
        )
        self._sync = SyncCalls(config, policy, self._dispatch, self._transport, clock)
        self._road: Sender | Hold = self._sender
        # The sender's own is asked when this says that a shift has to begin first.
        self._accept: Callable[[bytes, Place | None], Evicted | Refused | Shift] = self._dispatch.accept
        if only_loads:
            self._road = Hold(self._sender, self._dispatch, self._spool)
            self._accept = self._road.accept
        self._parents = parents
        _exit.know(self._road)

    @property
    def closed(self) -> bool:
        """Was the client shut down?"""
        return self._dispatch.refusal == "shutdown"

    @property
    def held(self) -> tuple[Queue, Claim] | None:
        """What this process keeps for its workers, and the right to it."""
        return (self._queue, self._road.claim) if self._dispatch.holding and isinstance(self._road, Hold) else None

    def arrive(self) -> None:
        """This process may be the worker that delivers what the one that loaded the program held. Idempotent."""
        if isinstance(self._road, Hold) and self._road.holds():
            return
        leave_inherited_files()
        if self._parents is not None and self._parents.held is not None and _host.is_worker():
            queue, claim = self._parents.held
            if claim.take():
                queue.prepare(self._spool.append)
                self._dispatch.adopt(queue)
        if self._dispatch.has_work():
            self._sender.nudge()

    def submit(
        self,
        kind: str,
        event: Any = None,
        payload: Any = None,
        user_id: Any = None,
        group_id: Any = None,
        timestamp: Any = None,
        message_id: Any = None,
        context: Any = None,
    ) -> str | None:
        """An async call: the messageId when the event was accepted."""
        try:
            if message_id is None:
                message_id = self._draw_id()
            built = build(kind, event, payload, user_id, group_id, timestamp, message_id, context)
            try:
                body = encode(built, payload if context is None else (payload, context))
            except UnencodableError as error:
                raise unwritable(built, error) from None
            if self._filters or len(body) > MAX_EVENT_BYTES:
                built, body = self._look_again(built, body)
        except _Forked:
            return None
        except Exception as error:  # noqa: BLE001 # of what kind, is told there
            self._refuse(kind, _why(error))
            return None
        try:
            place = self._spool.append(body) if self._dispatch.refusal is None else None
            answer = self._accept(body, place)
            if answer and not self._is_in(kind, answer, body, place):
                return None
            if _exit.over_somewhere and _exit.handlers_are_over() and self._road.exit_timeout is not None:
                # Nobody comes after us who would wait for this event.
                _exit.within(self._road.exit_timeout, self._drain)
        except Exception as error:  # noqa: BLE001 # of what kind, is told there
            self._say_internal(kind, error)
            return None
        return built["messageId"]  # type: ignore[no-any-return] # before_send's is checked

    def submit_now(self, timeout_ms: float | None, kind: str, *arguments: Any) -> BatchResponse:
        """A sync call; `arguments` as of `submit`."""
        timeout = self._config.request_timeout if timeout_ms is None else timeout_ms
        try:
            built = build(kind, *arguments)
            _, body = self._look_again(built, to_json(built))
        except _Forked:
            raise SendError("before_send has forked, and the event is the parent process's") from None
        except Exception as error:  # noqa: BLE001 # as above
            drop = _why(error)
            self._dispatch.drop(drop.reason)
            if drop.error is None:
                return BatchResponse(drop.reason, 0, 0)
            raise drop.error from None
        return self._sync.send(body, timeout)

    def flush(self, timeout_ms: float | None) -> bool:
        """See `Client.flush`."""
        return self._road.flush(self._clock.deadline(timeout_ms))

    async def aflush(self, timeout_ms: float | None) -> bool:
        """See `Client.aflush`."""
        if self.waits_for_nobody():
            return self.flush(0)
        return await self._sender.aflush(self._clock.deadline(timeout_ms))

    def shutdown(self, timeout_ms: float | None) -> bool:
        """See `Client.shutdown`."""
        if timeout_ms is None:
            timeout_ms = self._config.shutdown_timeout
        self._clock.deadline(timeout_ms)  # which checks it
        in_time = _exit.within(max(0.0, timeout_ms / 1000.0), lambda left: self._drain(left, "shutdown"))
        self._log.summarise()
        return in_time

    def waits_for_nobody(self) -> bool:
        """Does a flush return at once, as inside `on_error` or `on_success`, or where nothing is sent?"""
        return self._callbacks.inside() or (isinstance(self._road, Hold) and self._road.holds())

    def restart(self) -> None:
        """See `Client.restart`."""
        _exit.restart()
        self._dispatch.reopen(self._refusal)

    def flush_adopted(self, timeout_ms: float | None) -> bool:
        """`flush` for everything in this process, also what dead ones left."""
        return self._road.flush(self._clock.deadline(timeout_ms), NEVER)

    def adopt(self, pid: int | None = None) -> int:
        """Take over a file that the dead process `pid`, or any, left in the spool; how many events it had."""
        count = self._sender.adopt(pid)
        if count:
            self._sender.nudge()
        return count

    def pending(self) -> int:
        """Events without an outcome."""
        return self._dispatch.pending()

    def stats(self) -> Stats:
        """The ledger."""
        return self._dispatch.stats()

    # --- along the road

    def _look_again(self, event: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        """Through `before_send`, and not over the size. Raises _Dropped, or what makes an event invalid."""
        if self._filters:
            event, body = self._filter(event, body)
        if len(body) > MAX_EVENT_BYTES:
            raise _Dropped("too_large", InvalidEventError(_TOO_LARGE), body)
        return event, body

    def _filter(self, event: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        """Show the event, as it would be sent, to `before_send`."""
        try:
            returned = self._callbacks.before_send(body)
        except Exception as error:  # the user's code: the event passes as it was
            if raised_by_signal(error):
                raise
            self._callbacks.raised("before_send", error)
            self._stay_out_of_children()
            return event, body
        self._stay_out_of_children()
        if returned is None:
            raise _Dropped("filtered", None, body)
        changed = check(returned)
        return changed, to_json(changed)

    def _stay_out_of_children(self) -> None:
        if getpid() != self.pid:
            raise _Forked

    def _is_in(self, kind: str, answer: Evicted | Refused | Shift, body: bytes, place: Place | None) -> bool:
        """Is the event in? Has a shift begun if need be, and tells log and callbacks what was dropped."""
        if isinstance(answer, Shift):
            self._sender.begin(answer)
            answer = self._sender.accept(body, place)
        if isinstance(answer, Refused):
            self._spool.acknowledge([place])
            level = logging.WARNING if answer.reason == "shutdown" else logging.DEBUG
            self._log(answer.reason, level, f"{kind} was dropped: the client is {_STATES[answer.reason]}")
            self._callbacks.drop(body, answer.reason)
            return False
        dropped = bodies_of(answer)
        if dropped:
            self._callbacks.make_room("queue", dropped, len(dropped))
        return body not in dropped or all(each is not body for each in dropped)

    def _drain(self, seconds: float, refusal: str | None = None) -> bool:
        return self._road.drain(self._clock.deadline(seconds * 1000.0), refusal)

    # What `_spool.Room` asks.

    def drop_waiting(self, take: Callable[[], tuple[int, Whose]]) -> None:
        """A file of the spool has to make room. See `Dispatch.drop_waiting`."""
        self._dispatch.drop_waiting(take)

    def wants_dropped(self) -> bool:
        """Is there an `on_drop`?"""
        return self._callbacks.hears_of_drops

    def say_dropped(self, bodies: list[bytes], count: int) -> None:
        """These waited longest in the spool, and are gone."""
        self._callbacks.make_room("spool", bodies, count)
        self._stay_out_of_children()

    def _refuse(self, kind: str, drop: _Dropped) -> None:
        self._dispatch.drop(drop.reason)
        if drop.error is not None:
            self._log(drop.reason, logging.WARNING, f"{kind} was dropped: {drop.error}")
        self._callbacks.drop(drop.body, drop.reason)
        if self._config.strict and drop.error is not None:
            raise drop.error from None

    def _say_internal(self, kind: str, error: Exception) -> None:
        """A defect of ours, or no memory: the caller's request must not suffer. What a signal handler raised passes."""
        if raised_by_signal(error):
            raise error
        if not isinstance(error, _Forked):
            self._log("internal", logging.ERROR, f"{kind}: internal error: {error!r}")

    def _transport(self) -> Transport:
        return Transport(self._config, self._clock)


class _Forked(Exception):  # noqa: N818 # as below
    """The user's code forked, and this is the child: the event is the parent's, and so are these locks."""


class _Dropped(Exception):  # noqa: N818 # not an error: a turn of the road
    def __init__(self, reason: str, error: InvalidEventError | None, body: bytes | None = None) -> None:
        self.reason = reason
        self.error = error
        self.body = body  # the event, if one could be built


def _why(error: Exception) -> _Dropped:
    """Why an event could not be made; what a signal handler raised passes."""
    if isinstance(error, _Dropped):
        return error
    if isinstance(error, TooLargeError):
        return _Dropped("too_large", InvalidEventError(_TOO_LARGE))
    if isinstance(error, InvalidEventError):
        return _Dropped("invalid", error)
    if raised_by_signal(error):
        raise error
    # What the caller's objects raise, and our own defects, are not his.
    return _Dropped("invalid", InvalidEventError(f"the event could not be built: {type(error).__name__}"))


_TOO_LARGE = "the event is over 200 KiB"
_STATES = {"shutdown": "shut down", "disabled": "disabled"}
