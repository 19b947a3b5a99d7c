"""What the server that runs this process, if any, has to say. The one list of servers; the client itself knows none.

Each module of `integrations` that appears here knows how to tell that its server is there, without importing it.
"""

from __future__ import annotations

from collections.abc import Callable

from klime_mp.integrations import celery, uwsgi


def register_ways_out(run: Callable[[], None]) -> None:
    """Have `run` called at the ends of this process that only its server knows. May be called more than once."""
    celery.autodetect(run)
    uwsgi.autodetect(run)


def only_loads() -> bool:
    """Does this process load the program only for others to be forked from it, with no life of its own?"""
    return uwsgi.only_loads()


def on_arrival(arrive: Callable[[], None]) -> None:
    """In a process that only loads: have `arrive` called in each of its workers. May be called more than once."""
    uwsgi.on_arrival(arrive)


def is_worker() -> bool:
    """Is this process such a worker?"""
    return uwsgi.is_worker()
