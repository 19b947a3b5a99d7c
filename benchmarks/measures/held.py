"""Bytes of memory that waiting events hold, compared with what they are on the wire.

tracemalloc counts from when the first event is in flight: the connection, and what is imported late, is not the
queue's. What an event is on the wire is what the sink got from another client of the same process.
"""

from __future__ import annotations

import gc
import tracemalloc

from benchmarks.event import properties, user
from benchmarks.measures._full import fill, first_in_flight
from benchmarks.measures._program import OutOfTimeError, Parameters, Result, limit, make, run

SAMPLE = 100  # events
SAMPLE_SECONDS = 30


def measure(parameters: Parameters) -> Result:
    """Bytes an event, held and sent."""
    sent = _sent(parameters)
    try:
        limit(parameters["seconds"])
        client, endpoint = make(parameters, "hang", run="hang")
        tracemalloc.start()
        first_in_flight(client, endpoint)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        fill(client, parameters["events"])
        gc.collect()
        held = (tracemalloc.get_traced_memory()[0] - before) / (parameters["events"] - 1)
    except OutOfTimeError:
        return {"sent": sent, "note": "`track` blocks: the queue cannot be filled"}
    return {"sent": sent, "held": held, "ratio": held / sent}


def _sent(parameters: Parameters) -> float:
    client, endpoint = make(parameters, "ok", run="ok")
    for serial in range(SAMPLE):
        client.track(user(serial), properties(serial))
    client.flush()
    seen = endpoint.wait(SAMPLE, SAMPLE_SECONDS)
    return float(seen["bytes"] / seen["events"])


if __name__ == "__main__":
    run(measure)
