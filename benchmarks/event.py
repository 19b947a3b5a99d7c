"""The one event that every contestant sends: a name, a user, five properties; about 300 bytes of JSON."""

from __future__ import annotations

# The sink counts events by this name, so it must be in each exactly once, and in nothing else.
NAME = "benchmark_event_7f3a"


def user(serial: int) -> str:
    """Who did it: one of a thousand."""
    return f"user_{serial % 1000:06}"


def properties(serial: int) -> dict[str, object]:
    """Made anew for each event, as a program would."""
    return {
        "report": "Quarterly revenue by region",
        "rows": serial,
        "seconds": 12.75,
        "scheduled": False,
        "filter": {"team": "sales", "currency": "EUR", "limit": 50},
    }
