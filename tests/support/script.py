"""Run a script to the end of its interpreter, and see when that was.

For programs whose imports, exit handlers and exit status are what is tested; `support.program` imports klime_mp first.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from typing import Any

from support.collector import Inbox, environment

DEADLINE = 30

# No thread: faulthandler's watchdog is no Python thread, and needs none.
_PRELUDE = f"""
import faulthandler, json, os, sys, time
faulthandler.dump_traceback_later({DEADLINE - 5}, exit=True)

def say(**facts):
    os.write(1, (json.dumps(facts) + "\\n").encode())

def say_when_over():
    "Call it before klime_mp is imported: handlers run in the reverse order."
    import atexit
    atexit.register(lambda: say(handlers_over=time.monotonic()))

def say_ledger(client, **facts):
    say(**facts, stats=vars(client.stats()))
"""


@dataclass
class Finished:
    """A script that has ended.

    Attributes:
        status: its exit status.
        facts: what it said, all in one.
        stderr: its standard error.
        ended: when its process was gone, on the monotonic clock, which all processes share.
    """

    status: int
    facts: dict[str, Any]
    stderr: str
    ended: float


def run_script(source: str, inbox: Inbox, *, status: int = 0, **env: str) -> Finished:
    """Run `source` in a fresh interpreter; a client built without arguments sends to `inbox`.

    Fails when it hangs, or ends with another exit status.
    """
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", _PRELUDE + textwrap.dedent(source)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment(), "KLIME_ENDPOINT": inbox.endpoint, "KLIME_WRITE_KEY": inbox.write_key, **env},
    )
    try:
        stdout, stderr = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
        process.wait()
    ended = time.monotonic()
    facts: dict[str, Any] = {}
    for line in stdout.splitlines():
        facts.update(json.loads(line))
    assert process.returncode == status, f"exit status {process.returncode}\n{stdout}\n{stderr}"
    return Finished(process.returncode, facts, stderr, ended)


def assert_ended_in_time(finished: Finished, seconds: float) -> None:
    """From "main_ended" on, the exit's handlers took no longer, but for the half second that the contract allows.

    What an interpreter takes to end itself is the machine's, but must not be a hang: a request takes ten seconds.
    """
    main_ended = finished.facts["main_ended"]
    assert finished.facts["handlers_over"] - main_ended < seconds + 0.5
    assert finished.ended - main_ended < seconds + 5
