"""The shop as the demo serves it: what is tracked is written down, so that it can be counted afterwards."""

import os
from typing import Any

import klime_mp

# Opened once, by whoever loads the application; forked workers share the descriptor. O_APPEND makes each
# short write land whole behind the others, whichever process it comes from, without a lock.
JOURNAL = os.open(os.environ["DEMO_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def write_down(event: dict[str, Any]) -> dict[str, Any]:
    """The client's last look at an event: from here on it must arrive, a later drop is a loss."""
    os.write(JOURNAL, f"{os.getpid()} {event['messageId']}\n".encode())
    return event


klime_mp.configure(before_send=write_down)

from shop import app  # noqa: E402  (it tracks an event while it is imported: the client has to be there)

__all__ = ["app"]
