"""One measure of one contestant: a fresh process in the contestant's environment, beside the one sink."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from typing import Any

from benchmarks.environments import ROOT, python_of
from benchmarks.plan import Measure
from benchmarks.roster import Contestant

ERROR_LENGTH = 200  # characters of stderr's last line, when a measure fails
END_SECONDS = 10


@contextlib.contextmanager
def running_sink() -> Iterator[int]:
    """The sink's port; it ends with the block, as its stdin is closed then."""
    command = [sys.executable, "-m", "benchmarks.sink"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as sink:
        assert sink.stdout is not None
        yield int(sink.stdout.readline())


def measured(measure: Measure, contestant: Contestant, sink: int, *, changes: dict[str, Any]) -> dict[str, Any]:
    """What the measure found; a failure is a result as well, under "error"."""
    parameters = {
        "sink": sink,
        "run": uuid.uuid4().hex,
        "delivers": contestant.delivers,
        **measure.parameters,
        **changes,
    }
    program = f"benchmarks.measures.{measure.program}"
    command = [str(python_of(contestant)), "-m", program, contestant.adapter, json.dumps(parameters)]
    # A file, not a pipe: some contestants write much to stderr, and nobody would empty it meanwhile.
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=_environment(),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,  # so that what a measure has started ends with it
        )
        try:
            output, _ = process.communicate(timeout=measure.seconds)
        except subprocess.TimeoutExpired:
            return {"error": f"not done after {measure.seconds:g} s"}
        finally:
            _end(process)
        if process.returncode:
            errors.seek(0)
            words = errors.read().strip() or f"exit status {process.returncode}"
            return {"error": words.splitlines()[-1].replace(str(ROOT), ".")[:ERROR_LENGTH]}
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def _environment() -> dict[str, str]:
    """Ours without proxies: what a client does for them at each request is not its own cost."""
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}


def _end(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(END_SECONDS)
