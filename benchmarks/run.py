"""`make bench`: every measure of every contestant, in turn, round after round, against one sink.

In a round each measure goes through all contestants before the next one begins, and each round begins with another
contestant: what the machine does meanwhile strikes all. See README.md in this folder for what the numbers mean.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import machine, plots
from benchmarks.environments import ROOT, InstallationError, prepare
from benchmarks.plan import MEASURES, Measure
from benchmarks.report import markdown
from benchmarks.results import Results
from benchmarks.roster import CONTESTANTS, Contestant
from benchmarks.runner import measured, running_sink

Named = TypeVar("Named", Measure, Contestant)

EXIT_STATUS_SIGNAL = 143

_console = Console(stderr=True)


def main(arguments: Sequence[str]) -> int:
    """Run, and write the report; 1 if a measure failed."""
    options = _options(arguments)
    # A polite kill unwinds like Ctrl-C does: what was started is ended.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(EXIT_STATUS_SIGNAL))
    options.out.mkdir(parents=True, exist_ok=True)
    if options.report:
        results = Results(**json.loads((options.out / "results.json").read_text()))
    else:
        results = _run(options, Results(shlex.join(["python", "-m", "benchmarks.run", *arguments]), machine.describe()))
        (options.out / "results.json").write_text(json.dumps(asdict(results), indent=1) + "\n")
    names = plots.draw(results, options.out)
    (options.out / "README.md").write_text(markdown(results, names))
    _console.print(f"written: {options.out}/README.md")
    found = (result for of in results.rounds.values() for rounds in of.values() for result in rounds)
    return int(any("error" in result for result in found))


def _run(options: argparse.Namespace, results: Results) -> Results:
    contestants = []
    for contestant in options.contestants:
        with _console.status(f"the environment of {contestant.name}"):
            try:
                results.versions[contestant.name] = prepare(contestant)
                contestants.append(contestant)
            except InstallationError as error:
                results.skipped[contestant.name] = str(error)
                _console.print(f"{contestant.name} is left out: {error}")
    schedule = list(_schedule(options.rounds, options.only, contestants))
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with running_sink() as sink, Progress(*columns, console=_console) as progress:
        task = progress.add_task("", total=len(schedule))
        with contextlib.suppress(KeyboardInterrupt):  # whatever there is then is reported
            for measure, contestant in schedule:
                progress.update(task, description=f"{measure.name} {contestant.name}")
                changes = _changes(measure, options)
                results.parameters[measure.name] = {**measure.parameters, **changes}
                result = measured(measure, contestant, sink, changes=changes)
                results.add(measure.name, contestant.name, result)
                if "error" in result:
                    progress.console.print(f"{measure.name}, {contestant.name}: {result['error']}", markup=False)
                progress.advance(task)
    results.machine["load when it ended"] = machine.load()
    return results


def _schedule(
    rounds: int, measures: list[Measure], contestants: list[Contestant]
) -> Iterator[tuple[Measure, Contestant]]:
    for number in range(rounds):
        first = number % max(1, len(contestants))
        order = contestants[first:] + contestants[:first]
        for measure in measures:
            if not (measure.once and number):
                yield from ((measure, contestant) for contestant in order if measure.admits(contestant))


def _changes(measure: Measure, options: argparse.Namespace) -> dict[str, object]:
    changes = dict(measure.quick) if options.quick else {}
    if measure.name == "soak" and options.soak:
        changes["events"] = options.soak
    return changes


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="The library beside its peers.")
    parser.add_argument("--rounds", type=int, default=5, help="how often (default 5)")
    parser.add_argument("--quick", action="store_true", help="few events: to see whether it works, not how fast")
    parser.add_argument(
        "--only", type=_some_of(MEASURES), default=list(MEASURES), metavar="MEASURE,...", help=_names(MEASURES)
    )
    parser.add_argument(
        "--contestants",
        type=_some_of(CONTESTANTS),
        default=list(CONTESTANTS),
        metavar="NAME,...",
        help=_names(CONTESTANTS),
    )
    parser.add_argument("--soak", type=int, metavar="EVENTS", help="events of the soak (default 300000)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks", help="default: docs/benchmarks")
    parser.add_argument("--report", action="store_true", help="measure nothing: write the report of results.json anew")
    return parser.parse_args(arguments)


def _names(entries: Sequence[Named]) -> str:
    return ", ".join(entry.name for entry in entries)


def _some_of(entries: Sequence[Named]) -> Callable[[str], list[Named]]:
    """An argument's type: entries by name, separated by commas."""
    known = {entry.name: entry for entry in entries}

    def parse(text: str) -> list[Named]:
        names = text.split(",")
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]} is none of {_names(entries)}")
        return [known[name] for name in names]

    return parse


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
