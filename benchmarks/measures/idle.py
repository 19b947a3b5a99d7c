"""What an idle client does: its threads, and how often the kernel had to wake the process up.

Twice: a client that was never used, and one that has delivered an event and had a second to settle. The process itself
only sleeps, which costs a switch or two; the floor's row shows how many.
"""

from __future__ import annotations

import time

from benchmarks.event import properties, user
from benchmarks.measures._process import switches, threads
from benchmarks.measures._program import Parameters, Result, make, run

SETTLE_SECONDS = 1.0
DELIVERY_SECONDS = 30


def measure(parameters: Parameters) -> Result:
    """Threads besides the main one, and context switches of all."""
    seconds = parameters["seconds"]
    client, endpoint = make(parameters, "ok")
    time.sleep(SETTLE_SECONDS)
    unused = _watch(seconds)
    client.track(user(0), properties(0))
    client.flush()
    if parameters["delivers"]:
        endpoint.wait(1, DELIVERY_SECONDS)
    time.sleep(SETTLE_SECONDS)
    used = _watch(seconds)
    result = {"unused_threads": unused[0], "unused_switches": unused[1]}
    return {**result, "used_threads": used[0], "used_switches": used[1]}


def _watch(seconds: float) -> tuple[int, int]:
    before = switches()
    time.sleep(seconds)
    return threads() - 1, switches() - before


if __name__ == "__main__":
    run(measure)
