"""A client with a full queue: one event is on its way to an endpoint that hangs, all others wait."""

from __future__ import annotations

from typing import Any

from benchmarks.event import properties, user
from benchmarks.measures._endpoint import Endpoint

FIRST_SECONDS = 6  # longer than every flush interval but amplitude's


def first_in_flight(client: Any, endpoint: Endpoint) -> None:
    """Track one event, and let the client send it; some would rather wait for company."""
    client.track(user(0), properties(0))
    endpoint.wait(1, FIRST_SECONDS)


def fill(client: Any, events: int) -> None:
    """Track the rest."""
    for serial in range(1, events):
        client.track(user(serial), properties(serial))
