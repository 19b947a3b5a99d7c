"""`aflush` and `ashutdown`: the loop runs on while they wait, also when the waiting is cancelled."""

from __future__ import annotations

import asyncio
import threading

import pytest

from support.clients import Stopwatch, track
from support.ledger import assert_ledger

GRACE = 0.5


class Ticker:
    """Ticks every five milliseconds while the loop is free; `longest` is the longest it was not, in seconds."""

    async def __aenter__(self):
        self.ticks = 0
        self.longest = 0.0
        self._task = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()

    async def _tick(self):
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            await asyncio.sleep(0.005)
            now = loop.time()
            self.ticks += 1
            self.longest, last = max(self.longest, now - last), now


@pytest.mark.parametrize(("method", "place"), [("aflush", "pending"), ("ashutdown", "failed")])
def test_the_loop_runs_while_an_endpoint_hangs(make_client, collector, method, place):
    collector.faults({"hang": True, "times": None})
    client = make_client()

    async def main():
        async with Ticker() as ticker:
            track(client, 0, 1)
            with Stopwatch() as took:
                assert await getattr(client, method)(timeout_ms=2000) is False
        assert 1.99 < took.seconds < 2 + GRACE
        assert ticker.ticks > 20
        assert ticker.longest < 1.5  # three quarters of the time: a busy machine may need a moment

    asyncio.run(main())
    assert_ledger(client, **{place: 2})


@pytest.mark.parametrize("method", ["aflush", "ashutdown"])
def test_delivered(make_client, collector, method):
    client = make_client()

    async def main():
        track(client, 0, 1)
        return await getattr(client, method)()

    assert asyncio.run(main()) is True
    assert collector.serials() == [0, 1]
    assert_ledger(client, delivered=2)
    assert (client.track("Tested", user_id="user_1") is None) == (method == "ashutdown")


def test_cancelling_stops_the_waiting_only(make_client, collector):
    collector.faults({"delay_ms": 2500})
    client = make_client()

    async def main():
        track(client, 0)
        with Stopwatch() as took, pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(client.aflush(), 0.1)
        assert took.seconds < 0.1 + GRACE

    asyncio.run(main())
    assert_ledger(client, pending=1)
    assert client.flush()
    assert_ledger(client, delivered=1)
    assert collector.serials() == [0]


def test_a_cancelled_shutdown_goes_on(make_client, collector, threads):
    collector.faults({"delay_ms": 2500})
    client = make_client()

    async def main():
        track(client, 0)
        task = asyncio.create_task(client.ashutdown())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())  # and the loop may be closed before it is over
    threads.wait_for_none()
    assert_ledger(client, delivered=1)
    assert client.track("Tested", user_id="user_1") is None


def test_many_at_once(make_client, collector):
    collector.faults({"delay_ms": 200})
    client = make_client()

    async def main():
        track(client, *range(10))
        results = await asyncio.gather(*(client.aflush() for _ in range(10)), client.ashutdown(), client.ashutdown())
        assert all(results)

    asyncio.run(main())
    assert_ledger(client, delivered=10)


def test_a_flush_takes_no_thread(make_client, collector):
    """A request in asyncio costs little; a thread each, while the endpoint hangs, would not be little."""
    collector.faults({"hang": True, "times": None})
    client = make_client()

    async def main():
        track(client, 0)
        before = threading.active_count()
        flushes = [asyncio.create_task(client.aflush(500)) for _ in range(300)]
        await asyncio.sleep(0.1)
        assert threading.active_count() <= before + 1, "the sender's, and none for a flush"
        assert not any(await asyncio.gather(*flushes))

    asyncio.run(main())
    client.shutdown(100)


def test_a_bad_timeout(client):
    for method in (client.aflush, client.ashutdown):
        with pytest.raises(ValueError, match="timeout_ms"):
            asyncio.run(method(timeout_ms="soon"))


def test_track_does_not_block_the_loop(make_client, collector):
    collector.faults({"hang": True, "times": None})
    client = make_client(max_batch_size=1, max_queue_size=50)

    async def main():
        async with Ticker() as ticker:
            for serial in range(200):
                client.track("Tested", {"serial": serial}, user_id="user_1")
                await asyncio.sleep(0)
            await asyncio.sleep(0.05)
        assert ticker.longest < 1.5  # the request hangs for ten seconds

    asyncio.run(main())
    assert_ledger(client, pending=50, dropped={"queue_full": 150})
