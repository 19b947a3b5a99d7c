"""Every scenario: nothing lost, nothing twice. `make matrix` plays the same ones and makes a table of them."""

import os

import pytest
from scenarios import all_scenarios, unexcused


@pytest.mark.parametrize("scenario", all_scenarios(), ids=lambda each: f"{each.server}: {each.name}")
def test_every_event_arrives_once(scenario, collector, tmp_path):
    missing = scenario.missing()
    if missing:
        # CI has everything: there, what is missing is a mistake.
        fails = os.environ.get("ALL_SERVERS") and unexcused(missing)
        (pytest.fail if fails else pytest.skip)(f"not installed here: {', '.join(missing)}")
    outcome = scenario.play(tmp_path, collector)
    assert outcome.tracked, "nothing was tracked: the scenario proves nothing"
    log = tmp_path / "log"
    said = log.read_text(errors="replace") if log.exists() else ""
    assert not outcome.lost, f"lost {outcome.lost} of {len(outcome.tracked)}\n{said}"
    assert not outcome.duplicated, f"duplicated {outcome.duplicated}\n{said}"
