"""What an answer means. Pure: no clock, no thread, no I/O.

`judge` turns (answer, attempt) into one of: delivered, split the batch, wait and try again, give up because.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timezone
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from typing import TYPE_CHECKING

from klime_mp._clock import NEVER

if TYPE_CHECKING:
    from klime_mp._transport import Answer

MAX_BACK_OFF = 16.0  # seconds
MAX_RETRY_AFTER = 300.0  # seconds

_RETRYABLE_4XX = frozenset({408, 425, 429})
_REFUSES_THE_KEY = frozenset({401, 403})


class Fate(Enum):
    """What to do with a batch now."""

    DELIVERED = auto()
    SPLIT = auto()
    RETRY = auto()
    GIVE_UP = auto()


@dataclass(frozen=True)
class Verdict:
    """An answer's meaning.

    Attributes:
        fate: what to do.
        because: why the batch is retried or given up, for people.
        wait: seconds of back-off before the next attempt.
        hold: seconds the endpoint asked everybody to wait (Retry-After), None when it did not ask.
        refused_key: the endpoint does not accept the write key.
        for_now: given up after the last try of several; at another time it might succeed.
    """

    fate: Fate
    because: str = ""
    wait: float = 0.0
    hold: float | None = None
    refused_key: bool = False
    for_now: bool = False


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how fast. `attempts` counts the first; `initial_delay` is in seconds."""

    attempts: int
    initial_delay: float

    def back_off(self, attempt: int, random: Callable[[], float]) -> float:
        """Seconds to wait after failed attempt number `attempt` (from 1): random in [d/2, d], d doubling up to 16."""
        delay = min(MAX_BACK_OFF, self.initial_delay * 2.0 ** min(attempt - 1, 30))
        return delay * (0.5 + 0.5 * random())

    def judge(self, answer: Answer, attempt: int, *, wall: float, random: Callable[[], float]) -> Verdict:
        """The meaning of the answer to attempt number `attempt`, at wall clock time `wall` (Unix seconds)."""
        status = answer.status
        if status is None:
            return self._again(answer, answer.error, attempt, wall, random)
        if 200 <= status < 300:
            return Verdict(Fate.DELIVERED)
        if status == 413:
            return Verdict(Fate.SPLIT, "the endpoint answered 413: the request was too large for it")
        if 300 <= status < 400:
            where = f" to {answer.location}" if answer.location else ""
            return Verdict(Fate.GIVE_UP, f"the endpoint redirected ({status}){where}; redirects are not followed")
        if status >= 500 or status in _RETRYABLE_4XX:
            return self._again(answer, f"the endpoint answered {status}", attempt, wall, random)
        if status in _REFUSES_THE_KEY:
            because = f"the endpoint refused the write key ({status})"
            return Verdict(Fate.GIVE_UP, because + _quoted(answer), refused_key=True)
        return Verdict(Fate.GIVE_UP, f"the endpoint answered {status}" + _quoted(answer))

    def _again(self, answer: Answer, because: str, attempt: int, wall: float, random: Callable[[], float]) -> Verdict:
        hold = parse_retry_after(answer.retry_after, wall)
        if attempt >= self.attempts:
            tries = "once" if attempt == 1 else f"{attempt} times"
            return Verdict(Fate.GIVE_UP, f"{because}; tried {tries}", hold=hold, for_now=True)
        return Verdict(Fate.RETRY, because, wait=self.back_off(attempt, random) if hold is None else 0.0, hold=hold)


class Patience:
    """When a batch may be tried, again or for the first time. One object for each batch under way.

    A shutdown cuts a back-off short, to one last try: the one it finds under way, and any that would end after its
    deadline. A back-off that fits before the deadline is waited for. A Retry-After is never cut.
    """

    def __init__(self) -> None:
        self._resume_at = -NEVER
        self._began_in_shutdown = False
        self._last_try = False
        self._spent = False

    def back_off(self, until: float, closing: float) -> None:
        """A try failed at a moment when the shutdown's deadline was `closing` (`NEVER`: no shutdown)."""
        self._resume_at = until
        self._began_in_shutdown = closing < NEVER
        self._spent, self._last_try = self._last_try and self._began_in_shutdown, False

    def next_try(self, now: float, hold: float, closing: float) -> float | None:
        """The instant of the next try (now, if it has passed); None when there must be none.

        Args:
            now: this instant; all are seconds on one monotonic clock.
            hold: until when the endpoint asked everybody to wait.
            closing: the deadline of the shutdown under way, `NEVER` without one.
        """
        if closing < NEVER:
            if self._spent or max(now, hold) >= closing:
                return None
            if self._resume_at > now and (not self._began_in_shutdown or self._resume_at >= closing):
                self._last_try = True
                self._resume_at = now
        return max(self._resume_at, hold)


def parse_retry_after(value: str | None, wall: float) -> float | None:
    """Seconds to wait by a Retry-After header (seconds or an HTTP date), at most 300; None for none and for nonsense.

    Zero and a moment that has passed ask for nothing: the usual back-off applies.
    """
    if value is None:
        return None
    text = value.strip()
    if re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII):
        seconds = float(text)
    else:
        try:
            moment = parsedate_to_datetime(text)
            # An HTTP date is in UTC, also in the old format that does not say so.
            seconds = moment.replace(tzinfo=moment.tzinfo or timezone.utc).timestamp() - wall
        except (ValueError, TypeError, IndexError, OverflowError):
            return None
    if math.isnan(seconds) or seconds <= 0:
        return None
    return min(seconds, MAX_RETRY_AFTER)


def _quoted(answer: Answer) -> str:
    """The start of what the endpoint wrote, if it is worth reading."""
    text = " ".join(answer.body[:200].split())
    return f": {text}" if text else ""
