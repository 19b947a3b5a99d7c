"""PerProcess: one value a process. Other processes are stood in for by other pids; real forks are in tests/fork."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest

from klime_mp import _fork
from klime_mp._fork import PerProcess


@pytest.fixture
def pid(monkeypatch):
    class Pid:
        now = 1

    monkeypatch.setattr(_fork, "getpid", lambda: Pid.now)
    return Pid


class Value:
    def __init__(self, inherited):
        self.inherited = inherited


def test_a_value_is_made_at_first_use_and_kept(pid):
    holder = PerProcess(Value)
    assert holder.peek() is None
    assert holder.here() is holder.here() is holder.peek()
    assert holder.here().inherited is None


def test_another_pid_gets_another_value_and_is_shown_the_inherited_one(pid):
    holder = PerProcess(Value)
    parents = holder.here()
    pid.now = 2
    assert holder.peek() is None
    assert holder.here() is not parents
    assert holder.here().inherited is parents


def test_a_child_with_the_pid_of_a_dead_ancestor(pid):
    holder = PerProcess(Value)
    ancestors = holder.here()
    holder.forget()  # what the at-fork hook calls
    assert holder.here() is not ancestors


def test_what_is_inherited_is_kept_not_finalized(pid):
    holder = PerProcess(Value)
    parents = weakref.ref(holder.here())
    holder.forget()
    pid.now = 2
    holder.here()
    gc.collect()
    assert parents() is not None


def test_the_hook_reaches_every_live_holder(pid):
    holders = [PerProcess(Value) for _ in range(3)]
    values = [holder.here() for holder in holders]
    _fork._in_child()
    assert [holder.peek() for holder in holders] == [None] * 3
    assert all(holder.here() is not value for holder, value in zip(holders, values, strict=True))


def test_threads_that_race_get_the_same_value():
    barrier = threading.Barrier(8)
    holder = PerProcess(Value)
    got = []

    def get():
        barrier.wait()
        got.append(holder.here())

    threads = [threading.Thread(target=get) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, got))) == 1
