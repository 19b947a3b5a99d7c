"""A file descriptor that is told from whatever else may have taken its number since."""

from __future__ import annotations

import os


class Descriptor:
    """A descriptor and the file behind it. Inherited by a fork, where the program may have closed it and opened others.

    Args:
        number: an open descriptor, not owned: whoever opened it closes it.
    """

    __slots__ = ("_file", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self._file = _file_behind(number)

    def is_open(self) -> bool:
        """Is that very file, pipe or socket still behind the number?"""
        return self._file is not None and _file_behind(self.number) == self._file


def _file_behind(number: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(number)
    except OSError:
        return None
    # Where the system has no number for a file (sockets, on some), it cannot be told from another one.
    return (status.st_dev, status.st_ino) if status.st_ino else None
