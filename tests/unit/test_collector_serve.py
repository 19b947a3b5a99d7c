from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from support.collector import CollectorProcess, Inbox, environment, track_event

COLLECTOR = [sys.executable, "-m", "klime_mp.cli", "collector"]


def run(*arguments, timeout=10):
    return subprocess.run(
        [*COLLECTOR, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment(),
        check=False,
    )


@contextlib.contextmanager
def started(*arguments):
    """A collector whose stderr is read: it, and a function that stops it and returns what it wrote there."""
    process = subprocess.Popen(
        [*COLLECTOR, "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    with process:
        try:
            yield process, process.stdout.readline()
        finally:
            process.kill()


def test_ready_line():
    with started() as (process, line):
        assert re.fullmatch(r"klime-mp collector listening on http://127\.0\.0\.1:[0-9]+\n", line)
        process.terminate()
        assert process.communicate(timeout=5) == ("", "")
        assert process.returncode == 0


def test_port_in_use():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("--port", str(port))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert f"127.0.0.1:{port}" in done.stderr
    assert "in use" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stops_at_once_with_requests_hanging(number):
    with CollectorProcess() as process, contextlib.ExitStack() as stack, Inbox(process) as inbox:
        inbox.faults({"hang": True}, {"drip_ms": 60_000}, {"delay_ms": 60_000})
        for _ in range(3):
            stack.enter_context(inbox.open_post([track_event()]))
        idle = stack.enter_context(socket.create_connection(("127.0.0.1", process.port), timeout=5))
        idle.sendall(b"POST /v1/batch HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf a body")
        inbox.wait_for_requests(3)
        signalled = time.monotonic()
        process.signal(number)
        assert process.wait(timeout=5) == 0
        assert time.monotonic() - signalled < 2


def test_stop_returns_the_status():
    process = CollectorProcess()
    assert process.stop() == 0
    assert process.stop() == 0


def test_https(certificate):
    with CollectorProcess(certificate=certificate) as process, Inbox(process) as inbox:
        assert process.url.startswith("https://127.0.0.1:")
        assert inbox.post([track_event(1)]).status_code == 200
        assert inbox.serials() == [1]
        inbox.faults({"drip_ms": 1}, {"half": True}, {"drop": True})
        assert inbox.post([track_event(2)]).json()["accepted"] == 1
        for _ in range(2):
            with pytest.raises(OSError):  # noqa: PT011 - requests' errors are OSErrors; which one is TLS's affair
                inbox.post([track_event(3)])
        assert inbox.serials() == [1, 2]


def test_certificate_that_is_none(tmp_path):
    (tmp_path / "cert.pem").write_text("nonsense")
    for file in ("missing.pem", "cert.pem"):
        done = run("--port", "0", "--cert", str(tmp_path / file), "--key", str(tmp_path / file))
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert file in done.stderr


@pytest.mark.parametrize("host", ["256.0.0.1", "a..b"])
def test_host_that_is_none(host):
    done = run("--host", host, "--port", "0")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def rude_clients(port, key):
    """Requests that end in the middle, and ones that are none."""
    head = f"POST /v1/batch HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
    for sent in (
        f"{head}Content-Length: 100\r\n\r\nhalf a body",
        f"{head}Transfer-Encoding: chunked\r\n\r\n5\r\nhalf",
        f"{head}Transfer-Encoding: chunked\r\n\r\nnot a length\r\n",
        head,
        "PUT /faults HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf",
        "\x16\x03\x01 not HTTP at all\r\n\r\n",
        "",
    ):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(sent.encode())


def test_quiet_whatever_clients_do():
    with started() as (process, line):
        port = int(line.rpartition(":")[2])
        rude_clients(port, "key-rude")
        body = json.dumps({"batch": [track_event()]}).encode()
        for fault in (
            {"drop": True},
            {"half": True},
            {"drip_ms": 20},
            {"hang": True},
            {"huge_body_bytes": 9_000_000},
        ):
            script = json.dumps({"faults": [fault]}).encode()
            for head, sent in (("PUT /faults", script), ("POST /v1/batch", body)):
                with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                    connection.sendall(
                        f"{head} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer key-rude\r\n"
                        f"Content-Length: {len(sent)}\r\n\r\n".encode()
                        + sent
                    )
                    connection.settimeout(0.1)
                    with contextlib.suppress(OSError):
                        connection.recv(10)
        process.terminate()
        assert process.communicate(timeout=5) == ("", "")
        assert process.returncode == 0


def test_verbose_is_a_line_per_request_without_the_key():
    with started("--verbose") as (process, line):
        port = int(line.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(
                b"POST /v1/batch HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer key-secret\r\n"
                b'Content-Length: 12\r\n\r\n{"batch":[]}'
                b"GET /summary?writeKey=key-secret HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            )
            while connection.recv(65536):
                pass
        process.terminate()
        _, errors = process.communicate(timeout=5)
    assert errors.splitlines() == ["POST /v1/batch 200, 0 events, key …cret", "GET /summary 200"]
