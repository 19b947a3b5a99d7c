"""`examples/uwsgi`: the README's command does what it says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.collector import environment

for module in ("flask", "pyuwsgi"):
    pytest.importorskip(module)

EXAMPLE = Path(__file__).parents[2] / "examples" / "uwsgi" / "uwsgi_example.py"


def test_every_order_arrives_once():
    command = [sys.executable, str(EXAMPLE)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    closing = done.stdout.splitlines()[-1]
    counts = re.fullmatch(r"(\d+) workers: (\d+) tracked, (\d+) delivered, 0 lost, 0 duplicated", closing)
    assert counts is not None, closing
    assert int(counts[1]) > 4, "workers were replaced, and uWSGI reloaded"
    assert int(counts[2]) > 200
