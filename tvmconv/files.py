"""Output files that appear whole or not at all, and the checks before long work."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tvmconv.errors import EnvironmentError_, InputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file under a temporary name beside it, and rename it when the block has succeeded.

    Parameters
    ----------
    path : Path
        The file to make or replace.

    Yields
    ------
    Path
        A free name in the same folder with the same suffix; the block writes it. If the block
        fails or is interrupted, the file of this name is removed and ``path`` stays as it was.

    Raises
    ------
    EnvironmentError_
        If the system refuses to write, for example because the disk is full.
    """
    temporary = path.with_name(f".{path.stem[:100]}.{secrets.token_hex(8)}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise EnvironmentError_(f"{path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def check_output_file(path: Path) -> None:
    """Find out before long work whether a file can be written.

    Raises
    ------
    InputError
        If it is a folder or a device, or its folder does not exist.
    EnvironmentError_
        If the system does not let its folder be written.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a directory")
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is not a regular file")
    if not path.parent.is_dir():
        raise InputError(f"{path}: {path.parent} is not a directory")
    _probe(path.parent, path)


def make_output_dir(path: Path) -> None:
    """Make a folder for output, with its parents, or find out that it can be written.

    Raises
    ------
    InputError
        If there is something else of that name.
    EnvironmentError_
        If the system refuses.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{path}: is not a directory") from error
    except OSError as error:
        raise EnvironmentError_(f"{path}: {error.strerror}") from error
    _probe(path, path)


def _probe(folder: Path, path: Path) -> None:
    # Access bits say nothing to root and on read-only file systems; making a file does.
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise EnvironmentError_(f"{path}: cannot be written: {error.strerror}") from error
