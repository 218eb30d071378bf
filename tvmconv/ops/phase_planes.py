"""Transposed convolutions on planes: phase by phase, with the lanes over neighbouring pixels.

The pixels of a phase of the last axis lie apart in the output: the vectors of all of its phases are
interleaved, and go to the output as one run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from tvmconv.kernel import GROUP, INTERLEAVED, PHASES, KernelSpec
from tvmconv.ops import Array, Shape, expressions, phases, planes, summing
from tvmconv.problem import Problem

#: Strides of the last axis whose phases are interleaved.
_INTERLEAVED = (1, 2, 4)


def fits(problem: Problem) -> bool:
    """Whether there is a kernel on planes: some whole vectors interleave to a run of a row."""
    last = phases.axes(problem)[-1]
    return last.stride in _INTERLEAVED and not last.ragged and not phases.lanewise(problem)


def packed_shape(problem: Problem) -> Shape:
    """Shape of the packed weight: (phases, output channels, terms of a sum padded by zeros)."""
    axes = phases.axes(problem)
    terms = prod(axis.most for axis in axes) * (problem.ci // problem.groups)
    return (phases.number(axes), problem.co, planes.row_length(terms))


def pack(spec: KernelSpec, constants: Sequence[Array]) -> list[Array]:
    """The weight as :func:`packed_shape` says; the bias (CO,) as it is."""
    problem = Problem.parse(spec.attrs["problem"])
    axes = phases.axes(problem)
    weight = phases.as_conv(problem, constants[0]).reshape(1, problem.co, -1, 1, *problem.kernel)
    rows = phases.by_phase(axes, weight).reshape(phases.number(axes), -1, problem.co)
    packed = np.zeros(packed_shape(problem), weight.dtype)
    packed[..., : rows.shape[1]] = np.moveaxis(rows, 1, 2)
    return [packed, *constants[1:]]


def compute(spec: KernelSpec) -> list[Any]:
    """The sums of every phase, and the output in runs of all phases of the last axis.

    The weight is (phases, CO, terms of a sum padded by zeros), the bias (CO,).
    """
    from tvmconv._tvm import te

    p = Problem.parse(spec.attrs["problem"])
    axes = phases.axes(p)
    x = expressions.placeholder(spec.inputs[0], "x")
    weight = te.placeholder(packed_shape(p), name="weight")
    bias = te.placeholder((p.co,), name="bias") if p.bias else None
    at = _reader(spec, axes, x)
    per_in, per_out = p.ci // p.groups, p.co // p.groups
    together = summing.together(per_in, prod(axis.most for axis in axes))
    rc, rk = te.reduce_axis((0, together), "rc"), phases.tap_axes(axes)

    def terms(index: tuple[Any, ...], first: Any) -> Any:
        n, co, phase, *position = index
        channel = term = first + rc
        if p.groups > 1:
            channel = co // per_out * per_in + channel
        for axis, tap in zip(axes, rk, strict=True):
            term = term * axis.most + tap
        element = at(n, channel, phases.position(axes, phase, position, rk))
        return te.sum(element * weight[phase, co, term], axis=[rc, *rk])

    last, counts = axes[-1], [axis.count for axis in axes]
    attrs = {PHASES: phases.form(axes, skipping=False)}
    shape = (p.batch, p.co, phases.number(axes), *counts)
    sums = summing.summed(shape, terms, per_in, together, "planes", attrs)

    def result(n: Any, co: Any, phase: Any, *rest: Any) -> Any:
        value = sums(n, co, phase * last.phases + rest[-1], *rest[:-1])
        return value if bias is None else value + bias[co]

    def locate(n: Any, co: Any, phase: Any, *rest: Any) -> tuple[Any, ...]:
        parts = phases.split(phase, [axis.phases for axis in axes[:-1]])
        return (n, co, *phases.places(axes, [*parts, rest[-1]], rest[:-1]))

    form = [number for axis in axes for number in (axis.stride, axis.phases, axis.outputs)]
    form[-2] = 0
    shape = (p.batch, p.co, phases.number(axes[:-1]), *counts, last.phases)
    operands, output = expressions.finish(
        spec, result, shape=shape, locate=locate, attrs={INTERLEAVED: form, GROUP: per_out}
    )
    return [x, weight, *([] if bias is None else [bias]), *operands, output]


def _reader(spec: KernelSpec, axes: Sequence[phases.Axis], x: Any) -> Callable[..., Any]:
    """``at(n, channel, position)``: an element of the input, from a copy with zeros if need be."""
    layout = spec.inputs[0]
    reaches = [(axis.reach, size) for axis, size in zip(axes, layout.shape[2:], strict=True)]
    if all(low >= 0 and high < size for (low, high), size in reaches):
        return lambda n, channel, position: layout.at(x, n, channel, position)
    # The rows of a strip are those that its phases might read if they had all taps.
    windows = [axis.window for axis in axes]
    lows = [-low for low, _ in windows]
    *rows, columns = (high - low + 1 for low, high in windows)
    copy = planes.padded(layout, x, lows, (*rows, 1, columns))

    def at(n: Any, channel: Any, position: Sequence[Any]) -> Any:
        *outer, column = (q + low for q, low in zip(position, lows, strict=True))
        return copy[(n, channel, *outer, 0, column)]

    return at
