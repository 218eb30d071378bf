"""What the rewrites share: who makes and who reads a value, replacing it, dropping dead nodes."""

from __future__ import annotations

from collections.abc import Sequence

from tvmconv.graph.ir import Graph, Node, Value


class View:
    """A graph as patterns see it.

    Attributes
    ----------
    producers : dict
        The node that makes each computed value.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.producers = graph.producers()
        self._consumers = graph.consumers()
        self._outputs = set(graph.outputs)

    def is_output(self, value: Value) -> bool:
        """Whether the value is an output of the graph."""
        return value in self._outputs

    def only_consumer(self, value: Value) -> Node | None:
        """Return the one node that reads a value, if nothing else needs it."""
        readers = self._consumers.get(value, [])
        return readers[0] if len(readers) == 1 and not self.is_output(value) else None

    def producer(self, value: Value, op: str) -> Node | None:
        """Return the node that makes a value, if it is an ``op``."""
        node = self.producers.get(value)
        return node if node is not None and node.op == op else None

    def private_producer(self, value: Value, op: str) -> Node | None:
        """Return the ``op`` that makes a value which exactly one node reads."""
        return self.producer(value, op) if self.only_consumer(value) is not None else None


def rebuild(graph: Graph, nodes: Sequence[Node], renamed: dict[Value, Value]) -> Graph:
    """Return a graph of these nodes where values are replaced, without dead nodes.

    Parameters
    ----------
    graph : Graph
        Gives name, inputs and outputs.
    nodes : sequence of Node
        In execution order.
    renamed : dict
        What to read in place of a value; chains are followed. An output of the graph must not be
        replaced.
    """

    def final(value: Value) -> Value:
        while value in renamed:
            value = renamed[value]
        return value

    live = set(graph.outputs)
    kept: list[Node] = []
    for node in reversed(nodes):
        if node.output in live:
            inputs = [final(value) for value in node.inputs]
            live.update(inputs)
            kept.append(Node(node.op, inputs, node.output, node.attrs, node.name))
    return Graph(graph.name, graph.inputs, graph.outputs, kept[::-1])


def scalar(value: Value) -> float | None:
    """Return a constant's number if it has one element."""
    if value.data is None or value.data.size != 1:
        return None
    return float(value.data.reshape(()))
