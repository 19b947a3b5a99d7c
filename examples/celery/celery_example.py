"""Tasks under a real Celery worker, its pool recycled and stopped, and every analytics event counted.

    python celery_example.py                        nothing is configured
    python celery_example.py --flush-after-task     with `install(flush_after_task=True)`

A local collector stands in for Klime, a temporary folder for the broker. The client's clock is stopped: an event is
sent because a batch is full, a task ends, or a process does. Exit status 0 means: nothing lost, nothing twice.
"""

import argparse
import collections
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
READY = "klime-mp collector listening on "
SECONDS = 60  # for anything that is waited for, on a small, busy machine
PROCESSES = 2
NEVER_MS = 600_000


class ExampleError(Exception):
    """The example cannot go on; the message says why."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the example; return its exit status."""
    parser = argparse.ArgumentParser(description="Run tasks in a Celery worker, and count every analytics event.")
    parser.add_argument("--orders", type=int, default=160, metavar="N", help="tasks to run (default: %(default)s)")
    parser.add_argument("--recycle", type=int, default=25, metavar="N", help="--max-tasks-per-child (default: 25)")
    parser.add_argument("--flush-after-task", action="store_true", help="call install(flush_after_task=True)")
    options = parser.parse_args(arguments)
    # A polite kill unwinds like Ctrl-C does: what was started is ended.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="klime-mp-celery-") as name:
        try:
            return run(Path(name), options.orders, options.recycle, flush_after_task=options.flush_after_task)
        except ExampleError as error:
            log = Path(name, "worker.log")
            print(log.read_text(errors="replace") if log.exists() else "", file=sys.stderr)
            print(f"celery_example: {error}", file=sys.stderr)
            return 1


def run(folder: Path, orders: int, recycle: int, *, flush_after_task: bool) -> int:
    """The whole story, from an empty folder to the sum."""
    for name in ("queue", "control", "processed"):
        (folder / name).mkdir()
    journal = folder / "journal"
    os.environ["EXAMPLE_FOLDER"] = str(folder)
    place(orders)
    print(f"queue:      {orders} orders")
    with collector(folder) as endpoint:
        environment = {
            "EXAMPLE_JOURNAL": str(journal),
            "KLIME_ENDPOINT": endpoint,
            "KLIME_WRITE_KEY": "example",
            "KLIME_FLUSH_INTERVAL": str(NEVER_MS),
        }
        if flush_after_task:
            environment["EXAMPLE_FLUSH_AFTER_TASK"] = "1"
        with worker(folder, environment, recycle) as process:
            print(f"worker:     pid {process.pid}, {PROCESSES} processes, each replaced after {recycle} tasks")
            # One event a task, and the worker's own.
            wait_until(lambda: len(lines(journal)) == 1 + orders, "all tasks to have run", process)
            print(f"tasks:      done; {len(arrived(endpoint))} of {1 + orders} events have arrived so far")
            process.terminate()
            try:
                status = process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                raise ExampleError(f"the worker has not stopped within {SECONDS} s") from None
            if status != 0:
                raise ExampleError(f"the worker ended with status {status}")
            print("stop:       TERM, a warm shutdown")
        return report(lines(journal), arrived(endpoint), process.pid)


def place(orders: int) -> None:
    """Queue the tasks, by their names, as a web application would."""
    from celery import Celery  # noqa: PLC0415  (its settings are read now that the folder is known)

    with Celery("customers") as app:
        app.config_from_object("celeryconfig")
        for number in range(orders):
            company = f"company_{number % 7}"
            if number % 10 == 0:
                app.send_task("orders.upgrade", [company, "business"])
            else:
                app.send_task("orders.ship", [number, f"user_{number % 20}", company])


@contextlib.contextmanager
def collector(folder: Path) -> Iterator[str]:
    """A local Klime on a free port, while the block lasts; its endpoint."""
    log = folder / "collector.log"
    command = [sys.executable, "-m", "klime_mp.cli", "collector", "--port", "0"]
    with running(command, log, {}) as process:
        wait_until(lambda: any(line.startswith(READY) for line in lines(log)), "the collector", process)
        yield next(line for line in lines(log) if line.startswith(READY)).removeprefix(READY)


@contextlib.contextmanager
def worker(folder: Path, environment: dict[str, str], recycle: int) -> Iterator[subprocess.Popen[bytes]]:
    """A Celery worker, while the block lasts."""
    command = [sys.executable, "-m", "celery", "-A", "journaled_orders", "worker", "--loglevel", "INFO"]
    command += ["--concurrency", str(PROCESSES), "--max-tasks-per-child", str(recycle)]
    command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]  # there is no other worker
    with running(command, folder / "worker.log", environment) as process:
        yield process


@contextlib.contextmanager
def running(command: list[str], log: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A program that does not outlive the block, nor do the processes it forked."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("CELERY_", "KLIME_"))}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=HERE,
            env=inherited | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"} | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until(condition: Callable[[], bool], what: str, process: subprocess.Popen[bytes]) -> None:
    """Wait for a condition; a program that ends meanwhile, or takes too long, is an error."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        if process.poll() is not None:
            raise ExampleError(f"waiting for {what}: the program ended with status {process.returncode}")
        if time.monotonic() > deadline:
            raise ExampleError(f"waited {SECONDS} s for {what}")
        time.sleep(0.05)


def lines(path: Path) -> list[str]:
    """The lines of a file, none if there is no such file yet."""
    return path.read_text(errors="replace").splitlines() if path.exists() else []


def arrived(endpoint: str) -> list[str]:
    """The messageId of every event the collector holds."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{endpoint}/events", timeout=SECONDS) as answer:
        return [event["messageId"] for event in json.load(answer)["events"]]


def report(written: list[str], ids: list[str], parent: int) -> int:
    """Print what each process tracked and what became of it; the exit status."""
    copies = collections.Counter(ids)
    tracked: dict[int, list[str]] = {}
    for line in written:
        pid, message_id = line.split()
        tracked.setdefault(int(pid), []).append(message_id)
    print("\n    pid  process      tracked  delivered  lost  twice")
    sums = [0, 0, 0, 0]
    for process, events in tracked.items():
        delivered = sum(copies[event] > 0 for event in events)
        row = [len(events), delivered, len(events) - delivered, sum(copies[event] > 1 for event in events)]
        sums = [total + number for total, number in zip(sums, row, strict=True)]
        print(f"{process:>7}  {'worker' if process == parent else 'pool process':<12}", columns(row))
    print(f"{'total':>7}  {'':<12}", columns(sums))
    strangers = len(set(copies) - {line.split()[1] for line in written})
    if strangers:
        print(f"{strangers} events arrived that nobody tracked")
    return 1 if sums[2] or sums[3] or strangers else 0


def columns(numbers: list[int]) -> str:
    """A row's numbers, below the headings."""
    tracked, delivered, lost, twice = numbers
    return f"{tracked:>7}  {delivered:>9}  {lost:>4}  {twice:>5}"


if __name__ == "__main__":
    sys.exit(main())
