"""A real Celery worker in a process of its own, and the brokers that tasks reach it by."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sysconfig
import tempfile
import time
from pathlib import Path

from celery import Celery
from program import Program

# The command, not `python -m celery`: a worker that gets a HUP executes its own command line again.
CELERY = Path(sysconfig.get_path("scripts"), "celery")

# Nothing but tasks goes through the broker.
_QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat")
_READY_SECONDS = 20
_STOP_SECONDS = 5


class CeleryWorker(Program):
    """`celery -A celery_tasks worker`; ready when the `with` block begins.

    Args:
        folder: See `Program`.
        inbox: Where the application's events go.
        *options: The worker's command line.
        broker: See `FolderBroker`, which is the default, and `RedisBroker`.
        celery: More of Celery's options.
        install: Arguments of `install()`; None: nothing is configured.
        klime: Options of the client.
    """

    def __init__(self, folder, inbox, *options, broker=None, celery=None, install=None, klime=None):
        self.broker = broker or FolderBroker(folder)
        env = {"BROKER": json.dumps({**self.broker.options, "worker_enable_remote_control": False, **(celery or {})})}
        if install is not None:
            env["INSTALL"] = json.dumps(install)
        command = ("python", CELERY, "-A", "celery_tasks", "worker", "--loglevel", "INFO", *_QUIET, *options)
        super().__init__(folder, inbox, *command, klime=klime, env=env)

    def send(self, *tasks):
        """Tasks by their names in `celery_tasks`, for the worker to find."""
        self.broker.send(tasks)

    def wait_until_ready(self, times=1):
        """Returns once the worker takes tasks; a worker that was restarted has been ready before."""
        self.wait_for_log(" ready.", times)

    def __enter__(self):
        super().__enter__()
        try:
            self.wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self


class FolderBroker:
    """A queue of files in `folder`: Celery's broker without a server, which a worker polls."""

    def __init__(self, folder):
        self._outbox = folder / "outbox"
        self._queue = folder / "queue"
        done = folder / "done"
        for path in (self._outbox, self._queue, done):
            path.mkdir(exist_ok=True)
        self.options = {
            "broker_url": "filesystem://",
            "broker_transport_options": {
                "data_folder_in": str(self._queue),
                "data_folder_out": str(self._outbox),
                "control_folder": str(folder / "control"),
                "processed_folder": str(done),
                "store_processed": True,
                "polling_interval": 0.05,
            },
        }

    def send(self, tasks):
        """Publish these tasks."""
        _publish(tasks, self.options)
        # Celery writes a message where its reader may already look: half of one would end the worker.
        for message in sorted(self._outbox.iterdir()):
            message.rename(self._queue / message.name)


class RedisBroker:
    """A redis-server of its own on a Unix socket, while the `with` block lasts."""

    def __enter__(self):
        # Not the test's folder: the path of a socket has to be shorter than 100 characters.
        self._folder = tempfile.TemporaryDirectory(prefix="redis-")
        self._path = f"{self._folder.name}/redis"
        self.options = {"broker_url": f"redis+socket://{self._path}"}
        self._process = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", self._path, "--save", "", "--appendonly", "no"],
            cwd=self._folder.name,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + _READY_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise AssertionError(f"redis-server is not ready (status {self._process.returncode})")
            time.sleep(0.02)
        return self

    def __exit__(self, *_):
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()

    def send(self, tasks):
        """Publish these tasks."""
        _publish(tasks, self.options)

    def _answers(self):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self._path)
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
        return False


def _publish(tasks, options):
    with Celery(set_as_current=False, task_ignore_result=True) as app:
        app.conf.update(options)
        for name in tasks:
            app.send_task(f"celery_tasks.{name}")
