"""Appending to a file to which other processes append, too, so that nothing is lost or torn."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def append(path: Path, data: bytes) -> None:
    """Add whole lines to a file, which is made with its folders if need be, and sync it.

    Raises
    ------
    OSError
        If the system refuses; the file is as it was then.
    """
    _make_folder(path.parent)
    with locked(path) as descriptor:
        _write(descriptor, data, path.parent)


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """Open a log, which is made if need be, for appending; no other process has it meanwhile.

    The lock is on the log itself: a full disk could not take another file. A log that was replaced
    by another of its name while this waited is let go.
    """
    while True:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_named(descriptor, path):
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _is_named(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _write(descriptor: int, data: bytes, folder: Path) -> None:
    """Write whole lines at the end of a file and sync it, or leave it as it was."""
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        data = b"\n" + data  # a line that was torn stays by itself
    rest = memoryview(data)
    try:
        while rest:  # one write, but where the disk is nearly full: the second one says so
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
        if not size:
            _sync_folder(folder)
    except OSError:
        with suppress(OSError):
            os.ftruncate(descriptor, size)
        raise


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    """Make sure that the folder's entries outlast a power failure, not only the files."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
