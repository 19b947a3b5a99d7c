"""The endpoint of all contestants: one process that answers every POST alike, and counts.

A slow sink would hide a fast client. So this is an asyncio protocol without a framework, which parses no JSON: it finds
the body's end, counts the event's name in it, and writes a constant. It inflates a body only if its header says so.

A path's first part says how to answer, its second part what to count the body under, so that a late request of one
measurement is never counted in the next:

    POST /ok/RUN/...       at once            GET /stats/RUN          {"events": .., "bytes": .., "last": ..}
    POST /slow/RUN/...     after 500 ms       GET /wait/RUN/EVENTS    the same, once there are that many
    POST /hang/RUN/...     never

`last` is the monotonic clock at the latest event, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import sys
import time
import zlib
from dataclasses import dataclass, field

from benchmarks.event import NAME

SLOW_SECONDS = 0.5
GZIP = 16 + zlib.MAX_WBITS

# Each peer finds in it what it takes for success: klime "status", amplitude "code"; the others look at the 200.
_BODY = b'{"status":"ok","accepted":1,"failed":0,"errors":[],"code":200}'
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
_OK = _ANSWER % (len(_BODY), _BODY)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_MARKER = NAME.encode()


@dataclass
class Tally:
    """What one run has sent."""

    events: int = 0
    size: int = 0
    requests: int = 0
    last: float = 0.0
    waiting: list[tuple[int, Sink]] = field(default_factory=list)

    def add(self, body: bytes) -> None:
        """Count a body's events, and answer who waited for that many."""
        self.events += body.count(_MARKER)
        self.size += len(body)
        self.requests += 1
        self.last = time.monotonic()
        for entry in [entry for entry in self.waiting if entry[0] <= self.events]:
            self.waiting.remove(entry)
            entry[1].tell(self)


_tallies: collections.defaultdict[str, Tally] = collections.defaultdict(Tally)


class Sink(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Take complete requests off the front."""
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._received[:end])
            headers = head.lower()
            if b"transfer-encoding: chunked" in headers:
                body, rest = _dechunked(self._received, end + 4)
            else:
                rest = end + 4 + _length(headers)
                body = bytes(self._received[end + 4 : rest]) if len(self._received) >= rest else None
            if body is None:
                if b"expect: 100-continue" in headers:
                    self._send(_CONTINUE)
                return
            del self._received[:rest]
            self._request(head.split(b" ", 2), headers, body)

    def tell(self, tally: Tally) -> None:
        """Answer a GET."""
        body = json.dumps({"events": tally.events, "bytes": tally.size, "last": tally.last}).encode()
        self._send(_ANSWER % (len(body), body))

    def _request(self, line: list[bytes], headers: bytes, body: bytes) -> None:
        _, what, run, *rest = line[1].decode().split("/")
        tally = _tallies[run]
        if line[0] == b"GET":
            count = int(rest[0]) if what == "wait" else 0
            if tally.events >= count:
                self.tell(tally)
            else:
                tally.waiting.append((count, self))
            return
        tally.add(zlib.decompress(body, GZIP) if b"content-encoding: gzip" in headers else body)
        closes = b"connection: close" in headers
        if what == "slow":
            asyncio.get_running_loop().call_later(SLOW_SECONDS, self._answer, closes)
        elif what == "ok":
            self._answer(closes)

    def _answer(self, closes: bool) -> None:  # noqa: FBT001 # call_later has no keywords
        self._send(_OK)
        if closes and self._transport is not None:
            self._transport.close()

    def _send(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)


def _length(headers: bytes) -> int:
    _, found, rest = headers.partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0]) if found else 0


def _dechunked(received: bytearray, position: int) -> tuple[bytes | None, int]:
    """The body that begins there, None while it is incomplete, and where the next request begins."""
    parts: list[bytes] = []
    while (end := received.find(b"\r\n", position)) >= 0:
        size = int(received[position:end].partition(b";")[0], 16)
        position = end + 2 + size + 2
        if len(received) < position:
            break
        if size == 0:
            return b"".join(parts), position
        parts.append(bytes(received[end + 2 : position - 2]))
    return None, 0


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    # Ends with whoever started it: the other end of stdin is his.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve())
