"""Do the benchmarks work? Every measure, once and quickly, of the library alone; the peers are for `make bench`."""

from __future__ import annotations

import dataclasses
import json
import sys

import pytest
from benchmarks import environments, runner
from benchmarks.plan import MEASURES
from benchmarks.report import markdown
from benchmarks.results import Results
from benchmarks.roster import CONTESTANTS, OURS
from benchmarks.targets import TARGETS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the measures read /proc")

REPORT = environments.ROOT / "docs" / "benchmarks"
QUICKER = {"idle": {"seconds": 0.3}, "server": {"workers": 2, "turns": 1}}


@pytest.fixture(scope="module")
def sink():
    with runner.running_sink() as port:
        yield port


@pytest.fixture
def ours(monkeypatch):
    """The library, as a contestant that needs no environment of its own."""
    monkeypatch.setattr(runner, "python_of", lambda _: sys.executable)
    return next(contestant for contestant in CONTESTANTS if contestant.name == OURS)


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.name)
def test_a_measure_finds_all_its_numbers(measure, ours, sink):
    if measure.program in {"pair", "server"}:
        pytest.importorskip({"pair": "orjson", "server": "gunicorn"}[measure.program])
    found = runner.measured(measure, ours, sink, changes={**measure.quick, **QUICKER.get(measure.name, {})})
    assert "error" not in found, found
    assert {metric.key for metric in measure.metrics} <= found.keys(), found
    assert found.get("delivered") == found.get("tracked")


def test_a_measure_that_fails_says_why(ours, sink):
    measure = next(each for each in MEASURES if each.program == "latency")
    found = runner.measured(measure, dataclasses.replace(ours, adapter="nobody"), sink, changes={})
    assert found == {"error": "ModuleNotFoundError: No module named 'benchmarks.contestants.nobody'"}


def test_each_contestant_has_an_environment_of_its_own():
    assert len({environments.python_of(contestant) for contestant in CONTESTANTS}) == len(CONTESTANTS)


@pytest.fixture
def results():
    return Results(**json.loads((REPORT / "results.json").read_text()))


def test_the_report_is_that_of_its_results(results):
    assert (REPORT / "README.md").read_text() == markdown(results, ["latency", "delivery"])


def test_every_target_was_measured(results):
    assert [target.text for target in TARGETS if target.of(results, OURS) is None] == []
