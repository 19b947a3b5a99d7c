"""Track numbered events, and write down which: what the journal holds has to arrive, once."""

import itertools
import logging
import os
import secrets

import klime_mp

# Short writes to an O_APPEND descriptor land whole, whichever process or thread they come from.
_JOURNAL = os.open(os.environ["JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
_NUMBERS = itertools.count()
_LOAD = secrets.token_hex(3)  # a server that reloads executes itself anew, with the pid it has

logging.basicConfig(level=logging.INFO)

client = klime_mp.Client()
klime_mp.set_client(client)


def track(event, client=client):
    """Track one event; it is in the journal if the client accepted it."""
    serial = f"{os.getpid()}-{_LOAD}-{next(_NUMBERS)}"
    if client.track(event, {"serial": serial}, user_id="user_1") is not None:
        note(event, serial)


def note(event, serial):
    """Write down that an event was tracked."""
    os.write(_JOURNAL, f"{event} {serial}\n".encode())
