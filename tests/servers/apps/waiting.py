"""The counting application; its import ends once the event it tracked has reached the endpoint, unanswered or not."""

import http.client
import json
import os
import time
from urllib.parse import urlencode, urlsplit

from counting import application  # noqa: F401 - found by name

POLL_SECONDS = 0.01
WAIT_SECONDS = 20


def received():
    """How many requests of ours the collector has counted."""
    connection = http.client.HTTPConnection(urlsplit(os.environ["KLIME_ENDPOINT"]).netloc, timeout=WAIT_SECONDS)
    connection.request("GET", "/summary?" + urlencode({"writeKey": os.environ["KLIME_WRITE_KEY"]}))
    requests = json.loads(connection.getresponse().read())["requests"]
    connection.close()
    return requests


deadline = time.monotonic() + WAIT_SECONDS
while not received():
    if time.monotonic() > deadline:
        raise TimeoutError("the event that was tracked at import has not been sent")
    time.sleep(POLL_SECONDS)
