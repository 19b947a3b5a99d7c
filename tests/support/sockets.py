"""What no HTTP server does: count connections, take them and stay silent, drip a body, refuse to accept."""

from __future__ import annotations

import contextlib
import re
import selectors
import socket
import threading
import time
from typing import Any

_STEP_SECONDS = 0.02


class Server:
    """A listening socket on loopback, `serve(connection)` for each connection in a thread of its own."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.connections = 0
        self.open = 0
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def serve(self, connection: socket.socket) -> None:
        raise NotImplementedError

    def is_closing(self) -> bool:
        return self._closing.is_set()

    def __enter__(self):
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        for thread in self._threads:
            thread.join(5)
        self._listener.close()

    def _accept(self) -> None:
        self._listener.settimeout(_STEP_SECONDS)
        while not self._closing.is_set():
            with contextlib.suppress(TimeoutError):
                connection, _ = self._listener.accept()
                self.connections += 1
                self.open += 1
                thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, contextlib.suppress(OSError):
                self.serve(connection)
        finally:
            self.open -= 1


class Forwarder(Server):
    """Passes bytes on to a port of this machine, and keeps what clients sent.

    `CONNECT` makes it an https proxy: it answers, then passes on, wherever the client wanted to go.
    """

    def __init__(self, port: int) -> None:
        super().__init__()
        self._to = port
        self.received = bytearray()
        self.tunnels: list[str] = []

    def serve(self, connection: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", self._to)) as onward, selectors.DefaultSelector() as selector:
            selector.register(connection, selectors.EVENT_READ, onward)
            selector.register(onward, selectors.EVENT_READ, connection)
            while not self.is_closing():
                for key, _ in selector.select(_STEP_SECONDS):
                    source: Any = key.fileobj
                    data = source.recv(65536)
                    if not data:
                        return
                    if source is connection and data.startswith(b"CONNECT "):
                        self.tunnels.append(data.split()[1].decode())
                        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                        continue
                    if source is connection:
                        self.received += data
                    key.data.sendall(data)

    def headers(self, name: str) -> list[str]:
        """The values of this request header, in order."""
        return re.findall(rf"^{name}: (.*)\r$", self.received.decode("latin-1"), re.IGNORECASE | re.MULTILINE)


class SilentServer(Server):
    """Takes connections and what is sent on them, and never says a word."""

    def serve(self, connection: socket.socket) -> None:
        connection.settimeout(_STEP_SECONDS)
        while not self.is_closing():
            with contextlib.suppress(TimeoutError):
                if not connection.recv(65536):
                    return


class DrippingBody(Server):
    """Answers 200 with all its headers at once, then the body a byte at a time."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def serve(self, connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n")
        while not self.is_closing():
            connection.sendall(b" ")
            time.sleep(self._seconds)


class FullBacklog:
    """A port that is listened on and whose backlog is full: a connection attempt hangs."""

    def __init__(self) -> None:
        self._sockets = [socket.socket()]
        self._sockets[0].bind(("127.0.0.1", 0))
        self._sockets[0].listen(0)
        self.port = self._sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        for _ in range(64):
            attempt = socket.socket()
            self._sockets.append(attempt)
            attempt.settimeout(0.2)
            try:
                attempt.connect(("127.0.0.1", self.port))
            except TimeoutError:
                return self
        raise AssertionError("the backlog of a listening socket does not fill up here")

    def __exit__(self, *_: object) -> None:
        for each in self._sockets:
            each.close()


def closed_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
