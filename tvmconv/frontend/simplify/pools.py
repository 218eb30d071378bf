"""Means and maxima over whole maps become global pools."""

from __future__ import annotations

from tvmconv.frontend.limits import ConstantBudget
from tvmconv.frontend.simplify.rewrite import rebuild
from tvmconv.graph.ir import Graph, Node, Value
from tvmconv.layout import HALVES
from tvmconv.problem import Problem

_GLOBAL = {"avg_pool": "global_avg_pool", "max_pool": "global_max_pool"}
_REDUCTIONS = {"reduce_mean": "global_avg_pool", "reduce_max": "global_max_pool"}


def run(graph: Graph, budget: ConstantBudget) -> Graph:
    """Replace reductions over all spatial axes, and pools whose window is the whole map."""
    nodes: list[Node] = []
    for node in graph.nodes:
        nodes.extend(_reduction(node) or _window(node) or [node])
    return rebuild(graph, nodes, {})


def _reduction(node: Node) -> list[Node] | None:
    """Replace a mean or maximum over the spatial axes; a reshape follows if it drops them."""
    x = node.inputs[0] if node.inputs else node.output
    rank = len(x.shape)
    if node.op not in _REDUCTIONS or rank not in (3, 4, 5):
        return None
    if sorted(node.attrs["axes"]) != list(range(2, rank)):
        return None
    op = _REDUCTIONS[node.op]
    half = {"dtype": x.dtype} if x.dtype in HALVES else {}
    attrs = {"problem": Problem(op, x.shape, options=half).text}
    if node.attrs["keepdims"]:
        return [Node(op, [x], node.output, attrs, node.name)]
    pooled = Value(f"{node.output.name}:pooled", x.shape[:2] + (1,) * (rank - 2), x.dtype)
    shape = {"shape": list(node.output.shape)}
    return [
        Node(op, [x], pooled, attrs, node.name),
        Node("reshape", [pooled], node.output, shape, node.name),
    ]


def _window(node: Node) -> list[Node] | None:
    """Replace a pool without padding whose one window covers the map."""
    if node.op not in _GLOBAL:
        return None
    problem = Problem.parse(node.attrs["problem"])
    plain = not any((*problem.pads_low, *problem.pads_high)) and not problem.activation
    if problem.kernel != problem.in_spatial or problem.kernel_extent != problem.in_spatial:
        return None
    if not plain or problem.out_spatial != (1,) * problem.rank:
        return None
    op = _GLOBAL[node.op]
    attrs = {"problem": Problem(op, problem.input_shape, options={"dtype": problem.dtype}).text}
    return [Node(op, node.inputs, node.output, attrs, node.name)]
