"""Run a program in a fresh interpreter, with a deadline that turns a hang into "deadlock?" and stacks.

Fork tests never fork the test runner: it has threads of its own, and a child of it would run its exit handlers.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from typing import Any

from support.collector import Inbox, environment

# No watchdog thread in the program: some tests count threads, and 3.12 warns of a fork with one. The stacks are asked
# for by a signal instead, which forked children obey as well.
PRELUDE = """
import faulthandler, json, os, signal, sys, threading, time
faulthandler.register(signal.SIGUSR1, all_threads=True)
import klime_mp

def say(**facts):
    "Report to the test: one line, one write, so that processes do not mix theirs."
    os.write(1, (json.dumps(facts) + "\\n").encode())

def wait_for(condition, what, timeout=20):
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not in time: {what}")
        time.sleep(0.005)

def os_threads():
    return len(os.listdir("/proc/self/task"))

def balanced(stats):
    return stats.tracked + stats.adopted == (
        stats.delivered + stats.rejected + stats.failed + sum(stats.dropped.values())
        + stats.handed_over + stats.pending
    )

def join(pid):
    "Wait for a child; its exit status."
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


@dataclass
class Ended:
    """A program that has ended: its exit status, what it said, and its standard error."""

    status: int
    said: list[dict[str, Any]]
    stderr: str

    def all(self, fact: str) -> list[Any]:
        """Every value said of `fact`, in order; lists are joined."""
        values: list[Any] = []
        for facts in self.said:
            if fact in facts:
                value = facts[fact]
                values += value if isinstance(value, list) else [value]
        return values


def run_program(source: str, inbox: Inbox, *, deadline: float = 40, flags: tuple[str, ...] = (), **env: str) -> Ended:
    """Run `source` after the prelude; its default client sends to `inbox`. Fails on a hang or an exit status not 0."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", *flags, "-c", PRELUDE + textwrap.dedent(source)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that a hanging grandchild can be asked for its stacks, and ended, too
        env={**environment(), "KLIME_ENDPOINT": inbox.endpoint, "KLIME_WRITE_KEY": inbox.write_key, **env},
    )
    try:
        stdout, stderr = process.communicate(timeout=deadline)
    except subprocess.TimeoutExpired:
        _signal_group(process.pid, signal.SIGUSR1)
        try:
            stdout, stderr = process.communicate(timeout=2)
        except subprocess.TimeoutExpired:
            _signal_group(process.pid, signal.SIGKILL)
            stdout, stderr = process.communicate()
        raise AssertionError(f"deadlock? not over after {deadline} s\n{stdout}\n{stderr}") from None
    finally:
        _signal_group(process.pid, signal.SIGKILL)
    said = [json.loads(line) for line in stdout.splitlines()]
    assert process.returncode == 0, f"exit status {process.returncode}\n{stdout}\n{stderr}"
    return Ended(process.returncode, said, stderr)


def _signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        pass
