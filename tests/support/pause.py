"""Two threads at the wrong moment: the sender's stops in the middle of something, and the test does something else."""

from __future__ import annotations

import threading
from typing import Any

import pytest

_PATIENCE = 20


class Pause:
    """`with Pause(spool, "next") as pause:` the first call that a sender makes stops until `go_on()`, or the end.

    Args:
        owner: the object, or the class, with the method.
        name: which one.
        after: stop when the work is done, and not before it.
    """

    def __init__(self, owner: Any, name: str, *, after: bool = False) -> None:
        self._owner = owner
        self._name = name
        self._work = getattr(owner, name)
        self._after = after
        self._patch = pytest.MonkeyPatch()
        self._is_there = threading.Event()
        self._is_over = threading.Event()
        self._sender: threading.Thread | None = None

    def wait(self) -> None:
        """Return once the sender has stopped there."""
        assert self._is_there.wait(_PATIENCE), f"no sender came to {self._name}"

    def go_on(self) -> None:
        self._is_over.set()

    def see_it_off(self) -> None:
        """Let it go on, and return once that sender is gone. (There may be another one.)"""
        self.go_on()
        assert self._sender is not None
        self._sender.join(_PATIENCE)
        assert not self._sender.is_alive()

    def __enter__(self):
        def stop(*args: Any, **kwargs: Any) -> Any:
            is_it = threading.current_thread().name == "klime-mp sender" and not self._is_there.is_set()
            if is_it and not self._after:
                self._stop()
            result = self._work(*args, **kwargs)
            if is_it and self._after:
                self._stop()
            return result

        self._patch.setattr(self._owner, self._name, stop)
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()
        self.go_on()

    def _stop(self) -> None:
        self._sender = threading.current_thread()
        self._is_there.set()
        self._is_over.wait(_PATIENCE)
