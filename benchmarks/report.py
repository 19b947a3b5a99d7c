"""The results as Markdown: the machine, the targets, a table for each measure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from benchmarks.plan import MEASURES, Measure, Metric
from benchmarks.results import PEERS, Results
from benchmarks.roster import CONTESTANTS, OURS, OURS_JSON, Contestant
from benchmarks.targets import TARGETS, Target

Row = Iterable[str]

_INTRODUCTION = (
    "What is measured, and how to read it: [benchmarks/README.md](../../benchmarks/README.md). A number is the median "
    "of the rounds, with its spread in parentheses; behind the dot stands its ratio to the best peer's. "
    "All numbers are in [results.json](results.json)."
)
# Of what an environment holds, what the numbers depend on.
_NOTEWORTHY = ("requests", "urllib3", "orjson", "gunicorn")


def markdown(results: Results, plots: Iterable[str]) -> str:
    """The whole report."""
    parts = [
        "# Benchmarks",
        _INTRODUCTION,
        _table(
            ("", ""), [*results.machine.items(), ("rounds", str(_rounds(results))), ("command", f"`{results.command}`")]
        ),
        *(f"![{name}]({name}.svg)" for name in plots),
        "## Targets",
        _table(("target", OURS, "", OURS_JSON, ""), [_target(target, results) for target in TARGETS]),
        *(part for measure in MEASURES if measure.name in results.rounds for part in _measure(measure, results)),
        "## Contestants",
        _table(("", "package", "beside it"), [_versions(contestant, results) for contestant in CONTESTANTS]),
    ]
    return "\n\n".join(parts) + "\n"


def _rounds(results: Results) -> int:
    return max((len(rounds) for of in results.rounds.values() for rounds in of.values()), default=0)


def _target(target: Target, results: Results) -> Row:
    yield target.text
    for name in (OURS, OURS_JSON):
        value = target.of(results, name)
        yield "" if value is None else f"{value:.3g}{target.unit}"
        yield "not measured" if value is None else "met" if target.met(value) else "**not met**"


def _measure(measure: Measure, results: Results) -> Iterator[str]:
    yield f"## {measure.title}"
    shown = [contestant for contestant in CONTESTANTS if results.of(measure.name, contestant.name)]
    rows = [
        (contestant.name, *(_cell(measure, contestant, metric, results) for metric in measure.metrics))
        for contestant in shown
    ]
    yield _table(("", *(metric.title for metric in measure.metrics)), rows)
    remarks = [(contestant.name, results.remarks(measure.name, contestant.name)) for contestant in shown]
    listed = [f"* {name}: {'; '.join(what)}" for name, what in remarks if what]
    if listed:
        yield "\n".join(listed)


def _cell(measure: Measure, contestant: Contestant, metric: Metric, results: Results) -> str:
    value = results.value(measure.name, contestant.name, metric.key)
    if value is None:
        return "-"
    numbers = [f"{number:,.{metric.digits}f}" for number in (value.median, value.low, value.high)]
    text = numbers[0] if value.low == value.high else f"{numbers[0]} ({numbers[1]}..{numbers[2]})"
    ratio = results.ratio(measure, contestant.name, metric)
    if contestant.name in PEERS:
        best = results.best_peer(measure.name, metric.key, metric.best) if metric.best else None
        return f"{text} · best peer" if best and best[0] == contestant.name else text
    return text if ratio is None else f"{text} · {ratio:.2g}x"


def _versions(contestant: Contestant, results: Results) -> Row:
    yield contestant.name
    if contestant.name not in results.versions:
        yield f"not measured: {results.skipped.get(contestant.name, 'not asked for')}"
        yield ""
        return
    versions = results.versions[contestant.name]
    yield f"{contestant.package} {versions.get(contestant.package, '?')}"
    yield ", ".join(
        f"{name} {versions[name]}" for name in _NOTEWORTHY if name in versions and name != contestant.package
    )


def _table(head: Row, rows: Iterable[Row]) -> str:
    head = tuple(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', '/').replace(chr(10), ' ') for cell in line)} |" for line in lines
    )
