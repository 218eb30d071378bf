"""Inputs and float64 references of a workload, from the operators' references and not the TE.

A fused program is applied to the operator's reference y in float64, and lets the allowed error b
of y pass: with p the program, an element may be off by

    max(|p(y + b) - p(y)|, |p(y - b) - p(y)|) + 8·u·(|p(y)| + 1)

with u of float32, in which everything is computed; an output that is stored in halves is rounded to
its own type once more, at the end.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tvmconv import accuracy, ops
from tvmconv.accuracy import Trial
from tvmconv.autoschedule.measure import buffers
from tvmconv.autoschedule.measure.check import Check, Workload, save
from tvmconv.autoschedule.workload import algorithm
from tvmconv.kernel import KernelSpec
from tvmconv.layout import HALVES, Layout
from tvmconv.ops.options import DTYPES
from tvmconv.problem import Problem

Array = npt.NDArray[Any]
_ROUNDOFF = 2.0**-24
_PROGRAM_ROUNDINGS = 8
#: Errors that operators without an accuracy formula may have: relative to the element, and to the
#: largest one.
_RELATIVE, _ABSOLUTE = 1e-5, 1e-6
#: Operators of which the reference is no number for negative inputs.
_POSITIVE = frozenset({"log", "sqrt", "pow"})


def write_checks(spec: KernelSpec, folder: Path) -> None:
    """Make the checks of a kernel and write them to a folder."""
    save(workload_of(spec), folder)


def workload_of(spec: KernelSpec) -> Workload:
    """Integers to be compared exactly, where the arithmetic allows that, then random numbers."""
    if ops.get(spec.op).family is None:
        checks = [_check_without_problem(spec)]
    else:
        problem = Problem.parse(spec.attrs["problem"])
        direct = algorithm(spec) == "direct" and accuracy.is_exact(problem)
        drawn = [_check(spec, problem, exact) for exact in ([True, False] if direct else [False])]
        checks = [check for check in drawn if check is not None]
    packed = len(checks[-1].arguments) - len(spec.inputs)
    return Workload(checks, spec.output, range(1, 1 + packed))


def _check(spec: KernelSpec, problem: Problem, exact: bool) -> Check | None:
    """One check of a problem's kernel; None if its program rounds even integers."""
    trial = _trial(spec, problem, exact)
    operands = _operands(spec.inputs[1:], exact)
    steps = spec.attrs.get("program", [])
    if exact and not _rounds_nothing(steps, trial.reference, operands):
        return None
    reference = _apply(steps, trial.reference, operands)
    if exact:
        if spec.output.dtype in HALVES:  # stored so, by the one rounding that there is
            reference = reference.astype(spec.output.dtype).astype(np.float64)
        bound, l2_limit = np.zeros_like(reference), math.inf
    else:
        bound, l2_limit = _bounds(spec, trial, operands, reference)
    x = trial.arrays["x"]
    if spec.attrs.get("shuffled"):  # the kernel reads what this shuffle brings into x's order
        groups = x.shape[1] // int(spec.attrs["shuffled"])
        x = ops.get("channel_shuffle").reference([x], {"groups": groups})
    constants = [array for name, array in trial.arrays.items() if name != "x"]
    arguments = buffers.arguments(spec, [x, *operands], constants)
    return _placed(spec, arguments, reference, bound, l2_limit, trial.reached)


def _trial(spec: KernelSpec, problem: Problem, exact: bool) -> Trial:
    trial = accuracy.trial(problem, exact=exact)
    if spec.op == "max_pool" and spec.attrs.get("edges") != "test" and spec.inputs[0].has_halo:
        # Zeros pad it, because nothing that it reads is negative.
        arrays = {"x": np.abs(trial.arrays["x"])}
        reference = problem.reference(arrays)
        return dataclasses.replace(trial, arrays=arrays, reference=reference)
    return trial


def _operands(layouts: Sequence[Layout], exact: bool) -> list[Array]:
    """Small integers, or numbers of size 1/2 to 3/2, for the program's operands."""
    rng = np.random.default_rng(1)
    return [_operand(rng, layout, exact) for layout in layouts]


def _operand(rng: np.random.Generator, layout: Layout, exact: bool) -> Array:
    shape = layout.shape
    if not _is_float(layout):
        return _integers(rng, layout)
    if exact:
        return np.asarray(rng.integers(-3, 4, shape), layout.dtype)
    drawn = (0.5 + rng.random(shape)) * rng.choice([-1.0, 1.0], shape)
    return np.asarray(drawn, layout.dtype)


def _is_float(layout: Layout) -> bool:
    return layout.dtype in ("float32", *HALVES)


def _integers(rng: np.random.Generator, layout: Layout) -> Array:
    """Any bytes and truth values; words of a size that sums have; indices, each another one."""
    if layout.dtype == "bool":
        return np.asarray(rng.random(layout.shape) < 0.5)
    if layout.dtype == "int64":
        return rng.permutation(prod(layout.shape)).reshape(layout.shape)
    limits = np.iinfo(layout.dtype)
    low, high = max(limits.min, -(2**20)), min(limits.max, 2**20)
    drawn = rng.integers(low, high, layout.shape, layout.dtype, endpoint=True)
    return np.asarray(drawn)


def _apply(steps: Sequence[Any], y: Array, operands: Sequence[Array]) -> Array:
    """Apply a program in the precision of ``y``."""
    if not steps:
        return y
    return np.asarray(ops.get("elementwise").reference([y, *operands], {"program": steps}))


def _rounds_nothing(steps: Sequence[Any], y: Array, operands: Sequence[Array]) -> bool:
    """Whether every step of a program gives in float32 what it gives in float64."""
    narrow = y.astype(np.float32)
    for step in steps:
        y, narrow = _apply([step], y, operands), _apply([step], narrow, operands)
        if not np.array_equal(y, narrow):
            return False
    return True


def _bounds(
    spec: KernelSpec, trial: Trial, operands: Sequence[Array], result: Array
) -> tuple[Array, float]:
    """The largest error of each element, and of all together where the algorithm limits it."""
    rule = accuracy.TF32 if spec.attrs.get("tf32") else algorithm(spec)
    y, steps = trial.reference, spec.attrs.get("program", [])
    problem, rounding = trial.problem, _PROGRAM_ROUNDINGS * _ROUNDOFF * (np.abs(result) + 1)
    if steps and spec.output.dtype in HALVES:
        problem = problem.replace(dtype="float32")  # what the program reads is not yet rounded
        rounding = rounding + _storing(spec.output.dtype, result)
    bound = accuracy.error_bound(problem, y, trial.magnitude, rule)

    def passed(error: Array) -> Array:
        if not steps:
            return error
        with np.errstate(all="ignore"):
            above = np.abs(_apply(steps, y + error, operands) - result)
            below = np.abs(_apply(steps, y - error, operands) - result)
            return np.asarray(np.maximum(above, below) + rounding)

    if rule not in accuracy.WINOGRAD:
        return passed(bound), math.inf
    each = accuracy.WINOGRAD_L2 * float(np.linalg.norm(y)) / math.sqrt(y.size)
    together = passed(np.full_like(y, each))
    return passed(bound), float(np.linalg.norm(together[np.isfinite(together)]))


def _storing(dtype: str, result: Array) -> Array:
    """What rounding to a type may change."""
    kind = DTYPES[dtype]
    return np.asarray(kind.roundoff * np.abs(result) + kind.smallest_subnormal)


def _check_without_problem(spec: KernelSpec) -> Check:
    """A check of an operator without a family, which has no formula for its error."""
    rng = np.random.default_rng(2)
    data = [
        rng.standard_normal(v.shape).astype(v.dtype) if _is_float(v) else _integers(rng, v)
        for v in spec.inputs
    ]
    names = {spec.op, *(step["op"] for step in spec.program)}
    if names & _POSITIVE:
        data = [np.abs(array) + array.dtype.type(0.25) for array in data]
    wide = [a.astype(np.float64) if a.dtype.kind in "fV" else a for a in data]
    reference = np.asarray(ops.get(spec.op).reference(wide, spec.attrs))
    size = np.abs(reference)
    bound = _RELATIVE * size + _ABSOLUTE * float(np.nanmax(size, initial=0.0))
    if spec.output.dtype in HALVES:
        bound = bound + _storing(spec.output.dtype, size)
    arguments = buffers.arguments(spec, data, [])
    return _placed(spec, arguments, reference, bound, math.inf)


def _placed(
    spec: KernelSpec, arguments: Sequence[Array], reference: Array, bound: Array, l2_limit: float,
    reached: Array | None = None,
) -> Check:  # fmt: skip
    """A check whose arrays lie as the output does; what is no number may be anything."""
    number = np.isfinite(reference) & np.isfinite(bound)
    objection = ""
    if not accuracy.counts(np.where(number, reference, 0.0), reached):
        share = np.count_nonzero(reference[number]) / reference.size
        objection = f"{1 - share:.0%} of the reference is zero or no number: it proves nothing"
    return Check(
        arguments,
        buffers.in_blocks(np.where(number, reference, 0.0), spec.output, 0.0),
        buffers.in_blocks(np.where(number, bound, np.inf), spec.output, np.inf),
        l2_limit,
        objection,
    )
