"""An answer -> the socket, whole, late, in pieces or not at all.

What no HTTP server would do goes past aiohttp to the transport below it; the connection is closed afterwards,
since the two would not agree on what has been sent. The response that is returned then finds its connection
gone, which aiohttp takes for a client that hung up.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from klime_mp.collector._faults import Fault
    from klime_mp.collector._verdict import Answer


def response(answer: Answer) -> web.Response:
    """The answer as aiohttp sends it."""
    return web.Response(status=answer.status, body=answer.body, headers=answer.headers)


async def deliver(request: web.Request, answer: Answer, fault: Fault) -> web.Response:
    """Sends the answer as the fault wants it sent.

    Is cancelled when the client goes away, and when the collector stops.
    """
    await asyncio.sleep(fault.delay_ms / 1000)
    if fault.hang:
        await asyncio.Event().wait()
    elif fault.drop:
        _transport(request).abort()
    elif fault.half:
        head, body = answer.wire()
        await _write_raw(request, head + body[: len(body) // 2])
    elif fault.drip_ms is not None:
        await _write_raw(request, b"".join(answer.wire()), pause=fault.drip_ms / 1000)
    return response(answer)


async def _write_raw(request: web.Request, wire: bytes, pause: float | None = None) -> None:
    """Writes these bytes and closes; with a pause, one byte at a time with the pause after each."""
    transport = _transport(request)
    if pause is None:
        transport.write(wire)
    else:
        for position in range(len(wire)):
            transport.write(wire[position : position + 1])
            await asyncio.sleep(pause)
    transport.close()


def _transport(request: web.Request) -> asyncio.Transport:
    transport: asyncio.Transport | None = request.transport
    if transport is None:
        # aiohttp's own word for it: it is quiet about these.
        raise ConnectionResetError("the client is gone")
    return transport
