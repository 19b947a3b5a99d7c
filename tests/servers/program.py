"""A real server, or any other program that tracks, as a process with a log, a journal and an inbox."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from signal import SIGKILL, SIGTERM

from support.collector import environment

APPS = Path(__file__).parent / "apps"

WAIT_SECONDS = 40
REQUEST_SECONDS = 20
POLL_SECONDS = 0.02
_CONCURRENCY = 4

# The settings of the servers, and of proxies, that the machine may have are not the test's.
_FOREIGN = ("GUNICORN_", "KLIME_", "UWSGI_", "CELERY_", "WEB_CONCURRENCY", "JOURNAL")


class Program:
    """A command that runs when the `with` block begins, and is gone, its descendants too, when it ends.

    It runs in `folder`, finds the applications in `apps/`, sends its events to `inbox`, writes what it tracked to the
    journal and everything else to the log.

    Args:
        folder: A folder of its own, empty at first, a Path.
        inbox: Where the events go.
        *command: The command line; a leading `python` is this interpreter.
        klime: Options of the client, given by the environment: `{"flush_interval": 60_000}`.
        env: More environment.
    """

    def __init__(self, folder, inbox, *command, klime=None, env=None):
        self.folder = folder
        self.inbox = inbox
        self.command = [sys.executable if part == "python" else part for part in map(str, command)]
        self._klime = klime or {}
        self._env = env or {}
        self._process = None

    @property
    def pid(self):
        """The first process's, often the master's."""
        return self._process.pid

    def log(self):
        return (self.folder / "log").read_text(errors="replace")

    def journal(self):
        """(event, serial) of each event that the client accepted."""
        return read_journal(self.folder)

    def signal(self, number):
        self._process.send_signal(number)

    def wait_until(self, condition, what):
        """Returns once `condition()` is true; fails when the program ends, or time runs out, before that."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            assert self._process.poll() is None, f"the program ended before {what}\n{self.log()}"
            assert time.monotonic() < deadline, f"not {what} after {WAIT_SECONDS} s\n{self.log()}"
            time.sleep(POLL_SECONDS)

    def wait_for_log(self, text, count=1):
        self.wait_until(lambda: self.log().count(text) >= count, f"{count} times {text!r} in the log")

    def wait_for_events(self, count):
        """Returns once so many events are in the journal."""
        self.wait_until(lambda: len(self.journal()) >= count, f"{count} events tracked")

    def stop(self, number=SIGTERM, statuses=(0,)):
        """Ends it by a signal; returns the seconds that took."""
        self.signal(number)
        return self.ended(statuses)

    def ended(self, statuses=(0,)):
        """Waits until it has ended by itself, with one of these exit statuses; returns the seconds that took."""
        began = time.monotonic()
        try:
            status = self._process.wait(WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"hung? still there after {WAIT_SECONDS} s\n{self.log()}") from None
        assert status in statuses, f"ended with status {status}\n{self.log()}"
        return time.monotonic() - began

    def __enter__(self):
        self._start()
        return self

    def __exit__(self, *_):
        # A session, and so a process group, of its own: workers that outlived their master are in it as well.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, SIGKILL)
        self._process.wait()

    def _start(self, **popen):
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **popen,
            )

    def _packages(self):
        """More folders to import from."""
        return []

    def _environment(self):
        inherited = {
            name: value
            for name, value in environment().items()
            if not name.startswith(_FOREIGN) and not name.lower().endswith("_proxy")
        }
        return {
            **inherited,
            "PYTHONPATH": os.pathsep.join([str(APPS), inherited["PYTHONPATH"], *self._packages()]),
            "PYTHONUNBUFFERED": "1",
            "JOURNAL": str(self.folder / "journal"),
            "KLIME_ENDPOINT": self.inbox.endpoint,
            "KLIME_WRITE_KEY": self.inbox.write_key,
            **{f"KLIME_{name.upper()}": str(value) for name, value in self._klime.items()},
            **{name: str(value) for name, value in self._env.items()},
        }


class WebServer(Program):
    """A program that serves HTTP on a listening socket it inherits; ready to answer when the `with` block begins.

    In its command line `{fd}` stands for the socket's number.
    """

    port = 0

    def get(self, path="/", timeout=REQUEST_SECONDS):
        """The status of the answer, None when there was none: its worker may have ended in between."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        with contextlib.closing(connection):
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException):
                return None
            return answer.status

    def load(self, requests, concurrency=_CONCURRENCY, path="/"):
        """Sends so many requests, a few at a time; returns how many were answered well."""
        with ThreadPoolExecutor(concurrency) as pool:
            return list(pool.map(lambda _: self.get(path), range(requests))).count(200)

    def __enter__(self):
        # Bound here and inherited: no other test can take the port in between, and none is refused while it starts.
        with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
            self.port = listener.getsockname()[1]
            self.command = [part.replace("{fd}", str(listener.fileno())) for part in self.command]
            self._start(pass_fds=[listener.fileno()])
        try:
            self.wait_until(lambda: self.get("/ready", timeout=1) == 200, "ready")
        except BaseException:
            self.__exit__()
            raise
        return self


def read_journal(folder):
    """(event, serial) of each event that was tracked, by whatever process, in order."""
    path = folder / "journal"
    return [tuple(line.split()) for line in path.read_text().splitlines()] if path.exists() else []


def exists(pid):
    """Is there such a process? One that has ended and that nobody has waited for is none."""
    return not _states(pid) <= {"Z", "X"}


def sleeps(pid):
    """Do all threads of the process wait for something?"""
    return _states(pid) == {"S"}


def catches(pid, number):
    """Has the process a handler for that signal?"""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return False
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def _states(pid):
    """The kernel's letters for the states of its threads."""
    states = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
        for thread in Path(f"/proc/{pid}/task").glob("*/stat"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # as above
                states.add(thread.read_text().rpartition(")")[2].split()[0])
    return states
