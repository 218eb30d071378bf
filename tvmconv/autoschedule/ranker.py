"""The learned part of the cost model: by how much the analytic one is wrong, and where.

Gradient-boosted trees learn the logarithm of measured over predicted time. Each workload's own
median is taken out, so what is learned of one problem holds for others; with nothing learned the
order is the analytic model's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvmconv.autoschedule.search import Floats, Space
from tvmconv.autoschedule.workload import algorithm
from tvmconv.kernel import KernelSpec
from tvmconv.problem import Problem

#: Measurements of other workloads are taken as evidence, but count for less than one's own.
_FOREIGN_WEIGHT = 0.3
#: Fewer measurements than this of all workloads teach nothing.
_LEAST_SAMPLES = 6
_MAX_SAMPLES = 4000
_ROUNDS = 80
_PARAMETERS = {
    "max_depth": 4,
    "eta": 0.15,
    "subsample": 0.9,
    "colsample_bytree": 0.8,
    "min_child_weight": 0.5,
    "lambda": 0.3,
    "max_bin": 64,
    "objective": "reg:squarederror",
    "nthread": 1,  # sums in a fixed order: the same log gives the same choices
    "seed": 0,
    "verbosity": 0,
}

Columns = Mapping[str, Floats]


def spec_features(spec: KernelSpec) -> dict[str, float]:
    """What a workload is like, in numbers."""
    attrs = spec.attrs
    found = {"operands": float(len(spec.inputs)), "steps": float(len(spec.program))}
    digits = "".join(filter(str.isdigit, algorithm(spec)))
    found["algorithm"] = float(digits or 0)
    for name, shape in (("in", spec.inputs[0].shape), ("out", spec.output.shape)):
        found |= {f"{name}{axis}": math.log2(size) for axis, size in enumerate(shape)}
    if "problem" in attrs:
        problem = Problem.parse(attrs["problem"])
        taps = problem.macs / max(1, math.prod(spec.output.shape))
        found |= {"macs": math.log2(1 + problem.macs), "taps": math.log2(1 + taps)}
    return found


def features(spec: KernelSpec, space: Space) -> dict[str, Floats]:
    """Columns of a space's candidates: the workload's numbers, the knobs, the prediction."""
    rows = len(space)
    columns = {name: np.full(rows, value) for name, value in spec_features(spec).items()}
    for k, name in enumerate(space.names):
        values = space.knobs[:, k].astype(np.float64)
        columns[f"knob {name}"] = np.where(values < 0, np.nan, values)
    columns["cycles"] = space.log_cycles
    columns["slowdown"] = space.log_cycles - space.log_cycles.min()
    if "macs" in columns:
        columns["efficiency"] = columns["macs"] * math.log(2) - space.log_cycles
    return columns


@dataclass(frozen=True)
class Samples:
    """Measurements of one workload.

    Attributes
    ----------
    columns : mapping of str to array
        Features of the measured candidates.
    residuals : array
        Logarithm of measured over predicted time, less the workload's median.
    """

    columns: Columns
    residuals: Floats

    @classmethod
    def of(cls, columns: Columns, log_cycles: Floats, times_us: Floats) -> Samples:
        """The samples of a space, from a time for each candidate that was measured."""
        rows = np.flatnonzero(np.isfinite(times_us))
        residuals = np.log(times_us[rows]) - log_cycles[rows]
        if rows.size:
            residuals = residuals - np.median(residuals)
        return cls({name: column[rows] for name, column in columns.items()}, residuals)

    def __len__(self) -> int:
        return len(self.residuals)


class Ranker:
    """Predicts times, in the measure of what it has been given."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._booster: Any = None

    def fit(self, own: Samples, others: Sequence[Samples] = ()) -> None:
        """Learn from a workload's measurements and from those of others."""
        parts = [own, *others]
        if sum(map(len, parts)) < _LEAST_SAMPLES:
            return
        import xgboost  # half a second that `tvmconv --help` need not spend

        self._names = sorted({name for part in parts for name in part.columns})
        table = np.concatenate([self._matrix(part.columns, len(part)) for part in parts])
        labels = np.concatenate([part.residuals for part in parts])
        weights = np.full(len(labels), _FOREIGN_WEIGHT)
        weights[: len(own)] = 1.0
        data = xgboost.QuantileDMatrix(
            table[:_MAX_SAMPLES],
            labels[:_MAX_SAMPLES],
            weight=weights[:_MAX_SAMPLES],
            max_bin=_PARAMETERS["max_bin"],
            nthread=1,
        )
        self._booster = xgboost.train(_PARAMETERS, data, _ROUNDS)

    def scores(self, columns: Columns, log_cycles: Floats) -> Floats:
        """Logarithm of the predicted time of each candidate, up to a constant."""
        if self._booster is None:
            return log_cycles
        found = self._booster.inplace_predict(self._matrix(columns, len(log_cycles)))
        scores: Floats = log_cycles + found.astype(np.float64)
        return scores

    def _matrix(self, columns: Columns, rows: int) -> Any:
        """The columns in the order in which the trees know them; NaN for one that is missing."""
        table = np.full((rows, len(self._names)), np.nan, np.float32)
        for k, name in enumerate(self._names):
            if name in columns:
                table[:, k] = columns[name]
        return table
