"""Every order in which threads can take their steps, one after the other.

Threads under a `Schedule` run one at a time, and stop before each lock they take (`inside`: and once more while they
hold it), and at each wait. Which one goes on is a choice; `every_schedule` runs a scenario once for each sequence of
choices. Time is the schedule's: a wait with a timeout may end at any moment by letting time pass, a few times a run.

Three threads have a million orders. `preemptions` bounds how often a thread that could go on is made to wait for
another; almost every race there is shows with two.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from klime_mp._clock import NEVER, Clock

R = TypeVar("R")

# A wait this long is a deadline that the scenario is not about: time does not jump beyond it.
MINUTES = 60.0


class Schedule:
    """One run. `choices` are made first, then always the first possible."""

    def __init__(
        self, choices: list[int], *, inside: bool = False, time_jumps: int = 1, preemptions: float = NEVER
    ) -> None:
        self.taken: list[tuple[int, int]] = []  # (choice, how many there were)
        self.inside = inside
        self.now = 1e9  # far from the real clock's, so that who mixes the two is found out
        self._choices = choices
        self._jumps_left = time_jumps
        self._preemptions_left = preemptions
        self._threads: list[_Stepped] = []
        self._running = 1  # whoever makes the threads, until `run` waits for them
        self._counting = threading.Lock()
        self._latest: _Stepped | None = None
        self._error: AssertionError | None = None
        self._over = _gate()

    def run(self, *tasks: Callable[[], object]) -> None:
        """Run the tasks, and all threads they start, to their ends. What a task raises is raised here."""
        threads = [self.thread(target=task) for task in tasks]
        for thread in threads:
            thread.start()
        self._stop_running()
        assert self._over.acquire(timeout=60), "a thread did not reach its next step"
        if self._error is not None:
            raise self._error
        for thread in self._threads:
            thread.join(5)
            if thread.error is not None:
                raise AssertionError(f"schedule {[choice for choice, _ in self.taken]}") from thread.error

    def clock(self) -> Clock:
        """A clock whose time, locks and latches are this schedule's."""
        return _Clock(self)

    def thread(self, *, target: Callable[..., object], args: tuple[Any, ...] = (), **_: Any) -> _Stepped:
        """In the place of `threading.Thread`."""
        return _Stepped(self, target, args)

    def in_one_step(self, work: Callable[..., R]) -> Callable[..., R]:
        """`work` without stops in it, for what is of no interest to the other threads."""

        def without_stops(*args: Any) -> R:
            thread = threading.current_thread()
            thread.stops = False
            try:
                return work(*args)
            finally:
                thread.stops = True

        return without_stops

    def stop_at(self, point: _Point) -> None:
        """Called by a thread: wait until it is chosen."""
        thread = threading.current_thread()
        if not isinstance(thread, _Stepped) or not thread.stops:
            return  # the test itself, before or after the run; or see above
        thread.stopped_at = point
        if self._stop_running() is not thread:
            thread.go.acquire()

    def begin(self) -> None:
        """One more thread runs, and will come to a stop."""
        with self._counting:
            self._running += 1

    def end(self) -> None:
        """The calling thread has ended."""
        self._stop_running()

    def _stop_running(self) -> _Stepped | None:
        """The caller has stopped. Whoever is the last to stop lets the next one go, and returns it.

        It may be the caller itself: so a thread that goes on costs no switch to another and back.
        """
        with self._counting:
            self._running -= 1
            if self._running:
                return None
        try:
            chosen = self._next()
        except AssertionError as error:
            self._error, chosen = error, None
        if chosen is None:
            self._over.release()
            return None
        chosen.stopped_at = None
        self.begin()
        if chosen is not threading.current_thread():
            chosen.go.release()
        return chosen

    def _next(self) -> _Stepped | None:
        """Who goes on; None when all have ended."""
        current, alive = self._latest, [thread for thread in self._threads if thread.stopped_at is not None]
        if not alive:
            return None
        able = [thread for thread in alive if thread.stopped_at.able()]
        able.sort(key=lambda thread: thread is not current)
        if current in able and not self._preemptions_left:
            able = [current]
        late = [t for t in alive if t not in able and t.stopped_at.until - self.now < MINUTES]
        if not able or (self._jumps_left and (current not in able or self._preemptions_left)):
            able += late
        assert able, f"deadlock after {self.taken}"
        chosen = able[self._choose(len(able))]
        self._preemptions_left -= current in able and chosen is not current
        self._latest = chosen
        if chosen in late:
            self._jumps_left -= len(able) > 1
            self.now = max(self.now, chosen.stopped_at.until)
        return chosen

    def _choose(self, options: int) -> int:
        choice = self._choices[len(self.taken)] if len(self.taken) < len(self._choices) else 0
        self.taken.append((choice, options))
        return choice


def every_schedule(scenario: Callable[[Schedule], object], *, most: int = 50_000, **options: Any) -> int:
    """Call `scenario` with each schedule there is; returns how many there were."""
    choices: list[int] = []
    for count in range(1, most):
        schedule = Schedule(choices, **options)
        scenario(schedule)
        taken = schedule.taken
        while taken and taken[-1][0] == taken[-1][1] - 1:
            taken.pop()
        if not taken:
            return count
        choices = [choice for choice, _ in taken[:-1]] + [taken[-1][0] + 1]
    raise AssertionError(f"more than {most} schedules")


class _Point:
    """Where a thread has stopped: `able` to go on by itself, or by letting time pass until `until`."""

    def __init__(self, able: Callable[[], bool] = lambda: True, until: float = NEVER) -> None:
        self.able = able
        self.until = until


class _Stepped(threading.Thread):
    def __init__(self, schedule: Schedule, target: Callable[..., object], args: tuple[Any, ...]) -> None:
        super().__init__(daemon=True)
        self.go = _gate()
        self.stopped_at: _Point | None = None
        self.stops = True
        self.error: BaseException | None = None
        self._schedule = schedule
        self._work = target
        self._work_args = args

    def start(self) -> None:
        self._schedule._threads.append(self)
        self._schedule.begin()
        super().start()

    def run(self) -> None:
        try:
            self._schedule.stop_at(_Point())
            self._work(*self._work_args)
        except BaseException as error:  # noqa: BLE001 - raised again by Schedule.run
            self.error = error
        finally:
            self._schedule.end()


def _gate() -> threading.Lock:
    """A closed one: `acquire` waits until somebody calls `release`."""
    gate = threading.Lock()
    gate.acquire()
    return gate


class _Lock:
    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._lock = threading.RLock()
        self._held = 0

    def __enter__(self) -> None:
        if not self._is_owned():
            self._schedule.stop_at(_Point(lambda: not self._held))
        self._lock.acquire()
        self._held += 1
        if self._schedule.inside:
            self._schedule.stop_at(_Point())

    def __exit__(self, *_: object) -> None:
        self._held -= 1
        self._lock.release()

    def _is_owned(self) -> bool:
        return self._lock._is_owned()


class _Latch:
    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._is_open = False

    def open(self) -> None:
        self._is_open = True

    def wait(self, seconds: float) -> bool:
        self._schedule.stop_at(_Point(lambda: self._is_open, self._schedule.now + seconds))
        return self._is_open


class _Clock(Clock):
    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self.monotonic = lambda: schedule.now

    def lock(self) -> _Lock:
        return _Lock(self._schedule)

    def latch(self) -> _Latch:
        return _Latch(self._schedule)
