"""Convolutions of an enlarged map, computed from the small one: nearest ×s, then k taps, in one.

All outputs of one phase modulo s read the same inputs through the same taps, and taps that read the
same input are one whose weight is their sum: 3×3 after ×2 becomes four 2×2, 2.25 times fewer
multiply-adds. That is a transposed convolution of stride s whose weight is the filter, turned
around, convolved with a box of s ones; the resize disappears. Exact but for one rounding of each
summed weight: the sums are taken in float64, and have at least as many terms as are saved.

References
----------
Odena, Dumoulin, Olah, Deconvolution and checkerboard artifacts, 2016: why networks resize first.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from tvmconv.graph.forms import seconds
from tvmconv.graph.fuse import base_inputs
from tvmconv.graph.ir import Graph, Node, Value
from tvmconv.graph.separable import Prices
from tvmconv.layout import itemsize
from tvmconv.ops import Array, resize
from tvmconv.ops.family import as_read
from tvmconv.problem import Problem


def join_upsampled(graph: Graph, block: int, prices: Prices) -> Graph:
    """Join such pairs where one kernel is expected to take less time than two.

    Without the resize a tensor of the enlarged map's size is not moved. On a GPU, whose kernels are
    computed as they are defined, the pairs stay.

    Parameters
    ----------
    graph : Graph
        Fused.
    block : int
        Channels in a block.
    prices : Prices
    """
    if prices.exact:
        return graph
    makers, readers = graph.producers(), graph.consumers()
    joined: dict[Node, Node] = {}
    dropped: set[Node] = set()
    for node in graph.nodes:
        first = makers.get(node.inputs[0]) if node.op in ("conv", "depthwise_conv") else None
        if first is None or first.op != "resize" or first.output in graph.outputs:
            continue
        if len(readers[first.output]) > 1 or node.inputs.count(first.output) > 1:
            continue
        one = _joined(first, node)
        if one is None:
            continue
        times = [min(seconds(each, graph, block, prices)) for each in (one, node)]
        enlarging = prices.conversion(prod(first.output.shape) * itemsize(first.output.dtype))
        if times[0] < times[1] + enlarging:
            joined[node] = one
            dropped.add(first)
    return replace(graph, nodes=[joined.get(n, n) for n in graph.nodes if n not in dropped])


def _joined(first: Node, second: Node) -> Node | None:
    """The node that computes what two do; None if there is none."""
    factors, problem = _factors(first), Problem.parse(second.attrs["problem"])
    weight = second.inputs[1]
    if factors is None or not _plain(second, problem) or weight.data is None:
        return None
    spans = [taps - 1 for taps in problem.kernel]
    pads = [*spans, *spans]
    pads = [p - q for p, q in zip(pads, (*problem.pads_low, *problem.pads_high), strict=True)]
    if min(pads) < 0:  # padding from which some windows see nothing else
        return None
    data = summed(problem, weight.data, factors)
    names = ("bias", "activation", "dtype")
    options: dict[str, object] = {name: problem.option(name) for name in names}
    options |= {"stride": factors, "padding": pads, "groups": problem.groups}
    x = first.inputs[0]
    other = Problem("conv_transpose", x.shape, (problem.co, *data.shape[2:]), options)
    value = Value(f"{weight.name}:summed", data.shape, weight.dtype, data)
    inputs = [x, value, *second.inputs[2:]]
    attrs = {**second.attrs, "problem": other.text}
    return Node("conv_transpose", inputs, second.output, attrs, second.name)


def _factors(node: Node) -> tuple[int, ...] | None:
    """By how much a resize repeats each element along each axis; None if it does something else."""
    problem = Problem.parse(node.attrs["problem"])
    if problem.option("mode") != "nearest" or node.attrs.get("program"):
        return None
    factors = []
    for axis in resize.axes_of(problem):
        factor, rest = divmod(axis.outputs, axis.size)
        repeated = np.arange(axis.outputs) // max(factor, 1)
        if rest or axis.beyond is not None or (axis.indices[0] != repeated).any():
            return None
        factors.append(factor)
    return tuple(factors) if max(factors) > 1 else None


def _plain(node: Node, problem: Problem) -> bool:
    """Whether a convolution leaves its algorithm open and reads every place of its input."""
    moves = max(*problem.stride, *problem.dilation) > 1
    known = all(value.is_constant for value in node.inputs[1 : base_inputs(node)])
    mode = problem.option("padding_mode") == "zeros" and problem.option("algorithm") in (
        "auto",
        None,
    )
    usual = problem.dtype == "float32" and set(node.attrs) <= {"problem", "program"}
    return known and mode and usual and not moves


def summed(problem: Problem, weight: Array, factors: tuple[int, ...]) -> Array:
    """The weight of the transposed convolution, (CI, CO/groups, taps + factor - 1 …)."""
    w = as_read(problem, weight).astype(np.float64)
    groups, rank = problem.groups, problem.rank
    w = w.reshape(groups, problem.co // groups, problem.ci // groups, *problem.kernel)
    w = np.swapaxes(w, 1, 2).reshape(problem.ci, problem.co // groups, *problem.kernel)
    w = np.flip(w, axis=tuple(range(2, 2 + rank)))
    for axis, factor in enumerate(factors, 2):
        size = w.shape[axis]
        wide = np.zeros((*w.shape[:axis], size + factor - 1, *w.shape[axis + 1 :]))
        for start in range(factor):
            part = (slice(None),) * axis + (slice(start, start + size),)
            wide[part] += w
        w = wide
    return np.ascontiguousarray(w, np.float32)
