"""The errors a user can meet, each with the exit code that the command line gives it."""

from __future__ import annotations

import signal


class TvmconvError(Exception):
    """A failure that is reported as one line; ``exit_code`` is what the command returns."""

    exit_code = 1


class VerificationError(TvmconvError):
    """An output differs from the reference by more than the accuracy formula allows."""

    exit_code = 1


class InputError(TvmconvError, ValueError):
    """A model, problem, array or option that cannot be accepted."""

    exit_code = 2


class EnvironmentError_(TvmconvError):
    """The surroundings fail: a missing tool or package, an unreachable board, a full disk."""

    exit_code = 4


def signal_name(number: int) -> str:
    """SIGSEGV, or the number of one that has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
