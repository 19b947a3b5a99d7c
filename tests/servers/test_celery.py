"""Celery's signals, limits and failures; the lives of its workers are in `scenarios/celery.py`."""

from __future__ import annotations

import time
from signal import SIGQUIT

import pytest

from support.program import run_program

pytest.importorskip("celery")

from celery_process import CeleryWorker
from scenarios.celery import KLIME, PREFORK

UNDELIVERED = {"KLIME_FLUSH_INTERVAL": "600000"}  # until an end, or a flush
HANG = {"hang": True, "times": None}


@pytest.mark.parametrize("how", ["pass", "install()", "install(); install()"])
@pytest.mark.parametrize("end", ["worker_process_shutdown", "worker_shutdown"])
def test_the_receivers_outlive_a_garbage_collection(end, how, collector):
    # Celery holds receivers weakly by default: a connected function that nobody else holds is gone after this.
    ended = run_program(
        f"""
        import gc
        from celery import signals
        from klime_mp.integrations.celery import install

        {how}
        klime_mp.track("Worked", {{"serial": 1}}, user_id=1)
        gc.collect()
        answers = signals.{end}.send(sender="worker", pid=os.getpid(), exitcode=0)
        say(receivers=len(answers), raised=[repr(answer) for _, answer in answers if answer is not None])
        os._exit(0)
        """,
        collector,
        **UNDELIVERED,
    )
    assert ended.said == [{"receivers": 1, "raised": []}]
    assert collector.serials() == [1]


def test_a_child_that_inherits_the_receivers_has_them_once(collector):
    ended = run_program(
        """
        from celery import signals

        klime_mp.track("Worked", {"serial": "parent"}, user_id=1)
        pid = os.fork()
        if pid == 0:
            klime_mp.track("Worked", {"serial": "child"}, user_id=1)
            say(receivers=len(signals.worker_process_shutdown.send(sender="worker", pid=os.getpid(), exitcode=0)))
            os._exit(0)
        assert join(pid) == 0
        """,
        collector,
        **UNDELIVERED,
    )
    assert ended.said == [{"receivers": 1}]
    assert sorted(collector.serials()) == ["child", "parent"]


def test_what_a_later_receiver_tracks_is_sent_too(collector):
    run_program(
        """
        from celery import signals

        klime_mp.track("Worked", {"serial": "parent"}, user_id=1)
        def count(**_):
            klime_mp.track("Worked", {"serial": "count"}, user_id=1)
        signals.worker_process_shutdown.connect(count)
        pid = os.fork()
        if pid == 0:
            klime_mp.track("Worked", {"serial": "child"}, user_id=1)
            signals.worker_process_shutdown.send(sender="worker", pid=os.getpid(), exitcode=0)
            os._exit(0)
        assert join(pid) == 0
        """,
        collector,
        **UNDELIVERED,
    )
    assert sorted(collector.serials()) == ["child", "count", "parent"]


def test_the_end_of_an_embedded_worker_is_not_the_programs(collector):
    run_program(
        """
        from celery import signals

        klime_mp.track("Worked", user_id=1)
        thread = threading.Thread(target=signals.worker_shutdown.send, args=("worker",))
        thread.start()
        thread.join()
        assert klime_mp.get_client().queue_size() == 1
        klime_mp.shutdown()
        """,
        collector,
        **UNDELIVERED,
    )


def test_a_new_pool_process_starts_afresh(collector):
    run_program(
        """
        from celery import signals
        from klime_mp.integrations.celery import install

        install()
        klime_mp.configure().shutdown()
        assert klime_mp.track("Worked", user_id=1) is None
        signals.worker_process_init.send(sender="worker")
        assert klime_mp.track("Worked", user_id=1) is not None
        """,
        collector,
    )


def test_the_last_install_counts(collector):
    ended = run_program(
        """
        from celery import signals
        from klime_mp.integrations.celery import install

        def receivers():
            return len(signals.task_postrun.send(sender="task"))

        client, other = klime_mp.Client(), klime_mp.Client()
        install(flush_after_task=True, client=other)
        install(flush_after_task=True, client=client)
        for each, serial in (client, "flushed"), (other, "waits"):
            each.track("Worked", {"serial": serial}, user_id=1)
        say(receivers=receivers(), waiting=[client.queue_size(), other.queue_size()])
        install()
        say(receivers=receivers())
        """,
        collector,
        **UNDELIVERED,
    )
    assert ended.said == [{"receivers": 1, "waiting": [0, 1]}, {"receivers": 0}]


def test_a_client_that_hangs_does_not_take_the_time_of_the_others(collector):
    collector.faults(HANG)
    run_program(
        """
        from celery import signals
        from klime_mp.integrations.celery import install

        install(flush_after_task=True, timeout_ms=2000)
        hanging, fine = klime_mp.Client(), klime_mp.Client("another-key")
        for client in hanging, fine:
            client.track("Worked", user_id=1)
        began = time.monotonic()
        signals.task_postrun.send(sender="task")
        assert time.monotonic() - began < 4
        assert (hanging.queue_size(), fine.queue_size()) == (1, 0)
        os._exit(0)
        """,
        collector,
        **UNDELIVERED,
    )


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("timeout_ms=0", "ConfigurationError: timeout_ms must be a positive number of milliseconds, not 0"),
        ("timeout_ms='1'", "ConfigurationError: timeout_ms must be a positive number of milliseconds, not '1'"),
        (
            "timeout_ms=float('nan')",
            "ConfigurationError: timeout_ms must be a positive number of milliseconds, not nan",
        ),
        ("client='me'", "TypeError: client must be a klime_mp.Client or None, not str"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, collector):
    ended = run_program(
        f"""
        from klime_mp.integrations.celery import install
        try:
            install({arguments})
        except Exception as error:
            say(error=f"{{type(error).__name__}}: {{error}}")
        """,
        collector,
    )
    assert ended.said == [{"error": error}]


def test_without_celery(collector):
    ended = run_program(
        """
        sys.modules["celery"] = None  # as if it were not installed
        from klime_mp.integrations.celery import install
        try:
            install()
        except klime_mp.ConfigurationError as error:
            say(error=str(error))
        klime_mp.track("Worked", {"serial": 1}, user_id=1)
        """,
        collector,
        **UNDELIVERED,
    )
    assert "needs Celery (pip install celery)" in ended.said[0]["error"]
    assert collector.serials() == [1]


def test_nothing_of_celery_is_imported_unasked(collector):
    ended = run_program(
        """
        import klime_mp.integrations.celery
        klime_mp.track("Worked", {"serial": 1}, user_id=1)
        say(imported=[name for name in sys.modules if name.partition(".")[0] in {"celery", "billiard", "kombu"}])
        """,
        collector,
        **UNDELIVERED,
    )
    assert ended.said == [{"imported": []}]
    assert collector.serials() == [1]


def test_a_celery_that_we_do_not_know_does_not_break_track(collector):
    run_program(
        """
        import types
        sys.modules["celery.signals"] = types.ModuleType("celery.signals")
        assert klime_mp.track("Worked", {"serial": 1}, user_id=1) is not None
        """,
        collector,
        **UNDELIVERED,
    )
    assert collector.serials() == [1]


@pytest.mark.parametrize("install", [None, {"flush_after_task": True}], ids=["nothing configured", "flush_after_task"])
def test_a_soft_time_limit_inside_a_call_loses_nothing(install, collector, tmp_path):
    # Celery raises it in a signal handler: in the middle of `track`, most of the time.
    with CeleryWorker(tmp_path, collector, *PREFORK, install=install, klime=KLIME) as worker:
        worker.send("limited", "limited")
        worker.wait_for_log("limited: balance ", 2)
        worker.wait_for_log("succeeded in", 2)
        worker.stop()
    log = worker.log()
    nothing = "{'invalid': 0, 'filtered': 0, 'too_large': 0, 'queue_full': 0, 'shutdown': 0, 'disabled': 0}"
    assert log.count(f"limited: balance 0, dropped {nothing}") == 2, log
    # An interrupted call may have tracked its event without living to tell: it arrives, and is not in the journal.
    arrived = collector.serials()
    assert len(set(arrived)) == len(arrived)
    assert not {serial for _, serial in worker.journal()} - set(arrived)
    assert len(arrived) <= len(worker.journal()) + 2


def test_after_a_task_its_events_have_arrived(collector, tmp_path):
    with CeleryWorker(tmp_path, collector, *PREFORK, install={"flush_after_task": True}, klime=KLIME) as worker:
        worker.send("work", "work")
        collector.wait_for(2)
        assert len(collector.events(event="Worked")) == 2  # the parent's own waits for its end
        worker.stop()
    assert len(collector.events(event="Loaded")) == 1


def test_a_hanging_endpoint_does_not_fail_tasks(collector, tmp_path):
    install = {"flush_after_task": True, "timeout_ms": 300}
    klime = {**KLIME, "shutdown_timeout": 1000}
    with CeleryWorker(tmp_path, collector, *PREFORK, install=install, klime=klime) as worker:
        collector.faults(HANG)
        worker.send("work", "work", "work")
        worker.wait_for_log("succeeded in", 3)
        worker.stop()
    log = worker.log()
    assert "Traceback" not in log, log
    assert "raised" not in log, log


def test_a_hanging_endpoint_does_not_hold_up_the_end_of_a_child(collector, tmp_path):
    klime = {**KLIME, "shutdown_timeout": 2000}
    with CeleryWorker(tmp_path, collector, *PREFORK, "--max-tasks-per-child", "1", klime=klime) as worker:
        collector.faults(HANG)
        worker.send("work")
        worker.wait_for_log("succeeded in")
        began = time.monotonic()
        worker.wait_for_log("the shutdown's deadline came first; 1 events are lost")
        assert time.monotonic() - began < 4  # the request hangs for ten, and two deadlines in a row would be four
        worker.stop()


def test_a_hanging_endpoint_does_not_hold_up_the_stop(collector, tmp_path):
    def seconds_to_stop(name, *faults):
        folder = tmp_path / name
        folder.mkdir()
        with CeleryWorker(folder, collector, "--pool", "solo", klime={**KLIME, "shutdown_timeout": 2000}) as worker:
            worker.send("work")
            worker.wait_for_log("succeeded in")
            collector.faults(*faults)
            return worker.stop()

    # Celery takes its time, too: what the endpoint adds is what counts.
    usual = seconds_to_stop("answers")
    assert seconds_to_stop("hangs", HANG) - usual < 4


def test_a_cold_stop_while_the_endpoint_hangs_ends(collector, tmp_path):
    # The sender's thread is still there when billiard's children say goodbye, and must not take the parent's answer.
    klime = {**KLIME, "shutdown_timeout": 1000}
    with CeleryWorker(tmp_path, collector, *PREFORK, klime=klime) as worker:
        worker.send("stuck", "stuck")
        worker.wait_for_log("Task accepted: celery_tasks.stuck", 2)
        worker.wait_for_events(3)
        collector.faults(HANG)
        worker.stop(SIGQUIT)
