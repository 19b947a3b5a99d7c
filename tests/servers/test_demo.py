"""`make demo`: that it succeeds, and that it would not when an event was lost or came twice."""

import importlib
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from support.collector import environment

for module in ("flask", "gunicorn", "rich"):
    pytest.importorskip(module)

DEMO = Path(__file__).parents[2] / "examples" / "gunicorn" / "demo"
GUNICORN_LOG = """\
[2026-11-22 10:00:00 +0000] [1] [INFO] Starting gunicorn
[2026-11-22 10:00:01 +0000] [2] [INFO] Autorestarting worker after current request.
[2026-11-22 10:00:01 +0000] [2] [INFO] Worker exiting (pid: 2)
[2026-11-22 10:00:02 +0000] [1] [INFO] Handling signal: hup
[2026-11-22 10:00:02 +0000] [3] [INFO] Worker exiting (pid: 3)
[2026-11-22 10:00:03 +0000] [1] [INFO] Handling signal: term
[2026-11-22 10:00:03 +0000] [4] [INFO] Worker exiting (pid: 4)
"""
JOURNAL = "1 a\n2 b\n2 c\n3 d\n4 e\n"


@pytest.fixture
def demo(monkeypatch):
    """The demo's main module; it and the modules beside it are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(DEMO))
    before = set(sys.modules)
    yield importlib.import_module("run")
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(DEMO)):
            del sys.modules[name]


def outcome_of(demo, arrived):
    rows = demo.rows(JOURNAL, arrived, GUNICORN_LOG, master=1)
    return demo.Outcome(rows, demo.strangers(JOURNAL, arrived), Counter({"2xx": 5}), gunicorn_status=0)


def test_the_demo_delivers_every_event_once():
    options = ["--requests", "400", "--workers", "2", "--max-requests", "40"]
    command = [sys.executable, str(DEMO / "run.py"), *options]
    wide = {**environment(), "COLUMNS": "100"}
    done = subprocess.run(command, env=wide, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    totals = re.fullmatch(r"total: (\d+) tracked, (\d+) delivered, 0 lost, 0 duplicated", done.stdout.splitlines()[-1])
    assert totals is not None, done.stdout
    assert totals[1] == totals[2]
    assert {"master", "max_requests", "stop (TERM)"} <= set(re.split(r" *[│|] *", done.stdout))


def test_killed_workers_lose_nothing_with_a_spool():
    options = ["--kill", "8", "--requests", "600", "--workers", "2"]
    command = [sys.executable, str(DEMO / "run.py"), *options]
    wide = {**environment(), "COLUMNS": "100"}
    done = subprocess.run(command, env=wide, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    totals = re.fullmatch(
        r"total: (\d+) kills with a spool, (\d+) tracked, 0 lost, \d+ duplicated; (\d+) without, .* lost",
        done.stdout.splitlines()[-1],
    )
    assert totals is not None, done.stdout
    assert all(int(number) > 0 for number in totals.groups()), done.stdout
    assert re.search(r"^klime-mp drain: \d+ events? delivered$", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.parametrize(
    ("arrived", "problems"),
    [
        ("abcde", []),
        ("abcdeax", []),  # killed before it could note the answer, or write down the event
        ("abde", ["events were lost"]),
        ("abcdexyz", ["3 events arrived that nobody tracked"]),
        ("", ["events were lost"]),
    ],
)
def test_what_killing_may_cost(demo, arrived, problems):
    kill = importlib.import_module("kill")
    assert kill._problems(kill.tally("with a spool", 2, JOURNAL, arrived)) == problems


def test_only_workers_of_this_gunicorn_are_killed(demo, tmp_path):
    kill = importlib.import_module("kill")
    log = "".join(f"[t] [{pid}] [INFO] Booting worker with pid: {pid}\n" for pid in (1, os.getpid(), os.getppid()))
    gunicorn = SimpleNamespace(pid=2**22, log=lambda: log)
    assert kill._workers(gunicorn) == set()


def test_a_row_for_each_process_and_how_it_ended(demo):
    rows = outcome_of(demo, "abcde").rows
    assert [(row.pid, row.role, row.ended_by) for row in rows] == [
        (1, "master", "stop (TERM)"),
        (2, "worker", "max_requests"),
        (3, "worker", "reload (HUP)"),
        (4, "worker", "stop (TERM)"),
    ]
    assert [row.tracked for row in rows] == [1, 2, 1, 1]


@pytest.mark.parametrize(
    ("arrived", "numbers", "problems"),
    [
        ("abcde", "5 tracked, 5 delivered, 0 lost, 0 duplicated", []),
        ("abde", "5 tracked, 4 delivered, 1 lost, 0 duplicated", ["events were lost"]),
        ("aabcdea", "5 tracked, 5 delivered, 0 lost, 2 duplicated", ["events were duplicated"]),
        ("abcdex", "5 tracked, 5 delivered, 0 lost, 0 duplicated", ["1 events arrived that nobody tracked"]),
        ("", "5 tracked, 0 delivered, 5 lost, 0 duplicated", ["events were lost"]),
    ],
)
def test_loss_and_duplication_are_problems(demo, arrived, numbers, problems):
    outcome = outcome_of(demo, arrived)
    options = demo.Options(requests=5, workers=2, seconds=1, max_requests=2)
    assert demo.totals(outcome.rows) == f"total: {numbers}"
    assert demo._problems(outcome, options) == problems


def test_a_demo_without_traffic_proves_nothing(demo):
    outcome = demo.Outcome([], 0, Counter({"ConnectionRefusedError": 3}), gunicorn_status=0)
    problems = demo._problems(outcome, demo.Options(requests=3, workers=2, seconds=1, max_requests=2))
    assert {"nothing was tracked", "no request was answered", "3 requests had no good answer"} <= set(problems)
