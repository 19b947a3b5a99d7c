"""The bakery under uWSGI, from its start to its end, with every event counted: `python uwsgi_example.py`.

A local collector stands in for Klime. Orders go to uWSGI, which replaces workers meanwhile, reloads, and is stopped.
Then the messageIds that the bakery gave out are compared with those that the collector has. Exit status 0 means: each
arrived, once.
"""

import collections
import contextlib
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import requests

HERE = Path(__file__).resolve().parent
ORDERS = 100
READY_SECONDS = 30


def main() -> int:
    """Run it; return the exit status."""
    tracked: list[str] = []
    with tempfile.TemporaryFile("w+b") as log, collector() as endpoint:
        with socket.create_server(("127.0.0.1", 0)) as listener, uwsgi(listener, endpoint, log) as server:
            bakery = f"http://127.0.0.1:{listener.getsockname()[1]}"
            tracked.append(event(bakery, "GET", "/opened"))
            print(f"uWSGI: {bakery}, master {server.pid}")
            tracked += [event(bakery, "POST", "/orders/rye") for _ in range(ORDERS)]
            server.send_signal(signal.SIGHUP)
            print("reload: HUP to the master")
            wait_for_another(bakery, tracked[0])
            tracked.append(event(bakery, "GET", "/opened"))
            tracked += [event(bakery, "POST", "/orders/wheat") for _ in range(ORDERS)]
        print("stopped: TERM to the master")
        answer = requests.get(f"{endpoint}/events", timeout=10).json()
        log.seek(0)
        printed = log.read().decode(errors="replace")
    arrived = collections.Counter(each["messageId"] for each in answer["events"])
    lost = sum(arrived[each] == 0 for each in tracked)
    duplicated = sum(times - 1 for times in arrived.values())
    workers = printed.count("spawned uWSGI worker")
    print(f"{workers} workers: {len(tracked)} tracked, {len(arrived)} delivered, {lost} lost, {duplicated} duplicated")
    if lost or duplicated:
        print(printed[-4000:])
    return 1 if lost or duplicated else 0


@contextlib.contextmanager
def collector() -> Iterator[str]:
    """A local Klime; its URL."""
    command = [sys.executable, "-m", "klime_mp.cli", "collector", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


@contextlib.contextmanager
def uwsgi(listener: socket.socket, endpoint: str, log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The server, set up by `uwsgi.ini`, on that socket; ended by TERM, and waited for."""
    environment = {
        **os.environ,
        "KLIME_WRITE_KEY": "local",
        "KLIME_ENDPOINT": endpoint,
        # What a reload executes is the bare interpreter, without this virtual environment.
        "PYTHONPATH": os.pathsep.join([str(HERE), sysconfig.get_path("purelib"), *klime_mp_from_a_checkout()]),
    }
    # The program `uwsgi` that comes with pyuwsgi does nothing but this.
    command = [sys.executable, "-c", "import sys, pyuwsgi; pyuwsgi.run(sys.argv[1:])", "--ini", str(HERE / "uwsgi.ini")]
    with subprocess.Popen(
        [*command, "--http-socket", f"fd://{listener.fileno()}"],
        cwd=HERE,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        pass_fds=[listener.fileno()],
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def klime_mp_from_a_checkout() -> list[str]:
    """Where an editable installation has it."""
    import klime_mp  # noqa: PLC0415 # only to find it

    return [str(Path(klime_mp.__file__).parents[1])]


def event(bakery: str, method: str, path: str) -> str:
    """The messageId that the bakery answers with; asks again while a worker is being replaced."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            return str(requests.request(method, bakery + path, timeout=READY_SECONDS).json()["event"])
        except requests.ConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def wait_for_another(bakery: str, opened: str) -> None:
    """Until the reloaded application answers, which opened anew."""
    deadline = time.monotonic() + READY_SECONDS
    while event(bakery, "GET", "/opened") == opened:
        if time.monotonic() > deadline:
            raise TimeoutError("uWSGI does not reload")
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
