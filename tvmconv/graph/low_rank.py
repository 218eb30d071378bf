"""Convolutions as two of fewer multiply-adds, where their weights are exactly of low rank.

A pass that is run when asked for (``split_separable``), before fusion:

* A depthwise kernel that is an outer product (Sobel, Gauss, a box) becomes a column, then a row.
* An ordinary weight whose matrix (channels and taps of the first axes; channels and taps of the
  others) has rank R becomes a convolution to R channels over the first axes and one from them over
  the others: ``w[co,ci,k,l] = sum over r of a[r,ci,k] · b[co,r,l]``. One of the two may be
  pointwise.

The factors are rounded to float32. They are taken only if no element of their product is further
from the weight than ``4·u·√R·max|w|``, u = 2⁻²⁴, of each channel's filter where channels are
independent: about what rounding the weight itself to float32 may have moved it by.

References
----------
Jaderberg, Vedaldi, Zisserman, Speeding up convolutional neural networks with low rank expansions,
2014, scheme 2.
"""

from __future__ import annotations

from dataclasses import replace
from math import gcd, prod, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from tvmconv.graph.ir import Graph, Node, Value
from tvmconv.graph.padding import split_padding_modes
from tvmconv.ops.family import as_read
from tvmconv.problem import Problem

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]

#: Unit roundoff of float32, and how many of it the product of the factors may be off by.
_ROUNDOFF, _ROUNDINGS = 2.0**-24, 4.0
#: Largest integer of which float32 has all smaller ones.
_INTEGERS = 2**24


def split_low_rank(graph: Graph) -> Graph:
    """Split every convolution with constant weights that has fewer multiply-adds in two parts."""
    graph = split_padding_modes(graph)  # the parts pad with zeros
    nodes: list[Node] = []
    for node in graph.nodes:
        nodes += _split(node)
    return replace(graph, nodes=nodes)


def _split(node: Node) -> list[Node]:
    """The parts of a node, or the node alone."""
    if node.op not in ("conv", "depthwise_conv") or set(node.attrs) != {"problem"}:
        return [node]
    problem = Problem.parse(node.attrs["problem"])
    plain = problem.option("algorithm") in ("auto", None)
    plain = plain and problem.dtype == "float32"
    if not plain or (problem.groups > 1 and node.op == "conv"):
        return [node]
    if node.inputs[1].data is None or not np.isfinite(node.inputs[1].data).all():
        return [node]
    weight = as_read(problem, node.inputs[1].data)
    found = (_depthwise if node.op == "depthwise_conv" else _ordinary)(problem, weight)
    if found is None:
        return [node]
    (first, a), (second, b) = found
    name = node.output.name
    between = Value(f"{name}:between", first.output_shape, node.output.dtype)
    one = Node(first.op, [node.inputs[0], _constant(f"{name}:first", a)], between,
               {"problem": first.text}, f"{node.name}:first")  # fmt: skip
    inputs = [between, _constant(f"{name}:second", b), *node.inputs[2:]]
    two = Node(second.op, inputs, node.output, {"problem": second.text}, node.name)
    return [*_split(one), *_split(two)]


def _constant(name: str, data: Float64) -> Value:
    array = np.ascontiguousarray(data, np.float32)
    return Value(name, array.shape, "float32", array)


Halves = tuple[tuple[Problem, Float64], tuple[Problem, Float64]]


def _problems(problem: Problem, axis: int, channels: int) -> tuple[Problem, Problem]:
    """Convolutions over the axes before one, to so many channels, and over that and the rest."""
    rank = problem.rank

    def over(kept: range, shape: tuple[int, ...], co: int, **after: object) -> Problem:
        def along(values: tuple[int, ...], other: int) -> tuple[int, ...]:
            return tuple(v if k in kept else other for k, v in enumerate(values))

        options: dict[str, object] = {
            "stride": along(problem.stride, 1),
            "dilation": along(problem.dilation, 1),
            "padding": (*along(problem.pads_low, 0), *along(problem.pads_high, 0)),
        }
        return Problem(problem.op, shape, (co, *along(problem.kernel, 1)), {**options, **after})

    first = over(range(axis), problem.input_shape, channels)
    last = {"bias": problem.bias, "activation": problem.activation}
    return first, over(range(axis, rank), first.output_shape, problem.co, **last)


def _depthwise(problem: Problem, weight: Array) -> Halves | None:
    """A depthwise convolution over the first axis of several taps, then over the others."""
    axes = [k for k, taps in enumerate(problem.kernel) if taps > 1]
    if len(axes) < 2:
        return None
    axis = axes[0] + 1
    first, second = _problems(problem, axis, problem.co)
    if first.macs + second.macs >= problem.macs:
        return None
    matrices = weight.reshape(problem.co, prod(problem.kernel[:axis]), -1).astype(np.float64)
    factors = [_outer(matrix) for matrix in matrices]
    if any(pair is None for pair in factors):
        return None
    a, b = (np.stack(side) for side in zip(*(pair for pair in factors if pair), strict=True))
    return (first, a.reshape(first.inputs["weight"])), (second, b.reshape(second.inputs["weight"]))


def _outer(matrix: Float64) -> tuple[Float64, Float64] | None:
    """Column and row whose product a matrix is, or None.

    Of whole numbers, scaled by a power of 2, they are whole: the product is then exact.
    """
    place = np.unravel_index(int(np.argmax(np.abs(matrix))), matrix.shape)
    column, row = matrix[:, place[1]], matrix[place[0]]
    pivot = row[place[1]] or 1.0
    scale = 2.0 ** (24 - np.ceil(np.log2(abs(pivot))))
    whole = row * scale
    if (whole == np.round(whole)).all() and np.abs(whole).max() <= _INTEGERS:
        divisor = gcd(*(int(v) for v in whole)) / scale or 1.0
        a, b = column / (pivot / divisor), row / divisor
    else:
        size = sqrt(abs(pivot))
        a, b = column / size * np.sign(pivot), row / size
    a, b = (_rounded(v) for v in (a, b))
    return (a, b) if _close(np.outer(a, b), matrix, 1) else None


def _ordinary(problem: Problem, weight: Array) -> Halves | None:
    """The split with the fewest multiply-adds, if one has fewer than the problem."""
    best: Halves | None = None
    least = problem.macs
    data = weight.astype(np.float64)
    for axis in range(problem.rank + 1):
        one = _problems(problem, axis, 1)
        # Multiply-adds of either part grow with the channels between.
        most = (least - 1) // (one[0].macs + one[1].macs)
        if most < 1:
            continue
        # (CI, first taps) by (other taps, CO).
        order = (1, *range(2, 2 + axis), *range(2 + axis, data.ndim), 0)
        rows = problem.ci * prod(problem.kernel[:axis])
        found = _factors(data.transpose(order).reshape(rows, -1), most)
        if found is None:
            continue
        a, b = found
        channels = a.shape[1]
        first, second = _problems(problem, axis, channels)
        a = a.T.reshape(channels, problem.ci, *first.kernel)
        b = np.moveaxis(b.reshape(channels, *second.kernel, problem.co), -1, 0)
        best, least = ((first, a), (second, b)), first.macs + second.macs
    return best


def _factors(matrix: Float64, most: int) -> tuple[Float64, Float64] | None:
    """Factors of the lowest rank, at most so many, whose product a matrix is; or None."""
    if min(matrix.shape) <= 1:
        return None
    s = np.linalg.svd(matrix, compute_uv=False)
    limit = _ROUNDINGS * _ROUNDOFF * float(np.abs(matrix).max()) * sqrt(matrix.size * len(s))
    lowest = max(1, int(np.count_nonzero(s > limit)))  # fewer leave an element too far away
    if lowest > most:
        return None
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    for rank in range(lowest, min(most, len(s)) + 1):
        root = np.sqrt(s[:rank])
        a, b = _rounded(u[:, :rank] * root), _rounded(root[:, None] * v[:rank])
        if _close(a @ b, matrix, rank):
            return a, b
    return None


def _rounded(array: Float64) -> Float64:
    return array.astype(np.float32).astype(np.float64)


def _close(product: Float64, matrix: Float64, rank: int) -> bool:
    """Whether a product is a matrix but for what rounding to float32 does."""
    bound = _ROUNDINGS * _ROUNDOFF * sqrt(rank) * float(np.abs(matrix).max())
    return bool(np.abs(product - matrix).max() <= bound)
