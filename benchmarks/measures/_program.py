"""What every measure begins and ends with: its parameters, the contestant, the sink, its result."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.measures._endpoint import Endpoint

Parameters = dict[str, Any]
Result = dict[str, Any]


class OutOfTimeError(BaseException):
    """The time of a measure is over. No Exception: no client is to take it for one of its own."""


def run(measure: Callable[[Parameters], Result]) -> None:
    """Be a program: measure, print, and end at once, as exit handlers would wait for endpoints that hang."""
    result = measure({"contestant": sys.argv[1], **json.loads(sys.argv[2])})
    print(json.dumps(result), flush=True)
    os._exit(0)


def make(parameters: Parameters, mode: str, run: str = "") -> tuple[Any, Endpoint]:
    """A new client of the contestant, and the endpoint it delivers to; `run` tells several in one process apart."""
    endpoint = Endpoint(parameters["sink"], parameters["run"] + run)
    contestant = importlib.import_module(f"benchmarks.contestants.{parameters['contestant']}")
    client = contestant.make(endpoint.url(mode), parameters.get("batch_size"), parameters.get("queue_size"))
    return client, endpoint


def limit(seconds: float) -> None:
    """Raise OutOfTimeError in the main thread after so many seconds, also in the middle of a call."""

    def ring(*_: object) -> None:
        raise OutOfTimeError

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def unlimited() -> None:
    """Take `limit` back."""
    signal.setitimer(signal.ITIMER_REAL, 0)
