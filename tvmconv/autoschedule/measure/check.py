"""Whether what a candidate has computed is right: read from files, judged without TVM or operators.

A folder holds one workload: ``meta.json`` and the arrays of each check, all of them in the form in
which the kernel has them in memory.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tvmconv.layout import Layout
from tvmconv.records import from_table

Array = npt.NDArray[Any]
_META = "meta.json"
#: Elements that are compared at a time, so that the intermediate arrays stay in the cache.
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Check:
    """Inputs for one run of a kernel, and what is right for them.

    Attributes
    ----------
    arguments : sequence of ndarray
        The buffers that the kernel reads, in order.
    reference, bound : ndarray of float64
        The output's elements and the largest error of each, both as
        :func:`~tvmconv.autoschedule.measure.buffers.own_region` has them; an infinite bound is an
        element that may be anything.
    l2_limit : float
        The largest Euclidean norm of all errors.
    objection : str
        Why the check does not count, if it does not.
    """

    arguments: Sequence[Array]
    reference: Array
    bound: Array
    l2_limit: float = math.inf
    objection: str = ""


@dataclass(frozen=True)
class Workload:
    """What is to be computed, and how it is checked.

    Attributes
    ----------
    checks : sequence of Check
        The last has the inputs on which candidates are timed.
    output : Layout
    constants : sequence of int
        Which arguments are weights or tables.
    """

    checks: Sequence[Check]
    output: Layout
    constants: Sequence[int]


@dataclass(frozen=True)
class Verdict:
    """The result of one comparison.

    Attributes
    ----------
    ratio : float
        The largest error over its bound; infinite if there is no number where one belongs.
    message : str
        One line saying what is wrong; empty if nothing is.
    """

    ratio: float
    message: str = ""


def save(workload: Workload, folder: Path) -> None:
    """Write a workload to a folder."""
    entries = []
    for k, check in enumerate(workload.checks):
        for j, array in enumerate((check.reference, check.bound, *check.arguments)):
            np.save(folder / f"{k}-{j}.npy", array)
        entries.append({"l2_limit": check.l2_limit, "objection": check.objection,
                        "arguments": len(check.arguments)})  # fmt: skip
    meta = {
        "checks": entries,
        "output": dataclasses.asdict(workload.output),
        "constants": list(workload.constants),
    }
    (folder / _META).write_text(json.dumps(meta), encoding="utf-8")


def load(folder: Path) -> Workload:
    """Map a workload into memory, to be read only."""
    meta = json.loads((folder / _META).read_text(encoding="utf-8"))
    checks = []
    for k, entry in enumerate(meta["checks"]):
        reference, bound, *arguments = (
            np.load(folder / f"{k}-{j}.npy", mmap_mode="r") for j in range(entry["arguments"] + 2)
        )
        checks.append(Check(arguments, reference, bound, entry["l2_limit"], entry["objection"]))
    return Workload(checks, from_table(Layout, meta["output"]), meta["constants"])


def judge(got: Array, check: Check) -> Verdict:
    """Compare an output's own region with the reference."""
    if check.objection:
        return Verdict(math.inf, check.objection)
    flat, reference, bound = got.reshape(-1), check.reference.reshape(-1), check.bound.reshape(-1)
    worst, place, wrong, squares = -1.0, 0, 0, 0.0
    for start in range(0, flat.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        limits = bound[part]
        with np.errstate(all="ignore"):
            errors = np.abs(flat[part].astype(np.float64) - reference[part])
            ratios = np.where(errors > 0, errors / limits, 0.0)
            ratios[~(errors <= limits)] += 1.0  # over 1, whatever rounding did to the division
            ratios[np.isnan(errors)] = np.inf
            counted = np.isfinite(limits)
            ratios[~counted] = 0.0
            squares += float(np.sum(errors[counted] ** 2))
        wrong += int(np.count_nonzero(ratios > 1))
        if ratios.max() > worst:
            worst, place = float(ratios.max()), start + int(ratios.argmax())
    if wrong:
        index = tuple(int(i) for i in np.unravel_index(place, got.shape))
        values = f"got {float(flat[place]):.9g} for {float(reference[place]):.9g}"
        return Verdict(worst, f"{values} at {index}; {wrong} of {flat.size} elements are wrong")
    if not math.sqrt(squares) <= check.l2_limit:
        share = math.sqrt(squares) / check.l2_limit
        return Verdict(share, f"the L2 norm of the errors is {share:.3g} times what it may be")
    return Verdict(worst)
