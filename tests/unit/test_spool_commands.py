"""`klime-mp spool` and `klime-mp drain`."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import uuid
from pathlib import Path
from types import SimpleNamespace

import pytest

import klime_mp
from klime_mp import _spool_commands, cli
from klime_mp._config import Config
from klime_mp._segment import line
from klime_mp._spool_folder import folder_of
from support.collector import environment, track_event

DEAD = 4_194_400  # more than any pid may be

# No client: its sender would take over what the test leaves.
LIVING = """
import os, sys
from klime_mp._segment import Segment, line
os.makedirs(sys.argv[1], mode=0o700, exist_ok=True)
segment = Segment.create(sys.argv[1])
for number, body in enumerate(sys.argv[2:], 1):
    segment.write(line(number, body.encode()))
print("written", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith("KLIME_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def spool(tmp_path, collector):
    return Spool(tmp_path / "spool", collector)


class Spool:
    """A spool_dir, and the folder in it that is the inbox's."""

    def __init__(self, base, inbox):
        self.base = base
        self.inbox = inbox
        self.folder = Path(folder_of(str(base), Config(write_key=inbox.write_key, endpoint=inbox.endpoint)))

    def leave(self, *serials, done=(), pid=DEAD, folder=None, tail=b"", **changes):
        """What a process leaves that dies: these events, of which the `done` first ones have their outcome."""
        folder = folder or self.folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / f"{pid}-{uuid.uuid4().hex[:16]}.v1.jsonl"
        bodies = [json.dumps(track_event(serial, **changes)).encode() for serial in serials]
        lines = [line(number, body) for number, body in enumerate(bodies, 1)]
        if done:
            lines.append(line(0, json.dumps({"done": done}).encode()))
        path.write_bytes(b"".join(lines) + tail)
        return path

    def files(self):
        return sorted(path.name for path in self.folder.iterdir())

    def environment(self):
        return {
            **environment(),
            "KLIME_ENDPOINT": self.inbox.endpoint,
            "KLIME_WRITE_KEY": self.inbox.write_key,
            "KLIME_SPOOL_DIR": str(self.base),
        }

    @contextlib.contextmanager
    def living(self):
        """A process that has 3 events in the spool, sends none of them, and is alive."""
        bodies = [json.dumps(track_event(f"living-{number}", timestamp=before_now())) for number in range(3)]
        with subprocess.Popen(
            [sys.executable, "-c", LIVING, str(self.folder), *bodies],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self.environment(),
        ) as process:
            try:
                assert process.stdout.readline() == "written\n"
                yield process
            finally:
                process.kill()

    def drain(self, *more):
        named = ["--spool-dir", str(self.base), "--write-key", self.inbox.write_key]
        return cli.main(["drain", *named, "--endpoint", self.inbox.endpoint, *more])


def before_now(**ago):
    """So long ago, as it stands in an event."""
    when = dt.datetime.now(dt.timezone.utc) - dt.timedelta(**ago)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def no_endpoint():
    """A URL that refuses connections: bound, and nobody listens."""
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    return bound, f"http://127.0.0.1:{bound.getsockname()[1]}"


# --- drain


def test_drain_delivers_what_is_there_and_leaves_nothing(spool, capsys):
    spool.leave("a", "b", "c", done=[[2, 2]])
    spool.leave("d", pid=DEAD + 1)
    spool.leave("e", "f", done=[[1, 2]])  # nothing of it is left to do
    assert spool.drain() == 0
    assert sorted(spool.inbox.serials()) == ["a", "c", "d"]
    assert spool.files() == []
    assert capsys.readouterr() == ("3 events delivered\n", "")


def test_drain_reads_the_environment(spool, monkeypatch):
    spool.leave("a")
    for name, value in spool.environment().items():
        if name.startswith("KLIME_"):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("KLIME_ENABLED", "0")  # the program's, perhaps; who drains means it
    assert cli.main(["drain"]) == 0
    assert spool.inbox.serials() == ["a"]


def test_drain_skips_garbage_and_delivers_the_rest(spool):
    spool.leave("a", "b", tail=b'{"torn": ')
    path = spool.leave("c", "d", "e")
    first, second, third = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second.replace(b"Tested", b"Rested") + b"\0\xff garbage\n\n" + third)
    spool.leave(tail=b"nothing but garbage")
    spool.leave()
    assert spool.drain() == 0
    assert sorted(spool.inbox.serials()) == ["a", "b", "c", "e"]
    assert spool.files() == []


def test_drain_of_many_files(spool):
    for number in range(30):
        spool.leave(*(f"{number}-{each}" for each in range(25)), pid=DEAD + number)
    assert spool.drain() == 0
    assert len(spool.inbox.serials()) == len(set(spool.inbox.serials())) == 750


def test_two_drains_at_once_share_the_work(spool):
    for number in range(20):
        spool.leave(*(f"{number}-{each}" for each in range(25)), pid=DEAD + number)
    spool.inbox.faults({"delay_ms": 5, "times": None})
    command = [sys.executable, "-m", "klime_mp.cli", "drain"]
    both = [subprocess.Popen(command, env=spool.environment(), stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=60)[0] for process in both]
    # One may end while the other is busy with the last file.
    assert 0 in {process.returncode for process in both}, said
    assert sum(int(text.split()[0]) for text in said) == 500, said
    assert len(spool.inbox.serials()) == len(set(spool.inbox.serials())) == 500
    assert spool.files() == []


def test_nothing_to_drain(spool, capsys):
    assert spool.drain() == 0
    assert not spool.base.exists()
    spool.folder.mkdir(parents=True)
    assert spool.drain() == 0
    assert capsys.readouterr() == ("0 events delivered\n" * 2, "")


def test_an_endpoint_that_is_down_costs_nothing(spool, capsys):
    bound, endpoint = no_endpoint()
    with contextlib.closing(bound):
        spool = Spool(spool.base, SimpleNamespace(endpoint=endpoint, write_key=spool.inbox.write_key))
        spool.leave("a", "b")
        before = spool.files()
        assert spool.drain() == 1
    shown = capsys.readouterr()
    assert "0 events delivered\nthe endpoint did not take them: 1 file, 2 events, " in shown.out
    assert shown.out.endswith("still in the spool, nothing is lost\n")
    assert "refused" in shown.err
    assert spool.files() == before


def test_an_endpoint_that_fails_half_way(spool, capsys):
    for name in "abcd":
        spool.leave(name)
    spool.inbox.faults({"delay_ms": 0, "times": 2}, {"status": 503, "times": None})
    assert spool.drain() == 1
    assert capsys.readouterr().out.startswith("2 events delivered\nthe endpoint did not take them: 2 files, 2 events, ")
    spool.inbox.faults()
    assert spool.drain() == 0
    assert sorted(spool.inbox.serials()) == ["a", "b", "c", "d"]


def test_a_refused_key_is_no_success(spool, capsys):
    spool.leave("a", "b")
    spool.inbox.faults({"status": 401})
    assert spool.drain() == 1
    shown = capsys.readouterr()
    assert shown.out == "0 events delivered, 2 given up\n"
    assert "2 events are lost" in shown.err
    assert spool.inbox.write_key not in shown.err


def test_rejected_events_are_counted(spool, capsys):
    spool.leave("a")
    spool.leave("b", userId=...)
    assert spool.drain() == 0
    assert capsys.readouterr().out == "1 event delivered, 1 rejected by Klime\n"


def test_files_of_the_living_are_left_to_them(spool, capsys):
    with spool.living() as process:
        spool.leave("a")
        assert spool.drain() == 1
        assert capsys.readouterr().out == "1 event delivered\n1 file of processes that are alive, which deliver them\n"
        process.kill()
        process.wait()
        assert spool.drain() == 0
    assert sorted(spool.inbox.serials()) == ["a", "living-0", "living-1", "living-2"]


def test_a_time_limit(spool, capsys):
    spool.leave("a")
    spool.inbox.faults({"hang": True, "times": None})
    assert spool.drain("--timeout", "0.5") == 1
    assert "time was up: 1 file, 1 event, " in capsys.readouterr().out
    assert len(spool.files()) == 1


def test_other_keys_and_other_things_are_not_touched(spool, tmp_path):
    other = spool.leave("x", folder=spool.base / "0123456789abcdef")
    outside = tmp_path / "outside"
    outside.write_bytes(spool.leave("y").read_bytes())
    for path in spool.folder.iterdir():
        path.unlink()
    (spool.folder / f"{DEAD}-{'a' * 16}.v1.jsonl").symlink_to(outside)
    (spool.folder / f"{DEAD}-{'b' * 16}.v1.jsonl").hardlink_to(outside)
    (spool.folder / f"{DEAD}-{'c' * 16}.v1.jsonl").mkdir()
    os.mkfifo(spool.folder / f"{DEAD}-{'d' * 16}.v1.jsonl")
    (spool.folder / f"{DEAD}-{'e' * 16}.v2.jsonl").write_bytes(outside.read_bytes())
    (spool.folder / "notes.txt").write_text("mine")
    before = spool.files()
    assert spool.drain() == 0
    assert spool.inbox.serials() == []
    assert spool.files() == before
    assert other.exists()


def test_a_folder_that_is_a_symbolic_link(spool, tmp_path, capsys):
    elsewhere = tmp_path / "elsewhere"
    spool.leave("a", folder=elsewhere)
    spool.base.mkdir()
    spool.folder.symlink_to(elsewhere)
    assert spool.drain() == 1
    assert "is no folder" in capsys.readouterr().err
    assert spool.inbox.serials() == []
    assert cli.main(["spool", "--spool-dir", str(spool.base)]) == 0
    assert capsys.readouterr().out == "total: 0 files, 0 events, 0 bytes\n"


@pytest.mark.parametrize("whose", ["anybody may write to it", "another user's"])
def test_a_folder_that_is_not_ours_alone(spool, capsys, whose):
    """Nothing is taken out of it; that must not look like a success."""
    path = spool.leave("a")
    if whose == "anybody may write to it":
        spool.folder.chmod(0o770)
    elif os.geteuid() == 0:
        os.chown(spool.folder, 12345, 12345)
        os.chown(path, 12345, 12345)
    else:
        pytest.skip("only root can give a folder away")
    because = f"{spool.folder} is no folder of this user's that nobody else may write to\n"
    assert spool.drain() == 1
    assert because in capsys.readouterr().err
    other = spool.leave("b", folder=spool.base / "0123456789abcdef")
    assert cli.main(["spool", "--spool-dir", str(spool.base)]) == 1
    shown = capsys.readouterr()
    assert because in shown.err
    assert "total: 1 file, 1 event, " in shown.out, "the others are shown all the same"
    assert path.exists()
    assert other.exists()
    assert spool.inbox.serials() == []


def test_drain_draws_a_bar_on_a_terminal(spool):
    pytest.importorskip("rich")
    spool.leave("a", "b")
    master, slave = pty.openpty()
    with os.fdopen(master, "rb", buffering=0) as terminal:
        process = subprocess.Popen(
            [sys.executable, "-m", "klime_mp.cli", "drain"],
            stdin=subprocess.DEVNULL,
            stdout=slave,
            stderr=subprocess.PIPE,
            env={**spool.environment(), "TERM": "xterm", "COLUMNS": "80"},
        )
        os.close(slave)
        shown = b""
        with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
            while data := terminal.read(4096):
                shown += data
        stderr = process.communicate(timeout=30)[1]
    assert process.returncode == 0, stderr
    assert b"2/2" in shown
    assert shown.endswith(b"2 events delivered\r\n")


def test_an_interrupted_drain_loses_nothing(spool):
    spool.leave("a")
    spool.inbox.faults({"hang": True, "times": None})
    before = spool.inbox.summary()["requests"]
    process = subprocess.Popen(
        [sys.executable, "-m", "klime_mp.cli", "drain"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**spool.environment(), "KLIME_SHUTDOWN_TIMEOUT": "200"},
    )
    spool.inbox.wait_for_requests(before + 1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr.count("\n")) == (130, 1), stderr
    assert "still in the spool" in stderr
    spool.inbox.faults()
    assert spool.drain() == 0
    assert set(spool.inbox.serials()) == {"a"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["drain"],
        ["drain", "--spool-dir", "s"],
        ["drain", "--write-key", "k"],
        ["drain", "--spool-dir", "s", "--write-key", "k", "--endpoint", "nonsense"],
        ["drain", "--spool-dir", "s", "--write-key", "k k"],
        ["drain", "--timeout", "0"],
        ["drain", "--timeout", "inf"],
        ["drain", "--timeout", "x"],
        ["spool"],
        ["spool", "more"],
    ],
)
def test_wrong_usage(arguments, capsys):
    try:
        status = cli.main(arguments)
    except SystemExit as ended:
        status = ended.code
    shown = capsys.readouterr()
    assert (status, shown.out) == (2, "")
    assert re.match(r"usage: klime-mp|klime-mp drain: ", shown.err)


# --- spool


def shown_of(spool, capsys):
    assert cli.main(["spool", "--spool-dir", str(spool.base)]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    return [line.split() for line in shown.out.splitlines()]


def test_the_spool_is_shown(spool, capsys):
    with spool.living() as process:
        path = spool.leave("a", "b", "c", done=[[1, 1]], timestamp=before_now(hours=3, minutes=5))
        os.utime(path, (0, 0))
        folder, head, dead, alive, total, all_of_it = shown_of(spool, capsys)
        living = next(path for path in spool.folder.iterdir() if path.name.startswith(f"{process.pid}-"))
    size, other = path.stat().st_size, living.stat().st_size
    assert folder == [str(spool.folder)]
    assert head == ["pid", "owner", "events", "bytes", "oldest"]
    assert dead == [str(DEAD), "dead", "2", f"{size:,}", "3", "h"]
    assert alive[:-2] == [str(process.pid), "alive", "3", f"{other:,}"]
    assert alive[-1] == "s"
    assert " ".join(total) == f"2 files, 5 events, {size + other:,} bytes, oldest 3 h"
    assert all_of_it == ["total:", *total]


def test_looking_changes_nothing(spool, capsys):
    """Not even for a process that has files: it is another one that looks, and gives up what it has locked."""
    with spool.living():
        spool.leave("a", "b", tail=b"torn")
        spool.leave(tail=b"garbage\n")
        before = {path.name: path.read_bytes() for path in spool.folder.iterdir()}
        for _ in range(3):
            shown_of(spool, capsys)
        assert {path.name: path.read_bytes() for path in spool.folder.iterdir()} == before
        assert spool.drain() == 1
    capsys.readouterr()


def test_every_folder_of_the_spool_is_shown(spool, capsys):
    spool.leave("a")
    spool.leave("b", folder=spool.base / "0123456789abcdef")
    (spool.base / "fedcba9876543210").mkdir()
    (spool.base / "something else").mkdir()
    (spool.base / "0000000000000000").write_text("a file")
    lines = shown_of(spool, capsys)
    assert [line for line in lines if line[0].startswith("/")] == sorted(
        [str(folder)] for folder in spool.base.iterdir() if folder.is_dir() and " " not in folder.name
    )
    assert " ".join(lines[-1]).startswith("total: 2 files, 2 events, ")


def test_garbage_is_no_file_of_the_spool(spool, tmp_path, capsys):
    spool.leave("a", timestamp="yesterday")
    spool.leave(tail=b"\0\xff" * 1000)
    spool.leave("b", timestamp="2999-01-01T00:00:00Z")
    outside = tmp_path / "outside"
    outside.write_text("not yours")
    (spool.folder / f"{DEAD}-{'a' * 16}.v1.jsonl").symlink_to(outside)
    (spool.folder / f"{DEAD}-{'b' * 16}.v1.jsonl").mkdir()
    os.mkfifo(spool.folder / f"{DEAD}-{'d' * 16}.v1.jsonl")
    lines = shown_of(spool, capsys)
    assert [line[1:3] for line in lines[2:-2]] == [["dead", "1"], ["dead", "0"], ["dead", "1"]]


def test_a_file_that_cannot_be_read(spool, capsys):
    path = spool.leave("a")
    path.chmod(0)
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    assert shown_of(spool, capsys)[2][:3] == [str(DEAD), "unknown", "?"]
    assert spool.drain() == 1
    assert "1 file of other users, or that cannot be read" in capsys.readouterr().out


def test_no_spool_yet(spool, capsys, monkeypatch):
    monkeypatch.setenv("KLIME_SPOOL_DIR", str(spool.base))
    assert cli.main(["spool"]) == 0
    assert capsys.readouterr() == ("total: 0 files, 0 events, 0 bytes\n", "")
    spool.base.write_text("a file")
    assert cli.main(["spool"]) == 1
    assert capsys.readouterr().err.startswith("klime-mp spool: ")


def test_a_file_of_this_process_is_dead_to_itself(spool, tmp_path):
    """A process is never refused its own lock: why `drain` looks only when its client has let go."""
    client = klime_mp.Client("any-key", endpoint="http://127.0.0.1:9", spool_dir=str(tmp_path / "own"))
    client.track("Tested", user_id="user_1")
    (folder,) = (tmp_path / "own").iterdir()
    assert [file.alive for file in _spool_commands.look(str(folder))] == [False]
    client.shutdown(1)
