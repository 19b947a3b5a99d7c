"""The load on gunicorn: `_load.py PORT SECONDS CLIENTS`. Bare sockets, because a slow client hides a fast server.

Each client's last request is answered before it ends, so that the requests counted are those that were served.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor

REQUEST_SECONDS = 30
_REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def load(port: int, seconds: float, clients: int) -> dict[str, float]:
    """How many requests, in what time."""
    start = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        counts = list(pool.map(lambda _: _until(start + seconds, port), range(clients)))
    return {"requests": sum(counts), "seconds": time.monotonic() - start}


def _until(end: float, port: int) -> int:
    count = 0
    while time.monotonic() < end:
        _once(port)
        count += 1
    return count


def _once(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), REQUEST_SECONDS) as connection:
        connection.sendall(_REQUEST)
        answer = b""
        while received := connection.recv(4096):
            answer += received
    if not answer.startswith(b"HTTP/1.1 200"):
        raise ConnectionError(f"answered {answer[:80]!r}")


if __name__ == "__main__":
    print(json.dumps(load(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))))
