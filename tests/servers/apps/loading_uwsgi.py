"""Uses clients in every way while uWSGI loads it, and writes down what it saw, as JSON, into the file `facts`.

/           one event
/ready      no event
/stats      one more line of facts: this worker's ledgers
"""

import json
import multiprocessing
import os
import threading
from dataclasses import asdict
from pathlib import Path

from journal import client, note, track

import klime_mp


def say(**facts):
    with Path("facts").open("a") as file:
        file.write(json.dumps({"pid": os.getpid(), **facts}) + "\n")


def application(environ, start_response):
    if environ["PATH_INFO"] == "/stats":
        say(stats=[asdict(each.stats()) for each in (client, closed, small)])
    elif environ["PATH_INFO"] != "/ready":
        track("Requested")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"well"]


say(flushed_with_nothing_to_flush=client.flush())
track("Loaded")
say(flushed=client.flush(), pending=client.queue_size())

response = client.track_sync("Loaded", {"serial": "sync"}, user_id="user_1")
note("Loaded", "sync")
say(accepted=response.accepted)

with klime_mp.Client() as closed:
    track("Loaded", closed)
say(closed=closed.track("Loaded", user_id="user_1") is None, pending_in_closed=closed.queue_size())

track("Loaded", klime_mp.Client())  # nobody keeps that one

small = klime_mp.Client(max_queue_size=3)
for number in range(5):
    if small.track("Loaded", {"serial": f"small-{number}"}, user_id="user_1") and number >= 2:
        note("Loaded", f"small-{number}")

klime_mp.restart()
track("Loaded", closed)  # open again


def help_out():
    track("Helped")
    say(helper_flushed=client.flush(10_000))
    track("Helped")


helper = multiprocessing.get_context("fork").Process(target=help_out)
helper.start()
helper.join()

say(threads=[thread.name for thread in threading.enumerate()], tasks=len(list(Path("/proc/self/task").iterdir())))
