"""A real gunicorn in a process of its own, on a free port."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from signal import SIGKILL, SIGTERM

from support.collector import environment

APPS = Path(__file__).parent / "apps"
HOOKS = APPS / "hooks.py"

WAIT_SECONDS = 30
REQUEST_SECONDS = 20
_POLL_SECONDS = 0.02
_CONCURRENCY = 4


class Gunicorn:
    """`gunicorn counting:application`, ready to answer when the `with` block begins, gone when it ends.

    Args:
        folder: An empty folder for the log, the journal and gunicorn's control socket.
        inbox: Where the application's events go.
        *options: gunicorn's command line.
        klime: Options of the client, given by the environment: `{"flush_interval": 60_000}`.
    """

    def __init__(self, folder, inbox, *options, klime=None):
        self._folder = folder
        self._inbox = inbox
        self._options = options
        self._klime = klime or {}
        self._process = None
        self.port = 0

    @property
    def pid(self):
        """The master's."""
        return self._process.pid

    def log(self):
        return (self._folder / "log").read_text()

    def booted(self):
        """The pid of every worker there has been, in order."""
        return [int(pid) for pid in re.findall(r"Booting worker with pid: (\d+)", self.log())]

    def workers(self):
        """The pids of the workers that have not begun to exit."""
        exiting = {int(pid) for pid in re.findall(r"Worker exiting \(pid: (\d+)\)", self.log())}
        return {pid for pid in self.booted() if pid not in exiting}

    def journal(self):
        """(event, serial) of each event that the client accepted."""
        path = self._folder / "journal"
        return [tuple(line.split()) for line in path.read_text().splitlines()] if path.exists() else []

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

    def load(self, requests):
        """Sends so many requests, a few at a time; returns how many were answered well."""
        with ThreadPoolExecutor(_CONCURRENCY) as pool:
            return list(pool.map(lambda _: self.get(), range(requests))).count(200)

    def signal(self, number):
        self._process.send_signal(number)

    def wait_until(self, condition, what):
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            assert self._process.poll() is None, f"gunicorn ended before {what}\n{self.log()}"
            assert time.monotonic() < deadline, f"not {what} after {WAIT_SECONDS} s\n{self.log()}"
            time.sleep(_POLL_SECONDS)

    def stop(self, number=SIGTERM):
        """Ends it; returns the seconds that took."""
        began = time.monotonic()
        self.signal(number)
        status = self._process.wait(WAIT_SECONDS)
        assert status == 0, f"gunicorn ended with status {status}\n{self.log()}"
        return time.monotonic() - began

    def __enter__(self):
        # Bound here and inherited: no other test can take the port in between, and none is refused while it starts.
        with socket.create_server(("127.0.0.1", 0)) as listener, (self._folder / "log").open("wb") as log:
            self.port = listener.getsockname()[1]
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "gunicorn", "counting:application", *self._options),
                    *("--bind", f"fd://{listener.fileno()}", "--pythonpath", str(APPS)),
                ],
                cwd=self._folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[listener.fileno()],
                start_new_session=True,
            )
        try:
            self.wait_until(lambda: self.get("/ready", timeout=1) == 200, "ready")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        # A session, and so a process group, of its own: workers that outlived their master are in it as well.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, SIGKILL)
        self._process.wait()

    def _environment(self):
        inherited = {
            name: value
            for name, value in environment().items()
            if not name.startswith(("GUNICORN_", "KLIME_")) and not name.lower().endswith("_proxy")
        }
        return {
            **inherited,
            "JOURNAL": str(self._folder / "journal"),
            "KLIME_ENDPOINT": self._inbox.endpoint,
            "KLIME_WRITE_KEY": self._inbox.write_key,
            **{f"KLIME_{name.upper()}": str(value) for name, value in self._klime.items()},
            # gunicorn's control socket would else be one for all gunicorns of the user.
            "XDG_RUNTIME_DIR": str(self._folder),
        }
