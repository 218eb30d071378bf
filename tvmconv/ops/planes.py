"""Convolutions on planes: neighbouring pixels of plain tensors are the lanes, channels are not.

Where the problem has padding or a stride along the width, the input is first copied into a buffer
with zeros around it, split along the width into as many phases as the stride: column ``w`` lies at
``[..., w % stride, w // stride]``, so that neighbouring outputs read neighbouring elements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from tvmconv.kernel import GROUP, KernelSpec
from tvmconv.layout import Layout
from tvmconv.ops import Array, Shape, expressions, summing
from tvmconv.problem import Problem

#: Elements in a cache line of 64 bytes.
_LINE = 16
#: Terms from which the stride between the filters' rows matters.
_LONG = 128


def row_length(terms: int) -> int:
    """Elements from one filter to the next in the packed weight.

    The filters of a tile are read side by side: rows of a multiple of a page would all lie in the
    same few sets of the first cache level, so long ones have an odd number of lines.
    """
    return terms if terms < _LONG else (-(-terms // _LINE) | 1) * _LINE


def _terms(problem: Problem) -> int:
    """Terms of a sum."""
    return prod(problem.kernel) * (problem.ci // problem.groups)


def packed_shape(problem: Problem) -> Shape:
    """Shape of the packed weight: (output channels, terms of a sum padded by zeros)."""
    return (problem.co, row_length(_terms(problem)))


def packed_element(problem: Problem, source: Any, index: Sequence[Any]) -> Any:
    """Element of the packed weight as an expression of the weight as ONNX has it."""
    from tvmconv._tvm import te, tirx

    co, term = index
    terms = _terms(problem)
    rest, place = te.min(term, terms - 1), []
    for extent in reversed(problem.kernel):
        place.append(rest % extent)
        rest = rest // extent
    return tirx.if_then_else(term < terms, source[(co, rest, *reversed(place))], 0.0)


def pack(spec: KernelSpec, constants: Sequence[Array]) -> list[Array]:
    """The weight as :func:`packed_shape` says; the bias (CO,) as it is."""
    problem = Problem.parse(spec.attrs["problem"])
    rows = constants[0].reshape(problem.co, -1)
    packed = np.zeros(packed_shape(problem), rows.dtype)
    packed[:, : rows.shape[1]] = rows
    return [packed, *constants[1:]]


def compute(spec: KernelSpec) -> list[Any]:
    """The sum over ``rc`` (channels of a group) and ``rk0`` … (taps).

    Arguments are ``x``, the weight of :func:`packed_shape`, the bias (CO,) if there is one, the
    operands of the program, and the output.
    """
    from tvmconv._tvm import te

    p = Problem.parse(spec.attrs["problem"])
    x = expressions.placeholder(spec.inputs[0], "x")
    weight = te.placeholder(packed_shape(p), name="weight")
    bias = te.placeholder((p.co,), name="bias") if p.bias else None
    per_in, per_out = p.ci // p.groups, p.co // p.groups
    together = summing.together(per_in, prod(p.kernel))
    rc, rk = te.reduce_axis((0, together), "rc"), expressions.tap_axes(p)
    shuffled = spec.attrs.get("shuffled", 0)
    at = _reader(spec, p, x)

    def terms(index: tuple[Any, ...], first: Any) -> Any:
        n, co, *position = index
        channel = term = first + rc
        if p.groups > 1:
            channel = co // per_out * per_in + channel
        if shuffled:
            channel = channel % shuffled * (p.ci // shuffled) + channel // shuffled
        for extent, tap in zip(p.kernel, rk, strict=True):
            term = term * extent + tap
        return te.sum(at(n, channel, position, rk) * weight[co, term], axis=[rc, *rk])

    result = summing.summed(spec.output.shape, terms, per_in, together, "planes")

    def finished(*index: Any) -> Any:
        return result(*index) if bias is None else result(*index) + bias[index[1]]

    operands, output = expressions.finish(spec, finished, attrs={GROUP: per_out})
    return [x, weight, *([] if bias is None else [bias]), *operands, output]


def _reader(spec: KernelSpec, problem: Problem, x: Any) -> Callable[..., Any]:
    """``at(n, channel, position, taps)``: the input's element under a tap of an output position."""
    layout, p = spec.inputs[0], problem
    if p.stride[-1] == 1 and not any((*p.pads_low, *p.pads_high)):
        return lambda n, channel, position, taps: layout.at(
            x, n, channel, expressions.window(p, position, taps)
        )
    padded = _padded_input(p, layout, x)
    step, dilation = p.stride[-1], p.dilation[-1]

    def at(n: Any, channel: Any, position: Sequence[Any], taps: Sequence[Any]) -> Any:
        axes = zip(position, p.stride, taps, p.dilation, strict=True)
        *place, _ = (o * s + k * d for o, s, k, d in axes)
        column = taps[-1] * dilation
        return padded[(n, channel, *place, column % step, position[-1] + column // step)]

    return at


def _padded_input(problem: Problem, layout: Layout, x: Any) -> Any:
    """The part of the padded input that is read: (N, CI, *rows, phases, columns of a phase)."""
    p = problem
    axes = zip(p.out_spatial, p.stride, p.kernel_extent, strict=True)
    *rows, _ = ((count - 1) * step + span for count, step, span in axes)
    step = p.stride[-1]
    columns = [tap * p.dilation[-1] for tap in range(p.kernel[-1])]
    phases = max(column % step for column in columns) + 1
    length = max(column // step for column in columns) + p.out_spatial[-1]
    return padded(layout, x, p.pads_low, (*rows, phases, length), step)


def padded(layout: Layout, x: Any, lows: Sequence[int], extents: Shape, step: int = 1) -> Any:
    """A copy of the input with zeros around it: (N, CI, *rows, phases, columns of a phase).

    Parameters
    ----------
    layout : Layout
    x : te.Tensor
    lows : sequence of int
        Padding before each spatial axis.
    extents : tuple of int
        Rows, phases, columns.
    step : int
        From one column of a phase to the next, in the input.
    """
    from tvmconv._tvm import tirx

    def body(n: Any, channel: Any, *place: Any) -> Any:
        *outer, phase, column = place
        near = [q - low for q, low in zip((*outer, column * step + phase), lows, strict=True)]
        inside = [q >= 0 for q in near]
        inside += [q < size for q, size in zip(near, layout.shape[2:], strict=True)]
        return tirx.if_then_else(tirx.all(*inside), layout.at(x, n, channel, near), 0.0)

    return expressions.elements((*layout.shape[:2], *extents), body, name="padded", kind="stage")
