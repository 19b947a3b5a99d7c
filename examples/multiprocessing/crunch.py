"""Count primes in many processes, and tell Klime about every chunk.

    python crunch.py
    python crunch.py --start-method spawn --chunks 500

First a `multiprocessing.Pool` works, then a `ProcessPoolExecutor`. A local collector stands in for Klime; at the end
what was tracked is compared with what it holds. Exit status 0 means: nothing lost, nothing twice.
"""

import argparse
import collections
import contextlib
import http.client
import json
import multiprocessing
import os
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import BaseContext
from typing import NamedTuple

import klime_mp

CHUNK_SIZE = 2_000


class Crunched(NamedTuple):
    """What a worker says of one chunk."""

    primes: int
    pid: int
    message_id: str | None  # None: the event was not accepted


def crunch(number: int) -> Crunched:
    """Count the primes of one chunk; runs in a worker.

    Nothing is set up here, whichever way the process was started: `klime_mp.track` finds out that it is in a new
    process, and reads the environment.
    """
    first = number * CHUNK_SIZE
    primes = sum(_is_prime(candidate) for candidate in range(first, first + CHUNK_SIZE))
    message_id = klime_mp.track("Chunk Crunched", {"first": first, "primes": primes}, group_id="number-theorists")
    return Crunched(primes, os.getpid(), message_id)


def with_pool(context: BaseContext, chunks: int, workers: int) -> list[Crunched]:
    """`close` and `join` let the workers come to their end, and send what is left; `with Pool()` would kill them."""
    pool = context.Pool(workers, maxtasksperchild=max(1, chunks // 10))
    try:
        return pool.map(crunch, range(chunks), chunksize=1)
    finally:
        pool.close()
        pool.join()


def with_executor(context: BaseContext, chunks: int, workers: int) -> list[Crunched]:
    """The end of the `with` block waits for the workers' end."""
    with ProcessPoolExecutor(workers, mp_context=context) as executor:
        return list(executor.map(crunch, range(chunks)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Crunch, count, and return the exit status."""
    options = _options(arguments)
    context = multiprocessing.get_context(options.start_method)
    with local_klime() as endpoint:
        # In a service these come from its configuration. Workers inherit them, forked or spawned.
        os.environ.update(KLIME_WRITE_KEY="crunch", KLIME_ENDPOINT=endpoint, NO_PROXY="127.0.0.1", no_proxy="127.0.0.1")
        tracked = [klime_mp.track("Crunch Started", {"chunks": options.chunks}, group_id="number-theorists")]
        for name, run in (("Pool", with_pool), ("ProcessPoolExecutor", with_executor)):
            crunched = run(context, options.chunks, options.workers)
            tracked += [each.message_id for each in crunched]
            primes, pids = sum(each.primes for each in crunched), {each.pid for each in crunched}
            print(f"{name} ({options.start_method}): {primes} primes, found by {len(pids)} processes")
        klime_mp.shutdown()  # the end of the program would do it, but here the counting comes before that
        count = Count(tracked, arrivals(endpoint))
    print(f"total: {count}")
    return 0 if count.is_right() else 1


class Count:
    """What was tracked, against what arrived."""

    def __init__(self, tracked: Sequence[str | None], arrived: Sequence[str]) -> None:
        copies = collections.Counter(arrived)
        self.tracked = len(tracked)
        self.delivered = len(copies)
        self.lost = sum(message_id not in copies for message_id in tracked)
        self.duplicated = sum(number > 1 for number in copies.values())

    def is_right(self) -> bool:
        """Did every event arrive, once?"""
        return not self.lost and not self.duplicated

    def __str__(self) -> str:
        return f"{self.tracked} tracked, {self.delivered} delivered, {self.lost} lost, {self.duplicated} duplicated"


@contextlib.contextmanager
def local_klime() -> Iterator[str]:
    """A collector on a free port; its URL."""
    command = [sys.executable, "-m", "klime_mp.cli", "collector", "--port", "0"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as collector:
        try:
            said = collector.stdout.readline() if collector.stdout else ""
            if "http" not in said:
                sys.exit("the collector did not start (pip install 'klime-mp[collector]')")
            yield said.split()[-1]
        finally:
            collector.terminate()


def arrivals(endpoint: str) -> list[str]:
    """The messageId of each event the collector holds, duplicates included."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(endpoint).netloc, timeout=15)
    with contextlib.closing(connection):
        connection.request("GET", "/events")
        events = json.loads(connection.getresponse().read())["events"]
    return [event["messageId"] for event in events]


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="crunch", description="Count primes in many processes, and every event.")
    methods = multiprocessing.get_all_start_methods()
    parser.add_argument("--start-method", choices=methods, default=methods[0], help=f"default {methods[0]}")
    parser.add_argument("--chunks", type=int, default=200, help="for the Pool, and again for the executor; default 200")
    parser.add_argument("--workers", type=int, default=4, help="processes at a time; default 4")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
