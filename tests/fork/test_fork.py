"""A process forks: what the parent had pending is the parent's, a child starts clean, every event arrives once."""

from __future__ import annotations

from collections import Counter

import pytest

from support.program import run_program

LEAVE = {
    "os._exit after flush": "client.flush(); os._exit(0)",
    "sys.exit": "sys.exit(0)",
    "return": "pass",
}


def assert_each_once(inbox, serials):
    """Exactly these serials arrived, each once; the exact multiset, not a count."""
    assert len(set(serials)) == len(serials), "the test itself used a serial twice"
    arrived = Counter(inbox.serials())
    expected = Counter(serials)
    assert arrived == expected, f"lost {expected - arrived}, duplicated or unknown {arrived - expected}"
    ids = [event["messageId"] for event in inbox.events()]
    assert len(set(ids)) == len(ids), "two events had one messageId"


@pytest.mark.parametrize("leave", LEAVE.values(), ids=LEAVE)
def test_parent_has_pending_events(collector, leave):
    run_program(
        f"""
        client = klime_mp.Client(flush_interval=60_000)
        for n in range(7):
            client.track("e", {{"serial": f"parent-{{n}}"}}, user_id=1)
        pid = os.fork()
        if pid == 0:
            assert client.queue_size() == 0, "a child starts clean"
            assert client.stats().tracked == 0
            for n in range(5):
                client.track("e", {{"serial": f"child-{{n}}"}}, user_id=1)
            {leave}
        else:
            assert join(pid) == 0
            assert client.queue_size() == 7, "the parent's events stay the parent's"
            assert client.flush() and balanced(client.stats())
        """,
        collector,
    )
    assert_each_once(collector, [f"parent-{n}" for n in range(7)] + [f"child-{n}" for n in range(5)])


@pytest.mark.parametrize("leave", LEAVE.values(), ids=LEAVE)
def test_parents_sender_is_in_the_middle_of_a_request(collector, leave):
    collector.faults({"delay_ms": 700})  # the first request: the parent's
    run_program(
        f"""
        client = klime_mp.Client(flush_interval=10)
        client.track("e", {{"serial": "parent-0"}}, user_id=1)
        wait_for(lambda: client.stats().requests == 1, "the parent's request")
        client.track("e", {{"serial": "parent-1"}}, user_id=1)
        pid = os.fork()
        if pid == 0:
            client.track("e", {{"serial": "child"}}, user_id=1)
            {leave}
        else:
            assert join(pid) == 0
            assert client.flush()
            assert client.stats().retries == 0, "a child disturbed the parent's request"
        """,
        collector,
    )
    assert_each_once(collector, ["parent-0", "parent-1", "child"])


def test_200_forks_while_threads_track_and_flush(collector):
    ended = run_program(
        """
        client = klime_mp.Client(flush_interval=20, max_queue_size=100_000)
        stop = threading.Event()
        tracked = {}

        def keep_tracking(name):
            n = 0
            while not stop.is_set():
                if client.track("e", {"serial": f"{name}-{n}"}, user_id=1):
                    tracked.setdefault(name, []).append(f"{name}-{n}")
                n += 1
                time.sleep(0.001)

        def keep_flushing():
            while not stop.is_set():
                client.flush(1000)

        threads = [threading.Thread(target=keep_tracking, args=(f"thread{i}",)) for i in range(2)]
        threads.append(threading.Thread(target=keep_flushing))
        for thread in threads:
            thread.start()
        for fork in range(200):
            pid = os.fork()
            if pid == 0:
                client.track("e", {"serial": f"fork-{fork}"}, user_id=1)
                assert client.flush()
                os._exit(0)
            assert join(pid) == 0
        stop.set()
        for thread in threads:
            thread.join()
        assert client.flush() and balanced(client.stats())
        say(tracked=[serial for serials in tracked.values() for serial in serials])
        """,
        collector,
        deadline=90,
        flags=("-W", "ignore:This process:DeprecationWarning"),  # 3.12+: it forks with threads, that is the test
    )
    assert_each_once(collector, ended.all("tracked") + [f"fork-{n}" for n in range(200)])


@pytest.mark.parametrize("leave", LEAVE.values(), ids=LEAVE)
def test_fork_from_a_thread_that_is_not_the_main_one(collector, leave):
    """After sys.exit in such a child only a live thread keeps it: it must end by itself once it has delivered."""
    run_program(
        f"""
        client = klime_mp.Client(flush_interval=100)
        client.track("e", {{"serial": "parent"}}, user_id=1)
        statuses = []

        def fork():
            pid = os.fork()
            if pid == 0:
                client.track("e", {{"serial": "child"}}, user_id=1)
                {leave}
            else:
                statuses.append(join(pid))

        thread = threading.Thread(target=fork)
        thread.start()
        thread.join()
        if statuses:  # in the parent
            assert statuses == [0]
            assert client.flush()
        """,
        collector,
        flags=("-W", "ignore:This process:DeprecationWarning"),
    )
    assert_each_once(collector, ["parent", "child"])


def test_one_client_in_parent_children_and_grandchildren(collector):
    run_program(
        """
        client = klime_mp.Client()
        def tracks(name):
            for n in range(10):
                client.track("e", {"serial": f"{name}-{n}"}, user_id=1)

        tracks("parent")
        pids = []
        for child in range(4):
            pids.append(os.fork())
            if pids[-1] == 0:
                tracks(f"child{child}")
                pids = [os.fork()]
                tracks(f"child{child}-later" if pids[0] else f"grandchild{child}")
                break
        if pids[0]:
            assert [join(pid) for pid in pids] == [0] * len(pids)
        # everybody leaves by the end of the program
        """,
        collector,
        flags=("-W", "ignore:This process:DeprecationWarning"),
    )
    names = ["parent"] + [f"{kind}{n}" for n in range(4) for kind in ("child", "grandchild")]
    names += [f"child{n}-later" for n in range(4)]
    assert_each_once(collector, [f"{name}-{n}" for name in names for n in range(10)])


@pytest.mark.parametrize("when", ["before any event", "with events pending", "with the sender in a request"])
def test_fork_from_c_is_noticed_by_the_pid(collector, when):
    """uWSGI forks like this: no hook runs. PyDLL keeps the GIL held over the call, as uWSGI does.

    The parent's thread has to be asleep at that moment. Would it be about to take the GIL, the child would inherit the
    GIL's own mutex locked, and hang at its first thread switch, whatever library the thread belonged to.
    """
    if when == "with the sender in a request":
        collector.faults({"delay_ms": 1500})
    run_program(
        f"""
        import ctypes
        fork = ctypes.PyDLL(None).fork
        when = {when!r}
        client = klime_mp.Client(flush_interval=10 if when == "with the sender in a request" else 60_000)
        if when != "before any event":
            for n in range(5):
                client.track("e", {{"serial": f"parent-{{n}}"}}, user_id=1)
        if when == "with the sender in a request":
            wait_for(lambda: client.stats().requests, "the request")
        if when == "with events pending":
            wait_for(lambda: client._here()._dispatch._asleep, "the sender's sleep")
        time.sleep(0.2)  # and the GIL is free
        pids = []
        for child in range(3):
            pids.append(fork())
            if pids[-1] == 0:
                for n in range(5):
                    assert client.track("e", {{"serial": f"child{{child}}-{{n}}"}}, user_id=1)
                assert client.flush(10_000)
                stats = client.stats()
                assert stats.tracked == stats.delivered == 5, stats
                os._exit(0)
        assert [join(pid) for pid in pids] == [0, 0, 0]
        if when == "before any event":
            for n in range(5):
                client.track("e", {{"serial": f"parent-{{n}}"}}, user_id=1)
        assert client.flush(10_000) and client.stats().retries == 0
        """,
        collector,
    )
    assert_each_once(collector, [f"{who}-{n}" for who in ("parent", "child0", "child1", "child2") for n in range(5)])


@pytest.mark.parametrize("fork", ["os.fork", "ctypes.PyDLL(None).fork"])
def test_a_child_draws_ids_of_its_own(collector, fork):
    """Not those that its parent has in stock."""
    ended = run_program(
        f"""
        import ctypes
        client = klime_mp.Client(flush_interval=60_000)
        say(ids=client.track("e", user_id=1))
        wait_for(lambda: client._here()._dispatch._asleep, "the sender's sleep")
        time.sleep(0.2)  # with a fork from C: the GIL is free, as above
        pids = []
        for child in range(3):
            pids.append({fork}())
            if pids[-1] == 0:
                say(ids=[client.track("e", user_id=1) for _ in range(40)])
                os._exit(0)
        assert [join(pid) for pid in pids] == [0, 0, 0]
        say(ids=[client.track("e", user_id=1) for _ in range(40)])
        """,
        collector,
        flags=("-W", "ignore:This process:DeprecationWarning"),
    )
    ids = ended.all("ids")
    assert len(set(ids)) == len(ids) == 161


def test_client_closed_before_the_fork_is_closed_in_the_child_until_restart(collector):
    run_program(
        """
        client = klime_mp.Client()
        client.track("e", {"serial": "parent"}, user_id=1)
        assert client.shutdown()
        pid = os.fork()
        if pid == 0:
            assert client.track("e", {"serial": "dropped"}, user_id=1) is None
            assert client.stats().dropped["shutdown"] == 1
            client.restart()
            assert os_threads() == 1, "restart makes no thread"
            assert client.track("e", {"serial": "child"}, user_id=1)
            sys.exit(0)
        assert join(pid) == 0
        assert client.track("e", {"serial": "dropped"}, user_id=1) is None, "the parent is still closed"
        """,
        collector,
    )
    assert_each_once(collector, ["parent", "child"])


def test_the_parents_socket_is_cut_off_in_the_child(collector):
    """A greenlet of the parent's, in gevent's world, would read its answer. A number used again is left alone."""
    collector.faults({"delay_ms": 700})
    run_program(
        """
        def sockets():
            links = [os.readlink(f"/proc/self/fd/{n}") for n in range(3, 50) if os.path.exists(f"/proc/self/fd/{n}")]
            return [link for link in links if link.startswith("socket:")]

        def arrived():
            summary = f"{os.environ['KLIME_ENDPOINT']}/summary?writeKey={os.environ['KLIME_WRITE_KEY']}"
            with urllib.request.urlopen(summary) as answer:
                return json.load(answer)["requests"]

        import urllib.request
        client = klime_mp.Client(flush_interval=10)
        client.track("e", {"serial": "parent"}, user_id=1)
        wait_for(arrived, "the request")
        assert len(sockets()) == 1
        pid = os.fork()
        if pid == 0:
            os._exit(len(sockets()))
        assert join(pid) == 0
        assert client.flush() and client.stats().retries == 0
        wait_for(lambda: not sockets(), "the connection's end")
        unrelated, other = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(other, b"x")
            os._exit(os.read(unrelated, 1) != b"x")
        assert join(pid) == 0
        """,
        collector,
    )
    assert_each_once(collector, ["parent"])


def test_client_collected_before_the_fork(collector):
    """Its events are the parent's all the same, and its remains do not disturb the child."""
    run_program(
        """
        import gc
        client = klime_mp.Client(flush_interval=300)
        client.track("e", {"serial": "collected"}, user_id=1)
        del client
        gc.collect()
        pid = os.fork()
        if pid == 0:
            gc.collect()
            klime_mp.Client().track("e", {"serial": "child"}, user_id=1)
            sys.exit(0)
        assert join(pid) == 0
        """,
        collector,
        flags=("-W", "ignore:This process:DeprecationWarning"),
    )
    assert_each_once(collector, ["collected", "child"])


def test_restart_in_the_same_process_loses_nothing(collector):
    run_program(
        """
        client = klime_mp.Client(flush_interval=60_000)
        for n in range(5):
            client.track("e", {"serial": n}, user_id=1)
            klime_mp.restart()
        assert client.queue_size() == 5
        assert client.flush()
        """,
        collector,
    )
    assert_each_once(collector, list(range(5)))


def test_threads_and_warnings(collector):
    """No thread after construction, none when idle; a fork at such a moment raises no DeprecationWarning (3.12+)."""
    run_program(
        """
        def forks_quietly():
            pid = os.fork()  # -W error: a warning would be an exception here
            if pid == 0:
                os._exit(0)
            assert join(pid) == 0

        client = klime_mp.Client(flush_interval=10)
        assert os_threads() == 1
        forks_quietly()
        client.track("e", {"serial": 1}, user_id=1)
        assert os_threads() == 2
        assert client.flush()
        delivered_at = time.monotonic()
        wait_for(lambda: os_threads() == 1, "the thread is gone")
        assert time.monotonic() - delivered_at < 1.5
        assert threading.active_count() == 1
        forks_quietly()
        client.track("e", {"serial": 2}, user_id=1)
        """,
        collector,
    )
    assert_each_once(collector, [1, 2])


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(collector, tmp_path, method):
    """Process, Pool and executor, the client as an argument. Children end without atexit before Python 3.13."""
    program = tmp_path / "program.py"
    program.write_text(
        f"""
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
import klime_mp

def work(client, serial):
    assert client.track("e", {{"serial": serial}}, user_id=1)
    return id(client)

if __name__ == "__main__":
    context = multiprocessing.get_context({method!r})
    client = klime_mp.Client(flush_interval=60_000)
    client.track("e", {{"serial": "parent"}}, user_id=1)
    processes = [context.Process(target=work, args=(client, f"process-{{n}}")) for n in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    pool = context.Pool(1, maxtasksperchild=5)
    ids = pool.starmap(work, [(client, f"pool-{{n}}") for n in range(10)], chunksize=1)
    assert len(set(ids)) <= 2, "unpickled many times, a client is one in a process"
    pool.close()
    pool.join()
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        list(executor.map(work, [client] * 6, [f"executor-{{n}}" for n in range(6)]))
"""
    )
    run_program(
        f"import runpy, sys; sys.argv = [{str(program)!r}]; runpy.run_path({str(program)!r}, run_name='__main__')"
        if method == "fork"
        else f"""
import subprocess
assert subprocess.run([sys.executable, {str(program)!r}], check=False).returncode == 0
""",
        collector,
        deadline=60,
        flags=("-W", "ignore::DeprecationWarning"),
    )
    expected = ["parent"] + [f"process-{n}" for n in range(2)]
    expected += [f"pool-{n}" for n in range(10)] + [f"executor-{n}" for n in range(6)]
    assert_each_once(collector, expected)


def test_a_signal_handler_that_tracks_and_leaves_strikes_the_first_event(collector):
    """At any line of it: nobody has seen to the exit of this process yet."""
    run_program(
        """
package = klime_mp.__file__.rpartition("/")[0]

def leave(*_):
    client.track("Tested", {"serial": "handler"}, user_id="user_1")
    sys.exit(0)

signal.signal(signal.SIGTERM, leave)
lines = 0
while True:
    pid = os.fork()
    if pid == 0:
        client = klime_mp.Client()
        left = lines
        def trace(frame, event, _):
            global left
            if not frame.f_code.co_filename.startswith(package):
                return None
            if event == "line":
                left -= 1
                if left == 0:
                    sys.settrace(None)
                    os.kill(os.getpid(), signal.SIGTERM)
            return trace
        sys.settrace(trace)
        client.track("Not counted", user_id="user_1")
        sys.settrace(None)
        os._exit(9 if left > 0 else 8)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status == 9:
        break
    assert status == 0 or lines == 0, (lines, status)
    lines += 23
""",
        collector,
    )
    arrived = [event["properties"]["serial"] for event in collector.events(event="Tested")]
    assert len(arrived) > 8
    assert set(arrived) == {"handler"}


def test_before_send_forks(collector):
    """The event under way is the parent's; the child goes its own way."""
    run_program(
        """
        held, forked, children = threading.Event(), threading.Event(), []

        def hold():
            with client._here()._dispatch._lock:
                held.set()
                forked.wait()

        def before_send(event):
            if event["properties"]["serial"] == "parent" and not children:
                threading.Thread(target=hold).start()
                held.wait()
                children.append(os.fork())
                forked.set()  # the child has no such thread: there the lock is held for ever
            return event

        client = klime_mp.Client(before_send=before_send)
        tracked = client.track("e", {"serial": "parent"}, user_id=1)
        if children == [0]:
            assert tracked is None
            assert client.track("e", {"serial": "child"}, user_id=1)
            sys.exit(0)
        assert tracked and join(children[0]) == 0
        """,
        collector,
    )
    assert_each_once(collector, ["parent", "child"])
