"""The exit's allowance of time, and what registers the ways out."""

from __future__ import annotations

import pytest

from klime_mp import _exit, _host


class Time:
    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(_exit.time, "monotonic", lambda: self.now)


@pytest.fixture
def time(monkeypatch):
    return Time(monkeypatch)


def test_what_one_handler_has_spent_the_next_does_not_have(time):
    an_exit = _exit._Exit()
    with an_exit:
        assert an_exit.deadline(5) == 1005
        time.now += 3
        assert an_exit.deadline(5) == 1005
        with an_exit:
            assert an_exit.deadline(5) == 1005, "a handler inside another shares its deadline"
    time.now += 7  # other people's handlers
    with an_exit:
        assert an_exit.deadline(5) == time.now + 2


def test_another_end_much_later_has_its_full_time(time):
    an_exit = _exit._Exit()
    with an_exit:
        time.now += 5
    time.now += 11
    with an_exit:
        assert an_exit.deadline(5) == time.now + 5


def test_a_restart_gives_it_back_even_to_a_handler_that_never_came_to_its_end(time):
    an_exit = _exit._Exit()
    an_exit.__enter__()
    time.now += 60
    an_exit.restart()
    with an_exit:
        assert an_exit.deadline(5) == time.now + 5
    with an_exit:
        assert an_exit.deadline(5) == time.now + 5


def test_an_exception_in_the_first_call_does_not_leave_the_process_without_a_way_out(monkeypatch):
    """As Celery's soft time limit in a pool process's first task."""
    registered = []

    def register(run):
        registered.append(run)
        if len(registered) == 1:
            raise KeyboardInterrupt

    class Sender:
        pass

    an_exit = _exit._Exit()
    monkeypatch.setattr(_exit, "_exit", type("Exits", (), {"here": staticmethod(lambda: an_exit)}))
    monkeypatch.setattr(_host, "register_ways_out", register)
    monkeypatch.setattr(_exit.atexit, "register", lambda _run: None)
    monkeypatch.setattr(_exit, "_register_finalizer", lambda: None)
    sender = Sender()
    with pytest.raises(KeyboardInterrupt):
        _exit.know(sender)
    _exit.know(sender)
    _exit.know(sender)
    assert len(registered) == 2
