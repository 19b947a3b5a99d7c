"""What the library sets out to reach, and whether it has: the one list, computed from the results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.results import Results
from benchmarks.roster import FLOOR, GUARDED

FORK_US = 50.0
SWITCHES = 2.0  # more than the floor's: the sleeping process's own vary by as much
HELD = 2.0
GROWTH = 0.05  # of the soak's memory
UNCHANGED_P999 = 1.5  # times that at a healthy endpoint; the largest of few numbers moves by itself
UNCHANGED_MAX = 2.0

Check = Callable[[Results, str], "float | None"]


@dataclass(frozen=True)
class Target:
    """`of(results, contestant)` is to be at most, or at least, the limit; None: not measured."""

    text: str
    limit: float
    of: Check
    at_least: bool = False
    unit: str = "x"

    def met(self, value: float) -> bool:
        """Is it reached?"""
        return value >= self.limit if self.at_least else value <= self.limit


def _times(floor: str) -> Check:
    return lambda results, name: _quotient(results.median("paced", name, "p50"), results.median("paced", floor, "p50"))


def _to_peer(measure: str, key: str, best: str = "low") -> Check:
    def check(results: Results, name: str) -> float | None:
        peer = results.best_peer(measure, key, best)
        return _quotient(results.median(measure, name, key), peer and peer[1])

    return check


def _to_healthy(mode: str, key: str) -> Check:
    """The worse of both patterns."""

    def check(results: Results, name: str) -> float | None:
        ratios = [
            _quotient(results.median(f"{pattern}-{mode}", name, key), results.median(pattern, name, key))
            for pattern in ("paced", "burst")
        ]
        known = [ratio for ratio in ratios if ratio is not None]
        return max(known) if known else None

    return check


def _plain(measure: str, key: str) -> Check:
    return lambda results, name: results.median(measure, name, key)


def _switches(key: str) -> Check:
    def check(results: Results, name: str) -> float | None:
        ours, none = results.median("idle", name, key), results.median("idle", FLOOR, key)
        return None if ours is None or none is None else ours - none

    return check


def _growth(results: Results, name: str) -> float | None:
    return _quotient(results.median("soak", name, "growth_kib"), results.median("soak", name, "second_quarter_kib"))


def _lost(results: Results, name: str) -> float | None:
    rounds = [result for measure in results.rounds for result in results.of(measure, name) if "tracked" in result]
    return sum(abs(result["tracked"] - result["delivered"]) for result in rounds) if rounds else None


def _quotient(number: float | None, by: float | None) -> float | None:
    return None if number is None or not by else number / by


TARGETS = (
    Target("`track`, paced, p50: at most 1.4 times the floor's", 1.4, _times(FLOOR)),
    Target("no target, but the limit: at most 1.4 times the guarded floor's", 1.4, _times(GUARDED)),
    Target("the floor's, call and call about in one process", 1.4, _plain("pair", "ratio")),
    Target("`track`, paced, p50: at most 1/3 of the fastest peer's", 1 / 3, _to_peer("paced", "p50")),
    Target("`track`, paced, p99: at most 0.4 of the best peer's", 0.4, _to_peer("paced", "p99")),
    Target("`track`, in a tight loop, p50: at most 1/5 of the fastest peer's", 1 / 5, _to_peer("burst", "p50")),
    *(
        Target(f"{title} does not change at {what} endpoint", limit, _to_healthy(mode, key))
        for mode, what in (("slow", "a slow"), ("hang", "a hanging"))
        for key, title, limit in (("p999", "p99.9", UNCHANGED_P999), ("max", "max", UNCHANGED_MAX))
    ),
    *(
        target
        for size in (100, 20)
        for target in (
            Target(
                f"throughput, batches of {size}: at least 3 times the best peer's",
                3,
                _to_peer(f"throughput-{size}", "events_per_second", "high"),
                at_least=True,
            ),
            Target(
                f"CPU an event, batches of {size}: at most 1/4 of the best peer's",
                1 / 4,
                _to_peer(f"throughput-{size}", "cpu_us"),
            ),
        )
    ),
    *(
        target
        for state, what in (("unused", "a client never used"), ("used", "a client that has delivered"))
        for target in (
            Target(f"{what}: no thread", 0, _plain("idle", f"{state}_threads"), unit=" threads"),
            Target(f"{what}: no wake-up", SWITCHES, _switches(f"{state}_switches"), unit=" switches more"),
        )
    ),
    Target(f"at fork, unused client: under {FORK_US:.0f} µs", FORK_US, _plain("fork", "hooks"), unit=" µs"),
    Target("a full default queue: at most twice its events' bytes", HELD, _plain("held", "ratio")),
    Target("soak: memory stays flat", GROWTH, _growth, unit=" of it more"),
    Target("every event that a measure counts arrives, once", 0, _lost, unit=" missing"),
)
