"""Depthwise-separable convolutions: two kernels or one, whichever is faster.

A node of the operator becomes a depthwise and a pointwise convolution before fusion
(:mod:`tvmconv.graph.parts`). After it, a depthwise convolution whose result only a pointwise one
reads becomes one node with that, where one kernel is expected to take less time than two: what lies
between is then never written to memory. The one kernel is on channel blocks: parts that are faster
on planes, conversions included, stay apart.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from tvmconv.graph.forms import Clock, on_planes
from tvmconv.graph.fuse import base_inputs
from tvmconv.graph.ir import Graph, Node
from tvmconv.kernel import KernelSpec, canonical_json
from tvmconv.layout import Layout
from tvmconv.ops import activation
from tvmconv.problem import Problem


class Prices(Clock, Protocol):
    """Tells whether one kernel is faster than two.

    Attributes
    ----------
    exact : bool
        Whether every convolution has to be computed as it is defined.
    """

    exact: bool

    def together(self, one: KernelSpec, two: tuple[KernelSpec, KernelSpec]) -> bool:
        """Whether a kernel is faster than two that compute the same one after the other."""


def fuse_separable(graph: Graph, block: int, prices: Prices) -> Graph:
    """Join the pairs that are faster as one kernel.

    Parameters
    ----------
    graph : Graph
        Fused.
    block : int
        Channels in a block.
    prices : Prices
    """
    makers, readers = graph.producers(), graph.consumers()
    planes = on_planes(graph, block, prices)
    joined: dict[Node, Node] = {}
    dropped: set[Node] = set()
    for node in graph.nodes:
        first = makers.get(node.inputs[0]) if node.op == "conv" else None
        if first is None or first.op != "depthwise_conv" or first.output in graph.outputs:
            continue
        if first.output in planes or node.output in planes:
            continue
        if len(readers[first.output]) > 1 or node.inputs.count(first.output) > 1:
            continue
        one = _joined(first, node)
        if one is None:
            continue
        pair = (kernel_of(first, block), kernel_of(node, block))
        if prices.together(kernel_of(one, block), pair):
            joined[node] = one
            dropped.add(first)
    nodes = [joined.get(node, node) for node in graph.nodes if node not in dropped]
    return replace(graph, nodes=nodes)


def _joined(first: Node, second: Node) -> Node | None:
    """The node that computes what two do; None if there is none."""
    problems = [Problem.parse(node.attrs["problem"]) for node in (first, second)]
    text = _activation(first, problems[0])
    if text is None or not _pointwise(problems[1]) or "shuffled" in second.attrs:
        return None
    if problems[0].co != problems[0].ci or problems[0].flipped:
        return None
    bases = [base_inputs(node) for node in (first, second)]
    weights = [node.inputs[1:base] for node, base in zip((first, second), bases, strict=True)]
    if not all(value.is_constant for value in (*weights[0], *weights[1])):
        return None
    options = {
        name: problems[0].option(name) for name in ("stride", "padding", "dilation", "dtype")
    }
    options |= {"inner_bias": problems[0].bias, "inner_activation": text}
    options |= {"bias": problems[1].bias, "activation": problems[1].activation}
    filters = (problems[1].co, *problems[0].kernel)
    problem = Problem("separable_conv", problems[0].input_shape, filters, options)
    inputs = [first.inputs[0], *weights[0], *weights[1], *second.inputs[bases[1] :]]
    attrs = {**second.attrs, "problem": problem.text}
    return Node("separable_conv", inputs, second.output, attrs, second.name)


def _activation(node: Node, problem: Problem) -> str | None:
    """What is applied to a depthwise convolution's result as one activation, or None."""
    steps = node.attrs.get("program", [])
    if len(steps) + bool(problem.activation) > 1:
        return None
    if not steps:
        return problem.activation
    if {"operand", "scalar"} & set(steps[0]):
        return None
    return activation.from_node(steps[0]["op"], steps[0])


def _pointwise(problem: Problem) -> bool:
    """Whether a convolution reads one place for each output, and all channels of it."""
    numbers = (*problem.kernel, *problem.stride, problem.groups)
    pads = (*problem.pads_low, *problem.pads_high)
    return max(numbers) == 1 and not any(pads)


def kernel_of(node: Node, block: int) -> KernelSpec:
    """The kernel of a node on blocks."""
    from tvmconv.autoschedule.workload import canonical

    data = [node.inputs[0], *node.inputs[base_inputs(node) :]]
    layouts = (Layout(v.shape, block if len(v.shape) > 1 else 1, dtype=v.dtype) for v in data)
    output = Layout(node.output.shape, block, dtype=node.output.dtype)
    return canonical(KernelSpec(node.op, canonical_json(node.attrs), tuple(layouts), output))
