"""Random message ids for one process: uuid4 strings whose bits are drawn from the system many at a time.

What is drawn in advance would be drawn again by a child. So the stock belongs to a `ProcessState`, which a child
forgets however it was forked.
"""

from __future__ import annotations

import os

_AT_ONCE = 32

# The first digit of a uuid4's fourth group has two fixed bits.
_VARIANTS = {digit: "89ab"[int(digit, 16) % 4] for digit in "0123456789abcdef"}


class MessageIds:
    """Any thread may draw, also in a signal handler that interrupted a draw."""

    __slots__ = ("_stock",)

    def __init__(self) -> None:
        self._stock: list[str] = []

    def draw(self) -> str:
        """A new one."""
        try:
            digits = self._stock.pop()
        except IndexError:
            digits, *self._stock = _drawn(_AT_ONCE)
        return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{_VARIANTS[digits[16]]}{digits[17:20]}-{digits[20:]}"


def _drawn(count: int) -> list[str]:
    # One call: os.urandom asks the kernel, and lets go of the GIL, each time.
    text = os.urandom(16 * count).hex()
    return [text[at : at + 32] for at in range(0, len(text), 32)]
