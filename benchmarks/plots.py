"""The two pictures: how long `track` takes, and what delivery costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.plan import RATE
from benchmarks.results import Results
from benchmarks.roster import CONTESTANTS

# The same input gives the same file, and its text stays text.
mpl.rcParams.update({"svg.hashsalt": "klime-mp", "svg.fonttype": "none", "font.size": 9})

_COLOURS = {"ours": "#1f6f54", "floor": "#9a9a9a", "peer": "#b8863b"}
_SHADES = (1.0, 0.55)


def draw(results: Results, folder: Path) -> list[str]:
    """Write what can be drawn; return the names."""
    written = []
    if "paced" in results.rounds:
        figure = Figure(figsize=(8, 3.6), layout="constrained")
        axes = figure.subplots()
        axes.set_xscale("log")
        _bars(axes, results, (("paced", "p50"), ("paced", "p99")), "{:,.1f}")
        axes.set_xlim(left=1)
        axes.set_xlabel("microseconds a call of `track`, logarithmic: p50 (dark), p99 (light)")
        axes.set_title(f"Latency, {RATE:,} events a second, healthy endpoint")
        written.append(_save(figure, folder, "latency"))
    if "throughput-100" in results.rounds:
        figure = Figure(figsize=(8, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        pair = ("throughput-100", "throughput-20")
        _bars(left, results, [(measure, "events_per_second") for measure in pair], "{:,.0f}")
        left.set_xlabel("events a second delivered")
        _bars(right, results, [(measure, "cpu_us") for measure in pair], "{:.0f}")
        right.set_xlabel("CPU microseconds an event")
        figure.suptitle("Delivery, batches of 100 (dark) and of 20 (light)")
        written.append(_save(figure, folder, "delivery"))
    return written


def _bars(axes: Axes, results: Results, series: Sequence[tuple[str, str]], label: str) -> None:
    """One group of bars for each contestant, the spread of the rounds as a line."""
    measure, key = series[0]
    shown = [contestant for contestant in CONTESTANTS if results.value(measure, contestant.name, key)]
    height = 0.8 / len(series)
    for place, contestant in enumerate(shown):
        for number, (name, of) in enumerate(series):
            value = results.value(name, contestant.name, of)
            if value is None:
                continue
            axes.barh(
                place + (number - (len(series) - 1) / 2) * height,
                value.median,
                height,
                color=_COLOURS[contestant.kind],
                alpha=_SHADES[number],
                xerr=[[value.median - value.low], [value.high - value.median]],
                error_kw={"elinewidth": 0.8},
            )
            where = (value.high, place + (number - (len(series) - 1) / 2) * height)
            axes.annotate(label.format(value.median), where, (3, 0), textcoords="offset points", va="center", size=7)
    axes.set_yticks(range(len(shown)), [contestant.name for contestant in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.margins(x=0.15)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, folder: Path, name: str) -> str:
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    return name
