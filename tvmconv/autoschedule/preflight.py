"""What is checked before a tuning run: the threads, the log."""

from __future__ import annotations

from pathlib import Path

from tvmconv.bench.machine import usable_cores
from tvmconv.errors import EnvironmentError_, InputError
from tvmconv.files import make_output_dir
from tvmconv.target import Target


def require_estimates(target: Target, runner: object | None) -> None:
    """Refuse to estimate times where they are to be measured, or without a model of the core.

    Raises
    ------
    InputError
    EnvironmentError_
    """
    from tvmconv.codegen import mca

    if runner is not None:
        raise InputError("static: estimates need no runner; leave one of the two out")
    mca.peak(target)


def require_threads(threads: int) -> None:
    """Refuse more threads than there are cores: they would measure one another.

    Raises
    ------
    InputError
    """
    cores = usable_cores()
    if not 1 <= threads <= cores:
        raise InputError(f"threads: {threads} is not 1 to {cores}, the cores of this machine")


def require_writable(log: Path) -> None:
    """Make the folder of a log, and refuse one that cannot be appended to.

    Raises
    ------
    InputError
        If its folder is none, or the log is no file.
    EnvironmentError_
        If the system refuses.
    """
    make_output_dir(log.parent)
    if log.exists() and not log.is_file():
        raise InputError(f"{log}: is not a regular file")
    if log.exists():
        try:
            with log.open("ab"):
                pass
        except OSError as error:
            raise EnvironmentError_(f"{log}: cannot be written: {error.strerror}") from error
