"""Which measures there are, with what parameters, and which of their numbers go into the tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks.roster import OURS, Contestant, Kind


@dataclass(frozen=True)
class Metric:
    """A number of a measure's result: a column.

    `best` is "low" or "high" where ratios to the best peer make sense, empty where not.
    """

    key: str
    title: str
    digits: int = 1
    best: str = "low"


@dataclass(frozen=True)
class Measure:
    """One program with one set of parameters; `quick` replaces some of them in a quick run.

    Attributes:
        kinds: who takes part,
        names: and of these, if there are any names, only they.
        once: it does not vary, or takes long; the first round is enough.
        seconds: the limit of a process.
    """

    name: str
    program: str
    title: str
    metrics: tuple[Metric, ...]
    parameters: dict[str, Any] = field(default_factory=dict)
    quick: dict[str, Any] = field(default_factory=dict)
    kinds: tuple[Kind, ...] = ("ours", "floor", "peer")
    names: tuple[str, ...] = ()
    once: bool = False
    seconds: float = 120

    def admits(self, contestant: Contestant) -> bool:
        """Does it make sense for this one?"""
        return contestant.kind in self.kinds and (not self.names or contestant.name in self.names)


BATCH_SIZE = 100  # of every contestant where the same size is needed for a fair comparison
RATE = 2000  # events a second, paced
_DELIVERERS: tuple[Kind, ...] = ("ours", "peer")
_ENDPOINTS = {"ok": "healthy", "slow": "slow (500 ms)", "hang": "hanging"}

_LATENCY = (
    Metric("p50", "p50 µs"),
    Metric("p99", "p99 µs"),
    Metric("p999", "p99.9 µs"),
    Metric("max", "max µs", 0),
)


def _latency(pattern: str, mode: str) -> Measure:
    paced = pattern == "paced"
    calls = 10_000 if paced else 20_000
    what = f"paced ({RATE} events/s)" if paced else "in bursts of 500"
    rhythm: dict[str, Any] = {"rate": RATE} if paced else {"bursts": {"size": 500, "pause": 0.1}, "queue_size": calls}
    return Measure(
        pattern if mode == "ok" else f"{pattern}-{mode}",
        "latency",
        f"Latency of `track`, {what}, endpoint {_ENDPOINTS[mode]}",
        _LATENCY,
        {"mode": mode, "calls": calls, "batch_size": BATCH_SIZE, "seconds": 15, **rhythm},
        {"calls": 2000 if paced else 3000, "seconds": 5},
    )


def _throughput(batch_size: int) -> Measure:
    return Measure(
        f"throughput-{batch_size}",
        "throughput",
        f"Throughput to delivery, batches of {batch_size}",
        (Metric("events_per_second", "events/s", 0, "high"), Metric("cpu_us", "CPU µs an event")),
        {"events": 50_000, "batch_size": batch_size, "seconds": 150},
        {"events": 5000, "seconds": 40},
        _DELIVERERS,
        seconds=240,
    )


MEASURES = (
    *(_latency(pattern, mode) for pattern in ("paced", "burst") for mode in _ENDPOINTS),
    Measure(
        "pair",
        "pair",
        "`track` beside the floor, in the same loop, paced",
        (
            Metric("p50", "p50 µs", best=""),
            Metric("floor_p50", "the floor's µs", best=""),
            Metric("ratio", "ratio", 2, ""),
        ),
        {"calls": 10_000, "rate": RATE, "batch_size": BATCH_SIZE, "seconds": 15},
        {"calls": 2000},
        names=(OURS,),
    ),
    _throughput(100),
    _throughput(20),
    Measure(
        "startup",
        "startup",
        "Start-up: import, and a client built",
        (Metric("import_ms", "import ms"), Metric("built_ms", "built ms"), Metric("built_cpu_ms", "CPU ms")),
    ),
    Measure(
        "fork",
        "fork",
        "At fork, with a client that nobody uses",
        (
            Metric("hooks", "the client's hooks µs", best=""),
            Metric("all", "with the memory of its imports µs", best=""),
            Metric("client", "a whole fork µs", best=""),
            Metric("bare", "without the package µs", best=""),
        ),
        {"turns": 30, "forks": 40},
        {"turns": 10, "forks": 20},
    ),
    Measure(
        "idle",
        "idle",
        "An idle client",
        (
            Metric("unused_threads", "threads, unused", 0, ""),
            Metric("unused_switches", "context switches, unused", 0, ""),
            Metric("used_threads", "threads, after an event", 0, ""),
            Metric("used_switches", "context switches, after an event", 0, ""),
        ),
        {"seconds": 10},
        {"seconds": 3},
        once=True,
    ),
    Measure(
        "memory",
        "memory",
        "Memory in RAM, beyond the interpreter's",
        (Metric("idle_kib", "idle client KiB", 0), Metric("full_kib", "1000 events waiting KiB", 0)),
        {"events": 1000, "seconds": 15},
        kinds=_DELIVERERS,
    ),
    Measure(
        "held",
        "held",
        "1000 events waiting: bytes held for each",
        (
            Metric("held", "held", 0),
            Metric("sent", "on the wire", 0, ""),
            Metric("ratio", "held / on the wire", 2, ""),
        ),
        {"events": 1000, "seconds": 15},
        kinds=_DELIVERERS,
    ),
    Measure(
        "server",
        "server",
        "Four gunicorn workers, one event a request",
        (
            Metric("plain_per_second", "requests/s without", 0, ""),
            Metric("tracked_per_second", "requests/s with", 0, ""),
            Metric("ratio", "with / without", 3, "high"),
            Metric("cpu_us", "CPU µs a request more", best=""),
        ),
        {"workers": 4, "clients": 8, "turns": 5, "seconds": 1},
        {"turns": 3, "seconds": 0.5},
        _DELIVERERS,
    ),
    Measure(
        "soak",
        "soak",
        "Soak: memory while many events are tracked and delivered",
        (
            Metric("second_quarter_kib", "2nd quarter, max KiB", 0, ""),
            Metric("last_quarter_kib", "last quarter, max KiB", 0, ""),
            Metric("growth_kib", "growth KiB", 0, ""),
            Metric("seconds", "seconds", 1, ""),
        ),
        {"events": 300_000},
        {"events": 20_000},
        ("ours",),
        once=True,
        seconds=4 * 3600,
    ),
)
