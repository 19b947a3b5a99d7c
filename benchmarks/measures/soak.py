"""Memory of a process that tracks and delivers many events, with the default queue.

It flushes before the queue is full, so each event must arrive; the memory is sampled on the way. `growth` is the
largest sample of the last quarter less the largest of the second one: the first quarter is settling in.
"""

from __future__ import annotations

import time

from benchmarks.event import properties, user
from benchmarks.measures._process import rss_kib
from benchmarks.measures._program import Parameters, Result, make, run

FLUSH_EVERY = 500  # events
SAMPLES = 40
DELIVERY_SECONDS = 60


def measure(parameters: Parameters) -> Result:
    """KiB, and how many it became more."""
    count = parameters["events"]
    client, endpoint = make(parameters, "ok")
    samples: list[int] = []
    start = time.monotonic()
    for serial in range(count):
        client.track(user(serial), properties(serial))
        if (serial + 1) % FLUSH_EVERY == 0:
            client.flush()
        if (serial + 1) % (count // SAMPLES) == 0:
            samples.append(rss_kib())
    client.flush()
    delivered = endpoint.wait(count, DELIVERY_SECONDS)["events"]
    quarter = len(samples) // 4
    second, last = max(samples[quarter : 2 * quarter]), max(samples[-quarter:])
    return {
        "tracked": count,
        "delivered": delivered,
        "seconds": time.monotonic() - start,
        "second_quarter_kib": second,
        "last_quarter_kib": last,
        "growth_kib": last - second,
        "samples_kib": samples,
    }


if __name__ == "__main__":
    run(measure)
