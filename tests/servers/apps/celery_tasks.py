"""A Celery application that tracks an event when it is imported, and one for each task.

The environment configures it: `BROKER` (Celery's options, JSON), and `INSTALL` (arguments of `install()`, JSON) when
`install()` is to be called at all.
"""

import itertools
import json
import logging
import os
import time

from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from celery.worker import request
from journal import client, note, track

STUCK_SECONDS = 60

# "Task accepted" in the log, at whatever level the rest is; Celery asks for the level once, when it is imported.
logging.getLogger(request.__name__).setLevel(logging.DEBUG)
request.__optimize__()

app = Celery("celery_tasks")
app.conf.update(json.loads(os.environ["BROKER"]))

if "INSTALL" in os.environ:
    from klime_mp.integrations.celery import install

    install(**json.loads(os.environ["INSTALL"]))


@app.task
def work():
    """One event."""
    track("Worked")
    return os.getpid()


@app.task
def stuck():
    """One event, then a task that does not end by itself."""
    track("Stuck")
    time.sleep(STUCK_SECONDS)


class Slow:
    """A value that takes its time to become text: most of a call, and the program is in it when a signal strikes."""

    def __str__(self):
        time.sleep(0.005)
        return "slow"


@app.task(soft_time_limit=1)
def limited():
    """Events without end, until Celery interrupts by its soft time limit; what the ledger says then."""
    try:
        for number in itertools.count():
            serial = f"{os.getpid()}-limited-{number}"
            if client.track("Limited", {"serial": serial, "slow": Slow()}, user_id="user_1") is not None:
                note("Limited", serial)
    except SoftTimeLimitExceeded:
        stats = client.stats()
    settled = stats.delivered + stats.rejected + stats.failed + sum(stats.dropped.values()) + stats.handed_over
    print(f"limited: balance {stats.tracked + stats.adopted - settled - stats.pending}, dropped {stats.dropped}")


track("Loaded")
