"""A client's road whose requests end in a list: for tests of what threads do, not of the network."""

from __future__ import annotations

import json
from collections import Counter
from threading import Thread
from typing import Any

from klime_mp import _sender
from klime_mp._config import Config
from klime_mp._state import ProcessState
from klime_mp._transport import Answer
from support.schedule import Schedule

EMPTY_ANSWER = Answer(200)


class ListedRoad(ProcessState):
    """A ProcessState that notes the serials of the events it would have sent."""

    def __init__(self, *, clock: Any = None, **options: Any) -> None:
        self.arrived: list[Any] = []
        super().__init__(Config.resolve({"write_key": "key", **options}, {}), clock=clock)

    def _transport(self) -> Any:
        return self

    def post(self, body: bytes, _deadline: float = 0) -> Answer:
        self.arrived += [event["properties"]["serial"] for event in json.loads(body)["batch"]]
        return EMPTY_ANSWER

    def close(self) -> None:
        pass

    def track(self, serial: Any) -> str | None:
        return self.submit("track", event="e", user_id=1, payload={"serial": serial})

    def assert_arrived(self, *serials: Any) -> None:
        """Exactly these arrived, nothing is pending, the ledger balances."""
        assert Counter(self.arrived) == Counter(serials)
        stats = self.stats()
        assert stats.pending == 0
        assert stats.delivered == len(serials)
        assert stats.tracked == stats.delivered + stats.failed + sum(stats.dropped.values())


def stepped_road(schedule: Schedule, monkeypatch: Any, **options: Any) -> ListedRoad:
    """A road whose threads are under `schedule`."""
    if _sender.Thread is Thread:
        monkeypatch.setattr(_sender, "Thread", schedule.thread)
    _sender.Thread = schedule.thread  # monkeypatch would keep each schedule that there was
    road = ListedRoad(clock=schedule.clock(), **options)
    # A delivery's own steps (a request counted, an outcome written) decide nothing about who starts or stops.
    delivery = road._sender._delivery
    delivery.deliver = schedule.in_one_step(delivery.deliver)
    return road
