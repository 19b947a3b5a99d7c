"""Fixtures of the fault tests."""

from __future__ import annotations

import os

import pytest

import klime_mp
from support.clients import FAST, Seen, Threads
from support.collector import CollectorProcess
from support.ledger import assert_balanced
from support.spool import forget_files


@pytest.fixture(autouse=True)
def bare_surroundings(monkeypatch, tmp_path):
    """What a machine's environment may say about networks is said by the test, or not at all."""
    for name in os.environ:
        if name.upper().startswith("KLIME_") or name.upper().endswith(("_PROXY", "_CA_BUNDLE")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


@pytest.fixture
def seen():
    return Seen()


@pytest.fixture
def threads():
    return Threads()


@pytest.fixture
def make_client(collector, seen):
    """Builds clients that send to `collector`, with `seen` for callbacks; their ledgers balance in the end."""
    clients = []

    def make(**options):
        options = {**FAST, "endpoint": collector.endpoint, **seen.callbacks(), **options}
        clients.append(klime_mp.Client(options.pop("write_key", collector.write_key), **options))
        return clients[-1]

    yield make
    collector.faults()
    for client in clients:
        client.shutdown(timeout_ms=300)
        assert_balanced(client.stats())


@pytest.fixture
def client(make_client):
    return make_client()


@pytest.fixture
def spool(tmp_path):
    """A `spool_dir`; what a test leaves open there is forgotten."""
    yield tmp_path / "spool"
    forget_files(tmp_path)


@pytest.fixture
def spooling(spool, make_client):
    """Builds clients with this test's spool, which soon find that the endpoint is down."""

    def make(**options):
        soon = {"retry_initial_delay": 50, "retry_max_attempts": 2}
        return make_client(**{"spool_dir": str(spool), **soon, **options})

    return make


@pytest.fixture(scope="session")
def tls_collector_process(certificate):
    with CollectorProcess(certificate=certificate) as process:
        yield process
