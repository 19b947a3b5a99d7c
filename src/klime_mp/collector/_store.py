"""What was received, and the questions that can be asked about it. Pure: no clock, no sockets.

Everything is kept in order of arrival, twice when it arrived twice. Questions read the whole list: a test run
has thousands of events, not millions, and an index would be one more thing that can be wrong.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from klime_mp.collector._batch import Sent

FILTERS = ("type", "event", "userId", "groupId", "messageId")

_MAX_DUPLICATES_LISTED = 100
_SHOWN = 4


@dataclass(frozen=True)
class Arrival:
    """One accepted event, and how it came."""

    sent: Sent
    received_at: str
    write_key: str
    request: int

    def meta(self) -> dict[str, Any]:
        """What may be told about how the event came."""
        return {"receivedAt": self.received_at, "key": masked(self.write_key), "request": self.request}


class Store:
    """Everything the collector has received since it started, or since `forget`."""

    def __init__(self) -> None:
        self._arrivals: list[Arrival] = []
        self._requests: Counter[str | None] = Counter()
        self._rejected: Counter[str | None] = Counter()
        self._number = 0

    def count_request(self, write_key: str | None) -> int:
        """Counts a request; returns its number, which is never used again."""
        self._requests[write_key] += 1
        self._number += 1
        return self._number

    def keep(self, accepted: Iterable[Arrival]) -> None:
        """Keeps accepted events, in this order."""
        self._arrivals.extend(accepted)

    def count_rejected(self, write_key: str | None, events: int) -> None:
        """Counts events that were turned away one by one."""
        self._rejected[write_key] += events

    def arrivals(self, filters: Mapping[str, str], write_key: str | None = None) -> list[Arrival]:
        """The events whose fields have exactly these values, oldest first; `write_key=None` means any key."""
        return [
            arrival
            for arrival in self._arrivals
            if (write_key is None or arrival.write_key == write_key)
            and all(arrival.sent.value.get(name) == value for name, value in filters.items())
        ]

    def summary(self, write_key: str | None = None) -> dict[str, Any]:
        """The counters of one key, or of all."""
        times = Counter(arrival.sent.value["messageId"] for arrival in self.arrivals({}, write_key))
        repeated = [message_id for message_id, count in times.items() if count > 1]
        return {
            "requests": _count(self._requests, write_key),
            "accepted": times.total(),
            "rejected": _count(self._rejected, write_key),
            "duplicates": times.total() - len(times),
            "duplicateMessageIds": repeated[:_MAX_DUPLICATES_LISTED],
        }

    def forget(self, write_key: str | None = None) -> None:
        """Forgets the events and counters of one key, or of all."""
        self._arrivals = [
            arrival for arrival in self._arrivals if write_key is not None and arrival.write_key != write_key
        ]
        for counter in (self._requests, self._rejected):
            if write_key is None:
                counter.clear()
            else:
                del counter[write_key]


def masked(write_key: str) -> str:
    """A write key as it may be shown; of a short one nothing, since its last four characters say too much."""
    return "…" + (write_key[-_SHOWN:] if len(write_key) >= 2 * _SHOWN else "")


def _count(counter: Counter[str | None], write_key: str | None) -> int:
    return counter.total() if write_key is None else counter[write_key]
