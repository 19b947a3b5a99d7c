"""The real collector in a process of its own, and one test's view of it."""

from __future__ import annotations

import json
import os
import secrets
import selectors
import socket
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

import klime_mp._version

READY_SECONDS = 30
STOP_SECONDS = 5
_POLL_SECONDS = 0.02
_READY = "klime-mp collector listening on "


@dataclass(frozen=True)
class Certificate:
    """PEM files: a certificate for loopback, its key, and the authority that signed it."""

    cert: str
    key: str
    ca: str


class CollectorProcess:
    """`klime-mp collector` on a free port. Ready when constructed; a context manager, or call `stop()`.

    Args:
        *arguments: More arguments of the command line, as in `"--write-key", "abc"`.
        certificate: Serve https with this one.
    """

    def __init__(self, *arguments: str, certificate: Certificate | None = None) -> None:
        self.ca = certificate.ca if certificate is not None else None
        if certificate is not None:
            arguments = (*arguments, "--cert", certificate.cert, "--key", certificate.key)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "klime_mp.cli", "collector", "--port", "0", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=environment(),
        )
        try:
            self.url = self._read_url()
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            # The ready line is all that is ever written there.
            self._process.stdout.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self, timeout: float) -> int:
        """The exit status, once it has ended by itself."""
        return self._process.wait(timeout)

    def stop(self) -> int:
        """Ends the process by SIGTERM, by SIGKILL if it must; its exit status. May be called twice."""
        self._process.terminate()
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _read_url(self) -> str:
        line = ""
        deadline = time.monotonic() + READY_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not line.endswith("\n"):
                if not selector.select(max(0, deadline - time.monotonic())):
                    raise AssertionError(f"no collector after {READY_SECONDS} s; it said {line!r}")
                data = os.read(self._process.stdout.fileno(), 4096)
                if not data:
                    status = self._process.wait()
                    raise AssertionError(f"the collector ended with status {status}; it said {line!r}")
                line += data.decode()
        assert line.startswith(_READY), line
        return line.removeprefix(_READY).strip()


class Inbox:
    """What the collector received under one write key; every instance has a key of its own.

    A context manager, or call `close()`.
    """

    def __init__(self, process: CollectorProcess, write_key: str | None = None) -> None:
        self.process = process
        self.endpoint = process.url
        self.write_key = write_key or "key-" + secrets.token_hex(8)
        self._session = requests.Session()
        self._session.trust_env = False
        # No idle socket: a fork would inherit it, and the collector may be stopped in between.
        self._session.headers["Connection"] = "close"
        if process.ca is not None:
            self._session.verify = process.ca

    def __repr__(self) -> str:
        return f"Inbox({self.endpoint!r}, {self.write_key!r})"

    def events(self, **filters: Any) -> list[dict[str, Any]]:
        """The events in order of arrival; filters are those of `GET /events`, as in `userId="u1"`."""
        return self._request("GET", "/events", params=filters).json()["events"]

    def meta(self, **filters: Any) -> list[dict[str, Any]]:
        """How each of these events came: receivedAt, key, request (its number)."""
        return self._request("GET", "/events", params={**filters, "meta": 1}).json()["meta"]

    def serials(self, prop: str = "serial") -> list[Any]:
        """The values of this property, in order of arrival, duplicates included."""
        return [event["properties"][prop] for event in self.events() if prop in event.get("properties", {})]

    def summary(self) -> dict[str, Any]:
        """requests, accepted, rejected, duplicates, duplicateMessageIds."""
        return self._request("GET", "/summary").json()

    def faults(self, *faults: dict[str, Any]) -> None:
        """Replaces the collector's fault script by these, for requests with this key."""
        script = [{"writeKey": self.write_key, **fault} for fault in faults]
        self._request("PUT", "/faults", params=None, json={"faults": script})

    def faults_left(self) -> list[dict[str, Any]]:
        """What is left of the script."""
        return self._request("GET", "/faults", params=None).json()["faults"]

    def clear(self) -> None:
        """Forgets this key's events and counters, and every fault."""
        self._request("DELETE", "/faults", params=None)
        self._request("DELETE", "/events")

    def wait_for(self, n: int, timeout: float = 10) -> list[dict[str, Any]]:
        """The events, once at least n have arrived."""
        if not self._wait(lambda: self.summary()["accepted"] >= n, timeout):
            arrived = self.events()
            raise AssertionError(f"{len(arrived)} of {n} events in {timeout} s; {self.summary()}; {arrived}")
        return self.events()

    def wait_for_requests(self, n: int, timeout: float = 10) -> None:
        """Returns once at least n requests have come in, however they are answered."""
        if not self._wait(lambda: self.summary()["requests"] >= n, timeout):
            raise AssertionError(f"not {n} requests after {timeout} s; {self.summary()}")

    def post(self, batch: Any, **headers: str) -> requests.Response:
        """Sends a batch by hand, as a client would: a list of events, or the bytes of a whole body."""
        body = batch if isinstance(batch, bytes) else json.dumps({"batch": batch}).encode()
        headers = {"Authorization": f"Bearer {self.write_key}", "Content-Type": "application/json", **headers}
        url = self.endpoint + "/v1/batch"
        return self._session.post(url, data=body, headers=headers, timeout=30, allow_redirects=False)

    def open_post(self, batch: list[Any]) -> socket.socket:
        """A bare socket on which this batch has been sent, for tests that look at the bytes of the answer."""
        body = json.dumps({"batch": batch}).encode()
        head = (
            "POST /v1/batch HTTP/1.1",
            "Host: collector",
            f"Authorization: Bearer {self.write_key}",
            f"Content-Length: {len(body)}",
        )
        connection = socket.create_connection(("127.0.0.1", self.process.port), timeout=5)
        connection.sendall("\r\n".join([*head, "", ""]).encode() + body)
        return connection

    def close(self) -> None:
        self._session.close()

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _request(self, method: str, path: str, *, params: dict[str, Any] | None = {}, **rest: Any):  # noqa: B006 - read only
        if params is not None:
            params = {"writeKey": self.write_key, **params}
        answer = self._session.request(method, self.endpoint + path, params=params, timeout=30, **rest)
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer

    def _wait(self, is_there, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while not is_there():
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True


def track_event(serial: Any = 0, **changes: Any) -> dict[str, Any]:
    """An event as it stands in a batch, fine unless changed; a change to `...` leaves the field out."""
    event = {
        "type": "track",
        "messageId": str(uuid.uuid4()),
        "timestamp": "2026-11-22T10:00:00.123Z",
        "event": "Tested",
        "userId": "user_1",
        "properties": {"serial": serial},
        **changes,
    }
    return {name: value for name, value in event.items() if value is not ...}


def environment() -> dict[str, str]:
    """This process's environment, for a Python that shall import the klime_mp that is under test."""
    source = Path(klime_mp._version.__file__).parents[1]
    inherited = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(source), *([inherited] if inherited else [])])}
