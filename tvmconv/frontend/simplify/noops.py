"""Nodes that do nothing: reshapes to the same shape, transpositions that undo each other."""

from __future__ import annotations

from tvmconv.frontend.limits import ConstantBudget
from tvmconv.frontend.simplify.rewrite import View, rebuild
from tvmconv.graph.ir import Graph, Node, Value


def run(graph: Graph, budget: ConstantBudget) -> Graph:
    """Drop no-ops, and join reshapes and transpositions that follow each other."""
    view = View(graph)
    producers: dict[Value, Node] = {}
    renamed: dict[Value, Value] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        inputs = [renamed.get(value, value) for value in node.inputs]
        node = _joined(Node(node.op, inputs, node.output, node.attrs, node.name), producers)
        source = node.inputs[0] if node.inputs else node.output
        if _is_noop(node) and not view.is_output(node.output):
            renamed[node.output] = source
            continue
        if _is_noop(node) and _takes_over(node, view, producers):
            maker = producers.pop(source)
            maker.output = node.output
            producers[node.output] = maker
            renamed[source] = node.output
            continue
        nodes.append(node)
        producers[node.output] = node
    return rebuild(graph, nodes, renamed)


def _takes_over(node: Node, view: View, producers: dict[Value, Node]) -> bool:
    """Whether the node that feeds a no-op can make the graph's output in its place."""
    source = node.inputs[0]
    return source in producers and view.only_consumer(source) is not None


def _joined(node: Node, producers: dict[Value, Node]) -> Node:
    """Return the node reading what the reshape or transposition before it reads."""
    before = producers.get(node.inputs[0]) if node.inputs else None
    if before is None or before.op != node.op:
        return node
    if node.op == "reshape":
        return Node("reshape", before.inputs, node.output, node.attrs, node.name)
    if node.op == "transpose":
        perm = [before.attrs["perm"][axis] for axis in node.attrs["perm"]]
        return Node("transpose", before.inputs, node.output, {"perm": perm}, node.name)
    if node.op == "relu":
        return Node("relu", before.inputs, node.output, {}, node.name)
    return node


def _is_noop(node: Node) -> bool:
    """Whether the output has the elements of the first input, in the same places."""
    if not node.inputs or node.inputs[0].is_constant:
        return False
    if node.op == "reshape":
        return node.inputs[0].shape == node.output.shape
    if node.op == "transpose":
        return list(node.attrs["perm"]) == list(range(len(node.output.shape)))
    if node.op == "channel_shuffle":
        return node.attrs["groups"] in (1, node.output.shape[1])
    return False
