"""`track` and the floor in one process and one loop, call and call about, paced.

So that their ratio is the same machine's at the same moment; as contestants of their own they run a minute apart. Needs
an environment that has what the floor needs.
"""

from __future__ import annotations

from benchmarks.contestants import floor
from benchmarks.measures._program import Parameters, Result, make, run
from benchmarks.measures.latency import paced, summary, timed


def measure(parameters: Parameters) -> Result:
    """Percentiles of both in microseconds, and the ratio of the medians."""
    client, _ = make(parameters, "ok")
    tracks = (client.track, floor.make("", None, None).track)
    samples, _ = timed(tracks, paced(2 * parameters["calls"], 2 * parameters["rate"]), parameters["seconds"])
    ours, floors = summary(samples[::2]), summary(samples[1::2])
    return {"p50": ours["p50"], "floor_p50": floors["p50"], "ratio": ours["p50"] / floors["p50"]}


if __name__ == "__main__":
    run(measure)
