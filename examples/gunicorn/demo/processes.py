"""The two programs of the demo: the collector, and the shop under gunicorn.

Each runs in a session of its own, so that a Ctrl-C in the terminal reaches the demo alone, which then ends
them in order; and each is ended by its pid.
"""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

READY_SECONDS = 20  # a cold start on a small, busy machine
DRAIN_SECONDS = 30
STOP_SECONDS = 40  # gunicorn itself gives its workers 30 (graceful_timeout)
SHOP = Path(__file__).resolve().parent.parent


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


class Program:
    """A program that was started here, and the file that holds what it prints."""

    def __init__(
        self,
        name: str,
        command: list[str],
        folder: Path,
        *,
        environment: dict[str, str] | None = None,
        pass_fds: tuple[int, ...] = (),
    ) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        try:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    command,
                    cwd=folder,
                    env=_environment(folder) | (environment or {}),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=pass_fds,
                    start_new_session=True,
                )
        except OSError as error:
            raise DemoError(f"{name} cannot be started: {error}") from error

    @property
    def pid(self) -> int:
        """The process id; gunicorn's is its master's."""
        return self._process.pid

    def log(self) -> str:
        """All it has printed so far."""
        return self._log.read_text(errors="replace")

    def wait_until(self, condition: Callable[[], bool], what: str, seconds: float = READY_SECONDS) -> None:
        """Wait for a condition; a program that ends meanwhile, or takes too long, is an error."""
        deadline = time.monotonic() + seconds
        while not condition():
            if self._process.poll() is not None:
                raise DemoError(f"{self.name} ended with status {self._process.returncode} before {what}")
            if time.monotonic() > deadline:
                raise DemoError(f"{self.name}: not {what} within {seconds:g} s")
            time.sleep(0.02)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal (nothing happens when it has ended)."""
        self._process.send_signal(number)

    def stop(self, seconds: float = STOP_SECONDS) -> int:
        """Ask it to end, wait until it has, and return its exit status."""
        self._process.terminate()
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise DemoError(f"{self.name} had not ended {seconds:g} s after SIGTERM") from None

    def end(self) -> None:
        """Whatever happened: it does not outlive the demo."""
        with contextlib.suppress(DemoError):
            self.stop(seconds=5)
        # What may be left is in the process group that was made for it: workers whose master is gone.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


@contextlib.contextmanager
def running(program: Program) -> Iterator[Program]:
    """End a program on the way out, whichever way that is."""
    try:
        yield program
    finally:
        program.end()


def start_collector(folder: Path) -> Program:
    """Start a local Klime on a free port."""
    return Program("collector", [sys.executable, "-m", "klime_mp.cli", "collector", "--port", "0"], folder)


def endpoint_of(collector: Program) -> str:
    """Wait until the collector says where it listens."""
    ready = re.compile(r"^klime-mp collector listening on (http://127\.0\.0\.1:\d+)$", re.MULTILINE)
    collector.wait_until(lambda: ready.search(collector.log()) is not None, "ready")
    match = ready.search(collector.log())
    return match[1] if match else ""


def arrived(endpoint: str) -> list[str]:
    """The messageId of every event the collector holds."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(endpoint).netloc, timeout=15)
    try:
        connection.request("GET", "/events")
        events = json.loads(connection.getresponse().read())["events"]
    except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
        raise DemoError(f"the collector does not give its events back: {error!r}") from error
    finally:
        connection.close()
    return [event["messageId"] for event in events]


@contextlib.contextmanager
def serving(
    folder: Path, *, workers: int, max_requests: int, environment: dict[str, str]
) -> Iterator[tuple[Program, int]]:
    """gunicorn, once it serves the shop, and the port it does so on."""
    with contextlib.ExitStack() as stack:
        with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
            port = listener.getsockname()[1]
            gunicorn = start_gunicorn(
                folder, listener, workers=workers, max_requests=max_requests, environment=environment
            )
        stack.enter_context(running(gunicorn))
        gunicorn.wait_until(lambda: "Booting worker" in gunicorn.log(), "serving")
        yield gunicorn, port


def drain(folder: Path, environment: dict[str, str]) -> str:
    """Run `klime-mp drain`, and return what it says."""
    command = [sys.executable, "-m", "klime_mp.cli", "drain"]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=_environment(folder) | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=DRAIN_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DemoError(f"klime-mp drain had not ended after {DRAIN_SECONDS:g} s") from None
    if done.returncode != 0:
        raise DemoError(f"klime-mp drain ended with status {done.returncode}: {done.stdout}")
    return done.stdout.strip()


def start_gunicorn(
    folder: Path, listener: socket.socket, *, workers: int, max_requests: int, environment: dict[str, str]
) -> Program:
    """Start the shop as its `gunicorn.conf.py` says, on a socket that already listens.

    The socket is made by the demo and inherited: nobody else can take the port in between.
    """
    command = [sys.executable, "-m", "gunicorn", "--config", str(SHOP / "gunicorn.conf.py"), "--preload"]
    command += ["--workers", str(workers), "--bind", f"fd://{listener.fileno()}"]
    command += ["--max-requests", str(max_requests), "--max-requests-jitter", str(max_requests // 5)]
    command += ["--pythonpath", f"{SHOP},{SHOP / 'demo'}", "journaled_shop:app"]
    return Program("gunicorn", command, folder, environment=environment, pass_fds=(listener.fileno(),))


def _environment(folder: Path) -> dict[str, str]:
    """The caller's environment without what would make this run another one."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GUNICORN_", "KLIME_"))}
    return kept | {
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        "PYTHONUNBUFFERED": "1",
        # Where gunicorn puts its control socket; by default two demos at once would share one.
        "XDG_RUNTIME_DIR": str(folder),
    }
