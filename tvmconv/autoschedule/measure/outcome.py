"""What comes of a candidate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tvmconv.errors import EnvironmentError_

if TYPE_CHECKING:
    from tvmconv.autoschedule.space import Candidate

#: A point of a design space, or a trace.
Choice: TypeAlias = "Candidate | list[Any]"
Fault = Literal["wrong", "crashed", "timeout", "build-failed", "build-timeout", "out-of-memory"]


class Unmeasurable(EnvironmentError_):
    """A workload of which nothing can be measured here, while others may well be."""


class Rejected(Exception):
    """A candidate that must not be used.

    Attributes
    ----------
    status : str
        As :attr:`Outcome.status`.
    ratio : float
        Its largest error over what it may be.
    """

    def __init__(self, status: Fault, message: str, ratio: float = math.inf) -> None:
        super().__init__(message)
        self.status, self.ratio = status, ratio


@dataclass(frozen=True)
class Outcome:
    """What came of one candidate.

    Attributes
    ----------
    candidate : Candidate or list
        As it was given: a point of the space, or a trace.
    status : str
        ``ok`` is right and timed; a candidate of any other is not to be used.
    trace : list
        The MetaSchedule trace; empty unless it was built.
    times_us : tuple of float
        Median microseconds a call of each block; empty unless ok.
    message : str
        One line, why it is not ok, or what makes its times doubtful.
    error_ratio : float
        The largest error over what it may be; infinite where that is not known.
    """

    candidate: Choice
    status: Literal["ok"] | Fault
    trace: list[Any]
    times_us: tuple[float, ...] = ()
    message: str = ""
    error_ratio: float = math.inf

    @classmethod
    def failed(cls, candidate: Choice, trace: list[Any], why: Rejected) -> Outcome:
        """The outcome of a candidate that is not ok."""
        return cls(candidate, why.status, trace, (), str(why), why.ratio)
