"""A set of whole numbers, kept as ranges: a spool's backlog is long, and nearly without gaps."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Ranges:
    """Numbers as sorted, separate ranges of (first, last), both included."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in ranges:
            self.add(first, last)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(list(zip(self._firsts, self._lasts, strict=True)))

    def __len__(self) -> int:
        """How many numbers."""
        return sum(self._lasts) - sum(self._firsts) + len(self._firsts)

    def __bool__(self) -> bool:
        return bool(self._firsts)

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._firsts, number) - 1
        return at >= 0 and number <= self._lasts[at]

    def add(self, first: int, last: int | None = None) -> None:
        """Put in a number, or all from `first` to `last`."""
        last = first if last is None else last
        # All ranges that overlap the new one, or touch it, become one with it.
        begin = bisect_left(self._lasts, first - 1)
        end = bisect_right(self._firsts, last + 1)
        if begin < end:
            first = min(first, self._firsts[begin])
            last = max(last, self._lasts[end - 1])
        self._replace(begin, end, [first], [last])

    def remove(self, first: int, last: int | None = None) -> None:
        """Take out a number, or all from `first` to `last`, as far as they are there."""
        last = first if last is None else last
        begin = bisect_left(self._lasts, first)
        end = bisect_right(self._firsts, last)
        if begin >= end:
            return
        left = [(self._firsts[begin], first - 1)] if self._firsts[begin] < first else []
        right = [(last + 1, self._lasts[end - 1])] if self._lasts[end - 1] > last else []
        self._replace(begin, end, [each for each, _ in left + right], [each for _, each in left + right])

    def _replace(self, begin: int, end: int, firsts: list[int], lasts: list[int]) -> None:
        # On one line and without a call: a signal's exception cannot come between the two.
        self._firsts[begin:end] = firsts; self._lasts[begin:end] = lasts  # noqa: E702 # fmt: skip
