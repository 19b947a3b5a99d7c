"""Events a second from the first `track` to the arrival of the last, and the processor time that each one takes.

Counted after one event has been delivered: imports, the first connection and the first thread are start-up. The queue
has room for all, so that nobody drops. Processor time is that of all threads, user and system.
"""

from __future__ import annotations

import resource
import time

from benchmarks.event import properties, user
from benchmarks.measures._program import OutOfTimeError, Parameters, Result, limit, make, run, unlimited

FIRST_SECONDS = 30
LAST_SECONDS = 30


def measure(parameters: Parameters) -> Result:
    """Events a second, and microseconds of processor time an event."""
    count = parameters["events"]
    client, endpoint = make({**parameters, "queue_size": count + 1}, "ok")
    client.track(user(0), properties(0))
    client.flush()
    endpoint.wait(1, FIRST_SECONDS)

    cpu, start = _cpu_seconds(), time.monotonic()
    try:
        limit(parameters["seconds"])
        for serial in range(count):
            client.track(user(serial), properties(serial))
        tracked = time.monotonic()
        client.flush()
        unlimited()
    except OutOfTimeError:
        return {"note": f"not done after {parameters['seconds']} s"}
    seen = endpoint.wait(count + 1, LAST_SECONDS)
    return {
        "tracked": count,
        "delivered": seen["events"] - 1,
        "events_per_second": count / (seen["last"] - start),
        "track_seconds": tracked - start,
        "cpu_us": (_cpu_seconds() - cpu) / count * 1e6,
    }


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    run(measure)
