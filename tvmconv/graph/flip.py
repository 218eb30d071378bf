"""Transposed convolutions of stride 1 as ordinary ones, which have more algorithms.

With the taps in the opposite order, ``x`` and ``y`` change places: a transposed convolution of
stride 1 is a convolution whose padding is what the filter's extent, less 1, leaves of the other.
"""

from __future__ import annotations

import numpy as np

from tvmconv.graph.ir import Graph, Node, Value
from tvmconv.ops import phases
from tvmconv.problem import Problem


def flip_transposed(graph: Graph) -> Graph:
    """Replace transposed convolutions of stride 1 with constant weights."""
    nodes = [_flipped(node) if node.op == "conv_transpose" else node for node in graph.nodes]
    return Graph(graph.name, graph.inputs, graph.outputs, nodes)


def _flipped(node: Node) -> Node:
    """The convolution that computes what a node does; the node itself if there is none.

    A filter over a single element has no two outputs that share an input: as a transposed
    convolution it is cheaper.
    """
    problem, weight = Problem.parse(node.attrs["problem"]), node.inputs[1]
    axes = zip(problem.in_spatial, problem.kernel, strict=True)
    single = any(size == 1 and taps > 1 for size, taps in axes)
    pads = _padding(problem)
    if weight.data is None or max(problem.stride) > 1 or single or min(pads) < 0:
        return node
    data = phases.as_conv(problem, weight.data)
    data = np.ascontiguousarray(np.flip(data, axis=tuple(range(2, data.ndim))))
    op = "depthwise_conv" if phases.lanewise(problem) else "conv"
    names = ("dilation", "bias", "activation", "dtype", *(["groups"] if op == "conv" else []))
    options = {name: problem.option(name) for name in names}
    other = Problem(op, problem.input_shape, problem.filter_shape, {**options, "padding": pads})
    flipped = Value(f"{weight.name}:flipped", data.shape, weight.dtype, data)
    inputs = [node.inputs[0], flipped, *node.inputs[2:]]
    return Node(op, inputs, node.output, {**node.attrs, "problem": other.text}, node.name)


def _padding(problem: Problem) -> tuple[int, ...]:
    """Padding of the convolution: lows, then highs; negative where it would crop its input."""
    spans = [extent - 1 for extent in problem.kernel_extent]
    lows = (span - low for span, low in zip(spans, problem.pads_low, strict=True))
    ends = zip(spans, problem.pads_high, problem.option("output_padding"), strict=True)
    return (*lows, *(span - high + more for span, high, more in ends))
