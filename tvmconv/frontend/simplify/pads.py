"""A border before a convolution or pool becomes its padding."""

from __future__ import annotations

from tvmconv.errors import InputError
from tvmconv.frontend.limits import ConstantBudget
from tvmconv.frontend.simplify.rewrite import View, rebuild
from tvmconv.graph.ir import Graph, Node
from tvmconv.problem import Problem

#: What counts as -∞: exporters write the lowest float32 for it.
_LOWEST = -3.4e38
#: Operators whose output is never negative, so that a zero never exceeds a window's maximum.
_NOT_NEGATIVE = frozenset({"relu", "sigmoid", "abs", "exp", "softplus", "softmax", "hard_sigmoid"})


def run(graph: Graph, budget: ConstantBudget) -> Graph:
    """Merge where the result is the same; elsewhere the border stays a node."""
    view = View(graph)
    return rebuild(graph, [_match(node, view) or node for node in graph.nodes], {})


def _match(node: Node, view: View) -> Node | None:
    pad = view.producer(node.inputs[0], "pad") if node.inputs else None
    if pad is None or "problem" not in node.attrs or pad.attrs["mode"] != "constant":
        return None
    lows, highs = pad.attrs["lows"], pad.attrs["highs"]
    if any((*lows[:2], *highs[:2])):
        return None
    problem = Problem.parse(node.attrs["problem"])
    options = _options(node, problem, pad, view)
    if options is None:
        return None
    low = [a + b for a, b in zip(problem.pads_low, lows[2:], strict=True)]
    high = [a + b for a, b in zip(problem.pads_high, highs[2:], strict=True)]
    try:
        merged = Problem(
            node.op,
            pad.inputs[0].shape,
            problem.filter_shape,
            {**dict(problem.options), **options, "padding": (*low, *high)},
        )
    except InputError:  # a pool's padding must be shorter than its window
        return None
    if merged.output_shape != node.output.shape:
        return None
    attrs = {**node.attrs, "problem": merged.text}
    return Node(node.op, [pad.inputs[0], *node.inputs[1:]], node.output, attrs, node.name)


def _options(node: Node, problem: Problem, pad: Node, view: View) -> dict[str, object] | None:
    """Return what else changes in the problem, or None where merging would change the result."""
    value = pad.attrs["value"]
    if node.op in ("conv", "depthwise_conv"):
        return {} if value == 0 else None
    if problem.ceil_mode:
        return None
    if node.op == "max_pool":
        # The pool's own padding is -∞. A border of 0 is the same where the window also sees an
        # element that is not negative, and the pool refuses padding as long as its window.
        source = view.producers.get(pad.inputs[0])
        positive = source is not None and source.op in _NOT_NEGATIVE
        return {} if value <= _LOWEST or (value == 0 and positive) else None
    if node.op == "avg_pool" and value == 0:
        padded = any((*problem.pads_low, *problem.pads_high))
        return None if padded and not problem.count_include_pad else {"count_include_pad": True}
    return None
