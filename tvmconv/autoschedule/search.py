"""The search in one design space: the model's favourites, then descent and the ranker in turns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from tvmconv.autoschedule.space import Candidate

Floats = npt.NDArray[np.float64]

#: Candidates that are measured in the model's order before anything is learned.
FIRST_TRIALS = 8
#: A measurement counts as an improvement if it is faster than the best by more than this share.
IMPROVEMENT = 0.01
#: Trials without an improvement after which a search is over.
PATIENCE = 48
#: Share of the choices that are made at random, in the better quarter by prediction.
_EXPLORATION = 0.05
#: What a value of a knob that was never tried counts for, as a share of the time.
_NOVELTY = 0.2
#: Most knobs in which a step of the descent differs from where it starts.
_STEP_KNOBS = 3
#: What a knob more and a value more away count for, as a share of the time, when neighbours that
#: are predicted to be equally fast are ordered.
_KNOB_PENALTY, _VALUE_PENALTY = 0.02, 0.005


class Space:
    """The candidates of a kernel as arrays, the model's favourite first.

    Attributes
    ----------
    candidates : sequence of Candidate
    names : tuple of str
        Every knob that a candidate has.
    knobs : array (candidates, knobs)
        Values of the knobs, -1 for one that a candidate lacks.
    log_cycles : array (candidates,)
        Logarithms of the predicted times.
    """

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.candidates = candidates
        self.names = tuple(dict.fromkeys(name for c in candidates for name, _ in c.knobs))
        column = {name: k for k, name in enumerate(self.names)}
        self.knobs = np.full((len(candidates), len(self.names)), -1, np.int64)
        for row, candidate in enumerate(candidates):
            for name, value in candidate.knobs:
                self.knobs[row, column[name]] = value
        cycles = np.array([candidate.cycles for candidate in candidates], np.float64)
        self.log_cycles: Floats = np.log(np.maximum(cycles, 1.0))
        self._rows = {candidate.knobs: row for row, candidate in enumerate(candidates)}
        #: Position of each value among those that its knob takes.
        self._levels = np.empty_like(self.knobs)
        for k in range(len(self.names)):
            self._levels[:, k] = np.unique(self.knobs[:, k], return_inverse=True)[1]

    def __len__(self) -> int:
        return len(self.candidates)

    def row(self, knobs: tuple[tuple[str, int], ...]) -> int | None:
        """Position of the candidate with these knobs, or None."""
        return self._rows.get(knobs)

    def distances(self, row: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """For every candidate, how many knobs differ from those of one, and by how many values."""
        steps = np.abs(self._levels - self._levels[row])
        return (steps > 0).sum(axis=1), steps.sum(axis=1)

    def counts(self, rows: Sequence[int]) -> Iterator[npt.NDArray[np.int64]]:
        """For each knob, how many of some rows have the value that a candidate has."""
        for levels in self._levels.T:
            yield np.bincount(levels[list(rows)], minlength=len(levels))[levels]


class Search:
    """What is known of one space, and what to measure next.

    Parameters
    ----------
    space : Space
    first : int
        How many of the model's favourites to begin with.
    patience : int
        Trials without an improvement after which it is over.
    seed : int
    """

    def __init__(
        self,
        space: Space,
        *,
        first: int = FIRST_TRIALS,
        patience: int = PATIENCE,
        seed: int = 0,
    ) -> None:
        self.space = space
        self.first = min(first, len(space))
        self.patience = patience
        self.times = np.full(len(space), np.nan)
        self.best: int | None = None
        self.stale = 0
        self.trials = 0
        self._mark = math.inf
        self._known = np.zeros(len(space), bool)
        self._rng = np.random.default_rng(seed)

    @property
    def best_us(self) -> float:
        """Shortest time, infinite before there is one."""
        return math.inf if self.best is None else float(self.times[self.best])

    @property
    def begun(self) -> bool:
        """Whether the first trials have been made."""
        return self.trials >= self.first

    @property
    def done(self) -> bool:
        """Whether everything is known, or nothing has improved for long."""
        return bool(self._known.all()) or (self.begun and self.stale >= self.patience)

    def tell(self, row: int, time_us: float) -> None:
        """Enter a trial; a candidate that is not right or did not run has an infinite time."""
        self._known[row] = True
        self.trials += 1
        self.stale += 1
        if time_us < self._mark * (1 - IMPROVEMENT):
            self._mark, self.stale = time_us, 0
        self.times[row] = time_us
        if time_us < self.best_us:
            self.best = row

    def knows(self, row: int) -> bool:
        """Whether a candidate was tried or is excluded."""
        return bool(self._known[row])

    def exclude(self, row: int) -> None:
        """Never propose a candidate."""
        self._known[row] = True

    def reject(self, row: int) -> None:
        """Take back a time: the candidate has turned out not to be right, or not to run."""
        self._known[row], self.times[row] = True, np.inf
        times = np.where(np.isnan(self.times), np.inf, self.times)
        best = int(times.argmin())
        self.best = best if np.isfinite(times[best]) else None

    def leaders(self, count: int, within: float) -> list[int]:
        """The fastest so far, at most ``count``, no slower than the best by more than a share."""
        rows = np.flatnonzero(self.times <= self.best_us * (1 + within))
        rows = rows[np.isfinite(self.times[rows])]
        order = np.argsort(self.times[rows], kind="stable")
        return [int(row) for row in rows[order][:count]]

    def propose(self, count: int, scores: Floats) -> list[int]:
        """Choose what to measure next; only what is not known.

        Parameters
        ----------
        count : int
            At most so many.
        scores : array
            Logarithm of the predicted time of every candidate of the space, up to a constant.
        """
        free = ~self._known
        chosen: list[int] = []
        favourites = np.argsort(self.space.log_cycles, kind="stable")
        while len(chosen) < count and free.any():
            ranked = np.argsort(scores - self._novelty(chosen), kind="stable")
            if self.trials + len(chosen) < self.first:
                order = favourites
            elif self._rng.random() < _EXPLORATION:
                better = np.argsort(scores, kind="stable")[: max(1, len(free) // 4)]
                order = self._rng.permutation(better)
            elif len(chosen) % 2:
                order = ranked
            else:
                order = self._neighbours(scores - self._novelty(chosen))
            order = np.concatenate([order, ranked])
            row = int(order[free[order]][0])
            free[row] = False
            chosen.append(row)
        return chosen

    def _novelty(self, chosen: Sequence[int]) -> Floats:
        """A bonus for values of knobs that were tried seldom: nobody knows what they do."""
        rows = [*np.flatnonzero(~np.isnan(self.times)), *chosen]
        bonus = np.zeros(len(self.space))
        for counts in self.space.counts(rows):
            bonus += _NOVELTY / np.sqrt(1 + counts)
        return bonus

    def _neighbours(self, scores: Floats) -> npt.NDArray[np.int64]:
        """Rows a step away from the best, the nearest and fastest by prediction first."""
        if self.best is None:
            return np.empty(0, np.int64)
        knobs, values = self.space.distances(self.best)
        rows = np.flatnonzero((knobs > 0) & (knobs <= _STEP_KNOBS))
        penalty = _KNOB_PENALTY * knobs[rows] + _VALUE_PENALTY * values[rows]
        found: npt.NDArray[np.int64] = rows[np.argsort(scores[rows] + penalty, kind="stable")]
        return found
