"""Padding modes other than zeros: a border of the input's own elements before a convolution."""

from __future__ import annotations

from tvmconv.graph.ir import Graph, Node, Value
from tvmconv.problem import Problem


def split_padding_modes(graph: Graph) -> Graph:
    """Replace every convolution with such a mode by a border and a convolution without padding.

    The border lies in channel blocks if what it reads does: it is a copy, a vector at a time, of a
    tensor that the convolution reads many times.
    """
    nodes: list[Node] = []
    for node in graph.nodes:
        text = node.attrs.get("problem")
        problem = Problem.parse(text) if text else None
        if problem is None or problem.option("padding_mode") in (None, "zeros"):
            nodes.append(node)
            continue
        nodes.extend(_split(node, problem))
    return Graph(graph.name, graph.inputs, graph.outputs, nodes)


def _split(node: Node, problem: Problem) -> list[Node]:
    x = node.inputs[0]
    lows, highs = [0, 0, *problem.pads_low], [0, 0, *problem.pads_high]
    shape = tuple(low + size + high for low, size, high in zip(lows, x.shape, highs, strict=True))
    wide = Value(f"{node.output.name}:border", shape, x.dtype)
    mode = problem.option("padding_mode")
    attrs = {"lows": lows, "highs": highs, "mode": mode, "value": 0.0}
    options = {k: v for k, v in problem.options if k not in ("padding", "padding_mode")}
    valid = Problem(problem.op, shape, problem.filter_shape, options)
    inner = {**node.attrs, "problem": valid.text}
    return [
        Node("pad", [x], wide, attrs, f"{node.name}:border"),
        Node(node.op, [wide, *node.inputs[1:]], node.output, inner, node.name),
    ]
