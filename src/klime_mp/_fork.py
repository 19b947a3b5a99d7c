"""Which process is this? The only module that names `os.register_at_fork` and `os.getpid`.

State is *replaced* in a child, never repaired: a `PerProcess` holds one value for each process that asks, and a child
that asks gets a new one. Two things tell a child that it is one: the at-fork hook, and, because uWSGI forks in C
without running Python's hooks, the pid, compared at every access and before any lock is touched.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from os import getpid
from typing import Protocol, TypeVar

__all__ = ["PerProcess", "getpid", "tell"]

T = TypeVar("T")


class _Forgets(Protocol):
    def forget(self) -> None: ...


def tell(who: _Forgets) -> None:
    """Have `who.forget()` called in every child that `os.fork` makes; refers to it weakly. Once is enough."""
    _everyone[id(who)] = who
    if not _has_any:
        _has_any.append(True)


_everyone: weakref.WeakValueDictionary[int, _Forgets] = weakref.WeakValueDictionary()
# Empty until a client is used: whatever the hook looks at in a child is on a page that the kernel has to copy.
_has_any: list[bool] = []


class PerProcess(dict[int, T]):
    """One `T` a process, by its pid, made at its first use there: `states[getpid()]`, or `states.here()`.

    A dictionary, so that the usual case, asked at each event, is one look-up. Any thread may ask; it takes no lock.
    Values of other processes are kept, untouched: to drop them could run finalizers that want locks which no thread of
    this process will ever release.

    Args:
        make: called with the value of the process this one was forked from (None if it had none); must be cheap and
            without side effects, because two threads may call it at once and one result is then thrown away.
        made: called once a process, with the value that was kept.
    """

    __slots__ = ("__weakref__", "_inherited", "_latest", "_made", "_make")

    def __init__(self, make: Callable[[T | None], T], made: Callable[[T], None] | None = None) -> None:
        super().__init__()
        self._make = make
        self._made = made
        self._latest: T | None = None
        self._inherited: list[dict[int, T]] = []

    def here(self) -> T:
        """This process's value, made now if need be."""
        return self[getpid()]

    def peek(self) -> T | None:
        """This process's value, None if it has none yet."""
        return self.get(getpid())

    def __missing__(self, _pid: int) -> T:
        made = self._make(self._latest)
        tell(self)
        # setdefault is one atomic step: threads that race here all get the same value.
        value = self._latest = self.setdefault(getpid(), made)
        if value is made and self._made is not None:
            self._made(value)
        return value

    def forget(self) -> None:
        """Start over, as in a child: the pid may even be that of a dead ancestor."""
        self._inherited.append(self.copy())
        self.clear()


def _in_child() -> None:
    if not _has_any:
        return
    # valuerefs() is one step; iterating would fail when another thread adds to it.
    for reference in _everyone.valuerefs():
        holder = reference()
        try:
            if holder is not None:
                holder.forget()
        except Exception:  # noqa: BLE001, S112 # at the limit of descriptors, say; the others still have to forget
            continue


if hasattr(os, "register_at_fork"):  # not on Windows
    # Only a child hook: with uWSGI's --py-call-osafterfork no `before` runs, so nothing may rely on one.
    os.register_at_fork(after_in_child=_in_child)
