"""A file of the spool: the events of one process, a line each, and a line for each batch of them that is done.

The format is described in docs/spool.md: JSON, then in quotes the event's number in this file and a checksum over both.
What is torn, or was changed on the disk, fails the checksum, and costs that line only.

Who has a file locked owns it. A POSIX record lock is not inherited by a fork and goes with its process, however that
dies. It also goes when its process closes *any* descriptor of the file, so no file is opened twice in one process.
"""

from __future__ import annotations

import json
import os
import re
import stat
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple
from zlib import crc32

from klime_mp._clock import atomic
from klime_mp._descriptor import Descriptor
from klime_mp._fork import PerProcess, getpid, tell
from klime_mp._ranges import Ranges

SUFFIX = ".v1.jsonl"
NAME = re.compile(r"(?P<pid>\d+)-[0-9a-f]{16}\.v1\.jsonl")

_TRAILER = re.compile(rb' "(\d+) ([0-9a-f]{8})"')
_CHUNK = 256 * 1024
_TAILS = 100

# How often a new file may turn out to be somebody else's before there is something wrong with the folder.
_ATTEMPTS = 10


DONE = 0
DAMAGED = -1


class Record(NamedTuple):
    """A line of a file: an event and its number from 1; or which events are DONE; or one that is DAMAGED."""

    number: int
    body: bytes


def line(number: int, body: bytes) -> bytes:
    """A record as it is written."""
    return b'%b "%d %08x"\n' % (body, number, crc32(b"%d" % number, crc32(body)))


def records(text: bytes) -> Iterator[Record]:
    """What is whole in these lines."""
    return (record for record in _parse(text) if record.number != DAMAGED)


def _parse(text: bytes) -> Iterator[Record]:
    for each in text.split(b"\n"):
        # Usually one. Where the byte between two lines was changed, they are one line, and both are whole.
        begin = 0
        for trailer in _TRAILER.finditer(each):
            body, number = each[begin : trailer.start()], trailer[1]
            checksum = int(trailer[2], 16)
            if crc32(number, crc32(body)) != checksum:
                yield Record(DAMAGED, body)
                # The end of the line before it may be what was changed, newline and all.
                body = next((tail for tail in _tails(body) if crc32(number, crc32(tail)) == checksum), b"")
            if body:
                yield Record(int(number), body)
            begin = trailer.end() + 1
        if begin < len(each):
            yield Record(DAMAGED, each[begin:])


def _tails(body: bytes) -> Iterator[bytes]:
    """What begins like an event, later in a damaged line."""
    at = 0
    for _ in range(_TAILS):
        at = body.find(b'{"', at + 1)
        if at < 0:
            return
        yield body[at:]


class _Files(dict[str, object]):
    """The files that one process has open, of all its clients, by name: a `Segment`, or something while it is opened.

    A child that was forked without Python's knowledge closes its parent's files before it opens any: to close one of
    them later could cost the lock that the child has got on it meanwhile.
    """

    def __init__(self, parents: _Files | None) -> None:
        self._parents = parents

    def leave_parents(self) -> None:
        parents, self._parents = self._parents, None
        for segment in list((parents or {}).values()):
            if isinstance(segment, Segment):
                segment.forget()


_open: PerProcess[_Files] = PerProcess(_Files, _Files.leave_parents)


def leave_inherited_files() -> None:
    """In a child: close what it has of its parent's files. Elsewhere, or again, it does nothing."""
    _open.here()


class Segment:
    """A file that this process owns, made by it or taken over. Any thread may write; one at a time may read.

    Args:
        path: its name.
        number: its descriptor.
        lock: what its bookkeeping is done under; None: a lock of its own.
    """

    def __init__(self, path: str, number: int, lock: Any = None) -> None:
        self.path = path
        self.name = os.path.basename(path)  # noqa: PTH119 # no path object in what every fork inherits
        self.adopted = False
        self.size = 0
        self.issued = 0  # events that this process has put here, or taken over
        self.finished = 0  # those of them that are done
        self._waiting = Ranges()  # those that are here only, and not in memory
        self._file = Descriptor(number)
        self._lock = threading.RLock() if lock is None else lock
        self._users = 0  # threads that are in the middle of using the descriptor
        self._closed = False
        self._condemned = False  # it has to make room: no event is safe here any more, though some may still be read
        self.damaged = 0  # lines, when it was taken over
        self._torn = False
        self._read_to = 0
        self._rest = b""
        self._ahead: deque[Record] = deque()  # read, and not yet taken
        tell(self)

    @classmethod
    def create(cls, folder: str, lock: Any = None) -> Segment:
        """A new file. Raises OSError."""
        for _ in range(_ATTEMPTS):
            name = f"{getpid()}-{os.urandom(8).hex()}{SUFFIX}"
            path = os.path.join(folder, name)  # noqa: PTH118 # as above
            _open.here()[name] = None  # first: another client of this process might take it for a dead one's
            try:
                number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | _NOFOLLOW, 0o600)
            except OSError:
                _open.here().pop(name, None)
                raise
            segment = _open.here()[name] = cls(path, number, lock)
            try:
                is_locked = _lock(number)
            except OSError:
                segment.remove()
                raise
            if is_locked and segment.is_there():
                return segment
            segment.close()  # somebody took it for a dead process's, before it was locked
        raise OSError(f"{folder} does not let a new file be owned")

    @classmethod
    def take_over(cls, folder: str, name: str, lock: Any = None) -> Segment | None:
        """The file of a process that has died; None when it is no such file. Its unfinished events wait."""
        if _open.here().setdefault(name, mark := object()) is not mark:
            return None
        path = os.path.join(folder, name)  # noqa: PTH118 # as above
        segment: Segment | None = None
        try:
            # Looked at before it is opened: to close another name of a file that this process owns would cost its lock.
            if not _is_ours(os.lstat(path)):
                raise OSError(f"{path} is not a file of a spool of ours")
            number = os.open(path, os.O_RDWR | os.O_APPEND | os.O_NONBLOCK | _NOFOLLOW)
            segment = _open.here()[name] = cls(path, number, lock)
            # Whoever had it locked before may have removed it meanwhile.
            if _lock(number) and segment.is_there() and _is_ours(os.fstat(number)):
                segment.count_unfinished()
                segment.adopted = True
                # The owner may have died in the middle of a line; what follows begins a line of its own. (Not now: the
                # disk may be full, and this is what would free it.)
                segment._torn = bool(segment.size) and os.pread(number, 1, segment.size - 1) != b"\n"
                return segment
        except OSError:  # gone, unreadable, a symbolic link
            pass
        if segment is not None:
            segment.close()
        else:
            _open.here().pop(name, None)
        return None

    def write(self, text: bytes) -> None:
        """Append lines, in one call; none to a file that was given up. Raises OSError when they are not there whole."""
        if not self._enter():
            return
        try:
            if self._torn:
                text = b"\n" + text
            written = os.write(self._file.number, text)
            self._torn = written < len(text)
        finally:
            self._leave()
        if self._torn:
            raise OSError(f"wrote {written} of {len(text)} bytes: is the disk full?")

    def write_done(self, numbers: Ranges) -> None:
        """Note which events have their outcome. Raises OSError."""
        self.write(line(0, json.dumps({"done": list(numbers)}, separators=(",", ":")).encode()))

    def is_given_up(self) -> bool:
        """Is it no longer this process's, or will it not be in a moment?"""
        return self._closed or self._condemned

    def has_waiting(self) -> bool:
        """Does an event wait here?"""
        return bool(self._waiting)

    @atomic
    def wait(self, numbers: Ranges) -> None:
        """These events are here only, from now on."""
        for first, last in numbers:
            self._waiting.add(first, last)

    @atomic
    def take_waiting(self) -> Ranges:
        """None waits any more; which did."""
        waiting, self._waiting = self._waiting, Ranges()
        return waiting

    @atomic
    def condemn(self) -> Ranges:
        """It has to make room. Returns what waited here; from now on nothing does."""
        self._condemned = True
        return self.take_waiting()

    def read(self, max_events: int, max_bytes: int) -> list[Record]:
        """Take some of the waiting events out, in the file's order; empty when none is to be found. Raises OSError."""
        taken: list[Record] = []
        if not self._enter():
            return taken
        try:
            self._read(taken, max_events, max_bytes)
        except OSError:
            if not taken:
                raise
        finally:
            self._leave()
        return taken

    def _read(self, taken: list[Record], max_events: int, max_bytes: int) -> None:
        size, rewound = -1, self._read_to == 0
        while self._waiting and len(taken) < max_events:
            if self._ahead:
                record = self._ahead.popleft()
                if record.number not in self._waiting:
                    continue
                size += 1 + len(record.body)
                if taken and size > max_bytes:
                    self._ahead.appendleft(record)
                    return
                self._take(record.number)
                taken.append(record)
                continue
            chunk = os.pread(self._file.number, _CHUNK, self._read_to)
            if chunk:
                text, _, self._rest = (self._rest + chunk).rpartition(b"\n")
                self._read_to += len(chunk)
                self._ahead.extend(records(text))
            elif not rewound:
                self._read_to, self._rest, rewound = 0, b"", True
            elif last := [record for record in records(self._rest) if record.number in self._waiting]:
                self._ahead.extend(last)  # only its newline is missing
            else:
                return

    @atomic
    def _take(self, number: int) -> None:
        self._waiting.remove(number)

    def bodies(self, numbers: Ranges) -> list[bytes]:
        """These events, as far as they are there. Raises OSError."""
        return [record.body for record in self._records() if record.number in numbers]

    def oldest(self) -> bytes:
        """The first event that waits, empty when there is none. Raises OSError."""
        return next((record.body for record in self._records() if record.number in self._waiting), b"")

    def is_open(self) -> bool:
        """Has the program left the descriptor alone?"""
        return self._file.is_open()

    def is_there(self) -> bool:
        """Is the file still what its path names?"""
        try:
            named, opened = os.lstat(self.path), os.fstat(self._file.number)
        except OSError:  # another thread may just have closed it
            return False
        return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)

    def remove(self) -> bool:
        """Delete it and give it up. False: it cannot be, and stays ours, or the next owner would deliver it again."""
        try:
            if self.is_there():
                self._delete()
        except OSError:
            return False
        self.close()
        return True

    def _delete(self) -> None:
        try:
            os.unlink(self.path)  # noqa: PTH108 # as above
        except OSError:  # a folder that may only be read, say; a file without events is as good as none
            os.ftruncate(self._file.number, 0)

    def close(self) -> None:
        """Give it up: another process, or client, may take it over, once no thread uses it here."""
        if self._ends(closed=True):
            self._let_go()

    def _enter(self) -> bool:
        """Use the descriptor, which nobody closes meanwhile: its number would soon be another file's.

        Raises OSError when the program has closed it.
        """
        if not self._begins():
            return False
        if not self._file.is_open():
            self._leave()
            raise OSError(f"{self.path} was closed by the program")
        return True

    def _leave(self) -> None:
        if self._ends(users=-1):
            self._let_go()

    @atomic
    def _begins(self) -> bool:
        self._users += not self._closed
        return not self._closed

    @atomic
    def _ends(self, *, users: int = 0, closed: bool = False) -> bool:
        """Is the descriptor to be closed now? Once only: by whoever gives the file up, or the last one that uses it."""
        if self._closed and closed:
            return False
        self._users += users
        self._closed = self._closed or closed
        return self._closed and not self._users

    def _let_go(self) -> None:
        # In this order: who finds the name gone may open the file, and to close it then would cost the new lock.
        self.forget()
        _open.here().pop(self.name, None)

    def forget(self) -> None:
        """Close the descriptor alone, as a child does with its parent's."""
        if self._file.is_open():
            os.close(self._file.number)

    def count_unfinished(self) -> None:
        """Read it from beginning to end: what is not done waits. Raises OSError."""
        self.size = os.fstat(self._file.number).st_size
        for record in self._records():
            if record.number == DAMAGED:
                self.damaged += 1
            elif record.number == DONE:
                for first, last in _done(record.body):
                    self._waiting.remove(first, last)
            else:
                self._waiting.add(record.number)
        self.issued = len(self._waiting)

    def _records(self) -> Iterator[Record]:
        place, rest = 0, b""
        while chunk := os.pread(self._file.number, _CHUNK, place):
            place += len(chunk)
            text, newline, rest = (rest + chunk).rpartition(b"\n")
            if newline:
                yield from _parse(text)
        yield from records(rest)  # a death in the middle of a line is no damage


_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)


def _is_ours(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_nlink == 1


def _lock(number: int) -> bool:
    """Own the file, unless a living process does. Raises OSError where there are no locks."""
    try:
        import fcntl  # noqa: PLC0415 # not on Windows
    except ImportError:
        raise OSError("this system has no record locks") from None
    try:
        fcntl.lockf(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _done(body: bytes) -> list[tuple[int, int]]:
    try:
        return [(int(first), int(last)) for first, last in json.loads(body)["done"]]
    except (ValueError, KeyError, TypeError):
        return []
