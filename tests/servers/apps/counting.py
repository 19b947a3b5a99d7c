"""A WSGI application that tracks an event when it is imported, and one for each request.

/           one event; the answer's body is the pid
/ready      no event
/stuck      one event, then a request that does not end by itself
/fork       one event in a process forked for it, none in the worker
"""

import os
import time

from journal import client, track

STUCK_SECONDS = 60


def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/fork":
        child = os.fork()
        if child == 0:
            track("Forked")
            client.flush()
            os._exit(0)
        os.waitpid(child, 0)
    elif path != "/ready":
        track("Requested")
    if path == "/stuck":
        time.sleep(STUCK_SECONDS)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]


track("Loaded")
