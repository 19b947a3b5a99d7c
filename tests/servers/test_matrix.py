"""`make matrix`: that it counts, and that a lost or duplicated event could not pass."""

import datetime as dt

import matrix
import pytest
from rich.console import Console
from scenarios import Outcome, Scenario

from support.collector import track_event

VERSIONS = {"CPython": "3.11.7", "gunicorn": "not installed"}


def fine(tracked=3, seconds=0.5):
    return matrix.Play(Outcome([str(serial) for serial in range(tracked)], [], [], seconds))


def row(*plays, server="gunicorn", name="QUIT", missing=()):
    return matrix.Row(server, name, list(missing), list(plays))


def document(rows):
    return matrix.document(rows, "make matrix", dt.date(2026, 11, 22), VERSIONS)


def living(journal, arriving):
    """A scenario in which these serials are tracked, and those arrive."""

    def live(folder, inbox):
        (folder / "journal").write_text("".join(f"Requested {serial}\n" for serial in journal))
        (folder / "log").write_text("the last words\n")
        if arriving:
            inbox.post([track_event(serial) for serial in arriving])
        return 0.25

    return Scenario("gunicorn", "QUIT", live)


@pytest.mark.parametrize(
    ("journal", "arriving", "counted", "problem"),
    [
        ("abc", "abc", (3, 0, 0), ""),
        ("abc", "ac", (3, 1, 0), "lost b\nthe last words"),
        ("abc", "abbc", (3, 0, 1), "duplicated b\nthe last words"),
        ("abc", "abb", (3, 1, 1), "lost c; duplicated b\nthe last words"),
        ("abc", "", (3, 3, 0), "lost a, b, c\nthe last words"),
        ("", "", (0, 0, 0), "nothing was tracked: it proves nothing\nthe last words"),
    ],
)
def test_a_play_is_judged_by_its_events(journal, arriving, counted, problem, collector_process):
    played = matrix.play(living(journal, arriving), collector_process)
    assert (played.tracked, played.lost, played.duplicated) == counted
    assert played.problem == problem
    assert matrix.status([row(fine(), played)], all_servers=False) == (1 if problem else 0)


@pytest.mark.parametrize(
    ("error", "problem"),
    [(AssertionError("hung?\n" + "\n".join(map(str, range(99)))), "98"), (AssertionError(), "AssertionError")],
)
def test_a_play_that_fails_is_one_that_did_not_pass(error, problem, collector_process):
    def live(folder, inbox):
        raise error

    played = matrix.play(Scenario("gunicorn", "QUIT", live), collector_process)
    assert played.problem.endswith(problem)
    assert matrix.numbers([row(played, fine(tracked=4))]) == [2, 1, 4, 0, 0]
    assert matrix.status([row(played)], all_servers=False) == 1


def test_a_broken_scenario_costs_the_others_nothing(capsys):
    def live(folder, inbox):
        raise KeyError("broken")

    scenarios = [Scenario("raw", "broken", live), living("ab", "ab")]
    broken, good = matrix.play_all(scenarios, runs=2, jobs=2, console=Console())
    assert ["KeyError: 'broken'" in play.problem for play in broken.plays] == [True, True]
    assert matrix.numbers([good]) == [2, 2, 4, 0, 0]
    assert "KeyError: 'broken'" in capsys.readouterr().out


def test_what_is_missing_says_so_and_is_not_played():
    scenario = Scenario("uwsgi", "TERM", lambda folder, inbox: pytest.fail("played"), needs=("no_such_server",))
    rows = matrix.play_all([scenario], runs=3, jobs=1, console=Console(quiet=True))
    assert rows[0].plays == []
    assert "| TERM (not installed: no_such_server) |" in document(rows)
    rows.append(row(fine()))
    assert matrix.status(rows, all_servers=False) == 0
    assert matrix.status(rows, all_servers=True) == 1


def test_a_matrix_without_a_play_proves_nothing():
    assert matrix.status([], all_servers=False) == 1


def test_the_document():
    lost = matrix.Play(Outcome(["1", "2"], ["1"], [], 9.5), "lost 1")
    twice = matrix.Play(Outcome(["1", "2"], [], ["1"], 0.5), "duplicated 1")
    rows = [row(fine(), lost, twice), row(fine(), server="celery"), row(fine(), fine(), name="TERM")]
    written = document(rows)
    assert written.startswith("# The matrix\n")
    assert "Made by `make matrix` on 2026-11-22" in written
    assert "| gunicorn | not installed |" in written
    # Servers by name; runs, passed, tracked, lost, duplicated, the median of the seconds.
    assert [line for line in written.splitlines() if line.startswith(("## ", "| QUIT", "| TERM"))] == [
        "## celery",
        "| QUIT | 1 | 1 | 3 | 0 | 0 | 0.50 |",
        "## gunicorn",
        "| QUIT | 3 | 1 | 7 | 1 | 1 | 0.50 |",
        "| TERM | 2 | 2 | 6 | 0 | 0 | 0.50 |",
    ]
    assert "**total: 3 scenarios, 6 runs, 4 passed, 16 events tracked, 1 lost, 1 duplicated**" in written


def test_the_table_has_the_same_rows():
    console = Console(width=100)
    with console.capture() as captured:
        console.print(matrix.table([row(fine()), row(missing=["gevent"], name="TERM")]))
    shown = [line.split() for line in captured.get().splitlines()]
    assert ["gunicorn"] in shown
    assert ["QUIT", "1", "1", "3", "0", "0", "0.50"] in shown
    assert ["TERM", "(not", "installed:", "gevent)"] in shown


def test_the_command_line_of_the_document_repeats_it():
    options = matrix._options(["-n", "20", "-k", "gunicorn: sync", "--write", "somewhere.md"])
    assert matrix._command(options) == "python tests/servers/matrix.py -n 20 -j 2 -k 'gunicorn: sync'"


def test_versions_name_no_machine():
    versions = matrix.versions()
    assert set(matrix.PACKAGES) < set(versions)
    assert "redis-server" in versions
