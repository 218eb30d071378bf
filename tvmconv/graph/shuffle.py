"""Channel shuffles that cost nothing: the convolution that follows reads the channels shuffled.

ShuffleNet's unit is a grouped convolution, a shuffle, a depthwise convolution and another grouped
convolution. What works channel by channel commutes with the shuffle if its weights are unshuffled,
and a convolution broadcasts its input elements one by one, so that it can take them in any order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tvmconv.graph.ir import Graph, Node, Value
from tvmconv.ops.elementwise import FUNCTIONS as UNARY


def fold_shuffles(graph: Graph) -> Graph:
    """Move shuffles into a convolution, where only depthwise and unary nodes are between."""
    readers = graph.consumers()
    replaced: dict[Node, Node] = {}
    dropped: set[Node] = set()
    for node in graph.nodes:
        if node.op != "channel_shuffle":
            continue
        path = _path_to_convolution(node, readers, graph.outputs)
        if path is None:
            continue
        dropped.add(node)
        renamed = {node.output: node.inputs[0]}
        for step in path[:-1]:
            inputs = [renamed.get(v, v) for v in step.inputs]
            inputs[1:] = [_unshuffled(v, node.attrs["groups"]) for v in inputs[1:]]
            old = step.output
            # Another value: it has the same elements in another order.
            renamed[old] = Value(f"{old.name}:unshuffled", old.shape, old.dtype)
            replaced[step] = Node(step.op, inputs, renamed[old], step.attrs, step.name)
        last = path[-1]
        attrs = {**last.attrs, "shuffled": node.attrs["groups"]}
        inputs = [renamed.get(v, v) for v in last.inputs]
        replaced[last] = Node(last.op, inputs, last.output, attrs, last.name)
    nodes = [replaced.get(node, node) for node in graph.nodes if node not in dropped]
    return Graph(graph.name, graph.inputs, graph.outputs, nodes)


def _path_to_convolution(
    shuffle: Node, readers: dict[Value, list[Node]], outputs: list[Value]
) -> list[Node] | None:
    """Nodes from a shuffle to the convolution that reads it; None if something else is between."""
    path: list[Node] = []
    value = shuffle.output
    while len(readers.get(value, ())) == 1 and value not in outputs:
        (reader,) = readers[value]
        if reader.inputs[0] is not value or value in reader.inputs[1:]:
            return None
        path.append(reader)
        if reader.op == "conv":
            return None if "shuffled" in reader.attrs else path
        lanewise = reader.op == "depthwise_conv" and reader.output.shape[1] == value.shape[1]
        if not (lanewise and all(v.is_constant for v in reader.inputs[1:])) and (
            reader.op not in UNARY
        ):
            return None
        value = reader.output
    return None


def _unshuffled(value: Value, groups: int) -> Value:
    """Weights of shuffled channels in the order that the channels had before."""
    data: npt.NDArray[Any] | None = value.data
    if data is None:
        raise ValueError(f"{value.name} is not a constant")
    # Channel k*per + j comes from, and goes to, place j*groups + k.
    order = np.arange(data.shape[0]).reshape(-1, groups).T.reshape(-1)
    return Value(f"{value.name}:unshuffled", value.shape, value.dtype, data[order])
