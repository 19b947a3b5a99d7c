"""A small Flask bakery that tells Klime what is ordered. No line here knows that uWSGI forks."""

import logging

from flask import Flask

import klime_mp

logging.basicConfig(level=logging.INFO)  # Klime's troubles are logged, never raised into a request
app = Flask(__name__)

# At import: under uWSGI once, in the master, which sends nothing itself. One of the workers delivers it.
opened = klime_mp.track("Bakery Opened", group_id="bakery")


@app.get("/opened")
def when() -> dict[str, str | None]:
    """The messageId of the event above."""
    return {"event": opened}


@app.post("/orders/<what>")
def order(what: str) -> dict[str, str | None]:
    """One order; the answer has the messageId of its event, None if it was dropped."""
    return {"event": klime_mp.track("Bread Ordered", {"what": what}, user_id="user_1", group_id="bakery")}
