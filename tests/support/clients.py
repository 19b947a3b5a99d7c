"""A client under test: what its callbacks saw, and short words for what every test does with it."""

from __future__ import annotations

import json
import logging
import threading
import time
from typing import Any

POLL_SECONDS = 0.005

# Nothing is sent before somebody asks for it: the test decides what a batch is. What is tried again is tried soon.
FAST = {"flush_interval": 60_000, "retry_initial_delay": 5, "retry_max_attempts": 3, "request_timeout": 10_000}


class Seen:
    """The four callbacks, recording what they are called with, and on which thread."""

    def __init__(self) -> None:
        self.errors: list[tuple[Any, list[dict[str, Any]]]] = []
        self.successes: list[Any] = []
        self.drops: list[tuple[dict[str, Any] | None, str]] = []
        self.threads: dict[str, set[threading.Thread]] = {}

    def callbacks(self) -> dict[str, Any]:
        return {"on_error": self.on_error, "on_success": self.on_success, "on_drop": self.on_drop}

    def on_error(self, error: Any, events: list[dict[str, Any]]) -> None:
        self._note_thread("on_error")
        self.errors.append((error, events))

    def on_success(self, response: Any) -> None:
        self._note_thread("on_success")
        self.successes.append(response)

    def on_drop(self, event: dict[str, Any] | None, reason: str) -> None:
        self._note_thread("on_drop")
        self.drops.append((event, reason))

    def nothing(self) -> bool:
        return not (self.errors or self.successes or self.drops)

    def failed(self) -> list[Any]:
        """The serials that `on_error` was told of, in order, repeated if it was told twice."""
        return [serial for _, events in self.errors for serial in serials_of(events)]

    def dropped(self) -> list[tuple[Any, str]]:
        """Serial and reason of each event that `on_drop` was told of."""
        return [(event and event["properties"]["serial"], reason) for event, reason in self.drops]

    def the_error(self) -> Any:
        """The `SendError`, of which there has to be exactly one."""
        assert len(self.errors) == 1, self.errors
        error, events = self.errors[0]
        assert error.events == events
        return error

    def _note_thread(self, name: str) -> None:
        self.threads.setdefault(name, set()).add(threading.current_thread())


def track(client: Any, *serials: Any, **properties: Any) -> list[str]:
    """Track an event for each serial; the messageIds."""
    ids = [client.track("Tested", {"serial": serial, **properties}, user_id="user_1") for serial in serials]
    assert all(ids), ids
    return ids


def serials_of(events: list[dict[str, Any]]) -> list[Any]:
    return [event["properties"]["serial"] for event in events]


def size_as_sent(event: dict[str, Any]) -> int:
    """The bytes of an event on the wire."""
    return len(json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode())


def wait_until(condition: Any, what: str, timeout: float = 10) -> None:
    """Return once `condition()` holds; fail after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"not in {timeout} s: {what}"
        time.sleep(POLL_SECONDS)


def quiet_logger(name: str) -> logging.Logger:
    """What a client says to it, perhaps long after its test, is not for another test to hear."""
    logger = logging.getLogger(f"quiet.{name}")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    return logger


def wait_for_retry(caplog: Any) -> None:
    """Return once a try has failed and the client has said that there will be another. Needs the level INFO."""
    wait_until(lambda: "will be sent again" in caplog.text, "a failed try")


def error_lines(caplog: Any) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


class Threads:
    """The library's threads that were not there when this was made.

    A request that hangs outlives its test by up to `request_timeout`, and its thread with it.
    """

    def __init__(self) -> None:
        self._others: set[threading.Thread] = set()
        self._others = self.now()

    def now(self) -> set[threading.Thread]:
        named = (thread for thread in threading.enumerate() if thread.name.startswith("klime-mp"))
        return {thread for thread in named if thread not in self._others}

    def wait_for_none(self, timeout: float = 5) -> None:
        wait_until(lambda: not self.now(), "no thread left", timeout)


class Stopwatch:
    """`with Stopwatch() as took: ...`, then `took.seconds`."""

    def __enter__(self):
        self._began = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self._began
