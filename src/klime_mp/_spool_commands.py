"""`klime-mp spool` and `klime-mp drain`: a look at the spool, and its delivery by hand.

To look, a file is opened for reading, and its lock is had for a moment. Closing it would give up a lock that this very
process has on it, so nothing is looked at while the client of `drain` has files.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import logging
import os
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from klime_mp._client import Client
from klime_mp._config import Config
from klime_mp._segment import NAME, Segment
from klime_mp._spool_folder import check_folder, folder_of, names
from klime_mp.exceptions import ConfigurationError

if TYPE_CHECKING:
    from klime_mp._response import BatchResponse

_USAGE_ERROR = 2
_INTERRUPTED = 130
_LINE_INTERVAL = 5.0  # seconds between two lines of progress
_FOLDER_NAME_LENGTH = 16
_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


@dataclass(frozen=True)
class File:
    """A file of the spool, as it was a moment ago."""

    pid: int
    alive: bool | None  # its owner; None where that cannot be told
    ours: bool  # may this user's processes take it over?
    events: int  # that have no outcome
    size: int  # bytes
    oldest: float | None  # when the oldest of these events happened, seconds since the epoch

    @property
    def owner(self) -> str:
        """In a word."""
        return {True: "alive", False: "dead", None: "unknown"}[self.alive]


# --- klime-mp spool


def show(base: str) -> int:
    """Print what is in each folder of the spool; the exit status."""
    try:
        folders = _folders(base)
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            sys.stderr.write(f"klime-mp spool: {error}\n")
            return 1
        folders = []
    every: list[File] = []
    status = 0
    for folder in folders:
        _print(folder)
        try:
            check_folder(folder)
        except OSError as error:
            sys.stderr.write(f"klime-mp spool: {error}\n")
            status = 1
            continue
        files = look(folder)
        every += files
        for line in _table(files):
            _print(line)
    _print(f"total: {_sum(every)}")
    return status


def look(folder: str) -> list[File]:
    """Every file of the spool in a folder, oldest first. Changes nothing, waits for nothing."""
    files = (_look_at(os.path.join(folder, name), name) for name in names(folder))  # noqa: PTH118 # as in _spool
    return [file for file in files if file is not None]


def _folders(base: str) -> list[str]:
    """The folders of a spool, one for each key and endpoint. Raises OSError."""
    with os.scandir(base) as entries:
        return sorted(entry.path for entry in entries if _is_folder(entry))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    named = len(entry.name) == _FOLDER_NAME_LENGTH and not set(entry.name) - set("0123456789abcdef")
    return named and entry.is_dir(follow_symlinks=False)


def _look_at(path: str, name: str) -> File | None:
    """None: it has just gone, or is no file of a spool."""
    pid = int(name.partition("-")[0])
    try:
        found = os.lstat(path)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or not NAME.fullmatch(name):
            return None
        ours = found.st_uid == os.geteuid() if hasattr(os, "geteuid") else True
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0))
    except FileNotFoundError:
        return None
    except OSError:  # another user's
        return File(pid, alive=None, ours=False, events=0, size=found.st_size, oldest=None)
    segment = Segment(path, number)
    try:
        alive = _is_locked(number)
        segment.count_unfinished()
        oldest = _when(segment.oldest()) or found.st_mtime
        return File(pid, alive, ours, segment.issued, segment.size, oldest if segment.issued else None)
    except OSError:
        return File(pid, alive=None, ours=ours, events=0, size=found.st_size, oldest=None)
    finally:
        segment.forget()


def _is_locked(number: int) -> bool | None:
    """Does another process have the file locked? None where there are no locks."""
    try:
        import fcntl  # noqa: PLC0415 # not on Windows

        # A shared lock, as the file is open for reading only. Nobody waits for it: who is refused tries again later.
        fcntl.lockf(number, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.lockf(number, fcntl.LOCK_UN)
    except BlockingIOError:
        return True
    except (ImportError, OSError):
        return None
    return False


def _when(body: bytes) -> float | None:
    """When an event happened, if it says so."""
    try:
        timestamp = json.loads(body)["timestamp"]
        return dt.datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp()
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None


def _table(files: list[File]) -> Iterator[str]:
    if files:
        yield f"  {'pid':>8}  {'owner':<7}  {'events':>9}  {'bytes':>12}  oldest"
    for file in files:
        events = "?" if file.alive is None else f"{file.events:,}"
        yield f"  {file.pid:>8}  {file.owner:<7}  {events:>9}  {file.size:>12,}  {_age(file.oldest)}"
    yield f"  {_sum(files)}"


def _sum(files: list[File]) -> str:
    oldest = min((file.oldest for file in files if file.oldest is not None), default=None)
    events, size = sum(file.events for file in files), sum(file.size for file in files)
    text = f"{_count(len(files), 'file')}, {_count(events, 'event')}, {_count(size, 'byte')}"
    return text if oldest is None else f"{text}, oldest {_age(oldest)}"


def _age(since: float | None) -> str:
    if since is None:
        return "-"
    seconds = max(0, int(time.time() - since))
    unit, length = next((each for each in _UNITS if seconds >= each[1]), _UNITS[-1])
    return f"{seconds // length} {unit}"


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


# --- klime-mp drain


def drain(base: str | None, write_key: str | None, endpoint: str | None, timeout: float | None) -> int:
    """Deliver what processes left that have died; the exit status: 0 when the folder is empty, 1 when it is not.

    Args:
        base: `spool_dir`; None: `$KLIME_SPOOL_DIR`.
        write_key: whose events; None: `$KLIME_WRITE_KEY`.
        endpoint: where to; None: `$KLIME_ENDPOINT`, or Klime.
        timeout: seconds for all of it; None: as long as it goes on well.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    options = {"write_key": write_key, "endpoint": endpoint, "spool_dir": base, "enabled": True}
    try:
        config = Config.resolve(options)
    except ConfigurationError as error:
        sys.stderr.write(f"klime-mp drain: {error}\n")
        return _USAGE_ERROR
    if config.spool_dir is None:
        sys.stderr.write("klime-mp drain: say where the spool is: --spool-dir, or KLIME_SPOOL_DIR\n")
        return _USAGE_ERROR
    folder = folder_of(config.spool_dir, config)
    try:
        return _Drain(config, folder, deadline).run()
    except OSError as error:
        sys.stderr.write(f"klime-mp drain: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("klime-mp drain: interrupted; what was not delivered is still in the spool\n")
        return _INTERRUPTED


class _Drain:
    """One run of the command: rounds of taking over, delivering and looking at what is left."""

    def __init__(self, config: Config, folder: str, deadline: float | None) -> None:
        self._config = config
        self._folder = folder
        self._deadline = deadline
        self._said = _Said()
        self._progress: _Progress = _Lines()
        self._delivered = self._rejected = self._failed = 0

    def run(self) -> int:
        """Until nothing is left that could be delivered now. Raises OSError when the folder cannot be looked into."""
        self._check_folder()
        left = look(self._folder)
        with _progress(sum(file.events for file in left if _is_left_behind(file))) as self._progress:
            went_well = True
            while went_well and not self._out_of_time() and any(map(_is_left_behind, left)):
                before = self._delivered + self._rejected + self._failed, len(left)
                went_well = self._round()
                left = look(self._folder)
                if before == (self._delivered + self._rejected + self._failed, len(left)):
                    break
        return self._report(left, went_well=went_well)

    def _check_folder(self) -> None:
        """Raises OSError, unless it is not there at all."""
        try:
            check_folder(self._folder)
        except FileNotFoundError:
            return
        with os.scandir(self._folder):
            pass

    def _round(self) -> bool:
        """Take over one file after the other, and deliver it. False when a try failed, or time was up."""
        client = self._client()
        try:
            while client._adopt() or client.queue_size():  # noqa: SLF001 # our own class
                if not client._flush_adopted(self._milliseconds_left()):  # noqa: SLF001 # our own class
                    return False
            return True
        finally:
            left = self._milliseconds_left()
            client.shutdown(None if left is None else min(left, self._config.shutdown_timeout))

    def _client(self) -> Client:
        # The process's own exit is to add nothing: each round ends with a shutdown.
        return Client(
            self._config.write_key,
            endpoint=self._config.endpoint,
            spool_dir=self._config.spool_dir,
            enabled=True,
            flush_on_shutdown=False,
            logger=self._said.logger,
            on_success=self._on_success,
            on_error=lambda _error, events: self._on_error(len(events)),
        )

    def _on_success(self, response: BatchResponse) -> None:
        self._delivered += response.accepted
        self._rejected += response.failed
        # Those that were rejected are told to `on_error` as well, right after.
        self._failed -= response.failed
        self._progress.advance(response.accepted)

    def _on_error(self, count: int) -> None:
        self._failed += count
        self._progress.advance(count)

    def _milliseconds_left(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic()) * 1000

    def _out_of_time(self) -> bool:
        return self._milliseconds_left() == 0

    def _report(self, left: list[File], *, went_well: bool) -> int:
        lost = f", {self._rejected:,} rejected by Klime" if self._rejected else ""
        lost += f", {self._failed:,} given up" if self._failed else ""
        _print(f"{_count(self._delivered, 'event')} delivered{lost}")
        dead, living = [file for file in left if _is_left_behind(file)], [file for file in left if file.alive]
        foreign = [file for file in left if file not in dead and file not in living]
        if dead:
            because = "time was up" if went_well or self._out_of_time() else "the endpoint did not take them"
            _print(f"{because}: {_sum(dead)} still in the spool, nothing is lost")
        if living:
            _print(f"{_count(len(living), 'file')} of processes that are alive, which deliver them")
        if foreign:
            _print(f"{_count(len(foreign), 'file')} of other users, or that cannot be read")
        for line in self._said.lines:
            sys.stderr.write(f"klime-mp drain: {line}\n")
        return 1 if left or self._failed else 0


def _is_left_behind(file: File) -> bool:
    return file.ours and file.alive is False


class _Said(logging.Handler):
    """What the client logs, to be shown when the progress bar is out of the way."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.logger = logging.Logger("klime_mp.drain", logging.INFO)  # noqa: LOG001 # nobody else's
        self.logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.lines.append(record.getMessage())


# --- progress


class _Progress(Protocol):
    def advance(self, count: int) -> None:
        """So many more events have their outcome."""


class _Lines:
    """A line now and then."""

    def __init__(self, total: int = 0) -> None:
        self._total = total
        self._done = 0
        self._said_at = time.monotonic()

    def advance(self, count: int) -> None:
        """See `_Progress`."""
        self._done += count
        if time.monotonic() - self._said_at >= _LINE_INTERVAL:
            self._said_at = time.monotonic()
            _print(f"{self._done:,} of {_count(self._total, 'event')}")


@contextlib.contextmanager
def _progress(total: int) -> Iterator[_Progress]:
    """A bar where there is a terminal, and rich to draw it."""
    try:
        if not sys.stdout.isatty() or not total:
            raise ImportError
        from rich import progress  # noqa: PLC0415 # optional
    except ImportError:
        yield _Lines(total)
        return
    columns = (progress.BarColumn(), progress.MofNCompleteColumn(), progress.TimeRemainingColumn())
    with progress.Progress("events", *columns) as bar:
        task = bar.add_task("events", total=total)

        class _Bar:
            def advance(self, count: int) -> None:
                bar.advance(task, count)

        yield _Bar()


def _print(line: str) -> None:
    # At once, also into a pipe: a cron job's mail shall have it in order with what goes to stderr.
    print(line, flush=True)  # noqa: T201 # a command's output
