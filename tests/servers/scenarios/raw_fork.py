"""fork() by the program itself, and by `subprocess` on its behalf."""

import fcntl
import os
import re
import signal
import time

from program import APPS, WAIT_SECONDS
from short_program import ShortProgram

from scenarios import NEVER, scenario

CLOCK = 300  # milliseconds, for `flush_interval` where the clock has to send
POLL_SECONDS = 0.02
SLOW = 600  # milliseconds


def run(shape, folder, inbox, **klime):
    """Play one function of apps/raw_fork_program.py to the end."""
    command = ("python", APPS / "raw_fork_program.py", shape)
    with ShortProgram(folder, inbox, *command, klime={"flush_interval": NEVER, **klime}) as program:
        seconds = program.ended()
    return program, seconds


@scenario("raw fork", "children flush, then os._exit")
def exit_after_flush(folder, inbox):
    program, seconds = run("exit_after_flush", folder, inbox)
    assert len(set(program.tracked_by("Child"))) == 3
    return seconds


@scenario("raw fork", "children and grandchildren sys.exit")
def sys_exit(folder, inbox):
    program, seconds = run("sys_exit", folder, inbox)
    assert len(set(program.tracked_by("Child"))) == len(set(program.tracked_by("Grandchild"))) == 3
    return seconds


@scenario("raw fork", "daemon: two forks, every descriptor closed")
def daemonize(folder, inbox):
    program, seconds = run("daemonize", folder, inbox)
    wait_for_the_daemon(folder / "daemon.pid")
    assert len(program.tracked_by("Daemon")) == 5, program.log()
    return seconds


def wait_for_the_daemon(pid_file):
    """Returns when it has ended, which releases its lock."""
    deadline = time.monotonic() + WAIT_SECONDS
    with pid_file.open() as locked:
        while True:
            try:
                fcntl.flock(locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.kill(int(locked.read()), signal.SIGKILL)
                    raise AssertionError(f"the daemon is still there after {WAIT_SECONDS} s") from None
                time.sleep(POLL_SECONDS)
            else:
                return


@scenario("raw fork", "from a thread: sys.exit, return, os._exit after flush")
def from_a_thread(folder, inbox):
    program, seconds = run("from_a_thread", folder, inbox, flush_interval=CLOCK)
    assert len(set(program.tracked_by("Child"))) == 3
    return seconds


@scenario("raw fork", "subprocess with preexec_fn, 900 events waiting in the parent")
def preexec_fn(folder, inbox):
    inbox.faults({"delay_ms": SLOW, "times": None})
    program, seconds = run("preexec_fn", folder, inbox, max_batch_size=100)
    waiting = re.search(r"waiting in the parent (\d+)", program.log())
    assert int(waiting[1]) > 0, program.log()
    assert len(program.tracked_by("Child")) == 5
    return seconds


@scenario("raw fork", "among 3 threads that track as fast as they can")
def among_threads(folder, inbox):
    program, seconds = run("among_threads", folder, inbox)
    assert len(set(program.tracked_by("Child"))) == 10
    assert len(program.tracked_by("Thread")) > 3
    return seconds
