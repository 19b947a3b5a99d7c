"""A WSGI application that leaves the work to gunicorn's dirty workers; both track.

/           one event here, one in a dirty worker
/ready      no event; 200 when a dirty worker answers
"""

import os

from gunicorn.dirty import DirtyApp, get_dirty_client
from gunicorn.dirty.errors import DirtyError
from journal import track

WORK = "dirty:Work"


class Work(DirtyApp):
    """What runs in the dirty workers."""

    def init(self):
        track("DirtyLoaded")

    def ready(self):
        return os.getpid()

    def work(self):
        track("Worked")


def application(environ, start_response):
    status = "200 OK"
    try:
        if environ["PATH_INFO"] == "/ready":
            get_dirty_client().execute(WORK, "ready")
        else:
            track("Requested")
            get_dirty_client().execute(WORK, "work")
    except DirtyError as error:
        status = "503 Service Unavailable"
        environ["wsgi.errors"].write(f"{error}\n")
    start_response(status, [("Content-Type", "text/plain")])
    return []


track("Loaded")
