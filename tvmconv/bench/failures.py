"""Libraries and models that fail: which one it was, and what to say of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy.typing as npt

from tvmconv.bench.harness import Contender
from tvmconv.bench.peers import first_line
from tvmconv.errors import TvmconvError


class PeerFailed(Exception):
    """A library has failed while it ran.

    Attributes
    ----------
    name : str
        Of the library.
    """

    def __init__(self, name: str, error: Exception) -> None:
        super().__init__(f"failed: {told(error)}")
        self.name = name


def guarded(peer: Contender) -> Contender:
    """Make a library say that it was the one that failed, by `PeerFailed`."""

    def run() -> Sequence[npt.NDArray[Any]]:
        try:
            return peer.run()
        except Exception as error:
            raise PeerFailed(peer.name, error) from error

    return replace(peer, run=run)


def told(error: Exception) -> str:
    """Write an error as one line, with its kind where that is no error of ours."""
    line, kind = first_line(error), type(error).__name__
    return line if isinstance(error, TvmconvError) or line == kind else f"{kind}: {line}"
