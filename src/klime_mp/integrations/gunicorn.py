"""gunicorn's server hooks, ready to be imported into a `gunicorn.conf.py`.

    from klime_mp.integrations.gunicorn import child_exit, post_fork, worker_exit
    from klime_mp.integrations.gunicorn import dirty_worker_init  # if you have dirty workers

The first three make explicit what happens anyway; dirty workers end by `os._exit`, and do need theirs. If your
configuration has hooks of its own, call these from them; they may be called twice, out of order, or in the master. None
raises, starts a thread, or opens a file or a connection by itself.
"""

from __future__ import annotations

from typing import Any

import klime_mp
from klime_mp import _exit
from klime_mp._client import live_clients


def post_fork(server: Any, worker: Any) -> None:  # noqa: ARG001 # gunicorn's signature
    """In a new worker: start afresh. Runs before gevent patches and before the worker's user is switched."""
    klime_mp.restart()


def worker_exit(server: Any, worker: Any) -> None:  # noqa: ARG001 # gunicorn's signature
    """In a worker that ends: send what is pending now, before the exit handlers, by the deadline they share."""
    _exit.run()


def child_exit(server: Any, worker: Any) -> None:  # noqa: ARG001 # gunicorn's signature
    """In the master, when a worker has ended: take over what it left in the spool."""
    for client in live_clients():
        while client._adopt(worker.pid):  # noqa: SLF001 # our own class
            pass


def dirty_worker_init(worker: Any) -> None:
    """In a new dirty worker: send what is pending when it closes its applications, after all of them."""
    # Of gunicorn's own doing nothing else runs in that process before `os._exit`: `dirty_worker_exit` is the arbiter's.
    worker.apps["klime_mp"] = _LastApplication()


class _LastApplication:
    """Something for the dirty worker to close."""

    def close(self) -> None:
        _exit.run()
