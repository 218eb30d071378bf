"""The temporary folder of one measurement, and the removal of those whose owners were killed.

A folder belongs to the processes that hold the lock on its file ``lock``. The lock goes with them,
however they end, so a folder that can be locked is nobody's.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tvmconv.errors import EnvironmentError_

_PREFIX = "tvmconv-measure-"
#: Age of a folder without a lock file at which its owner is taken to have ended while making it.
_ABANDONED_S = 60.0


def make_folder() -> tuple[Path, int]:
    """Make a folder and lock it.

    Returns
    -------
    folder : Path
    lock : int
        The open file that holds the lock.

    Raises
    ------
    EnvironmentError_
        If none can be made.
    """
    _remove_stale(Path(tempfile.gettempdir()))
    while True:
        try:
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
            lock = _lock(folder, os.O_CREAT)
        except OSError as error:
            where = tempfile.gettempdir()
            raise EnvironmentError_(f"{where}: no temporary folder: {error.strerror}") from None
        if lock is not None:
            return folder, lock


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Have a folder for the block; whoever comes next removes it should this process be killed.

    Raises
    ------
    EnvironmentError_
        If none can be made.
    """
    folder, lock = make_folder()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _lock(folder: Path, flags: int) -> int | None:
    """Open and lock a folder's file; None if someone else has it."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_NOFOLLOW | flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_stale(parent: Path) -> None:
    """Remove the folders that no process holds."""
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            facts = folder.lstat()
            lock = _lock(folder, 0) if facts.st_uid == os.getuid() else None
        except FileNotFoundError:
            if folder.is_dir() and time.time() - facts.st_mtime > _ABANDONED_S:
                shutil.rmtree(folder, ignore_errors=True)
            continue
        except OSError:  # no folder of this kind after all
            continue
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
