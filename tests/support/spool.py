"""A spool's folder, seen from outside: what is in it, what dead processes left there, who may have which file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from klime_mp import _segment, _spool_folder
from klime_mp._config import Config
from support.clients import wait_until
from support.collector import track_event

# A fault: the endpoint takes nothing.
DOWN = {"status": 503, "times": None}

# Options of a client whose first failure is followed by a rest that is longer than a test.
LONG_REST = {"flush_interval": 1000, "retry_initial_delay": 16_000, "retry_max_attempts": 1}

# For programs (`support.program`): a client that adopts what there is, and delivers it.
DRAIN = """
drain = klime_mp.Client(flush_interval=10)
while drain._adopt():
    assert drain._flush_adopted(20_000), drain.stats()
assert balanced(drain.stats())
"""

_TRY_LOCK = """
import fcntl, os, sys
try:
    fcntl.lockf(os.open(sys.argv[1], os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit(3)
"""


def folder_of(base: Any, inbox: Any) -> Path:
    """The folder, in `spool_dir`, of this inbox's events."""
    config = Config.resolve({"write_key": inbox.write_key, "endpoint": inbox.endpoint}, {})
    return Path(_spool_folder.folder_of(str(base), config))


def files(base: Any) -> list[Path]:
    """All that is anywhere in `spool_dir`, but for the folders."""
    return sorted(path for path in Path(base).rglob("*") if not path.is_dir())


def total_bytes(base: Any) -> int:
    """The size of all that. A file may go while one looks."""
    total = 0
    for path in files(base):
        try:
            total += path.lstat().st_size
        except FileNotFoundError:
            pass
    return total


def event_body(serial: Any, **properties: Any) -> bytes:
    """A whole event, as it stands in a file."""
    event = track_event(serial)
    event["properties"].update(properties)
    return json.dumps(event, separators=(",", ":")).encode()


def lines(*serials: Any, **properties: Any) -> bytes:
    """An event for each serial, numbered from 1."""
    bodies = [event_body(serial, **properties) for serial in serials]
    return b"".join(_segment.line(number, body) for number, body in enumerate(bodies, 1))


def plant(folder: Any, text: bytes, pid: int = 99999999, mark: int = 0) -> Path:
    """The file of a process that has died."""
    path = Path(folder) / f"{pid}-{mark:016x}{_segment.SUFFIX}"
    path.parent.mkdir(0o700, parents=True, exist_ok=True)
    path.write_bytes(text)
    path.chmod(0o600)
    return path


def drain(make: Callable[..., Any], inbox: Any) -> Any:
    """Deliver, as another process would, what is there; `make` builds clients. Its ledger."""
    inbox.faults()
    client = make(flush_interval=5)
    while client._adopt():
        assert client._flush_adopted(20_000), client.stats()
    return client.stats()


def is_locked(path: Any) -> bool:
    """Does another process than one made for the purpose own it?"""
    status = subprocess.run([sys.executable, "-I", "-S", "-c", _TRY_LOCK, str(path)], check=False).returncode
    assert status in (0, 3), status
    return status == 3


def descriptors(under: Any) -> list[str]:
    """What this process has open in that folder."""
    found = []
    for number in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(number.readlink()))
        except FileNotFoundError:  # that of the listing
            pass
    return [each for each in found if each.startswith(str(under))]


def forget_files(under: Any) -> None:
    """Close what a test has left open there, and let no other test of this process be passed over for its names.

    The numbers stay taken: a sender that lingers may write to one, which must not be somebody's socket by then.
    """
    _segment._open.here().clear()
    for number in Path("/proc/self/fd").iterdir():
        try:
            if str(number.readlink()).startswith(str(under)):
                with Path(os.devnull).open("r+b", buffering=0) as nothing:
                    os.dup2(nothing.fileno(), int(number.name), inheritable=False)
        except OSError:
            pass


def wait_for_disk(client, count):
    """Return once so many events are on disk only, and the sender sleeps, in a back-off."""
    queue, dispatch = client._here()._queue, client._here()._dispatch

    def rests():
        sleep = dispatch._asleep
        return queue.on_disk == count and sleep is not None and sleep.until == dispatch._backlog_at

    wait_until(rests, "the failure of the first try")
