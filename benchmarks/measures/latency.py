"""How long `track` takes, call by call: paced like a server's requests, or in bursts.

Paced, each call comes when it is due on an absolute schedule, and the process sleeps in between: caches are cold, and
the sender works beside it. In bursts, the calls of one burst follow each other in a tight loop. The user and the
properties are made outside the measured time.

A call that has not returned when time is up counts with the time it has taken so far; `cut_off` says so.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter_ns, sleep

from benchmarks.event import properties, user
from benchmarks.measures._program import OutOfTimeError, Parameters, Result, limit, make, run, unlimited

Track = Callable[[str, dict[str, object]], object]

WARM_UP = 200  # calls: first use, the connection, the interpreter's own caches
PERCENTILES = {"p50": 0.5, "p99": 0.99, "p999": 0.999}
DELIVERY_SECONDS = 60


def measure(parameters: Parameters) -> Result:
    """Percentiles in microseconds."""
    mode, calls = parameters["mode"], parameters["calls"]
    client, endpoint = make(parameters, mode)
    pattern = paced(calls, parameters["rate"]) if "rate" in parameters else _bursts(calls, **parameters["bursts"])
    samples, cut_off = timed((client.track,), pattern, parameters["seconds"])
    result: Result = {"calls": len(samples), "cut_off": cut_off, **summary(samples)}
    if mode == "ok" and parameters["delivers"] and not cut_off:
        client.flush()
        result["tracked"] = len(samples)
        result["delivered"] = endpoint.wait(len(samples), DELIVERY_SECONDS)["events"]
    return result


def paced(calls: int, rate: float) -> Iterator[int]:
    """Serials, each when it is due."""
    start = perf_counter_ns()
    for serial in range(calls):
        early = start + int(serial * 1e9 / rate) - perf_counter_ns()
        if early > 0:
            sleep(early / 1e9)
        yield serial


def _bursts(calls: int, size: int, pause: float) -> Iterator[int]:
    for serial in range(calls):
        if serial % size == 0:
            sleep(pause)
        yield serial


def timed(tracks: Sequence[Track], pattern: Iterator[int], seconds: float) -> tuple[list[int], bool]:
    """The nanoseconds of each call, made to one and the other in turn; whether the last one was cut off."""
    samples: list[int] = []
    begin = 0
    try:
        limit(seconds)
        for serial, track in zip(pattern, itertools.cycle(tracks), strict=False):
            who, what = user(serial), properties(serial)
            begin = perf_counter_ns()
            track(who, what)
            samples.append(perf_counter_ns() - begin)
    except OutOfTimeError:
        samples.append(perf_counter_ns() - begin)
        return samples, True
    finally:
        unlimited()
    return samples, False


def summary(samples: list[int]) -> dict[str, float]:
    """Percentiles in microseconds."""
    kept = sorted(samples[WARM_UP:] if len(samples) > 2 * WARM_UP else samples)
    percentiles = {name: kept[int(share * len(kept))] / 1000 for name, share in PERCENTILES.items()}
    return {**percentiles, "max": kept[-1] / 1000}


if __name__ == "__main__":
    time.sleep(0.2)  # what starting this process has done to the machine is over
    run(measure)
