"""The tasks as the example runs them: what is tracked is written down, so that it can be counted afterwards."""

import os
from typing import Any

import klime_mp
from klime_mp.integrations.celery import install

# Opened once, by the worker; the processes of its pool inherit it. O_APPEND makes each short write land whole behind
# the others, whichever process it comes from, without a lock.
JOURNAL = os.open(os.environ["EXAMPLE_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def write_down(event: dict[str, Any]) -> dict[str, Any]:
    """The client's last look at an event: from here on it must arrive, a later drop is a loss."""
    os.write(JOURNAL, f"{os.getpid()} {event['messageId']}\n".encode())
    return event


klime_mp.configure(before_send=write_down)
if "EXAMPLE_FLUSH_AFTER_TASK" in os.environ:
    install(flush_after_task=True)

from orders import app  # noqa: E402  (it tracks an event while it is imported: the client has to be there)

__all__ = ["app"]
