"""Fixtures for every test."""

from __future__ import annotations

import signal

import pytest

from support.collector import Certificate, CollectorProcess, Inbox

# A shell has what it starts with `&` ignore Ctrl-C, and so do that one's children: here are tests of Ctrl-C.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def collector_process():
    """One running collector per xdist worker. Most tests want `collector`."""
    with CollectorProcess() as process:
        yield process


@pytest.fixture
def collector(collector_process):
    """An Inbox of its own for this test, with a fresh write key and no faults."""
    with Inbox(collector_process) as inbox:
        inbox.clear()
        yield inbox
        inbox.clear()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A certificate for 127.0.0.1 and localhost, and the authority to trust."""
    trustme = pytest.importorskip("trustme")
    folder = tmp_path_factory.mktemp("certificate")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    issued.private_key_pem.write_to_path(str(folder / "key.pem"))
    for number, blob in enumerate(issued.cert_chain_pems):
        blob.write_to_path(str(folder / "cert.pem"), append=number > 0)
    return Certificate(str(folder / "cert.pem"), str(folder / "key.pem"), str(folder / "ca.pem"))
