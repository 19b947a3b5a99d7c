"""Processes that share a spool's folder: nothing is adopted whose owner lives, everything whose owner has died."""

from __future__ import annotations

import textwrap
from collections import Counter

import pytest

from support.program import run_program
from support.spool import DRAIN, files, folder_of, lines, plant

TRACK = """
def track(client, *serials):
    for serial in serials:
        assert client.track("e", {"serial": serial}, user_id=1)

def spooled(under=os.environ["KLIME_SPOOL_DIR"]):
    return sorted(os.path.join(at, name) for at, _, names in os.walk(under) for name in names)

def opened(under=os.environ["KLIME_SPOOL_DIR"]):
    links = []
    for number in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            pass
    return [link for link in links if link.startswith(under)]

"""
FORKS_WITH_THREADS = ("-W", "ignore:This process:DeprecationWarning")


def run(source, inbox, tmp_path, *, drain=False, **options):
    return run_program(
        TRACK + textwrap.dedent(source) + (DRAIN if drain else ""),
        inbox,
        KLIME_SPOOL_DIR=str(tmp_path),
        flags=FORKS_WITH_THREADS,
        **options,
    )


def assert_each_once(inbox, serials):
    arrived, expected = Counter(inbox.serials()), Counter(serials)
    assert arrived == expected, f"lost {expected - arrived}, duplicated or unknown {arrived - expected}"


def test_os_exit_straight_after_track(collector, tmp_path):
    run(
        """
        client = klime_mp.Client(flush_interval=60_000, max_batch_size=100)
        pids = []
        for n in range(3):
            pids.append(os.fork())
            if not pids[-1]:
                client._here()._spool.adopt = lambda pid=None: 0  # what it took over it would die with in the middle
                track(client, *(f"{n}-{m}" for m in range(50)))
                os._exit(0)
        assert [join(pid) for pid in pids] == [0, 0, 0]
        assert len(spooled()) == 3
        assert opened() == []
        """,
        collector,
        tmp_path,
        drain=True,
    )
    assert_each_once(collector, [f"{n}-{m}" for n in range(3) for m in range(50)])
    assert files(tmp_path) == []


def test_a_worker_that_is_busy_adopts_by_itself(collector, tmp_path):
    run(
        """
        from klime_mp import _sender
        _sender.LOOK_INTERVAL = 0.05
        client = klime_mp.Client(flush_interval=10)
        pids = []
        for n in range(3):
            pid = os.fork()
            if not pid:
                dying = klime_mp.Client(flush_interval=60_000, max_batch_size=100)
                dying._here()._spool.adopt = lambda pid=None: 0  # what it took over it would die with in the middle
                track(dying, *(f"{n}-{m}" for m in range(30)))
                os.kill(os.getpid(), signal.SIGKILL)
            assert join(pid) == -signal.SIGKILL
        def all_are_adopted():
            client.track("e", {"tick": 1}, user_id=1)
            return client.stats().adopted == 90
        wait_for(all_are_adopted, "the adoption of all")
        assert client._flush_adopted()
        assert balanced(client.stats())
        """,
        collector,
        tmp_path,
    )
    assert_each_once(collector, [f"{n}-{m}" for n in range(3) for m in range(30)])
    assert files(tmp_path) == []


def test_killed_between_the_answer_and_the_acknowledgement(collector, tmp_path):
    run(
        """
        pid = os.fork()
        if not pid:
            client = klime_mp.Client(flush_interval=60_000, max_batch_size=10)
            spool, done = client._here()._spool, []
            acknowledge = spool.acknowledge
            def kill_the_second(places):
                done.append(places)
                if len(done) == 2:
                    os.kill(os.getpid(), signal.SIGKILL)
                acknowledge(places)
            spool.acknowledge = kill_the_second
            track(client, *range(35))  # now: the sender begins with the tenth
            client.flush()
            os._exit(0)
        assert join(pid) == -signal.SIGKILL
        """,
        collector,
        tmp_path,
        drain=True,
    )
    arrived = Counter(collector.serials())
    assert sorted(arrived) == list(range(35))
    assert [serial for serial, count in arrived.items() if count > 1] == list(range(10, 20))
    assert max(arrived.values()) == 2
    assert len({event["messageId"] for event in collector.events()}) == 35
    assert files(tmp_path) == []


def test_four_adopters_at_once(collector, tmp_path):
    for mark in range(12):
        plant(folder_of(tmp_path, collector), lines(*(f"{mark}-{n}" for n in range(40))), mark=mark)
    ended = run(
        """
        reader, writer = os.pipe()
        pids = []
        for n in range(4):
            pids.append(os.fork())
            if not pids[-1]:
                os.close(writer)
                client = klime_mp.Client(flush_interval=10)
                os.read(reader, 1)
                while client._adopt():
                    assert client._flush_adopted(20_000)
                stats = client.stats()
                assert balanced(stats)
                assert stats.adopted == stats.delivered
                say(adopted=stats.adopted)
                sys.exit(0)
        os.close(writer)
        assert [join(pid) for pid in pids] == [0] * 4
        """,
        collector,
        tmp_path,
    )
    assert sum(ended.all("adopted")) == 480
    assert_each_once(collector, [f"{mark}-{n}" for mark in range(12) for n in range(40)])
    assert files(tmp_path) == []


def test_ten_clients_forked_fifty_times(collector, tmp_path):
    """Nobody adopts a file whose owner lives, whatever its siblings and children open and close."""
    ended = run(
        """
        clients = [klime_mp.Client(flush_interval=60_000) for _ in range(10)]
        for n, client in enumerate(clients):
            track(client, f"parent-{n}")
        mine = spooled()
        assert len(mine) == 10
        wait_for(lambda: sorted(opened()) == mine, "what is open to be what is there")
        for fork in range(50):
            pid = os.fork()
            if not pid:
                assert opened() == [], "a child has a file of its parent's open"
                client = clients[fork % 10]
                assert client._adopt() == 0, "adopted, though its owner lives"
                if fork % 3:
                    track(client, f"child-{fork}")
                    # (for a moment the sender has others open, to see whether they can be had)
                    wait_for(lambda: [path for path in spooled() if path not in mine] == opened(), "its own file")
                    assert client.flush(10_000)
                else:
                    for other in clients:
                        assert other._adopt() == 0
                assert all(client.stats().adopted == 0 for client in clients)
                sys.exit(0)
            assert join(pid) == 0
            assert clients[fork % 10]._adopt() == 0, "of another client of this process"
            assert sorted(opened()) == spooled() == mine
        for client in clients:
            assert client.flush(10_000)
            assert client.stats().adopted == 0
            assert client.stats().delivered == 1
        """,
        collector,
        tmp_path,
    )
    assert ended.stderr == ""
    expected = [f"parent-{n}" for n in range(10)] + [f"child-{n}" for n in range(50) if n % 3]
    assert_each_once(collector, expected)
    assert files(tmp_path) == []


@pytest.mark.parametrize("how", ["os.fork()", "ctypes.PyDLL(None).fork()"])
def test_a_child_lives_on_when_its_parent_dies(collector, tmp_path, how):
    """It has no part in its parent's files; it may adopt them, once the parent is dead."""
    ended = run(
        f"""
        import ctypes
        over, to_the_end = os.pipe()
        pid = os.fork()
        if not pid:
            client = klime_mp.Client(flush_interval=60_000)
            track(client, *range(19))  # no batch yet
            wait_for(lambda: client._here()._dispatch._asleep, "the sender's sleep")
            time.sleep(0.2)  # with a fork from C: the GIL is free, see test_fork.py
            parent, (reader, writer) = os.getpid(), os.pipe()
            if not {how}:
                os.close(writer)
                assert client.stats().pending == 0
                assert not opened()
                os.read(reader, 1)  # it is dead
                track(client, "child")
                wait_for(lambda: client.stats().adopted, "the sender's look for the dead")
                assert client._flush_adopted(10_000)
                say(adopted=client.stats().adopted)
                assert client.shutdown(10_000)
                os._exit(0)
            os.kill(parent, signal.SIGKILL)
        assert join(pid) == -signal.SIGKILL
        os.close(to_the_end)
        os.read(over, 1)
        assert not spooled()
        """,
        collector,
        tmp_path,
    )
    assert ended.all("adopted") == [19], ended.stderr
    assert_each_once(collector, [*range(19), "child"])


def test_what_one_client_took_over_stays_locked_when_another_is_first_used(collector, tmp_path):
    """In a child that was forked from C: what it closes of its parent's it closes before it opens anything."""
    ended = run(
        """
        import ctypes, fcntl

        def locked(path):
            pid = os.fork()
            if not pid:
                try:
                    fcntl.lockf(os.open(path, os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os._exit(3)
                os._exit(0)
            return join(pid) == 3

        over, to_the_end = os.pipe()
        pid = os.fork()
        if not pid:
            one, other = klime_mp.Client(flush_interval=60_000), klime_mp.Client(flush_interval=60_000)
            track(one, *range(19))
            other.stats()
            wait_for(lambda: one._here()._dispatch._asleep, "the sender's sleep")
            time.sleep(0.2)  # the GIL is free, see test_fork.py
            parent, (reader, writer) = os.getpid(), os.pipe()
            if not ctypes.PyDLL(None).fork():
                os.close(writer)
                os.read(reader, 1)  # it is dead
                assert other._here()._spool.adopt() == 19
                (path,) = spooled()
                say(locked=locked(path))
                one.stats()
                say(locked=locked(path))
                os._exit(0)
            os.kill(parent, signal.SIGKILL)
        assert join(pid) == -signal.SIGKILL
        os.close(to_the_end)
        os.read(over, 1)
        """,
        collector,
        tmp_path,
        drain=True,
    )
    assert ended.all("locked") == [True, True]
    assert_each_once(collector, range(19))


def test_an_exit_waits_for_what_it_took_over_and_is_sending(collector, tmp_path):
    plant(folder_of(tmp_path, collector), lines(*range(60)))
    collector.faults({"delay_ms": 300, "times": None})
    run(
        """
        import urllib.request

        def arrived():
            summary = f"{os.environ['KLIME_ENDPOINT']}/summary?writeKey={os.environ['KLIME_WRITE_KEY']}"
            with urllib.request.urlopen(summary) as answer:
                return json.load(answer)["requests"]

        client = klime_mp.Client(max_batch_size=20)
        assert client._adopt() == 60
        wait_for(arrived, "the first batch")
        """,
        collector,
        tmp_path,
    )
    collector.faults()
    run("", collector, tmp_path, drain=True)
    assert_each_once(collector, range(60))
    assert files(tmp_path) == []


@pytest.mark.parametrize("first", ["parent", "child"])
def test_a_relative_folder_is_the_same_for_a_child_that_is_elsewhere(collector, tmp_path, first):
    run(
        f"""
        os.chdir(os.environ["KLIME_SPOOL_DIR"])
        os.mkdir("elsewhere")
        client = klime_mp.Client(spool_dir="spool", flush_interval=60_000)
        if {first!r} == "parent":
            track(client, "parent")
        pid = os.fork()
        if not pid:
            os.chdir("elsewhere")
            client._here()._spool.adopt = lambda pid=None: 0  # what it took over it would die with in the middle
            track(client, "child")
            os._exit(0)
        assert join(pid) == 0
        client._here()._spool.adopt = lambda pid=None: 0  # as above
        track(client, "parent, later")
        assert len(spooled(os.path.abspath("spool"))) == len(spooled()) == 2
        os._exit(0)
        """,
        collector,
        tmp_path,
    )
    run("", collector, tmp_path / "spool", drain=True)
    assert_each_once(collector, ["parent"] * (first == "parent") + ["child", "parent, later"])


def test_a_program_that_closes_what_it_has_open(collector, tmp_path):
    """As daemons do. The numbers are its own files' then."""
    run(
        """
        import pathlib
        client = klime_mp.Client(flush_interval=60_000)
        track(client, 1)
        number = client._here()._spool._current._file.number
        wait_for(lambda: client._here()._dispatch._asleep, "the sleep of the sender, who looks after its file")
        os.closerange(3, 256)
        paths = [pathlib.Path(os.environ["KLIME_SPOOL_DIR"], f"own-{n}") for n in range(30)]
        own = [os.open(path, os.O_RDWR | os.O_CREAT) for path in paths]
        assert number in own
        track(client, 2, 3)
        assert client.flush(10_000)
        track(client, 4)
        assert client.shutdown()
        assert balanced(client.stats()) and client.stats().delivered == 4
        assert [path.stat().st_size for path in paths] == [0] * 30
        assert [os.fstat(each).st_ino for each in own] == [path.stat().st_ino for path in paths]
        """,
        collector,
        tmp_path,
    )
    assert_each_once(collector, [1, 2, 3, 4])


def test_forks_while_threads_track(collector, tmp_path):
    ended = run(
        """
        client = klime_mp.Client(flush_interval=10)
        stop, tracked = threading.Event(), []
        def keep_tracking():
            while not stop.is_set():
                track(client, f"parent-{len(tracked)}")
                tracked.append(f"parent-{len(tracked)}")
                time.sleep(0.0005)
        thread = threading.Thread(target=keep_tracking)
        thread.start()
        for fork in range(60):
            pid = os.fork()
            if not pid:
                track(client, f"child-{fork}")
                assert client.flush(10_000)
                sys.exit(0)
            assert join(pid) == 0
        stop.set()
        thread.join()
        assert client.flush(10_000)
        say(tracked=tracked)
        """,
        collector,
        tmp_path,
    )
    assert_each_once(collector, ended.all("tracked") + [f"child-{n}" for n in range(60)])
    assert files(tmp_path) == []


@pytest.mark.parametrize("leave", ["sys.exit(0)", "client.flush(); sys.exit(0)", "client.shutdown(); os._exit(0)"])
def test_a_clean_run_leaves_nothing(collector, tmp_path, leave):
    """Nor does the sender's thread, which may linger."""
    run(
        f"""
        client, other = klime_mp.Client(flush_interval=100), klime_mp.Client(flush_interval=60_000)
        assert not spooled() and os_threads() == 1
        pids = []
        for n in range(4):
            pids.append(os.fork())
            if not pids[-1]:
                track(client, *(f"{{n}}-{{m}}" for m in range(100)))
                if n % 2 and "_exit" not in {leave!r}:
                    track(other, f"{{n}}-other")
                {leave}
        assert [join(pid) for pid in pids] == [0] * 4
        assert spooled() == []
        """,
        collector,
        tmp_path,
    )
    expected = [f"{n}-{m}" for n in range(4) for m in range(100)]
    assert_each_once(collector, expected + ([] if "_exit" in leave else ["1-other", "3-other"]))


def test_on_drop_forks(collector, tmp_path):
    """In the middle of a call whose event is to be written: it is the parent's, and the child goes its own way."""
    ended = run_program(
        """
        held, forked, children = threading.Event(), threading.Event(), []

        def hold():
            with client._here()._dispatch._lock:
                held.set()
                forked.wait()

        def on_drop(event, reason):
            if not children:
                threading.Thread(target=hold).start()
                held.wait()
                children.append(os.fork())
                forked.set()  # the child has no such thread: there the lock is held for ever

        client = klime_mp.Client(spool_max_bytes=8000, max_queue_size=2, flush_interval=60_000, on_drop=on_drop)
        serial = 0
        while not children:
            serial += 1
            tracked = client.track("e", {"serial": serial}, user_id=1)
        if children == [0]:
            assert tracked is None
            assert client.track("e", {"serial": "child"}, user_id=1)
            sys.exit(0)
        assert tracked and join(children[0]) == 0
        say(serial=serial)
        """,
        collector,
        KLIME_SPOOL_DIR=str(tmp_path),
    )
    arrived = collector.serials()
    assert len(arrived) == len(set(arrived))
    assert {"child", *ended.all("serial")} <= set(arrived)


def test_nothing_is_sent_at_an_exit_that_shall_not(collector, tmp_path):
    run(
        """
        pid = os.fork()
        if not pid:
            track(klime_mp.Client(flush_interval=60_000, max_batch_size=100, flush_on_shutdown=False), *range(30))
            sys.exit(0)
        assert join(pid) == 0
        assert len(spooled()) == 1
        say(left=1)
        """,
        collector,
        tmp_path,
    )
    assert collector.summary()["requests"] == 0
    run("", collector, tmp_path, drain=True)
    assert_each_once(collector, list(range(30)))
    assert files(tmp_path) == []


def test_real_signals_at_random_moments(collector, tmp_path):
    """SystemExit in the middle of track and flush: what has a messageId arrives, if need be by a later process."""
    ended = run(
        """
        def handler(_signum, _frame):
            raise SystemExit

        pid = os.fork()
        if not pid:
            client = klime_mp.Client(max_queue_size=50, flush_interval=10)
            accepted = []
            signal.signal(signal.SIGALRM, handler)
            for n in range(300):
                try:
                    signal.setitimer(signal.ITIMER_REAL, 1e-5 + (n % 50) * 2e-5)
                    for m in range(200):
                        if client.track("e", {"serial": f"{n}-{m}"}, user_id=1):
                            accepted.append(f"{n}-{m}")
                    client.flush(50)
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except SystemExit:
                    pass
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            assert client.track("e", {"serial": "after"}, user_id=1), "a lock is held"
            assert client.flush(20_000), "a lock is held, or the sender is gone"
            stats = client.stats()
            assert balanced(stats), stats
            say(accepted=accepted, failed=stats.failed, dropped=stats.dropped["queue_full"], pending=stats.pending)
            os._exit(0)
        assert join(pid) == 0
        """,
        collector,
        tmp_path,
        drain=True,
    )
    arrived = set(collector.serials())
    assert not set(ended.all("accepted")) - arrived, "an event whose messageId was returned is lost"
    assert "after" in arrived
    assert (ended.all("failed"), ended.all("dropped"), ended.all("pending")) == ([0], [0], [0])
    assert files(tmp_path) == []


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing_children(collector, tmp_path, method):
    program = tmp_path / "program.py"
    program.write_text(
        f"""
import multiprocessing
import klime_mp

def work(client, serial):
    assert client.track("e", {{"serial": serial}}, user_id=1)

if __name__ == "__main__":
    context = multiprocessing.get_context({method!r})
    client = klime_mp.Client(flush_interval=60_000)
    work(client, "parent")
    processes = [context.Process(target=work, args=(client, n)) for n in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
"""
    )
    spool = tmp_path / "spool"
    run(
        f"import runpy; sys.argv[0] = {str(program)!r}; runpy.run_path(sys.argv[0], run_name='__main__')"
        if method == "fork"
        else f"import subprocess; subprocess.run([sys.executable, {str(program)!r}], check=True)",
        collector,
        spool,
    )
    assert_each_once(collector, ["parent", 0, 1, 2])
    assert files(spool) == []
