"""Gated convolutions: one kernel that has both halves, or two whose second multiplies.

Two convolutions take a node's place if they are faster (a transformed algorithm has no gated form),
or if its weights are not constants: the program of the second multiplies by the first one's result.
Halves stay one kernel, which rounds once; no other algorithm takes them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tvmconv.graph.fuse import base_inputs
from tvmconv.graph.ir import Graph, Node, Value
from tvmconv.graph.separable import Prices, kernel_of
from tvmconv.kernel import activation_steps
from tvmconv.layout import HALVES
from tvmconv.ops.gated_conv import half
from tvmconv.problem import Problem


def choose_gates(graph: Graph, block: int, prices: Prices | None) -> Graph:
    """Turn the gated convolutions for which that is faster, or needed, into two convolutions.

    Parameters
    ----------
    graph : Graph
        Fused.
    block : int
        Channels in a block.
    prices : Prices, optional
        Without it every node with constant weights stays.
    """
    nodes: list[Node] = []
    for node in graph.nodes:
        nodes += [node] if node.op != "gated_conv" else _chosen(node, block, prices)
    return replace(graph, nodes=nodes)


def _chosen(node: Node, block: int, prices: Prices | None) -> list[Node]:
    base = base_inputs(node)
    constant = all(value.is_constant for value in node.inputs[1:base])
    if constant and (prices is None or node.inputs[0].dtype in HALVES):
        return [node]
    *before, first, second = _two(node, base)
    if constant and prices:
        pair = (kernel_of(first, block), kernel_of(second, block))
        if prices.together(kernel_of(node, block), pair):
            return [node]
    return [*before, first, second]


def _two(node: Node, base: int) -> list[Node]:
    """Two convolutions, after the slices of weights that are not constants."""
    problem = Problem.parse(node.attrs["problem"])
    plain, name = half(problem).text, node.output.name
    slices: list[Node] = []
    own = [[_half(value, number, slices) for value in node.inputs[1:base]] for number in (0, 1)]
    steps = activation_steps(problem.text)
    value = Value(f"{name}:value", node.output.shape, node.output.dtype)
    attrs: dict[str, Any] = {"problem": plain, "program": steps}
    first = Node("conv", [node.inputs[0], *own[0]], value, attrs, f"{node.name}:value")
    program = [{"op": "sigmoid"}, {"op": "mul", "operand": 0}]
    for step in node.attrs.get("program", []):
        program.append({**step, "operand": step["operand"] + 1} if "operand" in step else step)
    inputs = [node.inputs[0], *own[1], value, *node.inputs[base:]]
    attrs = {"problem": plain, "program": program}
    return [*slices, first, Node("conv", inputs, node.output, attrs, node.name)]


def _half(value: Value, number: int, slices: list[Node]) -> Value:
    """The first or second half of a weight or a bias."""
    count = value.shape[0] // 2
    shape, name = (count, *value.shape[1:]), f"{value.name}:{number}"
    if value.data is not None:
        return Value(name, shape, value.dtype, np.split(value.data, 2)[number])
    part = Value(name, shape, value.dtype)
    start = number * count
    attrs = {"starts": [start], "ends": [start + count], "steps": [1], "axes": [0]}
    slices.append(Node("slice", [value], part, attrs, name))
    return part
