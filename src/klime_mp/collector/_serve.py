"""The process: bind, say where, stop on a signal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import ssl
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.http import HttpProcessingError

from klime_mp.collector._app import Collector

if TYPE_CHECKING:
    from collections.abc import Callable

_USAGE_ERROR = 2

# What a client is told to wait for is not waited for when the collector stops.
_STOP_SECONDS = 0.2


@dataclass(frozen=True)
class Options:
    """Where and how to serve.

    Attributes:
        port: 0 means any free one.
        write_keys: The keys that are answered; none means any.
        certificate: Files with a PEM certificate chain and its key, for https; None for http.
        verbose: Whether each request is a line on stderr.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    write_keys: tuple[str, ...] = ()
    certificate: tuple[str, str] | None = None
    verbose: bool = False


def run(options: Options) -> int:
    """Serves until SIGINT or SIGTERM; returns the exit status.

    The first line on stdout says where, once requests are answered there. What keeps it from serving is one
    line on stderr, and status 2.
    """
    try:
        tls = _tls(options.certificate)
    except OSError as error:  # ssl.SSLError is one
        files = " and ".join(options.certificate or ())
        return _cannot(f"read {files}", error)
    try:
        asyncio.run(_serve(options, tls))
    except (OSError, UnicodeError) as error:  # UnicodeError: a host name that cannot be one
        return _cannot(f"listen on {options.host}:{options.port}", error)
    except KeyboardInterrupt:  # where a loop cannot handle signals, and before it does
        return 0
    return 0


async def _serve(options: Options, tls: ssl.SSLContext | None) -> None:
    logging.getLogger("aiohttp.server").addFilter(_is_own_mistake)
    collector = Collector(options.write_keys, _say if options.verbose else _say_nothing)
    runner = web.AppRunner(
        collector.app(),
        access_log=None,
        # A client that hangs up ends its request: a hang or a drip nobody waits for would go on for ever.
        handler_cancellation=True,
        # Compressed bodies are not part of what is known of Klime: who relies on them shall notice it here.
        auto_decompress=False,
        shutdown_timeout=_STOP_SECONDS,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, options.host, options.port, ssl_context=tls).start()
        stopped = _stopped_by_signal()
        host = f"[{options.host}]" if ":" in options.host else options.host
        port = runner.addresses[0][1]
        sys.stdout.write(f"klime-mp collector listening on {'https' if tls else 'http'}://{host}:{port}\n")
        sys.stdout.flush()
        await stopped.wait()
    finally:
        await runner.cleanup()


def _stopped_by_signal() -> asyncio.Event:
    stopped = asyncio.Event()
    stop: Callable[[], None] = stopped.set
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C arrives as KeyboardInterrupt
            asyncio.get_running_loop().add_signal_handler(number, stop)
    return stopped


def _is_own_mistake(record: logging.LogRecord) -> bool:
    """Whether aiohttp has something to tell about the collector, and not about what clients do to it."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, (ConnectionError, HttpProcessingError))


def _tls(certificate: tuple[str, str] | None) -> ssl.SSLContext | None:
    if certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


def _cannot(do_it: str, error: OSError | UnicodeError) -> int:
    reason = error.strerror if isinstance(error, OSError) else None
    _say(f"klime-mp collector: cannot {do_it}: {reason or error}")
    return _USAGE_ERROR


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _say_nothing(_line: str) -> None:
    pass
