"""A WSGI application that tracks a numbered event when it is imported, and one for each request.

Every number whose event was accepted is in the journal: what the journal holds has to arrive, once.

    /           one event; the answer's body is the pid
    /ready      no event
    /stuck      one event, then a request that does not end by itself
"""

import itertools
import os
import time

import klime_mp

STUCK_SECONDS = 60

# Short writes to an O_APPEND descriptor land whole, whichever process or thread they come from.
JOURNAL = os.open(os.environ["JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
NUMBERS = itertools.count()

client = klime_mp.Client(os.environ["KLIME_WRITE_KEY"])


def track(event):
    serial = f"{os.getpid()}-{next(NUMBERS)}"
    if client.track(event, {"serial": serial}, user_id="user_1") is not None:
        os.write(JOURNAL, f"{event} {serial}\n".encode())


def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path != "/ready":
        track("Requested")
    if path == "/stuck":
        time.sleep(STUCK_SECONDS)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]


track("Loaded")
