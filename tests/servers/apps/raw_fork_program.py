"""What a program does with fork() itself: raw_fork_program.py SHAPE. Parents and children track.

A parent waits for its children and sees that each ended well, except for a daemon, which is on its own.
"""

import fcntl
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import journal
from journal import client, track

CHILDREN = 3
FORKS_AMONG_THREADS = 10
THREADS = 3
# Below `max_queue_size`, beyond which the oldest events go.
ENOUGH_WAITING = 500
DAEMON = Path("daemon.pid")
WAIT_SECONDS = 20


def track_some(event):
    for _ in range(5):
        track(event)


def join(pid):
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == 0, status


def exit_after_flush():
    """`os._exit` runs nothing of Python's, so the child flushes."""
    track_some("Parent")
    for _ in range(CHILDREN):
        pid = os.fork()
        if pid == 0:
            track_some("Child")
            client.flush()
            os._exit(0)
        join(pid)


def sys_exit():
    """Children and grandchildren end as programs do."""
    track_some("Parent")
    for _ in range(CHILDREN):
        pid = os.fork()
        if pid == 0:
            track_some("Child")
            grandchild = os.fork()
            if grandchild == 0:
                track_some("Grandchild")
                sys.exit(0)
            join(grandchild)
            track_some("Child")
            sys.exit(0)
        join(pid)


def daemonize():
    """Two forks, a session of its own, every descriptor closed; the parent leaves meanwhile."""
    track_some("Parent")
    middle = os.fork()
    if middle:
        join(middle)
        deadline = time.monotonic() + WAIT_SECONDS
        while not (DAEMON.exists() and DAEMON.read_text()):
            assert time.monotonic() < deadline, "no daemon"
            time.sleep(0.01)
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    os.closerange(0, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    os.open(os.devnull, os.O_RDONLY)
    os.open("log", os.O_WRONLY | os.O_APPEND)
    os.dup(1)
    os.dup2(os.open(os.environ["JOURNAL"], os.O_WRONLY | os.O_APPEND), journal._JOURNAL)
    # Locked for as long as the daemon lives: who gets the lock knows that it is gone.
    pid_file = os.open(DAEMON, os.O_WRONLY | os.O_CREAT, 0o600)
    fcntl.flock(pid_file, fcntl.LOCK_EX)
    os.write(pid_file, str(os.getpid()).encode())
    track_some("Daemon")
    sys.exit(0)


def from_a_thread():
    """The thread that forked is the child's main thread; when it ends, the child does, and no exit handler runs."""
    track_some("Parent")

    def fork(leave):
        pid = os.fork()
        if pid == 0:
            track_some("Child")
            leave()
        else:
            join(pid)

    def flush_and_exit():
        client.flush()
        os._exit(0)

    for leave in (sys.exit, lambda: None, flush_and_exit):
        thread = threading.Thread(target=fork, args=(leave,))
        thread.start()
        thread.join()


def preexec_fn():
    """Code in the child of a `Popen`, before another program takes its place, while much is waiting in the parent."""

    def track_and_flush():
        track_some("Child")
        client.flush()

    def fail():
        raise OSError("not today")

    for _ in range(900):
        track("Parent")
    for between in (os.setpgrp, track_and_flush):
        subprocess.run([sys.executable, "-c", ""], preexec_fn=between, check=True)
    try:
        subprocess.run([sys.executable, "-c", ""], preexec_fn=fail, check=True)
    except subprocess.SubprocessError:
        pass
    else:
        raise AssertionError("preexec_fn has not run")
    print("waiting in the parent", client.queue_size())


def among_threads():
    """Threads track as fast as they can, and the process forks."""
    stop = threading.Event()

    def keep_tracking():
        while not stop.is_set():
            track("Thread")
            while client.queue_size() > ENOUGH_WAITING and not stop.is_set():
                time.sleep(0.001)

    threads = [threading.Thread(target=keep_tracking) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for number in range(FORKS_AMONG_THREADS):
        pid = os.fork()
        if pid == 0:
            track_some("Child")
            if number % 2:
                sys.exit(0)
            client.flush()
            os._exit(0)
        join(pid)
    stop.set()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    print("leaving at", time.monotonic())
