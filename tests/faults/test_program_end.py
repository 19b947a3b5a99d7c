"""The ways out of a program: what was tracked arrives, whichever way is taken and whoever tracks last."""

from __future__ import annotations

import pytest

from support.script import assert_ended_in_time, run_script
from support.sockets import SilentServer

START = """
say_when_over()
import klime_mp

def track(*serials, client=None):
    for serial in serials:
        assert (client or klime_mp).track("Tested", {"serial": serial}, user_id="user_1")
"""


def run(source, collector, **options):
    return run_script(START + "\n".join(source.splitlines()), collector, **options)


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        ("pass", 0),
        ("sys.exit()", 0),
        ("sys.exit(3)", 3),
        ("raise SystemExit('words')", 1),
        ("raise ZeroDivisionError", 1),
        ("raise KeyboardInterrupt", -2),
        ("import os, signal; os.kill(os.getpid(), signal.SIGINT); time.sleep(10)", -2),
        ("import _thread; _thread.exit()", 0),
        ("import signal; signal.signal(signal.SIGTERM, lambda *_: sys.exit(4)); os.kill(os.getpid(), 15)", 4),
        ("import threading; threading.Timer(0.3, track, [5]).start()", 0),
    ],
)
def test_what_is_pending_at_the_end_is_sent(collector, ending, status):
    run(f"track(*range(5))\n{ending}", collector, status=status)
    assert collector.serials() == [0, 1, 2, 3, 4] + ([5] if "Timer" in ending else [])


def test_unless_it_was_asked_not_to(collector):
    finished = run(
        """
client = klime_mp.Client(flush_on_shutdown=False)
track(0, 1, client=client)
say(main_ended=time.monotonic())
""",
        collector,
    )
    assert collector.summary()["requests"] == 0
    assert finished.ended - finished.facts["main_ended"] < 5


def test_an_explicit_shutdown_sends_all_the_same(collector):
    run("client = klime_mp.Client(flush_on_shutdown=False); track(0, 1, client=client); client.shutdown()", collector)
    assert collector.serials() == [0, 1]


@pytest.mark.parametrize("before_main_ends", ["", "track('main')", "track('main'); klime_mp.flush()"])
def test_events_of_other_peoples_exit_handlers(collector, before_main_ends):
    source = f"""
import atexit

def track(serial):
    klime_mp.track("Tested", {{"serial": serial}}, user_id="user_1")

atexit.register(track, "before import")
import klime_mp
atexit.register(track, "before client")
klime_mp.configure()
atexit.register(track, "after client")
track("first")
atexit.register(track, "after event")
{before_main_ends}
"""
    finished = run_script(source, collector)
    expected = ["before import", "before client", "after client", "first", "after event"]
    assert sorted(collector.serials()) == sorted(expected + (["main"] if before_main_ends else []))
    assert "Traceback" not in finished.stderr


def test_an_event_of_an_exit_handler_alone(collector):
    source = """
import atexit

@atexit.register
def last():
    klime_mp.track("Tested", {"serial": "last"}, user_id="user_1")

import klime_mp
klime_mp.configure()
"""
    run_script(source, collector)
    assert collector.serials() == ["last"]


@pytest.mark.parametrize("registered", ["before import", "before client", "after client", "after event"])
@pytest.mark.parametrize("pending", [False, True])
def test_an_exit_handlers_event_and_an_endpoint_that_hangs(collector, registered, pending):
    source = f"""
import atexit

def track(serial):
    klime_mp.track("Tested", {{"serial": serial}}, user_id="user_1")

def register(moment):
    if moment == {registered!r}:
        atexit.register(track, "last")

say_when_over()
atexit.register(lambda: say_ledger(klime_mp.get_client()))
register("before import")
import klime_mp
register("before client")
klime_mp.configure(shutdown_timeout=600, request_timeout=10_000, retry_initial_delay=5)
register("after client")
if {pending}:
    track("first")
register("after event")
say(main_ended=time.monotonic())
"""
    collector.faults({"hang": True, "times": None})
    finished = run_script(source, collector)
    assert_ended_in_time(finished, 0.6)
    assert finished.facts["stats"]["failed"] == 1 + pending
    assert finished.facts["stats"]["pending"] == 0


@pytest.mark.parametrize("where", ["main", "an exit handler"])
def test_a_client_that_hangs_does_not_starve_another(collector, where):
    collector.faults({"delay_ms": 200})
    with SilentServer() as silent:
        finished = run_script(
            f"""
import atexit
say_when_over()

def track():
    for serial in range(3):
        hanging.track("Tested", {{"serial": serial}}, user_id="user_1")
        healthy.track("Tested", {{"serial": serial}}, user_id="user_1")

atexit.register(lambda: say(stats=[vars(hanging.stats()), vars(healthy.stats())]))
import klime_mp
hanging = klime_mp.Client(endpoint={silent.url!r}, shutdown_timeout=1000)
healthy = klime_mp.Client(shutdown_timeout=1000)
if {where!r} == "main":
    track()
else:
    atexit.register(track)
say(main_ended=time.monotonic())
""",
            collector,
        )
    assert collector.serials() == [0, 1, 2]
    hanging, healthy = finished.facts["stats"]
    assert (hanging["failed"], hanging["pending"]) == (3, 0)
    assert (healthy["delivered"], healthy["pending"]) == (3, 0)
    assert_ended_in_time(finished, 1)


def test_several_clients_that_hang_share_one_deadline(collector):
    with SilentServer() as silent:
        finished = run(
            f"""
clients = [klime_mp.Client(endpoint={silent.url!r}, shutdown_timeout=1000) for _ in range(4)]
for client in clients:
    track(0, client=client)
say(main_ended=time.monotonic())
""",
            collector,
        )
    assert_ended_in_time(finished, 1)


def test_a_client_that_was_collected(collector):
    run(
        """
import gc, weakref
client = klime_mp.Client()
track(0, 1, 2, client=client)
gone = weakref.ref(client)
del client
gc.collect()
assert gone() is None
""",
        collector,
    )
    assert collector.serials() == [0, 1, 2]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_shutdown_in_somebody_elses_exit_handler(collector, when):
    run(
        f"""
import atexit
client = klime_mp.Client()
if {when!r} == "before":
    track(0, client=client)
atexit.register(client.shutdown)
if {when!r} == "after":
    track(0, client=client)
""",
        collector,
    )
    assert collector.serials() == [0]


def test_a_shutdown_in_an_exit_handler_shares_the_deadline(collector):
    collector.faults({"hang": True, "times": None})
    finished = run(
        """
import atexit
client = klime_mp.Client(shutdown_timeout=1000, flush_on_shutdown=False)
other = klime_mp.Client(shutdown_timeout=1000)
atexit.register(client.shutdown)
track(0, client=client)
track(1, client=other)
say(main_ended=time.monotonic())
""",
        collector,
    )
    assert_ended_in_time(finished, 1)


def test_a_callback_that_never_returns_does_not_keep_the_exit(collector):
    finished = run(
        """
client = klime_mp.Client(shutdown_timeout=500, on_success=lambda response: time.sleep(20))
track(0, client=client)
say(main_ended=time.monotonic())
""",
        collector,
    )
    assert collector.serials() == [0]
    assert_ended_in_time(finished, 0.5)


def test_an_exit_in_a_callback_loses_no_event(collector):
    collector.faults({"status": 400})
    run(
        """
import threading
called = threading.Event()

def on_error(error, events):
    called.set()
    raise SystemExit

client = klime_mp.Client(max_batch_size=1, on_error=on_error)
track(0, 1, 2, client=client)
assert called.wait(20)
time.sleep(0.2)
""",
        collector,
    )
    assert collector.serials() == [1, 2]


def test_a_sync_call_in_an_exit_handler(collector):
    run(
        """
import atexit
client = klime_mp.Client()
atexit.register(lambda: client.track_sync("Tested", {"serial": 1}, user_id="user_1"))
track(0, client=client)
""",
        collector,
    )
    assert sorted(collector.serials()) == [0, 1]


def test_the_first_use_of_all_in_an_exit_handler(collector):
    run("import atexit; atexit.register(track, 'late')", collector)
    assert collector.serials() == ["late"]


def test_a_finalizer_that_tracks_while_the_interpreter_is_torn_down(collector):
    """Other threads are frozen by then, and before 3.12 starting one would hang for ever."""
    run(
        """
import gc

class Finalized:
    def __init__(self):
        self.cycle = self

    def __del__(self):
        client.track("Tested", {"serial": "finalizer"}, user_id="user_1")

client = klime_mp.Client()
gc.disable()
Finalized()
gc.set_threshold(10**9)
gc.enable()
track("main", client=client)
""",
        collector,
    )
    assert sorted(collector.serials()) == ["finalizer", "main"]


def test_a_thread_that_outlives_the_main_thread(collector):
    """The exit's deadline is counted from the exit, not from the end of the main thread."""
    run(
        """
import threading
first, second = klime_mp.Client(), klime_mp.Client(shutdown_timeout=300)
main_is_over = threading.Event()

def outlive():
    threading.main_thread().join()
    track(0, client=first)
    first.shutdown()
    time.sleep(0.5)  # longer than the second client's time for its exit
    track(1, client=second)

threading.Thread(target=outlive).start()
""",
        collector,
    )
    assert sorted(collector.serials()) == [0, 1]


@pytest.mark.parametrize("late", ["a thread", "a finalizer"])
def test_a_multiprocessing_child_tracks_after_our_finalizer(collector, tmp_path, late):
    program = tmp_path / "program.py"
    program.write_text(
        f"""
import multiprocessing, multiprocessing.util, threading, time
import klime_mp

def track(serial):
    assert klime_mp.track("Tested", {{"serial": serial}}, user_id="user_1")

def work():
    track("work")
    if {late!r} == "a thread":
        threading.Timer(0.3, track, ["late"]).start()
    else:
        multiprocessing.util.Finalize(None, track, ["late"], exitpriority=-1000)

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=work)
    process.start()
    process.join()
    assert process.exitcode == 0
"""
    )
    run_script(f"import runpy; runpy.run_path({str(program)!r}, run_name='__main__')", collector)
    assert sorted(collector.serials()) == ["late", "work"]


def test_one_that_hangs_does_not_cost_another_its_last_try(collector):
    """The back-offs of all clients are cut when the exit begins, not one after the other."""
    with SilentServer() as silent:
        collector.faults({"status": 503})
        run(
            f"""
hanging = klime_mp.Client(endpoint={silent.url!r}, shutdown_timeout=700)
healthy = klime_mp.Client(shutdown_timeout=700, retry_initial_delay=60_000, max_batch_size=1)
track("healthy", client=healthy)
end = time.monotonic() + 10
while not healthy.stats().requests or time.monotonic() > end:
    time.sleep(0.01)
time.sleep(0.2)
track("hanging", client=hanging)
""",
            collector,
        )
    assert collector.serials() == ["healthy"]


@pytest.mark.parametrize("healthy", [True, False], ids=["healthy", "hanging"])
def test_a_false_alarm_leaves_the_real_end_its_time(collector, healthy):
    """A hook called where it does not belong, or a test's Celery worker: a handler ran, but the process did not end."""
    if not healthy:
        collector.faults({"hang": True}, {"delay_ms": 300})
    run(
        f"""
        from klime_mp.integrations.gunicorn import worker_exit
        client = klime_mp.Client(shutdown_timeout=1000)
        klime_mp.set_client(client)
        track("before")
        worker_exit(None, None)
        assert client.stats().delivered == {healthy}
        time.sleep(1.1)  # longer than the exit has in all
        if not {healthy}:
            klime_mp.restart()  # the time was used up, and this says that it was not the end
        track("after")
        """.replace("\n        ", "\n"),
        collector,
    )
    assert collector.serials() == (["before", "after"] if healthy else ["after"])


def test_a_client_without_a_thread_has_its_time_at_an_exit(collector):
    """Where no thread can be started any more (3.12), and another client's hangs."""
    with SilentServer() as server:
        run_script(
            f"""
            import atexit, klime_mp
            hangs = klime_mp.Client("key", endpoint={server.url!r}, flush_interval=10, shutdown_timeout=1500)
            idle = klime_mp.Client(flush_interval=10, shutdown_timeout=1500)
            for client in hangs, idle:
                client.track("e", {{"serial": 1}}, user_id=1)
            idle.flush()
            while idle._here()._dispatch._shift is not None:
                time.sleep(0.01)
            for serial in 2, 3:
                atexit.register(lambda serial=serial: idle.track("e", {{"serial": serial}}, user_id=1))
            """,
            collector,
        )
    assert sorted(collector.serials()) == [1, 2, 3]


def test_aflush_in_an_exit_handler(collector):
    ended = run_script(
        """
        import asyncio, atexit, klime_mp
        client = klime_mp.Client()

        def bye():
            client.track("e", {"serial": 1}, user_id=1)
            say(flushed=asyncio.run(client.aflush()))

        atexit.register(bye)
        """,
        collector,
    )
    assert ended.facts["flushed"] is True
    assert collector.serials() == [1]
