"""gunicorn's server hooks, ready to be imported into a `gunicorn.conf.py`.

    from klime_mp.integrations.gunicorn import child_exit, post_fork, worker_exit

They make explicit what happens anyway. If your configuration has hooks of its own, call these from them; they may be
called twice, out of order, or in the master. None raises, starts a thread, or opens a file or a connection by itself.
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
        client._adopt(worker.pid)  # noqa: SLF001 # our own class
