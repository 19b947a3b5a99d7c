"""examples/multiprocessing: that it succeeds, and that it would not when an event was lost or came twice."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from support.collector import environment

EXAMPLE = Path(__file__).parents[2] / "examples" / "multiprocessing"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_it_delivers_every_event_once(method):
    command = [sys.executable, str(EXAMPLE / "crunch.py"), "--start-method", method, "--chunks", "40", "--workers", "2"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    pool, executor, total = done.stdout.splitlines()
    assert pool.startswith(f"Pool ({method}): ")
    assert executor.startswith(f"ProcessPoolExecutor ({method}): ")
    assert total == "total: 81 tracked, 81 delivered, 0 lost, 0 duplicated"


@pytest.fixture
def crunch(monkeypatch):
    """The example's module, forgotten afterwards."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    yield importlib.import_module("crunch")
    del sys.modules["crunch"]


@pytest.mark.parametrize(
    ("tracked", "arrived", "said", "right"),
    [
        ("abc", "cab", "3 tracked, 3 delivered, 0 lost, 0 duplicated", True),
        ("abc", "ab", "3 tracked, 2 delivered, 1 lost, 0 duplicated", False),
        ("abc", "abcb", "3 tracked, 3 delivered, 0 lost, 1 duplicated", False),
        (["a", None], "a", "2 tracked, 1 delivered, 1 lost, 0 duplicated", False),
    ],
)
def test_it_counts(crunch, tracked, arrived, said, right):
    count = crunch.Count(tracked, arrived)
    assert str(count) == said
    assert count.is_right() is right
