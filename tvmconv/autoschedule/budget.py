"""How much may be measured, and for which task the next measurement is worth most."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from itertools import pairwise

#: Seconds between two records of one run; a longer pause is one between two runs.
_LONGEST_PAUSE_S = 60.0
#: Seconds a trial takes, until that is known.
_TRIAL_S = 0.5
#: Share of the time that is kept at most for comparing the finalists.
_MOST_RESERVED = 0.25
#: Trials over which the recent rate of improvement is taken.
_RECENT = 16
#: What the next trials are expected to gain by one's experience with other tasks: after n trials,
#: this share over n.
_OPTIMISM = 0.1


#: A run of which so much of the time was spent, and whose tasks are settled, was a whole one.
_WHOLE_RUN = 0.8


class Clock:
    """The time, for durations and for dates."""

    def seconds(self) -> float:
        """Seconds that only increase."""
        return time.monotonic()

    def date(self) -> str:
        """The date as a log has it: ISO 8601, UTC, to the second."""
        return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class Budget:
    """Trials or seconds, or both; what was spent on the same tasks before counts.

    Parameters
    ----------
    trials, seconds : optional
        None for as many or as long as it takes.
    clock : Clock
    """

    def __init__(self, trials: int | None, seconds: float | None, clock: Clock) -> None:
        self.trials, self.seconds, self.clock = trials, seconds, clock
        self.start()

    def start(
        self,
        spent_trials: int = 0,
        spent_seconds: float = 0.0,
        fresh: float = 0.0,
        settled: bool = False,
    ) -> None:
        """Let the time begin.

        Parameters
        ----------
        spent_trials, spent_seconds
            By earlier runs on these tasks.
        fresh : float
            Share of the tasks that no run has touched; what was spent on others is not theirs.
        settled : bool
            Whether earlier runs came to their end.
        """
        self._start, self._measured = self.clock.seconds(), 0
        self.spent_trials, self._before_s = spent_trials, spent_seconds
        if self.trials is not None:
            self.spent_trials = min(spent_trials, int((1 - fresh) * self.trials))
        if self.seconds is not None:
            self._before_s = min(spent_seconds, (1 - fresh) * self.seconds)
            # Dates of records leave out what came before the first and after the last.
            if settled and self._before_s >= _WHOLE_RUN * self.seconds:
                self._before_s = self.seconds

    def spend(self, trials: int = 1) -> None:
        """Count a trial of this run."""
        self.spent_trials += trials
        self._measured += trials

    @property
    def elapsed_s(self) -> float:
        """Seconds of this run."""
        return self.clock.seconds() - self._start

    @property
    def spent_s(self) -> float:
        """Seconds of this run and of those before."""
        return self._before_s + self.elapsed_s

    @property
    def trial_s(self) -> float:
        """Seconds that a trial takes on average; a guess for the first."""
        return (self.elapsed_s + _TRIAL_S) / (self._measured + 1)

    def reserve_s(self, comparisons: int) -> float:
        """Seconds to keep for comparing the finalists of so many tasks."""
        wanted = 4 * comparisons * self.trial_s
        return wanted if self.seconds is None else min(wanted, _MOST_RESERVED * self.seconds)

    def trials_left(self, comparisons: int = 0) -> float:
        """How many trials more there are, or are likely to be, before the last comparisons."""
        left = math.inf if self.trials is None else float(self.trials - self.spent_trials)
        if self.seconds is not None:
            seconds = self.seconds - self.spent_s - self.reserve_s(comparisons)
            left = min(left, seconds / self.trial_s)
        return left

    @property
    def share(self) -> float:
        """How much of it is spent, 0 to 1; 0 where it has no end."""
        shares = [0.0]
        if self.trials is not None:
            shares.append(self.spent_trials / max(1, self.trials))
        if self.seconds is not None:
            shares.append(self.spent_s / self.seconds)
        return min(1.0, max(shares))

    def eta_s(self, comparisons: int) -> float | None:
        """Seconds to the end, None where nobody can know."""
        reserve = self.reserve_s(comparisons)
        found = []
        if self.trials is not None:
            found.append(max(0, self.trials - self.spent_trials) * self.trial_s + reserve)
        if self.seconds is not None:
            found.append(max(self.seconds - self.spent_s, reserve))
        return min(found, default=None)


def expected_gain(weight: float, bests: Sequence[float]) -> float:
    """What the next trial of a task is expected to save, as a share of all networks' time.

    Parameters
    ----------
    weight : float
        The task's share of the time.
    bests : sequence of float
        Its best time after each trial so far.

    Notes
    -----
    As in Ansor's gradient (Zheng et al. 2020, section 6): the larger of the recent rate of
    improvement and of an optimistic guess that falls with the number of trials.
    """
    if not bests:
        return math.inf
    before = bests[-min(len(bests), _RECENT + 1)]
    recent = 0.0
    if math.isfinite(before) and len(bests) > 1:
        recent = (1 - bests[-1] / before) / min(len(bests) - 1, _RECENT)
    return weight * max(recent, _OPTIMISM / len(bests))


def seconds_spent(dates: Sequence[str]) -> float:
    """Time that measurements took, from the dates of their records; pauses between runs are not.

    Parameters
    ----------
    dates : sequence of str
        ISO 8601; others are passed over.
    """
    times = []
    for date in dates:
        try:
            times.append(datetime.fromisoformat(date.replace("Z", "+00:00")).timestamp())
        except ValueError:
            continue
    times.sort()
    gaps = (after - before for before, after in pairwise(times))
    return sum(gap for gap in gaps if gap <= _LONGEST_PAUSE_S)
