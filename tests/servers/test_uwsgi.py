"""Real uWSGI: the process that loads the application, and what its workers make of what it tracked."""

import json
import logging
import subprocess
import sys
import unittest.mock
from collections import Counter
from signal import SIGTERM

import pytest
from uwsgi_process import Uwsgi

import klime_mp
from klime_mp.integrations import uwsgi as klime_uwsgi
from support.collector import environment

pytest.importorskip("pyuwsgi")

NEVER = 600_000
STOPPED_WITHOUT_MASTER = 30


def facts(server):
    """What the processes said, in order."""
    return [json.loads(line) for line in (server.folder / "facts").read_text().splitlines()]


def fact(server, name):
    """The one thing said of `name`."""
    [value] = [said[name] for said in facts(server) if name in said]
    return value


def assert_all_arrived_once(server, inbox):
    tracked = Counter(serial for _, serial in server.journal())
    arrived = Counter(inbox.serials())
    assert arrived == tracked, f"lost {tracked - arrived}, surplus {arrived - tracked}\n{server.log()}"


def balanced(stats):
    somewhere = stats["delivered"] + stats["rejected"] + stats["failed"] + sum(stats["dropped"].values())
    return stats["tracked"] + stats["adopted"] == somewhere + stats["handed_over"] + stats["pending"]


def loading(folder, inbox, *options):
    return Uwsgi(folder, inbox, *options, application="loading_uwsgi.py", klime={"flush_interval": 100})


def test_the_process_that_loads_keeps_events_for_a_worker(collector, tmp_path):
    with loading(tmp_path, collector, "--master") as server:
        collector.wait_for(9)
        server.stop()
    assert fact(server, "flushed_with_nothing_to_flush") is True
    assert (fact(server, "flushed"), fact(server, "pending")) == (False, 1)
    assert fact(server, "accepted") == 1, "the sync calls work there"
    assert fact(server, "closed") is True
    assert fact(server, "pending_in_closed") == 1
    assert fact(server, "helper_flushed") is True, "a process that Python forks meanwhile has a life of its own"
    assert fact(server, "threads") == ["MainThread"]
    assert fact(server, "tasks") == 1
    assert_all_arrived_once(server, collector)


@pytest.mark.parametrize("master", [True, False], ids=["master", "no_master"])
def test_the_ledgers_of_the_family_balance(master, collector, tmp_path):
    with loading(tmp_path, collector, *(["--master"] if master else [])) as server:
        collector.wait_for(9)
        server.wait_until(
            lambda: server.get("/stats") and len({said["pid"] for said in facts(server) if "stats" in said}) == 2,
            "asked both workers",
        )
        if master:
            server.stop()
        else:
            server.stop_all(SIGTERM, statuses=[STOPPED_WITHOUT_MASTER])
    ledgers = {said["pid"]: said["stats"] for said in facts(server) if "stats" in said}  # the last of each worker
    assert fact(server, "helper_flushed") is True
    for stats in (stats for ledger in ledgers.values() for stats in ledger):
        assert balanced(stats), stats
    adopted, handed_over, held = (
        [sum(ledger[client][place] for ledger in ledgers.values()) for client in range(3)]
        for place in ("adopted", "handed_over", "tracked")
    )
    if master:
        # One event of the first client's, two of the second's, three that the third had room for.
        assert adopted == [1, 2, 3]
        assert handed_over == held == [0, 0, 0]
    else:
        # The loading process is a worker itself: either it kept what it held, or the other one took it.
        assert adopted == handed_over
        assert held == [2, 3, 5]  # with the sync call's, the refused, and the evicted ones
    assert_all_arrived_once(server, collector)


def test_a_hanging_endpoint_does_not_hold_up_the_stop(collector, tmp_path):
    klime = {"flush_interval": NEVER, "shutdown_timeout": 2000}
    with Uwsgi(tmp_path, collector, "--master", klime=klime) as server:
        assert server.load(8) == 8
        collector.faults({"hang": True, "times": None})
        seconds = server.stop()
    assert seconds < 4.5, "uWSGI looks for its workers once a second"


def test_install_outside_uwsgi_says_that_it_has_no_effect(caplog):
    with caplog.at_level(logging.INFO, "klime_mp"):
        klime_uwsgi.install()
    assert ["not a uWSGI process" in record.getMessage() for record in caplog.records] == [True]


def test_a_test_double_of_uwsgi_is_not_taken_for_it(collector, monkeypatch):
    monkeypatch.setitem(sys.modules, "uwsgi", unittest.mock.MagicMock())
    client = klime_mp.Client(collector.write_key, endpoint=collector.endpoint)
    assert client.track("e", user_id=1)
    assert client.flush()


def test_a_module_of_the_programs_that_is_called_uwsgi_is_not_taken_for_it(collector, tmp_path):
    (tmp_path / "uwsgi.py").write_text("")
    source = f"""
import sys
sys.path.insert(0, ".")
import uwsgi, klime_mp
client = klime_mp.Client("any-key", endpoint="{collector.endpoint}")
client.track("e", user_id=1)
assert client.flush()
"""
    subprocess.run([sys.executable, "-c", source], cwd=tmp_path, check=True, timeout=30, env=environment())
