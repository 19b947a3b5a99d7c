"""What was tracked, by which process, against what arrived."""

import collections
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One process that tracked something, or the sum of all."""

    pid: int
    role: str
    ended_by: str
    tracked: int
    delivered: int  # distinct events
    duplicated: int  # copies beyond the first

    @property
    def lost(self) -> int:
        """Tracked and never seen again."""
        return self.tracked - self.delivered


def rows(journal: str, arrived: Iterable[str], gunicorn_log: str, master: int) -> list[Row]:
    """Account for every event, process by process, in the order in which they first tracked something.

    Args:
        journal: A line an event: the pid that tracked it and its messageId.
        arrived: The messageId of each event the collector holds.
        gunicorn_log: What gunicorn printed: it tells how each worker came to its end.
        master: The pid of gunicorn's master.
    """
    copies = collections.Counter(arrived)
    tracked: dict[int, set[str]] = {}
    for line in journal.splitlines():
        pid, message_id = line.split()
        tracked.setdefault(int(pid), set()).add(message_id)
    endings = _endings(gunicorn_log)
    return [
        Row(
            pid=pid,
            role="master" if pid == master else "worker",
            ended_by="stop (TERM)" if pid == master else endings.get(pid, "?"),
            tracked=len(ids),
            delivered=sum(1 for message_id in ids if copies[message_id]),
            duplicated=sum(copies[message_id] - 1 for message_id in ids if copies[message_id]),
        )
        for pid, ids in tracked.items()
    ]


def strangers(journal: str, arrived: Iterable[str]) -> int:
    """How many events arrived that nobody tracked: a messageId that changed on the way would be one."""
    return len(set(arrived) - {line.split()[1] for line in journal.splitlines()})


def table(lines: Sequence[Row]) -> Table:
    """The rows, as a table for the terminal."""
    result = Table(title="Events by process", title_justify="left")
    result.add_column("pid", justify="right")
    result.add_column("role")
    result.add_column("ended by")
    for name in ("tracked", "delivered", "lost", "duplicated"):
        result.add_column(name, justify="right")
    for row in lines:
        numbers = (row.tracked, row.delivered, row.lost, row.duplicated)
        style = "bold red" if row.lost or row.duplicated else None
        result.add_row(str(row.pid), row.role, row.ended_by, *map(str, numbers), style=style)
    return result


def totals(lines: Sequence[Row]) -> str:
    """The last line."""
    tracked, delivered = sum(row.tracked for row in lines), sum(row.delivered for row in lines)
    lost, duplicated = sum(row.lost for row in lines), sum(row.duplicated for row in lines)
    return f"total: {tracked} tracked, {delivered} delivered, {lost} lost, {duplicated} duplicated"


@dataclass(frozen=True)
class Tally:
    """What became of the events of one run in which workers were killed."""

    name: str
    kills: int
    tracked: int
    delivered: int  # distinct events
    duplicated: int  # copies beyond the first, with the same messageId
    strangers: int  # their process was killed before it could write them down

    @property
    def lost(self) -> int:
        """Tracked and never seen again."""
        return self.tracked - self.delivered


def tally(name: str, kills: int, journal: str, arrived: Iterable[str]) -> Tally:
    """Count one run; the arguments are those of `rows`."""
    copies = collections.Counter(arrived)
    tracked = {line.split()[1] for line in journal.splitlines()}
    return Tally(
        name=name,
        kills=kills,
        tracked=len(tracked),
        delivered=sum(1 for message_id in tracked if copies[message_id]),
        duplicated=copies.total() - len(copies),
        strangers=len(set(copies) - tracked),
    )


def comparison(tallies: Sequence[Tally]) -> Table:
    """The runs, as a table for the terminal."""
    result = Table(title="Events of workers that were killed", title_justify="left")
    result.add_column("run")
    for name in ("kills", "tracked", "delivered", "lost", "duplicated"):
        result.add_column(name, justify="right")
    for each in tallies:
        numbers = (each.kills, each.tracked, each.delivered, each.lost, each.duplicated)
        result.add_row(each.name, *map(str, numbers), style="bold red" if each.lost else None)
    return result


def _endings(gunicorn_log: str) -> dict[int, str]:
    """Why each worker ended, by pid: gunicorn logs `[time] [pid] [LEVEL] message`."""
    endings: dict[int, str] = {}
    signal = "?"
    for match in re.finditer(r"^\[[^]]*\] \[(\d+)\] \[\w+\] (.*)$", gunicorn_log, re.MULTILINE):
        pid, message = int(match[1]), match[2]
        if message == "Handling signal: hup":
            signal = "reload (HUP)"
        elif message == "Handling signal: term":
            signal = "stop (TERM)"
        elif message.startswith("Autorestarting worker"):
            endings[pid] = "max_requests"
        elif message.startswith("Worker exiting"):
            endings.setdefault(pid, signal)
    return endings
