"""Activations that an exporter has written as arithmetic: silu, hard sigmoid, hard swish."""

from __future__ import annotations

from tvmconv.frontend.limits import ConstantBudget
from tvmconv.frontend.simplify.rewrite import View, rebuild, scalar
from tvmconv.graph.ir import Graph, Node, Value

#: Relative difference of a constant from the one in the formula: exporters round 1/6 to float32.
_TOLERANCE = 1e-6


def run(graph: Graph, budget: ConstantBudget) -> Graph:
    """Replace the last node of each pattern; what only the pattern needed is dead then."""
    for match in (_clip_from_zero, _hard_sigmoid, _gate):
        view = View(graph)
        nodes = [match(node, view) or node for node in graph.nodes]
        graph = rebuild(graph, nodes, {})
    return graph


def _clip_from_zero(node: Node, view: View) -> Node | None:
    """Recognise relu: ``clip(x, 0, no limit)`` or ``max(x, 0)``."""
    if node.op == "clip" and node.attrs["min"] == 0 and node.attrs["max"] >= 3.4e38:
        return Node("relu", node.inputs, node.output, {}, node.name)
    if node.op == "maximum":
        for x, zero in _orders(node):
            if scalar(zero) == 0 and x.shape == node.output.shape:
                return Node("relu", [x], node.output, {}, node.name)
    return None


def _hard_sigmoid(node: Node, view: View) -> Node | None:
    """Recognise ``clip(x + 3, 0, 6) / 6``."""
    sixth = _scaled_by_sixth(node)
    x = _clipped(sixth, view) if sixth is not None else None
    if x is None:
        return None
    return Node("hard_sigmoid", [x], node.output, {"alpha": 1 / 6, "beta": 0.5}, node.name)


def _gate(node: Node, view: View) -> Node | None:
    """Recognise ``x·sigmoid(x)``, ``x·hard_sigmoid(x)`` and ``(x·clip(x + 3, 0, 6)) / 6``."""
    sixth = _scaled_by_sixth(node)
    inner = view.private_producer(sixth, "mul") if sixth is not None else None
    if inner is not None:
        for x, clipped in _orders(inner):
            if _clipped(clipped, view) is x:
                return Node("hard_swish", [x], node.output, {}, node.name)
    if node.op != "mul":
        return None
    for x, gate in _orders(node):
        maker = view.producers.get(gate)
        if maker is None or maker.inputs[0] is not x:
            continue
        if maker.op == "sigmoid":
            return Node("silu", [x], node.output, {}, node.name)
        if maker.op == "hard_sigmoid" and _is_swish(maker):
            return Node("hard_swish", [x], node.output, {}, node.name)
    return None


def _is_swish(node: Node) -> bool:
    return _near(node.attrs["alpha"], 1 / 6) and _near(node.attrs["beta"], 0.5)


def _clipped(value: Value, view: View) -> Value | None:
    """Return x of ``clip(x + 3, 0, 6)``."""
    clip = view.producer(value, "clip")
    if clip is None or clip.attrs["min"] != 0 or clip.attrs["max"] != 6:
        return None
    add = view.producer(clip.inputs[0], "add")
    if add is None:
        return None
    for x, three in _orders(add):
        if scalar(three) == 3 and x.shape == add.output.shape:
            return x
    return None


def _scaled_by_sixth(node: Node) -> Value | None:
    """Return x of ``x / 6`` or ``x · (1/6)``."""
    if node.op == "div" and scalar(node.inputs[1]) == 6:
        return node.inputs[0]
    if node.op == "mul":
        for x, factor in _orders(node):
            number = scalar(factor)
            if number is not None and _near(number, 1 / 6):
                return x
    return None


def _near(number: float, wanted: float) -> bool:
    return abs(number - wanted) <= _TOLERANCE * abs(wanted)


def _orders(node: Node) -> tuple[tuple[Value, Value], tuple[Value, Value]]:
    a, b = node.inputs
    return (a, b), (b, a)
