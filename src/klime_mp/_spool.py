"""The place of the spool on the road: where an event is also kept on disk until it has its outcome.

Only the spool that keeps nothing exists so far. Whoever works with a spool calls these methods and never asks whether
there is one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class Spool(Protocol):
    """What the road asks of a spool."""

    def append(self, body: bytes) -> None:
        """Keep an event; called before `track` returns."""

    def acknowledge(self, bodies: Iterable[bytes]) -> None:
        """Let go of events that have their outcome."""

    def adopt(self, pid: int) -> None:
        """Take over what the dead process `pid` left."""


class NoSpool:
    """Memory only: nothing is kept, nothing survives the process."""

    def append(self, body: bytes) -> None:
        """Keep nothing."""

    def acknowledge(self, bodies: Iterable[bytes]) -> None:
        """There is nothing to let go of."""

    def adopt(self, pid: int) -> None:
        """A dead process's memory cannot be read."""
