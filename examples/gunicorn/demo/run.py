"""`make demo`: the shop under gunicorn, preloaded, reloaded, recycled and stopped, and every event counted.

A local collector stands in for Klime. A bounded load of real HTTP requests goes through the shop; meanwhile
gunicorn gets a SIGHUP, replaces workers that have served enough requests, and is stopped at the end. Then
what each process tracked is compared with what the collector holds. Exit status 0 means: nothing lost,
nothing twice.

`--kill` is another demo: workers are killed at random moments, with a spool and without; see `kill.py`.
"""

import argparse
import collections
import contextlib
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from customers import Customers
from kill import compare
from processes import DemoError, Program, arrived, endpoint_of, running, serving, start_collector
from report import Row, rows, strangers, table, totals
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

RELOAD_AT = 0.4  # of the load
KILLS = 30
BAD_ANSWERS = 0.05  # of the good ones; whatever became of a request, its event counts if it was tracked
LOG_LINES = 25  # of gunicorn's last words, when something went wrong


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    requests: int
    workers: int
    seconds: int
    max_requests: int
    kill: int = 0


@dataclass(frozen=True)
class Outcome:
    """What the demo saw."""

    rows: list[Row]
    strangers: int
    answers: collections.Counter[str]
    gunicorn_status: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; return its exit status."""
    options = _options(arguments)
    # A polite kill, or a closed terminal, unwinds like Ctrl-C does: what was started is ended.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda signum, _frame: sys.exit(128 + signum))
    console = Console(highlight=False)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="klime-mp-demo-") as name:
        folder = Path(name)
        try:
            if options.kill:
                return compare(options, folder, console)
            outcome = demo(options, folder, console)
        except DemoError as error:
            _show_log(console, folder)
            console.print(f"demo: {error}", style="bold red", markup=False)
            return 1
        except KeyboardInterrupt:
            console.print("demo: interrupted; collector and gunicorn are stopped")
            return 130
        problems = _problems(outcome, options)
        if problems:
            _show_log(console, folder)
    answers = ", ".join(f"{number} x {kind}" for kind, number in sorted(outcome.answers.items()))
    console.print(table(outcome.rows))
    console.print(f"{time.monotonic() - started:.0f} s; answers to the requests: {answers}")
    for problem in problems:
        console.print(f"demo: {problem}", style="bold red", markup=False)
    console.print(totals(outcome.rows), style="bold red" if problems else "bold green", soft_wrap=True)
    return 1 if problems else 0


def demo(options: Options, folder: Path, console: Console) -> Outcome:
    """The whole story, from two programs that start to what they leave behind."""
    journal = folder / "journal"
    with running(start_collector(folder)) as collector:
        endpoint = endpoint_of(collector)
        console.print(f"collector: {endpoint}")
        environment = {
            "DEMO_JOURNAL": str(journal),
            "KLIME_ENDPOINT": endpoint,
            "KLIME_WRITE_KEY": "demo-key",
        }
        serves = serving(folder, workers=options.workers, max_requests=options.max_requests, environment=environment)
        with serves as (gunicorn, port):
            console.print(f"gunicorn:  http://127.0.0.1:{port}, --preload, master {gunicorn.pid}")
            answers = _load(options, port, gunicorn, console)
            console.print("stop:      TERM to the master")
            status = gunicorn.stop()
        received = arrived(endpoint)
    written = journal.read_text()
    return Outcome(
        rows=rows(written, received, gunicorn.log(), gunicorn.pid),
        strangers=strangers(written, received),
        answers=answers,
        gunicorn_status=status,
    )


def _load(options: Options, port: int, gunicorn: Program, console: Console) -> collections.Counter[str]:
    """Send the requests, and the reload in the middle of them."""
    columns = (TextColumn("requests: "), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=console)
    customers = Customers(port, requests=options.requests, seconds=options.seconds)
    reload_by = time.monotonic() + RELOAD_AT * options.seconds
    reloaded = False
    with bar, contextlib.closing(customers):
        task = bar.add_task("requests", total=options.requests)
        while customers.busy():
            done = customers.done()
            bar.update(task, completed=done)
            if not reloaded and (done >= RELOAD_AT * options.requests or time.monotonic() > reload_by):
                reloaded = True
                gunicorn.signal(signal.SIGHUP)
                bar.console.print(f"reload:    HUP after {done} requests")
            time.sleep(0.02)
        bar.update(task, completed=customers.done())
    return customers.answers


def _problems(outcome: Outcome, options: Options) -> list[str]:
    """All that would make the demo prove nothing, or prove the opposite."""
    workers = sum(row.role == "worker" for row in outcome.rows)
    good = outcome.answers["2xx"] + outcome.answers["3xx"]
    bad = outcome.answers.total() - good
    checks = {
        "events were lost": any(row.lost for row in outcome.rows),
        "events were duplicated": any(row.duplicated for row in outcome.rows),
        "nothing was tracked": not outcome.rows,
        "no request was answered": good == 0,
        f"{outcome.strangers} events arrived that nobody tracked": outcome.strangers > 0,
        "the master's event is missing": not any(row.role == "master" for row in outcome.rows),
        f"{bad} requests had no good answer": bad > BAD_ANSWERS * good,
        f"only {workers} worker processes tracked: no reload, no recycling": workers <= options.workers,
        f"gunicorn ended with status {outcome.gunicorn_status}": outcome.gunicorn_status != 0,
    }
    return [problem for problem, is_so in checks.items() if is_so]


def _show_log(console: Console, folder: Path) -> None:
    """The last lines of gunicorn and of the collector: the reason is most often there."""
    for log in sorted(folder.glob("*.log")):
        lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        console.rule(f"the end of {log.name}", align="left")
        console.print("\n".join(lines), markup=False, soft_wrap=True)


def _options(arguments: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(
        prog="demo",
        description="Serve a shop with gunicorn, and count every analytics event.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    for name, default, meaning in (
        ("requests", 4000, "HTTP requests in all"),
        ("workers", 4, "gunicorn workers"),
        ("seconds", 40, "the load lasts at most so long"),
        ("max-requests", 150, "requests after which a worker is replaced"),
    ):
        parser.add_argument(f"--{name}", type=_positive, default=default, metavar="N", help=meaning)
    parser.add_argument(
        "--kill",
        type=_positive,
        nargs="?",
        const=KILLS,
        default=0,
        metavar="N",
        help=f"instead, SIGKILL so many workers ({KILLS} if not said), with a spool and without",
    )
    return Options(**vars(parser.parse_args(arguments)))


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("has to be 1 or more")
    return number


if __name__ == "__main__":
    sys.exit(main())
