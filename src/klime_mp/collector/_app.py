"""The routes: from a request to the parts that know, and back."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING

from aiohttp import web

from klime_mp.collector._batch import MAX_BODY_BYTES
from klime_mp.collector._deliver import deliver, response
from klime_mp.collector._faults import BadScriptError, FaultScript
from klime_mp.collector._store import FILTERS, Arrival, Store, masked
from klime_mp.collector._verdict import Verdict, bearer_key, error_answer, json_answer, judge

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

_BATCH = "/v1/batch"
_NO_CONTENT = 204


class Collector:
    """One collector: what it has received, what it will do wrong, and the keys it knows.

    Args:
        write_keys: The keys that are answered; none means any.
        log: Is given one line per request, without the key it came with.
    """

    def __init__(self, write_keys: Collection[str], log: Callable[[str], None]) -> None:
        self._write_keys = frozenset(write_keys)
        self._log = log
        self._store = Store()
        self._script = FaultScript()

    def app(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(middlewares=[web.middleware(partial(_frame, self._log))], client_max_size=MAX_BODY_BYTES)
        app.add_routes(
            [
                web.post(_BATCH, self._batch),
                web.get("/events", self._events),
                web.delete("/events", self._forget),
                web.get("/summary", self._summary),
                web.put("/faults", self._set_faults),
                web.get("/faults", self._faults),
                web.delete("/faults", self._clear_faults),
            ]
        )
        return app

    async def _batch(self, request: web.Request) -> web.Response:
        key = bearer_key(request.headers.get("Authorization"))
        body = await _read(request)
        number = self._store.count_request(key)
        verdict = judge(key, body, known_keys=self._write_keys)
        fault = self._script.take(key, verdict.size)
        if fault is not None and fault.reject:
            verdict = judge(key, body, known_keys=self._write_keys, reject=fault.reject)
        if key is not None and (fault is None or fault.keep):
            self._keep(key, verdict, number)
        answer = verdict.answer if fault is None else fault.answer(verdict.answer)
        suffix = "" if fault is None else f", {fault.name()}"
        self._log(f"POST /v1/batch {answer.status}, {verdict.size} events, key {masked(key or '')}{suffix}")
        return response(answer) if fault is None else await deliver(request, answer, fault)

    def _keep(self, key: str, verdict: Verdict, number: int) -> None:
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._store.keep(Arrival(sent, now, key, number) for sent in verdict.accepted)
        self._store.count_rejected(key, verdict.rejected)

    async def _events(self, request: web.Request) -> web.Response:
        query = _query(request, *FILTERS, "writeKey", "limit", "meta")
        limit = query.pop("limit", None)
        if limit is not None and not (limit.isascii() and limit.isdigit()):
            return response(error_answer(400, "limit must be a whole number, 0 or more"))
        with_meta = query.pop("meta", "0")
        if with_meta not in ("0", "1"):
            return response(error_answer(400, "meta must be 0 or 1"))
        matching = self._store.arrivals(write_key=query.pop("writeKey", None), filters=query)
        newest = matching if limit is None else matching[max(0, len(matching) - int(limit)) :]
        # Spliced as text: an event is shown exactly as it was sent.
        events = ",".join(arrival.sent.text for arrival in newest)
        rest = {"count": len(matching), **({"meta": [a.meta() for a in newest]} if with_meta == "1" else {})}
        body = f'{{"events":[{events}],{json.dumps(rest)[1:]}'
        return web.Response(body=body.encode(), content_type="application/json")

    async def _forget(self, request: web.Request) -> web.Response:
        self._store.forget(_query(request, "writeKey").get("writeKey"))
        return web.Response(status=_NO_CONTENT)

    async def _summary(self, request: web.Request) -> web.Response:
        return response(json_answer(self._store.summary(_query(request, "writeKey").get("writeKey"))))

    async def _set_faults(self, request: web.Request) -> web.Response:
        _query(request)
        try:
            self._script.replace(json.loads(await request.read()))
        except BadScriptError as error:
            return response(error_answer(400, str(error)))
        except (ValueError, RecursionError) as error:
            return response(error_answer(400, f"the body is not JSON: {error}"))
        return await self._faults(request)

    async def _faults(self, request: web.Request) -> web.Response:
        _query(request)
        return response(json_answer({"faults": self._script.left()}))

    async def _clear_faults(self, request: web.Request) -> web.Response:
        _query(request)
        self._script.clear()
        return web.Response(status=_NO_CONTENT)


async def _frame(
    log: Callable[[str], None],
    request: web.Request,
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> web.StreamResponse:
    """What is the same for every route: errors are JSON, and each request is one line of the log."""
    try:
        answered = await handler(request)
    except web.HTTPException as error:
        answered = response(error_answer(error.status, error.reason))
        if "Allow" in error.headers:
            answered.headers["Allow"] = error.headers["Allow"]
    if (request.method, request.path) != ("POST", _BATCH):  # which has said more already, and earlier
        log(f"{request.method} {request.path} {answered.status}")
    return answered


async def _read(request: web.Request) -> bytes | None:
    """The body, or None when it is too large.

    What is too large is read to its end all the same: many clients look for an answer only when they have
    sent everything.
    """
    body = bytearray()
    size = 0
    async for chunk in request.content.iter_any():
        size += len(chunk)
        if size <= MAX_BODY_BYTES:
            body += chunk
    return bytes(body) if size <= MAX_BODY_BYTES else None


def _query(request: web.Request, *known: str) -> dict[str, str]:
    """The query's parameters; a misspelt filter would match everything, and a test would pass on it."""
    unknown = [name for name in request.query if name not in known]
    if unknown:
        raise web.HTTPBadRequest(reason=f"unknown parameter; known are {', '.join(known) or 'none'}")
    return dict(request.query)
