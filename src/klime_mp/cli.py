"""The command line: `klime-mp`, or `python -m klime_mp.cli`.

A command is a function that adds its parser and a function that runs it and returns the exit status; what a
command needs is imported when it runs.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from typing import TYPE_CHECKING

from klime_mp._version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - it has no public name

_USAGE_ERROR = 2
_MAX_PORT = 65535


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0 is well, 1 is not, 2 is wrong usage or a missing requirement.

    Args:
        argv: The arguments, without the program's name; None means those of the process.

    Raises:
        SystemExit: From argparse, for `--help`, `--version` and arguments it cannot read.
    """
    parser = argparse.ArgumentParser(
        prog="klime-mp", description="Klime customer analytics for Python programs that fork."
    )
    parser.add_argument("--version", action="version", version=f"klime-mp {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in _COMMANDS:
        add(commands)
    arguments = parser.parse_args(argv)
    run: Callable[[argparse.Namespace], int] = arguments.run
    return run(arguments)


def _add_collector(commands: Subparsers) -> None:
    parser = commands.add_parser(
        "collector",
        help="run a local Klime endpoint to develop and test against",
        description="Runs a local Klime endpoint. It keeps what it receives in memory; GET /events shows it.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", default=8765, type=_port, help="0 takes a free one (default: %(default)s)")
    parser.add_argument(
        "--write-key",
        dest="write_keys",
        metavar="KEY",
        action="extend",
        nargs="+",
        default=[],
        help="answer these write keys only (default: any)",
    )
    parser.add_argument("--cert", metavar="FILE", help="certificate chain (PEM) to serve https with")
    parser.add_argument("--key", metavar="FILE", help="private key (PEM) of the certificate")
    parser.add_argument("--verbose", action="store_true", help="a line on stderr for each request")
    parser.set_defaults(run=_collector, usage_error=parser.error)


def _collector(arguments: argparse.Namespace) -> int:
    if (arguments.cert is None) != (arguments.key is None):
        arguments.usage_error("--cert and --key go together")
    try:
        from klime_mp.collector._serve import Options, run  # noqa: PLC0415 - needs the extra's aiohttp
    except ModuleNotFoundError as error:
        if error.name != "aiohttp":
            raise
        sys.stderr.write("klime-mp collector needs aiohttp: pip install 'klime-mp[collector]'\n")
        return _USAGE_ERROR
    return run(
        Options(
            host=arguments.host,
            port=arguments.port,
            write_keys=tuple(arguments.write_keys),
            certificate=(arguments.cert, arguments.key) if arguments.cert is not None else None,
            verbose=arguments.verbose,
        )
    )


def _add_drain(commands: Subparsers) -> None:
    parser = commands.add_parser(
        "drain",
        help="deliver what ended processes left in the spool",
        description="Delivers the events in the spool whose processes have ended, and exits with 0 when its folder is "
        "empty then; with 1 when it is not: the endpoint is down (nothing is lost), or files belong to processes that "
        "are alive.",
    )
    _add_spool_dir(parser)
    parser.add_argument("--write-key", metavar="KEY", help="whose events (default, and better: KLIME_WRITE_KEY)")
    parser.add_argument("--endpoint", metavar="URL", help="where to (default: KLIME_ENDPOINT, or Klime)")
    parser.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="stop after so long (default: no limit)")
    parser.set_defaults(run=_drain, usage_error=parser.error)


def _drain(arguments: argparse.Namespace) -> int:
    from klime_mp import _spool_commands  # noqa: PLC0415 - loads requests

    return _spool_commands.drain(arguments.spool_dir, arguments.write_key, arguments.endpoint, arguments.timeout)


def _add_spool(commands: Subparsers) -> None:
    parser = commands.add_parser(
        "spool",
        help="show the files of the spool: owners, events, age",
        description="Shows the files of the spool, a folder for each write key and endpoint: the process that made a "
        "file, whether its owner is alive, the events without an outcome. Changes nothing.",
    )
    _add_spool_dir(parser)
    parser.set_defaults(run=_spool, usage_error=parser.error)


def _spool(arguments: argparse.Namespace) -> int:
    base: str = arguments.spool_dir or os.environ.get("KLIME_SPOOL_DIR", "")
    if not base:
        arguments.usage_error("say where the spool is: --spool-dir, or KLIME_SPOOL_DIR")
    from klime_mp import _spool_commands  # noqa: PLC0415 - as above

    return _spool_commands.show(base)


def _add_spool_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--spool-dir", metavar="DIR", help="the client's spool_dir (default: KLIME_SPOOL_DIR)")


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds above 0")
    return seconds


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= _MAX_PORT:
        raise argparse.ArgumentTypeError(f"{text} is not a port")
    return port


_COMMANDS = (_add_collector, _add_drain, _add_spool)

if __name__ == "__main__":
    sys.exit(main())
