"""What is checked before a tuning run: the place, the precision, the threads, the log."""

from __future__ import annotations

from pathlib import Path

from tvmconv.bench.machine import usable_cores
from tvmconv.errors import EnvironmentError_, InputError
from tvmconv.files import make_output_dir
from tvmconv.target import Target


def require_place(target: Target, *, elsewhere: bool, static: bool = False) -> None:
    """Refuse to measure by a runner what is not, and to estimate times that are to be measured.

    Raises
    ------
    InputError
    """
    if elsewhere and target.is_gpu:
        raise InputError("runner: a GPU is measured on the machine that has it")
    if static and target.is_gpu:
        raise InputError(f"static: {target.name} has no model of LLVM's")
    if static and elsewhere:
        raise InputError("static: estimates need no runner; leave one of the two out")


def require_precision(target: Target, precision: str, done: str = "tuned") -> None:
    """Refuse halves whose kernels cannot be ``done``.

    Raises
    ------
    InputError
    """
    known = ("float32", "float16") if target.is_gpu else ("float32",)
    if precision not in known:
        told = " or ".join(known)
        raise InputError(f"precision: kernels of {target.name} are {done} in {told}")


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
