"""Who takes part. The adapters import their packages, so what is to be known without them stands here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["ours", "floor", "peer"]


@dataclass(frozen=True)
class Contestant:
    """One row of the tables.

    Attributes:
        name: as in the tables, and the name of its environment.
        adapter: its module in `contestants`.
        requirements: what pip installs for it; "." is this checkout.
        package: the distribution whose version is reported.
        kind: ours, a floor, or a peer, of which the best one is what ours is compared with.
    """

    name: str
    adapter: str
    requirements: tuple[str, ...]
    package: str
    kind: Kind = "peer"

    @property
    def delivers(self) -> bool:
        """Does what it tracks arrive anywhere?"""
        return self.kind != "floor"


OURS = "klime-mp"
OURS_JSON = "klime-mp-json"
FLOOR = "floor"
GUARDED = "guarded"

CONTESTANTS = (
    Contestant(OURS, "ours", (".[fast]",), "klime-mp", "ours"),
    Contestant(OURS_JSON, "ours", (".",), "klime-mp", "ours"),
    Contestant(FLOOR, "floor", ("orjson>=3.9",), "orjson", "floor"),
    Contestant(GUARDED, "guarded", ("orjson>=3.9",), "orjson", "floor"),
    Contestant("klime", "klime", ("klime==1.1.0",), "klime"),
    Contestant("snowplow", "snowplow", ("snowplow-tracker>=1.1",), "snowplow-tracker"),
    Contestant("segment", "segment", ("segment-analytics-python>=2.4",), "segment-analytics-python"),
    Contestant("rudder", "rudder", ("rudder-sdk-python>=2.1",), "rudder-sdk-python"),
    Contestant("amplitude", "amplitude", ("amplitude-analytics>=1.3",), "amplitude-analytics"),
    Contestant("posthog", "posthog", ("posthog>=7",), "posthog"),
)
