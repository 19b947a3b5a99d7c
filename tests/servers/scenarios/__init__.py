"""One scenario: a server lives and ends in one certain way, and every event it tracked has to arrive, once.

A module here is a server. A function decorated with `@scenario` plays one life of it, in a folder of its own and with
an inbox of its own, and returns the seconds that stopping took. What was tracked is in the journal, which the
application writes right after `track` returned; what arrived is asked of the collector.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from program import read_journal

from support.collector import Inbox

# Longer than any scenario, for the option `flush_interval`: what arrives was sent because a batch was full, or because
# a process ended.
NEVER = 600_000


@dataclass(frozen=True)
class Outcome:
    """What became of the events: all those in the journal, those of them that did not arrive, or came more often."""

    tracked: list[str]
    lost: list[str]
    duplicated: list[str]
    seconds: float  # to stop


@dataclass(frozen=True)
class Scenario:
    """A server's life, by name."""

    server: str
    name: str
    live: Callable[[Path, Inbox], float]
    needs: tuple[str, ...] = field(default=())

    def missing(self) -> list[str]:
        """What this machine lacks for it.

        That is importable modules, commands, written as `command:name`, and `environment:folder`, what the environment
        that `make` makes has if it can be installed there.
        """
        return [need for need in self.needs if not _is_there(need)]

    def play(self, folder: Path, inbox: Inbox) -> Outcome:
        """Live it, and count."""
        seconds = self.live(folder, inbox)
        tracked = Counter(serial for _, serial in read_journal(folder))
        arrived = Counter(inbox.serials())
        return Outcome(
            tracked=sorted(tracked),
            lost=sorted(tracked - arrived),
            duplicated=sorted(serial for serial, times in arrived.items() if times > 1),
            seconds=seconds,
        )


SCENARIOS: list[Scenario] = []


def unexcused(missing: list[str]) -> list[str]:
    """What must not be missing where everything is said to be there, as in CI."""
    return [need for need in missing if not need.startswith("environment:")]


def scenario(server: str, name: str, *, needs: tuple[str, ...] = ()):
    """Register a function of (folder, inbox) that returns the seconds stopping took; several names may share one."""

    def register(live):
        SCENARIOS.append(Scenario(server, name, live, needs))
        return live

    return register


def all_scenarios() -> list[Scenario]:
    """Those of every module here."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return SCENARIOS


def _is_there(need: str) -> bool:
    if need.startswith("command:"):
        return shutil.which(need.removeprefix("command:")) is not None
    if need.startswith("environment:"):
        return Path(sys.prefix, need.removeprefix("environment:")).is_dir()
    try:
        return importlib.util.find_spec(need) is not None
    except ModuleNotFoundError:  # the package that it is a part of
        return False
