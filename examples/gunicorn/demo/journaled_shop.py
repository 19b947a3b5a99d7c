"""The shop as the demo serves it: what is tracked is written down, so that it can be counted afterwards."""

import os
from collections.abc import Callable
from typing import Any

import klime_mp

# Opened once, by whoever loads the application; forked workers share the descriptor. O_APPEND makes each
# short write land whole behind the others, whichever process it comes from, without a lock.
JOURNAL = os.open(os.environ["DEMO_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def write_down(event: dict[str, Any]) -> dict[str, Any]:
    """The client's last look at an event: from here on it must arrive, a later drop is a loss."""
    os.write(JOURNAL, f"{os.getpid()} {event['messageId']}\n".encode())
    return event


def written_down(call: Callable[..., str | None]) -> Callable[..., str | None]:
    """A call of the client that is written down when it has returned: a worker may be killed inside it."""

    def calling(*arguments: Any, **more: Any) -> str | None:
        message_id = call(*arguments, **more)
        if message_id is not None:
            write_down({"messageId": message_id})
        return message_id

    return calling


if "DEMO_KILLS" in os.environ:
    klime_mp.configure()
    for name in ("track", "identify", "group"):
        setattr(klime_mp, name, written_down(getattr(klime_mp, name)))
else:
    klime_mp.configure(before_send=write_down)

from shop import app  # noqa: E402  (it tracks an event while it is imported: the client has to be there)

__all__ = ["app"]
