"""`make matrix N=20`: every scenario so many times, and a table of what became of the events.

Exit status 0 means: nothing lost, nothing twice, no play failed. What this machine has not installed is a row that says
so; with ALL_SERVERS in the environment it is a failure.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import queue
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import metadata
from itertools import groupby
from pathlib import Path

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `support`; pytest sees to it by itself

from scenarios import Outcome, Scenario, all_scenarios, unexcused

from support.collector import CollectorProcess, Inbox

LOG_LINES = 25  # of a failed play's last words
PACKAGES = ("gunicorn", "gevent", "uvicorn", "uvicorn-worker", "pyuwsgi", "celery", "redis")
COLUMNS = ("scenario", "runs", "passed", "tracked", "lost", "duplicated", "seconds")
SECONDS = "seconds: how long it took to stop, the median"


@dataclass(frozen=True)
class Play:
    """One run of a scenario: its outcome, None when it failed before it had one, and what went wrong, if anything."""

    outcome: Outcome | None
    problem: str = ""

    @property
    def tracked(self) -> int:
        return len(self.outcome.tracked) if self.outcome else 0

    @property
    def lost(self) -> int:
        return len(self.outcome.lost) if self.outcome else 0

    @property
    def duplicated(self) -> int:
        return len(self.outcome.duplicated) if self.outcome else 0


@dataclass
class Row:
    """A scenario and its plays so far."""

    server: str
    name: str
    missing: list[str] = field(default_factory=list)
    plays: list[Play] = field(default_factory=list)

    def cells(self) -> list[str]:
        """As in COLUMNS."""
        if self.missing:
            return [f"{self.name} (not installed: {', '.join(self.missing)})", "", "", "", "", "", ""]
        seconds = [play.outcome.seconds for play in self.plays if play.outcome]
        return [
            self.name,
            *map(str, numbers([self])),
            f"{statistics.median(seconds):.2f}" if seconds else "",
        ]


def numbers(rows: Sequence[Row]) -> list[int]:
    """Runs, passed, tracked, lost, duplicated: the sums over these rows."""
    plays = [play for row in rows for play in row.plays]
    return [
        len(plays),
        sum(not play.problem for play in plays),
        *(sum(getattr(play, name) for play in plays) for name in ("tracked", "lost", "duplicated")),
    ]


def play(scenario: Scenario, collector: CollectorProcess) -> Play:
    """One run, in a folder of its own, with a write key of its own."""
    # Of processes that a failed play left behind, some may still write into the folder.
    with (
        tempfile.TemporaryDirectory(prefix="klime-mp-", ignore_cleanup_errors=True) as name,
        Inbox(collector) as inbox,
    ):
        folder = Path(name)
        try:
            outcome = scenario.play(folder, inbox)
            inbox.clear()
        except AssertionError as error:
            return Play(None, _end(str(error) or traceback.format_exc()))
        except Exception:  # noqa: BLE001 - of all scenarios, this one is broken
            return Play(None, _end(traceback.format_exc()))
        problem = judged(outcome)
        log = folder / "log"
        if problem and log.exists():
            problem += "\n" + _end(log.read_text(errors="replace"))
        return Play(outcome, problem)


def judged(outcome: Outcome) -> str:
    """What is wrong with it; empty when nothing is."""
    problems = {
        f"lost {', '.join(outcome.lost)}": outcome.lost,
        f"duplicated {', '.join(outcome.duplicated)}": outcome.duplicated,
        "nothing was tracked: it proves nothing": not outcome.tracked,
    }
    return "; ".join(problem for problem, is_so in problems.items() if is_so)


def play_all(scenarios: Sequence[Scenario], runs: int, jobs: int, console: Console) -> list[Row]:
    """Every scenario so many times, `jobs` plays at once; a failure is printed when it happens."""
    rows = [Row(each.server, each.name, each.missing()) for each in scenarios]
    with ExitStack() as stack:
        # One for each play that is under way: a fault script is the collector's, not the write key's.
        collectors: queue.SimpleQueue[CollectorProcess] = queue.SimpleQueue()
        for _ in range(jobs):
            collectors.put(stack.enter_context(CollectorProcess()))

        def play_with_a_collector(scenario: Scenario) -> Play:
            collector = collectors.get()
            try:
                return play(scenario, collector)
            finally:
                collectors.put(collector)

        columns = (TextColumn("plays"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        bar = stack.enter_context(Progress(*columns, console=console))
        pool = stack.enter_context(ThreadPoolExecutor(jobs))
        # An interruption waits for the plays that are under way, and for no others.
        stack.callback(pool.shutdown, cancel_futures=True)
        pending: dict[Future[Play], Row] = {
            pool.submit(play_with_a_collector, scenario): row
            for scenario, row in zip(scenarios, rows, strict=True)
            for _ in range(0 if row.missing else runs)
        }
        task = bar.add_task("plays", total=len(pending))
        for done in as_completed(pending):
            row, result = pending[done], done.result()
            row.plays.append(result)
            bar.advance(task)
            if result.problem:
                bar.console.rule(f"{row.server}: {row.name}", align="left")
                bar.console.print(result.problem, markup=False, highlight=False, soft_wrap=True)
    return rows


def by_server(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """The rows of each server, servers by name, rows as they stand."""
    ordered = sorted(rows, key=lambda row: row.server)
    return ((server, list(group)) for server, group in groupby(ordered, key=lambda row: row.server))


def table(rows: Sequence[Row]) -> Table:
    """For the terminal."""
    narrow = {"box": box.SIMPLE_HEAD, "pad_edge": False, "padding": (0, 1, 0, 0)}  # for a terminal of 80 columns
    result = Table(COLUMNS[0], caption=SECONDS, caption_justify="left", **narrow)
    for name in COLUMNS[1:]:
        result.add_column(name, justify="right", no_wrap=True)
    for server, group in by_server(rows):
        result.add_row(server, style="bold")
        for row in group:
            wrong = any(play.problem for play in row.plays)
            scenario, *rest = row.cells()
            style = "bold red" if wrong else "yellow" if row.missing else None
            result.add_row(Padding(scenario, (0, 0, 0, 2)), *rest, style=style)
    return result


def totals(rows: Sequence[Row]) -> str:
    """The last line."""
    runs, passed, tracked, lost, duplicated = numbers(rows)
    return (
        f"total: {sum(not row.missing for row in rows)} scenarios, {runs} runs, {passed} passed, "
        f"{tracked} events tracked, {lost} lost, {duplicated} duplicated"
    )


def status(rows: Sequence[Row], *, all_servers: bool) -> int:
    """The exit status: 0 when every play passed, and there was one."""
    runs, passed, *_ = numbers(rows)
    return int(runs == 0 or passed < runs or (all_servers and any(unexcused(row.missing) for row in rows)))


def document(rows: Sequence[Row], command: str, date: dt.date, versions: dict[str, str]) -> str:
    """The same as `table`, in Markdown, with what is needed to repeat it."""
    lines = [
        "# The matrix",
        "",
        "Real servers, each started, used and ended in its own ways, and every event counted: what the application",
        "tracked, by its journal, against what a local collector received.",
        f"({SECONDS[0].upper()}{SECONDS[1:]}.)",
        "",
        f"Made by `{command}` on {date.isoformat()}, with {os.cpu_count()} CPUs.",
        "",
        "| | version |",
        "|---|---|",
        *(f"| {name} | {version} |" for name, version in versions.items()),
        "",
        f"**{totals(rows)}**",
    ]
    for server, group in by_server(rows):
        lines += ["", f"## {server}", "", f"| {' | '.join(COLUMNS)} |", "|---" + "|---:" * (len(COLUMNS) - 1) + "|"]
        lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row.cells())} |" for row in group]
    return "\n".join(lines) + "\n"


def versions() -> dict[str, str]:
    """Of Python and of the servers."""
    found = {f"{platform.python_implementation()} on {platform.system()}": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    redis = shutil.which("redis-server")
    if redis is None:
        return {**found, "redis-server": "not installed"}
    # It says: Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64
    said = subprocess.run([redis, "--version"], capture_output=True, text=True, check=True).stdout
    return {**found, "redis-server": next(word[2:] for word in said.split() if word.startswith("v="))}


def main(arguments: Sequence[str] | None = None) -> int:
    """Play, print, write; return the exit status."""
    options = _options(arguments)
    console = Console(highlight=False)
    # A polite kill unwinds like Ctrl-C does: what was started, in sessions of their own, is ended.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    chosen = [each for each in all_scenarios() if options.select in f"{each.server}: {each.name}"]
    try:
        rows = play_all(chosen, options.runs, options.jobs, console)
    except KeyboardInterrupt:
        console.print("interrupted; what was started is stopped")
        return 130
    console.print(table(rows))
    bad = status(rows, all_servers=bool(os.environ.get("ALL_SERVERS")))
    console.print(totals(rows), style="bold red" if bad else "bold green", soft_wrap=True)
    if options.write is not None:
        today = dt.datetime.now(dt.timezone.utc).date()
        options.write.parent.mkdir(parents=True, exist_ok=True)
        options.write.write_text(document(rows, _command(options), today, versions()), encoding="utf-8")
    return bad


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="matrix", description="Play every scenario, many times, and count every event."
    )
    parser.add_argument("-n", dest="runs", type=_positive, default=1, metavar="N", help="times each (default 1)")
    parser.add_argument("-j", dest="jobs", type=_positive, default=2, metavar="JOBS", help="plays at once (default 2)")
    parser.add_argument("-k", dest="select", default="", metavar="TEXT", help="only those with this in 'server: name'")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table to this Markdown file")
    return parser.parse_args(arguments)


def _command(options: argparse.Namespace) -> str:
    chosen = ["-k", options.select] if options.select else []
    return shlex.join(["python", "tests/servers/matrix.py", "-n", str(options.runs), "-j", str(options.jobs), *chosen])


def _end(text: str) -> str:
    return "\n".join(text.splitlines()[-LOG_LINES:])


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("has to be 1 or more")
    return number


if __name__ == "__main__":
    sys.exit(main())
