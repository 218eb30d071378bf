"""Operators of parts as their parts: problems that other operators compute one after the other."""

from __future__ import annotations

from dataclasses import replace

from tvmconv import ops
from tvmconv.graph.ir import Graph, Node, Value
from tvmconv.layout import HALVES
from tvmconv.problem import Problem

_OF_PARTS = ops.names(lambda op: op.family is not None and op.family.parts is not None)


def split_parts(graph: Graph) -> Graph:
    """Replace every node of such an operator by a node for each part, but for constant halves."""
    nodes: list[Node] = []
    for node in graph.nodes:
        nodes += _parts(node) if node.op in _OF_PARTS and not _is_one(node) else [node]
    return replace(graph, nodes=nodes)


def _is_one(node: Node) -> bool:
    """Whether a node is one kernel in any case: parts would round what is between to halves."""
    constant = all(value.is_constant for value in node.inputs[1:])
    return constant and node.output.dtype in HALVES


def _parts(node: Node) -> list[Node]:
    """The parts in a chain; weights and biases are the node's, in order."""
    nodes: list[Node] = []
    x, *rest = node.inputs
    values = iter(rest)
    parts = Problem.parse(node.attrs["problem"]).parts
    for number, part in enumerate(parts):
        own = [next(values) for _ in list(part.inputs)[1:]]
        last = number + 1 == len(parts)
        name = node.name if last else f"{node.name}:{number}"
        output = node.output
        if not last:
            output = Value(f"{output.name}:{number}", part.output_shape, output.dtype)
        nodes.append(Node(part.op, [x, *own], output, {"problem": part.text}, name))
        x = output
    return nodes
