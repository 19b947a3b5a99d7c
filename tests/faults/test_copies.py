"""One client, however often it is copied or unpickled, in each process."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import pickle
import threading

import pytest

import klime_mp
from support.clients import FAST, track
from support.ledger import assert_ledger
from support.script import run_script


def on_error(error, events):
    """A callback that can be pickled."""


@pytest.fixture
def picklable(make_client):
    return make_client(on_error=on_error, on_success=None, on_drop=None)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda client: copy.deepcopy([client])[0]])
def test_a_copy_is_the_client_itself(client, copied):
    assert copied(client) is client


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_unpickled_where_it_lives(picklable, protocol):
    pickled = pickle.dumps(picklable, protocol)
    assert pickle.loads(pickled) is picklable
    assert pickle.loads(pickled) is picklable


def test_unpickled_where_it_has_gone(collector):
    client = klime_mp.Client(collector.write_key, endpoint=collector.endpoint, **FAST, max_batch_size=7)
    pickled = pickle.dumps([client, client])
    key = collector.write_key
    del client
    gc.collect()
    first, second = pickle.loads(pickled)
    assert first is second
    assert pickle.loads(pickled)[0] is first
    assert first._config.max_batch_size == 7
    assert key not in repr(first)
    track(first, 0)
    del first, second
    gc.collect()
    revived = pickle.loads(pickled)[0]  # it outlives the task whose argument it was
    assert_ledger(revived, pending=1)
    assert revived.shutdown()
    assert collector.serials() == [0]


def test_unpickled_by_many_threads(collector):
    client = klime_mp.Client(collector.write_key, endpoint=collector.endpoint, **FAST)
    pickled = pickle.dumps(client)
    del client
    gc.collect()
    barrier = threading.Barrier(8)
    revived = []

    def work(serial):
        barrier.wait(10)
        client = pickle.loads(pickled)
        track(client, serial)
        revived.append(client)

    workers = [threading.Thread(target=work, args=(serial,)) for serial in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(10)
    assert len(revived) == 8
    (client,) = {id(client): client for client in revived}.values()
    assert client.shutdown()
    assert sorted(collector.serials()) == list(range(8))


@pytest.mark.parametrize("option", ["on_error", "on_success", "on_drop", "before_send"])
def test_a_callback_that_cannot_be_pickled(make_client, option):
    options = {"on_error": None, "on_success": None, "on_drop": None, option: lambda *_: None}
    client = make_client(**options)
    with pytest.raises(pickle.PicklingError, match=option):
        pickle.dumps(client)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_in_a_child_that_is_no_fork(collector, tmp_path, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    program = tmp_path / "program.py"
    program.write_text(
        f"""
import multiprocessing
import os

import klime_mp


def work(client, serial):
    global kept
    assert client is globals().setdefault("kept", client)
    client.track("Tested", {{"serial": serial}}, user_id="user_1")
    return os.getpid()


if __name__ == "__main__":
    client = klime_mp.Client(flush_interval=60_000)
    client.track("Tested", {{"serial": "parent"}}, user_id="user_1")
    context = multiprocessing.get_context({method!r})
    process = context.Process(target=work, args=(client, "child"))
    process.start()
    process.join(20)
    assert process.exitcode == 0, process.exitcode
    pool = context.Pool(2)
    pids = pool.starmap(work, [(client, serial) for serial in range(10)], chunksize=1)
    assert os.getpid() not in pids
    pool.close()
    pool.join()
"""
    )
    run_script(f"import runpy; runpy.run_path({str(program)!r}, run_name='__main__')", collector)
    assert sorted(map(str, collector.serials())) == sorted([*map(str, range(10)), "child", "parent"])
