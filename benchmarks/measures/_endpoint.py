"""The sink, seen from a measure. A bare socket: the contestants bring HTTP clients of their own, to be counted."""

from __future__ import annotations

import json
import socket
from typing import Any


class Endpoint:
    """Where one client delivers to, under a name that is counted apart."""

    def __init__(self, port: int, run: str) -> None:
        self._port = port
        self._run = run

    def url(self, mode: str) -> str:
        """What the client is given as its endpoint; `mode` is ok, slow or hang."""
        return f"http://127.0.0.1:{self._port}/{mode}/{self._run}"

    def stats(self) -> dict[str, Any]:
        """Events, bytes and the time of the last event, as they are now."""
        return self._get(f"/stats/{self._run}", 10)

    def wait(self, events: int, seconds: float) -> dict[str, Any]:
        """The same, once that many events have arrived, or time is up."""
        try:
            return self._get(f"/wait/{self._run}/{events}", seconds)
        except TimeoutError:
            return self.stats()

    def _get(self, path: str, seconds: float) -> dict[str, Any]:
        with socket.create_connection(("127.0.0.1", self._port), seconds) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: sink\r\n\r\n".encode())
            answer = b""
            while not answer.endswith(b"}"):
                received = connection.recv(4096)
                if not received:
                    raise ConnectionError("the sink is gone")
                answer += received
        result: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
        return result
