"""A fork at every step of a call and of the sender, also while the lock is held: the child starts clean."""

from __future__ import annotations

from pathlib import Path

from support.program import run_program

PROGRAM = """
    sys.path.insert(0, {tests!r})
    from support import roads
    from support.schedule import every_schedule
    from klime_mp import _sender
    from klime_mp._fork import PerProcess

    class Patch:
        setattr = staticmethod(setattr)

    real_thread = _sender.Thread
    forked = 0

    def scenario(schedule):
        parents = roads.stepped_road(schedule, Patch)
        states = PerProcess(lambda inherited: roads.ListedRoad() if inherited else parents)
        {before}

        def fork():
            global forked
            forked += 1
            pid = os.fork()
            if pid == 0:
                _sender.Thread = real_thread  # the child is not under the schedule
                child = states.here()
                assert child is not parents and child.stats().tracked == 0
                child.track("child")
                assert child.flush(5000)
                child.assert_arrived("child")
                os._exit(0)
            assert join(pid) == 0

        schedule.run(lambda: states.here().track("parent"), fork)
        parents.assert_arrived({arrived})

    every_schedule(scenario, inside=True, time_jumps=1, preemptions=1)
    say(forked=forked)
"""


def test_fork_at_every_step_of_a_first_event(collector):
    program = PROGRAM.format(tests=_tests(), before="", arrived='"parent"')
    ended = run_program(program, collector, deadline=90, flags=("-W", "ignore:This process:DeprecationWarning"))
    assert ended.all("forked")[0] > 30


def test_fork_at_every_step_while_the_sender_stops(collector):
    program = PROGRAM.format(tests=_tests(), before='states.here().track("first")', arrived='"first", "parent"')
    ended = run_program(program, collector, deadline=90, flags=("-W", "ignore:This process:DeprecationWarning"))
    assert ended.all("forked")[0] > 30


def _tests() -> str:
    return str(Path(__file__).resolve().parents[1])
