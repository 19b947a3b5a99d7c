"""`make demo KILL=1`: workers are killed at random moments while they serve, with a spool and without.

A killed process runs no code: what it had not sent is lost, unless it is on disk. With a spool another worker, or
`klime-mp drain` in the end, delivers it. An event that was sent, and whose worker was killed before it could note that,
comes twice, with the same messageId: the one thing that killing costs.
"""

import contextlib
import os
import random
import re
import signal
import time
from pathlib import Path
from typing import Protocol

from customers import Customers
from processes import Program, arrived, drain, endpoint_of, running, serving, start_collector
from report import Tally, comparison, tally
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

SECONDS = 20  # the load lasts at most so long
KILLS_UNTIL = 0.9  # of the load; then the last workers are left to start
SETTLE_SECONDS = 0.5  # gunicorn loses the TERM of a worker that it has just forked
WITH, WITHOUT = "with a spool", "without"


class Options(Protocol):
    """What the command line says."""

    @property
    def requests(self) -> int:
        """HTTP requests in each run."""

    @property
    def workers(self) -> int:
        """How many serve."""

    @property
    def seconds(self) -> int:
        """The load lasts at most so long."""

    @property
    def max_requests(self) -> int:
        """Requests after which a worker is replaced."""

    @property
    def kill(self) -> int:
        """How many workers to kill."""


def compare(options: Options, folder: Path, console: Console) -> int:
    """Both runs; the exit status."""
    tallies = [_run(options, folder, console, WITH), _run(options, folder, console, WITHOUT)]
    problems = _problems(tallies[0])
    console.print(comparison(tallies))
    for problem in problems:
        console.print(f"demo: {problem}", style="bold red", markup=False)
    kept, lost = tallies
    console.print(
        f"total: {kept.kills} kills with a spool, {kept.tracked} tracked, {kept.lost} lost, "
        f"{kept.duplicated} duplicated; {lost.kills} without, {lost.tracked} tracked, {lost.lost} lost",
        style="bold red" if problems else "bold green",
        soft_wrap=True,
    )
    return 1 if problems else 0


def _problems(kept: Tally) -> list[str]:
    """What makes the run with a spool a failure, or proves nothing."""
    checks = {
        "events were lost": kept.lost > 0,
        "nothing was tracked": kept.tracked == 0,
        "nobody was killed": kept.kills == 0,
        # A sync worker is in one call of ours at a time.
        f"{kept.strangers} events arrived that nobody tracked": kept.strangers > kept.kills,
    }
    return [problem for problem, is_so in checks.items() if is_so]


def _run(options: Options, parent: Path, console: Console, name: str) -> Tally:
    folder = parent / name.replace(" ", "-")
    folder.mkdir()
    journal = folder / "journal"
    with running(start_collector(folder)) as collector:
        client = {"KLIME_ENDPOINT": endpoint_of(collector), "KLIME_WRITE_KEY": "demo-key"}
        if name == WITH:
            client["KLIME_SPOOL_DIR"] = str(folder / "spool")
        environment = {**client, "DEMO_JOURNAL": str(journal), "DEMO_KILLS": "1"}
        serves = serving(folder, workers=options.workers, max_requests=options.max_requests, environment=environment)
        with serves as (gunicorn, port):
            console.print(f"{name + ':':<14}gunicorn, --preload, master {gunicorn.pid}")
            kills = _kill_under_load(options, port, gunicorn, console)
            time.sleep(SETTLE_SECONDS)
            gunicorn.stop()
        if name == WITH:
            console.print(f"klime-mp drain: {drain(folder, client)}", markup=False)
        received = arrived(client["KLIME_ENDPOINT"])
    return tally(name, kills, journal.read_text(), received)


def _kill_under_load(options: Options, port: int, gunicorn: Program, console: Console) -> int:
    """Send the requests, and kill workers all along; how many."""
    moments = sorted(random.uniform(0, KILLS_UNTIL) for _ in range(options.kill))
    seconds = min(options.seconds, SECONDS)
    bar = Progress(TextColumn("requests: "), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console)
    customers = Customers(port, requests=options.requests, seconds=seconds)
    began = time.monotonic()
    killed: set[int] = set()
    with bar, contextlib.closing(customers):
        task = bar.add_task("requests", total=options.requests)
        while customers.busy():
            done = customers.done()
            bar.update(task, completed=done)
            part = max(done / options.requests, (time.monotonic() - began) / seconds)
            if len(killed) < len(moments) and part >= moments[len(killed)]:
                _kill_one(gunicorn, killed)
            time.sleep(random.uniform(0, 0.02))
        bar.update(task, completed=customers.done())
    return len(killed)


def _kill_one(gunicorn: Program, killed: set[int]) -> None:
    workers = _workers(gunicorn) - killed
    if workers:
        pid = random.choice(sorted(workers))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)


def _workers(gunicorn: Program) -> set[int]:
    """The workers that serve now: gunicorn says who they are, and they are in its process group."""
    log = gunicorn.log()
    booted = re.findall(r"Booting worker with pid: (\d+)", log)
    exiting = re.findall(r"Worker exiting \(pid: (\d+)\)", log)
    return {pid for pid in map(int, set(booted) - set(exiting)) if _is_in_group(pid, gunicorn.pid)}


def _is_in_group(pid: int, group: int) -> bool:
    try:
        return os.getpgid(pid) == group
    except ProcessLookupError:
        return False
