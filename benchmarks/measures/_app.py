"""The application under gunicorn: it answers, and tracks if it is given an endpoint."""

from __future__ import annotations

import importlib
import itertools
import os
from typing import Any

from benchmarks.event import properties, user

_ENDPOINT = os.environ["BENCH_ENDPOINT"]
_serials = itertools.count()

if _ENDPOINT:
    _contestant = importlib.import_module(f"benchmarks.contestants.{os.environ['BENCH_CONTESTANT']}")
    _client = _contestant.make(_ENDPOINT, None, None)


def application(_environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """WSGI. What an event is made of is made either way."""
    serial = next(_serials)
    who, what = user(serial), properties(serial)
    if _ENDPOINT:
        _client.track(who, what)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]
