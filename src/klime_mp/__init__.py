"""Klime customer analytics for Python programs that fork.

    import klime_mp

    klime_mp.configure(write_key="...")       # or KLIME_WRITE_KEY in the environment
    klime_mp.track("Button Clicked", {"button": "sign-up"}, user_id="user_123", group_id="org_456")

An event's road, one module a station:

    Client.track      _client     finds what this process owns (_fork, _state): a child starts clean
    the event         _event      checked, and encoded at the call (_encoding)
    the door          _dispatch   one atomic step: in, or dropped; there is a thread, or one is started
    the queue         _queue      bounded, drops the oldest; counts what it holds (_stats)
    the sender        _sender     one daemon thread, on demand; sleeps until there is a batch's worth
    the delivery      _delivery   a batch to its outcome: try, wait, try again, halve, give up (_retry)
    the request       _transport  exactly one POST, its answer as a value
    the way out       _exit       what is pending when a process ends is sent, by one deadline

Importing this starts no thread, opens no file and does not load `requests`: building a client does.
"""

from klime_mp._client import Client
from klime_mp._default import (
    configure,
    flush,
    get_client,
    group,
    group_sync,
    identify,
    identify_sync,
    restart,
    set_client,
    shutdown,
    track,
    track_sync,
)
from klime_mp._response import BatchResponse, ValidationError
from klime_mp._stats import Stats
from klime_mp._version import __version__
from klime_mp.exceptions import ConfigurationError, InvalidEventError, KlimeError, SendError

# The name that the official SDK has for it.
KlimeClient = Client

__all__ = [
    "BatchResponse",
    "Client",
    "ConfigurationError",
    "InvalidEventError",
    "KlimeClient",
    "KlimeError",
    "SendError",
    "Stats",
    "ValidationError",
    "__version__",
    "configure",
    "flush",
    "get_client",
    "group",
    "group_sync",
    "identify",
    "identify_sync",
    "restart",
    "set_client",
    "shutdown",
    "track",
    "track_sync",
]
