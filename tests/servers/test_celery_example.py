"""`examples/celery`: that it succeeds, and that it would not when an event was lost or came twice."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from support.collector import environment

pytest.importorskip("celery")

EXAMPLE = Path(__file__).parents[2] / "examples" / "celery"


@pytest.fixture
def example(monkeypatch):
    """The example's main module; forgotten afterwards."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    yield importlib.import_module("celery_example")
    del sys.modules["celery_example"]


def run(*options):
    command = [sys.executable, str(EXAMPLE / "celery_example.py"), "--orders", "30", "--recycle", "8", *options]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_event_is_delivered_once():
    said = run()
    assert said.splitlines()[-1].split() == ["total", "31", "31", "0", "0"]
    assert said.count("pool process") >= 4, said  # 30 tasks, at most 8 each


def test_after_a_task_its_events_have_been_sent():
    said = run("--flush-after-task")
    assert said.splitlines()[-1].split() == ["total", "31", "31", "0", "0"]


@pytest.mark.parametrize(
    ("arrived", "status", "last"),
    [
        ("abc", 0, "total 3 3 0 0"),
        ("ab", 1, "total 3 2 1 0"),
        ("abcc", 1, "total 3 3 0 1"),
        ("abcd", 1, "1 events arrived that nobody tracked"),
    ],
)
def test_loss_and_duplication_are_failures(example, arrived, status, last, capsys):
    assert example.report(["1 a", "2 b", "2 c"], list(arrived), parent=1) == status
    assert capsys.readouterr().out.splitlines()[-1].split() == last.split()
