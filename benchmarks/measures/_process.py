"""What the kernel says about a process."""

from __future__ import annotations

import os
from pathlib import Path

_SELF = Path("/proc/self")
_SWITCHES = ("voluntary_ctxt_switches", "nonvoluntary_ctxt_switches")


def rss_kib() -> int:
    """Memory that this process has in RAM."""
    return _fields(_SELF / "status")["VmRSS"]


def threads() -> int:
    """How many threads this process has."""
    return len(list((_SELF / "task").iterdir()))


def switches() -> int:
    """How often its threads were put on a processor, or taken off it."""
    return sum(sum(_fields(task / "status")[name] for name in _SWITCHES) for task in (_SELF / "task").iterdir())


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    after_the_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_the_name[11]) + int(after_the_name[12])) / os.sysconf("SC_CLK_TCK")


def _fields(status: Path) -> dict[str, int]:
    """The numbers of a status file."""
    pairs = (line.split(":", 1) for line in status.read_text().splitlines())
    return {name: int(value.split()[0]) for name, value in pairs if value.split() and value.split()[0].isdigit()}
