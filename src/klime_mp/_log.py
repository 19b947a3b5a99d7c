"""Log lines that a flood of events cannot turn into a flood of lines."""

from __future__ import annotations

import logging
from collections.abc import Callable

from klime_mp._signals import raised_by_signal

QUIET_SECONDS = 10.0


class RateLimitedLog:
    """Writes a kind of line at most once in ten seconds; the next one says how many were left out.

    Never raises, whatever the user's logger does. Takes no lock of its own: two threads may at worst write one line
    too many.

    Args:
        logger: where the lines go.
        monotonic: seconds that only go forward.
        redact: takes secrets out of a finished line.
    """

    def __init__(self, logger: logging.Logger, monotonic: Callable[[], float], redact: Callable[[str], str]) -> None:
        self._logger = logger
        self._monotonic = monotonic
        self._redact = redact
        self._kinds: dict[str, _Kind] = {}

    def __call__(self, kind: str, level: int, text: str, *args: object, count: int = 1) -> None:
        """Write `text`, which is about `count` events, unless a line of this `kind` was written just before.

        With `args`, what is written is `text % args`: for who logs at each event, as most are left out.
        """
        now = self._monotonic()
        line = self._kinds.get(kind) or self._kinds.setdefault(kind, _Kind(level))
        if now < line.quiet_until:
            line.left_out += count
            return
        # Set before writing: a logging handler may track an event, and that one may fail in the same way.
        line.quiet_until, left_out, line.left_out = now + QUIET_SECONDS, line.left_out, 0
        written = text % args if args else text
        self._write(level, written + (f" (and {left_out} more before that)" if left_out else ""))

    def summarise(self) -> None:
        """Write down what was left out so far; for the end of a process."""
        for kind, line in list(self._kinds.items()):
            left_out, line.left_out = line.left_out, 0
            if left_out:
                self._write(line.level, f"{kind}: {left_out} more")

    def _write(self, level: int, text: str) -> None:
        try:
            self._logger.log(level, "%s", self._redact(text))
        except Exception as error:  # a broken logger must not break the caller, and there is nowhere to say so
            if raised_by_signal(error):
                raise


class _Kind:
    __slots__ = ("left_out", "level", "quiet_until")

    def __init__(self, level: int) -> None:
        self.level = level
        self.quiet_until = float("-inf")
        self.left_out = 0
