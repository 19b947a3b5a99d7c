"""The rounds of a run, and what is said about them: medians, spread, the best peer, who lost events."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

from benchmarks.plan import Measure, Metric
from benchmarks.roster import CONTESTANTS

Rounds = list[dict[str, Any]]

PEERS = tuple(contestant.name for contestant in CONTESTANTS if contestant.kind == "peer")


@dataclass(frozen=True)
class Value:
    """A number of several rounds."""

    median: float
    low: float
    high: float


@dataclass
class Results:
    """Everything that was found; what `results.json` holds."""

    command: str
    machine: dict[str, str]
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    rounds: dict[str, dict[str, Rounds]] = field(default_factory=dict)
    parameters: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, measure: str, contestant: str, result: dict[str, Any]) -> None:
        """One more round."""
        self.rounds.setdefault(measure, {}).setdefault(contestant, []).append(result)

    def of(self, measure: str, contestant: str) -> Rounds:
        """A contestant's rounds; none when it did not take part."""
        return self.rounds.get(measure, {}).get(contestant, [])

    def value(self, measure: str, contestant: str, key: str) -> Value | None:
        """Median and spread; None when no round has such a number."""
        numbers = [result[key] for result in self.of(measure, contestant) if key in result]
        return Value(statistics.median(numbers), min(numbers), max(numbers)) if numbers else None

    def median(self, measure: str, contestant: str, key: str) -> float | None:
        """The same without the spread."""
        value = self.value(measure, contestant, key)
        return None if value is None else value.median

    def best_peer(self, measure: str, key: str, best: str = "low") -> tuple[str, float] | None:
        """The peer whose median is the best, and that."""
        medians = [(median, peer) for peer in PEERS if (median := self.median(measure, peer, key)) is not None]
        if not medians:
            return None
        median, peer = (min if best == "low" else max)(medians)
        return peer, median

    def ratio(self, measure: Measure, contestant: str, metric: Metric) -> float | None:
        """A contestant's median in those of the best peer."""
        best = self.best_peer(measure.name, metric.key, metric.best) if metric.best else None
        median = self.median(measure.name, contestant, metric.key)
        return None if best is None or median is None or not best[1] else median / best[1]

    def remarks(self, measure: str, contestant: str) -> list[str]:
        """What has to be known about a contestant's numbers: failures, losses, calls that did not return."""
        remarks = []
        for result in self.of(measure, contestant):
            remarks += [str(result[key]) for key in ("error", "note") if key in result]
            missing = result.get("tracked", 0) - result.get("delivered", 0)
            if missing:
                what = f"lost {missing}" if missing > 0 else f"{-missing} twice"
                remarks.append(f"**{what} of {result['tracked']} events**")
            if result.get("cut_off"):
                remarks.append(f"cut off in its call {result['calls']}, which had not returned; max is at least that")
        return list(dict.fromkeys(remarks))
