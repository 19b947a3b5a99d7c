"""What a client that nobody uses adds to `os.fork`, `os._exit` and `waitpid` in a master process.

Two processes take turns, so that the machine's moods strike both alike: one without the package, one with a client.
Their difference is mostly page tables, the price of any import. So the client's own hooks are also switched off at
half of its forks: the same process with and without them.
"""

from __future__ import annotations

# The standard library's own hooks belong to everybody's forks.
import concurrent.futures.thread  # noqa: F401
import json
import logging  # noqa: F401
import os
import random  # noqa: F401
import statistics
import threading  # noqa: F401
from collections.abc import Callable, Iterable
from time import perf_counter_ns

from benchmarks.measures._program import Parameters, Result, make, run

WARM_UP = 3  # turns

_FORK, _END = b"f", b"e"
_ORDER = (True, False, False, True)  # neither is always the second


def measure(parameters: Parameters) -> Result:
    """Medians and their differences, in microseconds."""
    bare, client = _Helper("bare", parameters), _Helper("client", parameters)
    turns = [(bare.forks(), client.forks()) for _ in range(WARM_UP + parameters["turns"])][WARM_UP:]
    bare.end()
    client.end()
    without = _median(turn[0] for turn, _ in turns)
    hooked, hookless = _median(turn[0] for _, turn in turns), _median(turn[1] for _, turn in turns)
    return {"bare": without, "client": hooked, "hooks": hooked - hookless, "all": hooked - without}


def _median(parts: Iterable[list[int]]) -> float:
    return statistics.median([time for part in parts for time in part]) / 1000


class _Hooks:
    """In the place of `os.register_at_fork`: what is registered here runs only when it is switched on."""

    def __init__(self) -> None:
        self.on = True
        self._known: dict[str, list[Callable[[], object]]] = {}
        os.register_at_fork(
            before=lambda: self._run("before"),
            after_in_parent=lambda: self._run("after_in_parent"),
            after_in_child=lambda: self._run("after_in_child"),
        )

    def register(self, **functions: Callable[[], object] | None) -> None:
        """Keep them; those that run before a fork run in reverse."""
        for when, function in functions.items():
            if function is not None:
                known = self._known.setdefault(when, [])
                known.insert(0 if when == "before" else len(known), function)

    def _run(self, when: str) -> None:
        if self.on:
            for function in self._known.get(when, ()):
                function()


class _Helper:
    """A process that forks when it is told to."""

    def __init__(self, kind: str, parameters: Parameters) -> None:
        asks, self._asked = os.pipe()
        answers, answered = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            hooks = _Hooks()
            os.register_at_fork = hooks.register
            kept = None if kind == "bare" else make(parameters, "ok")
            while os.read(asks, 1) == _FORK:
                os.write(answered, json.dumps(_forks(hooks, parameters["forks"])).encode() + b"\n")
            del kept
            os._exit(0)
        os.close(asks)
        os.close(answered)
        self._answers = os.fdopen(answers)

    def forks(self) -> list[list[int]]:
        """A few forks' times in nanoseconds, with hooks and without."""
        os.write(self._asked, _FORK)
        times: list[list[int]] = json.loads(self._answers.readline())
        return times

    def end(self) -> None:
        """Let it go. By a word: its sibling has a copy of the pipe, so it would not notice that ours is closed."""
        os.write(self._asked, _END)
        os.waitpid(self._pid, 0)


def _forks(hooks: _Hooks, count: int) -> tuple[list[int], list[int]]:
    times: dict[bool, list[int]] = {True: [], False: []}
    for on in _ORDER * (count // len(_ORDER)):
        times[on].append(_fork(hooks, on=on))
    return times[True], times[False]


def _fork(hooks: _Hooks, *, on: bool) -> int:
    hooks.on = on
    start = perf_counter_ns()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return perf_counter_ns() - start


if __name__ == "__main__":
    run(measure)
