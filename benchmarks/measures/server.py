"""Requests a second that four gunicorn workers answer, without tracking and with one event a request.

Both servers are up; the load goes to one and the other in turn, for a second or so, as a machine's speed changes more
in a minute than tracking costs. Load, workers and sink share the processors; the processor time that the workers take
for a request is given as well, as it is steadier. Then gunicorn is stopped: every event must have arrived.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from typing import Any

from benchmarks.measures._endpoint import Endpoint
from benchmarks.measures._process import children, cpu_seconds
from benchmarks.measures._program import Parameters, Result, run

STOP_SECONDS = 30
DELIVERY_SECONDS = 10
WARM_UP_SECONDS = 0.3


def measure(parameters: Parameters) -> Result:
    """Both ways, and their ratio."""
    endpoint = Endpoint(parameters["sink"], parameters["run"])
    with _Gunicorn(parameters, "") as plain, _Gunicorn(parameters, endpoint.url("ok")) as tracking:
        for server in (plain, tracking):
            server.load(WARM_UP_SECONDS)
            server.forget()
        for _ in range(parameters["turns"]):
            for server in (plain, tracking):
                server.load(parameters["seconds"])
    return {
        "plain_per_second": plain.requests / plain.seconds,
        "tracked_per_second": tracking.requests / tracking.seconds,
        "ratio": tracking.requests / tracking.seconds / (plain.requests / plain.seconds),
        "cpu_us": (tracking.cpu / tracking.requests - plain.cpu / plain.requests) * 1e6,
        "tracked": tracking.total,
        "delivered": endpoint.wait(tracking.total, DELIVERY_SECONDS)["events"],
    }


class _Gunicorn(contextlib.AbstractContextManager["_Gunicorn"]):
    """A server, and what its load has seen of it."""

    def __init__(self, parameters: Parameters, endpoint: str) -> None:
        self._clients = str(parameters["clients"])
        environment = {**os.environ, "BENCH_CONTESTANT": parameters["contestant"], "BENCH_ENDPOINT": endpoint}
        command = [sys.executable, "-m", "gunicorn", "--workers", str(parameters["workers"]), "--log-level", "warning"]
        # Listening already: there is no port to guess, and no start to wait for.
        with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
            self._port = listener.getsockname()[1]
            command += ["--bind", f"fd://{listener.fileno()}", "benchmarks.measures._app:application"]
            self._process = subprocess.Popen(command, env=environment, pass_fds=[listener.fileno()])
        self.total = 0
        self.forget()

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(STOP_SECONDS)

    def load(self, seconds: float) -> None:
        """Ask it for so long."""
        before = self._cpu_seconds()
        command = [sys.executable, "-m", "benchmarks.measures._load", str(self._port), str(seconds), self._clients]
        seen: dict[str, Any] = json.loads(subprocess.check_output(command))
        self.requests += seen["requests"]
        self.total += seen["requests"]
        self.seconds += seen["seconds"]
        self.cpu += self._cpu_seconds() - before

    def forget(self) -> None:
        """Begin to count anew, but for the total."""
        self.requests, self.seconds, self.cpu = 0, 0.0, 0.0

    def _cpu_seconds(self) -> float:
        return sum(map(cpu_seconds, children(self._process.pid)))


if __name__ == "__main__":
    run(measure)
