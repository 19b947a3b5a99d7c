"""Memory in RAM: of a process with the package and an idle client, and with a full queue at an endpoint that hangs."""

from __future__ import annotations

from benchmarks.measures._full import fill, first_in_flight
from benchmarks.measures._process import rss_kib
from benchmarks.measures._program import OutOfTimeError, Parameters, Result, limit, make, run


def measure(parameters: Parameters) -> Result:
    """KiB more than before the import."""
    before = rss_kib()
    client, endpoint = make(parameters, "hang")
    result: Result = {"idle_kib": rss_kib() - before}
    try:
        limit(parameters["seconds"])
        first_in_flight(client, endpoint)
        fill(client, parameters["events"])
    except OutOfTimeError:
        return {**result, "note": "`track` blocks: the queue cannot be filled"}
    return {**result, "full_kib": rss_kib() - before}


if __name__ == "__main__":
    run(measure)
