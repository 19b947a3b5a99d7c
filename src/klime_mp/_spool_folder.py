"""The folder of a spool: which one it is, whose, and what is in it. No path objects, as every fork inherits these."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Container
from typing import TYPE_CHECKING

from klime_mp import _segment

if TYPE_CHECKING:
    from klime_mp._config import Config


def folder_of(base: str, config: Config) -> str:
    """The folder, in `spool_dir`, of the events for one key at one endpoint."""
    named = hashlib.sha256(f"{config.write_key}\n{config.endpoint}".encode()).hexdigest()[:16]
    return os.path.join(base, named)  # noqa: PTH118 # as above


def make_folder(base: str, folder: str) -> None:
    """Make it, for our eyes only. Raises OSError, also when it is not a folder of ours."""
    if not hasattr(os, "geteuid"):
        raise OSError("this system has no record locks")
    os.makedirs(base, 0o700, exist_ok=True)  # noqa: PTH103 # as above
    try:
        os.mkdir(folder, 0o700)  # noqa: PTH102 # as above
    except FileExistsError:
        pass
    check_folder(folder)


def check_folder(folder: str) -> None:
    """Raises OSError when it is not there, or not a folder of ours."""
    if not _is_ours(folder):
        raise PermissionError(f"{folder} is no folder of this user's that nobody else may write to")


def _is_ours(folder: str) -> bool:
    """Is it a folder, no symbolic link, of this user's, that nobody else may write to? Raises OSError."""
    found = os.lstat(folder)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


def names(folder: str) -> list[str]:
    """The spool's files in a folder, oldest first; none when there is no such folder of ours."""
    try:
        if not _is_ours(folder):
            return []
        with os.scandir(folder) as entries:
            aged = [(_modified(entry), entry.name) for entry in entries if _segment.NAME.fullmatch(entry.name)]
    except OSError:
        return []
    return [name for _, name in sorted(aged)]


def _modified(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_mtime_ns
    except OSError:  # it has just gone
        return 0


def used(folder: str, but: Container[str] = ()) -> int:
    """Bytes that the spool's files take, apart from those so named."""
    total = 0
    for name in names(folder):
        if name in but:
            continue
        try:
            total += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118 # as above
        except OSError:  # it has just gone
            pass
    return total
