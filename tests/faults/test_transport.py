"""The request itself: its headers, proxies, certificates, and the connection it travels on."""

from __future__ import annotations

import http.client
import io
import itertools
import json
import time
from unittest import mock

import pytest
import requests
import urllib3
from urllib3.connectionpool import HTTPConnectionPool

import klime_mp
from klime_mp import _dispatch
from support.clients import track, wait_until
from support.collector import Inbox
from support.ledger import assert_ledger
from support.sockets import Forwarder, Server, closed_port


@pytest.fixture
def forwarder(collector):
    with Forwarder(collector.process.port) as forwarder:
        yield forwarder


def test_the_request(make_client, collector, forwarder):
    client = make_client(endpoint=forwarder.url + "/")
    (message_id,) = track(client, 0)
    assert client.flush()
    head, _, body = bytes(forwarder.received).partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/batch HTTP/1.1\r\n")
    assert forwarder.headers("Authorization") == [f"Bearer {collector.write_key}"]
    assert forwarder.headers("Content-Type") == ["application/json"]
    assert forwarder.headers("User-Agent")[0].startswith(f"klime-mp/{klime_mp.__version__} ")
    assert "Content-Encoding" not in head.decode()  # whether Klime reads gzip is not known
    batch = json.loads(body)
    assert list(batch) == ["batch"]
    assert batch["batch"][0]["messageId"] == message_id


def test_a_request_is_sent_in_one_piece(make_client, collector, monkeypatch):
    sent = []
    send = http.client.HTTPConnection.send
    monkeypatch.setattr(http.client.HTTPConnection, "send", lambda self, data: (sent.append(data), send(self, data)))
    client = make_client()
    for serial in range(3):
        track(client, serial)
        assert client.flush()
    assert len(sent) == 3
    assert all(data.startswith(b"POST ") and data.endswith(b"]}") for data in sent)
    assert collector.serials() == [0, 1, 2]


def test_a_mocked_adapter(make_client, collector):
    """What tools for tests replace in requests."""
    answer = requests.Response()
    answer.status_code = 200
    answer.raw = urllib3.HTTPResponse(io.BytesIO(b'{"status": "mocked"}'), preload_content=False)
    with mock.patch("requests.adapters.HTTPAdapter.send", return_value=answer):
        client = make_client()
        assert client.track_sync("Tested", user_id="user_1").status == "mocked"
    assert collector.events() == []


def test_mocked_by_responses(make_client, collector):
    responses = pytest.importorskip("responses")
    with responses.RequestsMock() as mocked:
        mocked.add(responses.POST, f"{collector.endpoint}/v1/batch", json={"status": "mocked"})
        client = make_client()
        assert client.track_sync("Tested", user_id="user_1").status == "mocked"
        (call,) = mocked.calls
        assert call.request.headers["Authorization"] == f"Bearer {collector.write_key}"
    assert collector.events() == []


def test_a_connection_that_a_recorder_has_put_in_place(make_client, collector, monkeypatch):
    """vcrpy does; also before the first client is built, and it takes it away again."""
    recorded = []

    class Recorder(HTTPConnectionPool.ConnectionCls):
        def request(self, method, url, *args, **kwargs):
            recorded.append((method, url))
            super().request(method, url, *args, **kwargs)

    client = make_client()
    with monkeypatch.context() as patch:
        patch.setattr(HTTPConnectionPool, "ConnectionCls", Recorder)
        track(client, 0)
        assert client.flush()
    assert recorded == [("POST", "/v1/batch")]
    other = make_client()
    track(other, 1)
    assert other.flush()
    assert len(recorded) == 1
    assert collector.serials() == [0, 1]


def test_an_endpoint_with_a_path(make_client, collector, forwarder, seen):
    client = make_client(endpoint=f"{forwarder.url}/deep/er/")
    track(client, 0)
    assert client.flush()
    assert forwarder.received.startswith(b"POST /deep/er/v1/batch HTTP/1.1\r\n")
    assert seen.the_error().status_code == 404


@pytest.mark.parametrize("host", ["machine 127.0.0.1", "default"])
def test_netrc_never_replaces_the_key(make_client, collector, forwarder, monkeypatch, tmp_path, host):
    netrc = tmp_path / "netrc"
    netrc.write_text(f"{host}\nlogin somebody\npassword else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    client = make_client(endpoint=forwarder.url)
    track(client, 0)
    assert client.flush()
    assert client.track_sync("Tested", {"serial": 1}, user_id="user_1").accepted == 1
    assert collector.serials() == [0, 1]
    assert set(forwarder.headers("Authorization")) == {f"Bearer {collector.write_key}"}


# --- proxies


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_proxy_for_http(make_client, collector, forwarder, monkeypatch, variable):
    monkeypatch.setenv(variable, forwarder.url)
    client = make_client(endpoint="http://klime.invalid:8080")
    track(client, 0)
    assert client.flush()
    assert client.track_sync("Tested", {"serial": 1}, user_id="user_1").accepted == 1
    assert collector.serials() == [0, 1]
    assert forwarder.received.startswith(b"POST http://klime.invalid:8080/v1/batch HTTP/1.1\r\n")
    assert_ledger(client, delivered=2, requests=2, retries=0)


@pytest.mark.parametrize("exempt", ["127.0.0.1", "other.invalid,127.0.0.0/8", "*"])
def test_no_proxy(make_client, collector, monkeypatch, exempt):
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setenv("NO_PROXY", exempt)
    client = make_client()
    track(client, 0)
    assert client.flush()
    assert collector.serials() == [0]
    assert_ledger(client, delivered=1, requests=1, retries=0)


def test_a_proxy_that_is_down(make_client, collector, seen, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{closed_port()}")
    client = make_client()
    track(client, 0)
    assert client.flush()
    assert_ledger(client, failed=1, requests=3, retries=2)
    assert "ProxyError" in seen.the_error().message
    assert collector.events() == []


def test_a_proxy_for_https(make_client, tls_collector_process, certificate, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certificate.ca)
    with Inbox(tls_collector_process) as inbox, Forwarder(tls_collector_process.port) as proxy:
        inbox.faults({"status": 503}, {"reject": [0]})
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        client = make_client(endpoint="https://localhost:4433", write_key=inbox.write_key)
        track(client, 0, 1)
        assert client.flush()
        assert inbox.serials() == [1]
        assert_ledger(client, delivered=1, rejected=1, requests=2, retries=1)
        assert proxy.tunnels == ["localhost:4433"]  # one, for all requests
        assert inbox.write_key.encode() not in proxy.received
        client.shutdown()


# --- https


def test_https_with_a_trusted_certificate(make_client, tls_collector_process, certificate, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certificate.ca)
    with Inbox(tls_collector_process) as inbox:
        client = make_client(endpoint=inbox.endpoint, write_key=inbox.write_key)
        track(client, *range(5))
        assert client.flush()
        assert inbox.serials() == [0, 1, 2, 3, 4]
        assert client.track_sync("Tested", {"serial": 5}, user_id="user_1").accepted == 1
        assert_ledger(client, delivered=6, requests=2, retries=0)


@pytest.mark.parametrize("fault", [{"hang": True}, {"drip_ms": 50}], ids="-".join)
def test_https_obeys_deadlines(make_client, tls_collector_process, certificate, monkeypatch, threads, fault):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certificate.ca)
    with Inbox(tls_collector_process) as inbox:
        inbox.faults({**fault, "times": None})
        client = make_client(endpoint=inbox.endpoint, write_key=inbox.write_key)
        with pytest.raises(klime_mp.SendError):
            client.track_sync("Tested", user_id="user_1", timeout_ms=300)
        # The thread that made the request ends with it, too.
        threads.wait_for_none(timeout=2)
        inbox.clear()


def test_https_with_a_certificate_nobody_vouches_for(make_client, tls_collector_process, seen):
    with Inbox(tls_collector_process) as inbox:
        client = make_client(endpoint=inbox.endpoint, write_key=inbox.write_key)
        track(client, 0)
        assert client.flush()
        assert_ledger(client, failed=1, requests=3, retries=2)
        assert "CERTIFICATE_VERIFY_FAILED" in seen.the_error().message
        assert seen.the_error().status_code is None
        assert inbox.summary()["requests"] == 0


# --- the connection


def test_several_batches_use_one_connection(make_client, collector, forwarder, monkeypatch):
    monkeypatch.setattr(_dispatch, "LINGER", 5)
    client = make_client(endpoint=forwarder.url, max_batch_size=2)
    collector.faults({"delay_ms": 0}, {"status": 503}, {"status": 400}, {"reject": [0]})
    track(client, *range(10))
    assert client.flush()
    track(client, *range(10, 14))  # while the thread stays
    assert client.flush()
    assert_ledger(client, delivered=11, rejected=1, failed=2, requests=8, retries=1)
    assert forwarder.connections == 1


def test_an_idle_client_holds_no_connection(make_client, collector, forwarder):
    client = make_client(endpoint=forwarder.url)
    track(client, 0)
    assert client.flush()
    wait_until(lambda: forwarder.open == 0, "the connection is closed", timeout=5)
    track(client, 1)
    assert client.flush()
    assert forwarder.connections == 2
    assert collector.serials() == [0, 1]
    assert client.shutdown()


def test_a_sync_call_leaves_no_connection(make_client, collector, forwarder):
    client = make_client(endpoint=forwarder.url)
    client.track_sync("Tested", user_id="user_1")
    wait_until(lambda: forwarder.open == 0, "the connection is closed", timeout=5)


def test_a_connection_that_was_closed_meanwhile_is_made_anew(make_client, collector, forwarder):
    client = make_client(endpoint=forwarder.url)
    collector.faults({"half": True, "keep": True})
    track(client, 0)
    assert client.flush()
    track(client, 1)
    assert client.flush()
    assert collector.serials() == [0, 1]
    assert_ledger(client, delivered=2, requests=2, retries=0)
    assert forwarder.connections == 2


class Announcing(Server):
    """Announces each answer by another one, and answers late: 200 to the first request, 503 to all others."""

    def serve(self, connection):
        statuses = itertools.chain([b"200 OK"], itertools.repeat(b"503 Service Unavailable"))
        while not self.is_closing() and connection.recv(65536):
            connection.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n")
            time.sleep(0.05)  # at once, it would be read, and thrown away, together with what announces it
            connection.sendall(b"HTTP/1.1 %b\r\nContent-Length: 0\r\n\r\n" % next(statuses))


def test_what_only_announces_an_answer_is_none(make_client, seen):
    """Or each answer would be taken for that of the request before."""
    with Announcing() as server:
        client = make_client(endpoint=server.url, max_batch_size=1, retry_max_attempts=1)
        track(client, 0, 1)
        assert client.flush()
    assert seen.failed() == [1]
    assert_ledger(client, delivered=1, failed=1)
