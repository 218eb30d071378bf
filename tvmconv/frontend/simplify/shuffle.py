"""Channel shuffle, which exporters write as reshape, transpose, reshape."""

from __future__ import annotations

from math import prod

from tvmconv.frontend.limits import ConstantBudget
from tvmconv.frontend.simplify.rewrite import View, rebuild
from tvmconv.graph.ir import Graph, Node


def run(graph: Graph, budget: ConstantBudget) -> Graph:
    """Replace the last reshape of each pattern."""
    view = View(graph)
    return rebuild(graph, [_match(node, view) or node for node in graph.nodes], {})


def _match(node: Node, view: View) -> Node | None:
    """Recognise (N, C, …) → (N, g, C/g, …) → (N, C/g, g, …) → (N, C, …)."""
    transpose = view.private_producer(node.inputs[0], "transpose") if node.op == "reshape" else None
    apart = view.private_producer(transpose.inputs[0], "reshape") if transpose else None
    if transpose is None or apart is None:
        return None
    x, split = apart.inputs[0], apart.output.shape
    if node.output.shape != x.shape or len(x.shape) < 2 or len(split) < 3:
        return None
    if split[0] != x.shape[0] or prod(split[1:3]) != x.shape[1]:
        return None
    if transpose.attrs["perm"] != [0, 2, 1, *range(3, len(split))]:
        return None
    return Node("channel_shuffle", [x], node.output, {"groups": split[1]}, node.name)
