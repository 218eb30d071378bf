"""Workloads: what is tuned, and what a log is asked for.

A workload is the description of a kernel without what does not change how it is best scheduled:
where in a buffer its tensors lie, and how wide their halos are.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

from tvmconv import accuracy, ops
from tvmconv.errors import InputError
from tvmconv.graph.halos import halo_fill, window_halo
from tvmconv.kernel import KernelSpec, canonical_json
from tvmconv.layout import Layout, itemsize
from tvmconv.ops import channels, winograd
from tvmconv.problem import Problem

#: Algorithms for single convolutions only: in a deep network their errors add up to more than a
#: network's bound leaves room for (VGG-19: 2.7e-6 of its output's norm; the direct one 1.5e-6).
_COARSE = ("winograd6",)
#: Characters of a text, at most: a fused program has some steps, a tensor some axes.
_LONGEST = 20_000


def canonical(spec: KernelSpec) -> KernelSpec:
    """The workload of a kernel: no slices, no halos but what its own windows reach."""
    inputs = [_compact(layout) for layout in spec.inputs]
    attrs = spec.attrs
    if ops.get(spec.op).family is not None:
        problem = Problem.parse(attrs["problem"])
        if problem.option("algorithm") == "direct":
            problem = problem.replace(algorithm="auto")
        if problem.flipped:  # where weights are packed, the order of the taps is settled
            problem = problem.replace(flipped=False)
        attrs["problem"] = problem.text
        if attrs.get("edges") == "skip" and winograd.tile_outputs(problem):
            del attrs["edges"]  # its tiles read all of the padding
        if attrs.get("edges") != "test":
            inputs[0] = inputs[0].with_halo(*window_halo(attrs), halo_fill(attrs))
    return KernelSpec(spec.op, canonical_json(attrs), tuple(inputs), _compact(spec.output))


def _compact(layout: Layout) -> Layout:
    return Layout(layout.shape, layout.block, dtype=layout.dtype)


def algorithm(spec: KernelSpec) -> str:
    """Name of a kernel's algorithm, as :mod:`tvmconv.accuracy` knows it."""
    if spec.op != "conv":
        return "direct"
    return accuracy.algorithm_of(_problem(spec))


def alternatives(spec: KernelSpec, network: bool = False) -> tuple[KernelSpec, ...]:
    """The workloads that compute what a kernel computes: the direct one, then others.

    Parameters
    ----------
    spec : KernelSpec
    network : bool
        Whether it is part of a network, for which some algorithms are too coarse.
    """
    names = ["direct"]
    if spec.op == "conv" and spec.inputs[0].block > 1 and not spec.attrs.get("shuffled"):
        names += winograd.alternatives(_problem(spec))
    if network:
        names = [name for name in names if name not in _COARSE]
    return tuple(_with_algorithm(spec, name) for name in names)


def _with_algorithm(spec: KernelSpec, name: str) -> KernelSpec:
    if spec.op != "conv":
        return canonical(spec)
    attrs = {**spec.attrs, "problem": _problem(spec).replace(algorithm=name).text}
    return canonical(replace(spec, attrs_json=canonical_json(attrs)))


def _problem(spec: KernelSpec) -> Problem:
    return Problem.parse(spec.attrs["problem"])


def weight_bytes(spec: KernelSpec) -> int:
    """Size of the packed weight that a convolution reads, about that of one of another kind."""
    problem = _problem(spec)
    if spec.op != "conv":
        return problem.parameters * itemsize(spec.output.dtype)
    in_block, block = spec.inputs[0].block, spec.output.block
    if winograd.tile_outputs(problem):
        shape = winograd.packed_shape(problem, in_block, block)
    else:
        shape = channels.packed_shape(problem, in_block, block)
    return math.prod(shape) * itemsize(spec.output.dtype)


def parse(text: str) -> KernelSpec:
    """Make a workload of its text.

    Raises
    ------
    InputError
        If it is no text of a workload: not JSON, another form, an unknown operator, a problem that
        is none, layouts that do not fit it.
    """
    if len(text) > _LONGEST:
        raise InputError(f"workload has {len(text)} characters, at most {_LONGEST}")
    try:
        op, attrs, tensors = json.loads(text)
        layouts = [_layout(entry) for entry in tensors]
        spec = KernelSpec(op, canonical_json(attrs), tuple(layouts[:-1]), layouts[-1])
        _check(spec, attrs)
        if canonical(spec).text != text:
            raise InputError("workload is not in its canonical form")
    except (ValueError, TypeError, KeyError, IndexError, RecursionError, AttributeError) as error:
        raise InputError(f"workload is malformed: {error or type(error).__name__}") from error
    return spec


def _layout(entry: Any) -> Layout:
    shape, block, lows, highs, slots, first, dtype = entry
    numbers = [*shape, block, *lows, *highs, slots, first]
    if not all(type(n) is int and 0 <= n < 2**31 for n in numbers) or block < 1 or 0 in shape:
        raise ValueError(f"layout {entry} has a size that is none")
    return Layout(tuple(shape), block, tuple(lows), tuple(highs), slots, first, str(dtype))


def _check(spec: KernelSpec, attrs: dict[str, Any]) -> None:
    """Whether the operator exists, and the problem is that of the tensors."""
    operator = ops.get(spec.op)
    if operator.compute is None:
        raise ValueError(f"{spec.op} is no kernel")
    if operator.family is None:
        if operator.output_shape([v.shape for v in spec.inputs], attrs) != spec.output.shape:
            raise ValueError(f"the output of {spec.op} has another shape")
        return
    problem = Problem.parse(attrs["problem"])
    wanted = problem.input_shape, problem.output_shape, problem.op
    if (spec.inputs[0].shape, spec.output.shape, spec.op) != wanted:
        raise ValueError(f"tensors are not those of {problem}")
    if winograd.tile_outputs(problem) and spec.inputs[0].block == 1:
        raise ValueError(f"{problem.option('algorithm')} needs an input in channel blocks")
