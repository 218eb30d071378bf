"""Fusion: what follows a kernel element by element is computed while its result is in registers.

Three rewrites, in this order:

* a flatten before ``dense`` disappears: the dense layer becomes a convolution whose kernel covers
  the whole map, so that the map never has to be brought into plain order;
* every elementwise node becomes an ``elementwise`` node with a *program*, a list of steps;
* a program joins the program of the node whose result it reads, if nothing else reads that: bias,
  activation and residual addition thus become part of the convolution.
"""

from __future__ import annotations

from typing import Any

from tvmconv.graph.ir import Graph, Node, Value
from tvmconv.ops.binary import FUNCTIONS as BINARY
from tvmconv.ops.elementwise import FUNCTIONS as UNARY
from tvmconv.problem import Problem

#: Operators that can take a program.
HOSTS = frozenset(
    {
        "conv",
        "depthwise_conv",
        "dense",
        "max_pool",
        "avg_pool",
        "global_avg_pool",
        "global_max_pool",
        "lrn",
        "elementwise",
    }
)
#: Inputs of a host that are not operands of its program.
FAMILY = frozenset(HOSTS - {"lrn", "elementwise"})


def fuse(graph: Graph) -> Graph:
    """Return the graph with elementwise work fused into the kernels that feed it."""
    nodes = [_as_program(node) for node in _dense_on_maps(graph)]
    return _merge(Graph(graph.name, graph.inputs, graph.outputs, nodes))


def _dense_on_maps(graph: Graph) -> list[Node]:
    """Replace ``dense(reshape(x))`` by a convolution over the whole map of ``x``."""
    producers, consumers = graph.producers(), graph.consumers()
    nodes: list[Node] = []
    for node in graph.nodes:
        source = producers.get(node.inputs[0]) if node.op == "dense" else None
        if source is None or source.op != "reshape" or not _flattens(source):
            nodes.append(node)
            continue
        nodes.extend(_whole_map(node, source.inputs[0]))
        if len(consumers[source.output]) == 1 and source.output not in graph.outputs:
            nodes.remove(source)
    return nodes


def _flattens(node: Node) -> bool:
    """Whether a reshape turns (N, C, *spatial) into (N, C * spatial)."""
    shape = node.inputs[0].shape
    return len(shape) in (3, 4, 5) and node.output.shape[:1] == shape[:1] and (
        len(node.output.shape) == 2
    )


def _whole_map(dense: Node, x: Value) -> list[Node]:
    """Make the convolution and the reshape of its (N, M, 1, ...) result."""
    weight = dense.inputs[1]
    if not weight.is_constant or weight.data is None:
        return [dense]
    rank = len(x.shape) - 2
    units = weight.shape[0]
    shaped = Value(
        f"{weight.name}:map", (units, *x.shape[1:]), weight.dtype,
        weight.data.reshape(units, *x.shape[1:]),
    )  # fmt: skip
    bias = len(dense.inputs) > 2
    old = Problem.parse(dense.attrs["problem"])
    options: dict[str, object] = {"activation": old.activation} if old.activation else {}
    problem = Problem.make("conv", x.shape, (units, *x.shape[2:]), bias=bias, **options)
    result = Value(f"{dense.output.name}:map", (x.shape[0], units, *(1,) * rank), x.dtype)
    return [
        Node("conv", [x, shaped, *dense.inputs[2:]], result, {"problem": problem.text}, dense.name),
        Node("reshape", [result], dense.output, {"shape": list(dense.output.shape)}, dense.name),
    ]


def base_inputs(node: Node) -> int:
    """How many of a host's inputs come before the operands of its program."""
    if node.op in FAMILY:
        return len(Problem.parse(node.attrs["problem"]).inputs)
    return 1


def _as_program(node: Node) -> Node:
    """Turn an elementwise node into an ``elementwise`` node with a one-step program."""
    attrs: dict[str, Any] = dict(node.attrs)
    if node.op in UNARY:
        return _elementwise(node, node.inputs[0], [{"op": node.op, **attrs}], [])
    if node.op == "scale_shift":
        x, scale, shift = node.inputs
        steps = [{"op": "mul", "operand": 0}, {"op": "add", "operand": 1}]
        return _elementwise(node, x, steps, [_channels(v, len(x.shape)) for v in (scale, shift)])
    if node.op == "prelu":
        x, slope = node.inputs
        operand = _channels(slope, len(x.shape)) if len(slope.shape) == 1 else slope
        return _elementwise(node, x, [{"op": "prelu", "operand": 0}], [operand])
    if node.op in BINARY:
        a, b = node.inputs
        reverse = a.shape != node.output.shape or (a.is_constant and not b.is_constant)
        if reverse and b.shape != node.output.shape:
            return node
        x, other = (b, a) if reverse else (a, b)
        step: dict[str, Any] = {"op": node.op}
        if reverse:
            step["reverse"] = True
        if other.data is not None and other.data.size == 1:
            return _elementwise(node, x, [{**step, "scalar": float(other.data.reshape(-1)[0])}], [])
        return _elementwise(node, x, [{**step, "operand": 0}], [_ranked(other, len(x.shape))])
    return node


def _elementwise(
    node: Node, x: Value, steps: list[dict[str, Any]], operands: list[Value]
) -> Node:
    return Node("elementwise", [x, *operands], node.output, {"program": steps}, node.name)


def _channels(value: Value, rank: int) -> Value:
    """View a per-channel vector (C,) as (1, C, 1, ...)."""
    shape = (1, value.shape[0], *(1,) * (rank - 2))
    data = None if value.data is None else value.data.reshape(shape)
    return Value(f"{value.name}:channels", shape, value.dtype, data)


def _ranked(value: Value, rank: int) -> Value:
    """Give a constant as many axes as what it is combined with."""
    if len(value.shape) == rank or value.data is None:
        return value
    shape = (1,) * (rank - len(value.shape)) + value.shape
    return Value(f"{value.name}:ranked", shape, value.dtype, value.data.reshape(shape))


def _merge(graph: Graph) -> Graph:
    """Let every elementwise node join the node whose result it reads, where that can be."""
    readers = graph.consumers()
    merged: list[Node] = []
    position: dict[Value, int] = {}
    for node in graph.nodes:
        for through in _hosts_of(node) if node.op == "elementwise" else ():
            place = position.get(through)
            if place is None or merged[place].op not in HOSTS or through in graph.outputs:
                continue
            if len(readers[through]) > 1 or through.shape != node.output.shape:
                continue
            joined = _join(merged[place], node, through)
            # Every operand has to be there when the host runs.
            if joined is None or any(position.get(v, -1) >= place for v in joined.inputs):
                continue
            merged[place] = joined
            position[node.output] = place
            break
        else:
            position[node.output] = len(merged)
            merged.append(node)
    return Graph(graph.name, graph.inputs, graph.outputs, merged)


def _hosts_of(node: Node) -> list[Value]:
    """Inputs whose producer might take over the node's program: ``x``, or a first operand."""
    first = node.attrs["program"][0]
    swappable = first["op"] in ("add", "mul", "maximum", "minimum") and first.get("operand") == 0
    if swappable and node.inputs[1].shape == node.output.shape and node.inputs.count(
        node.inputs[1]
    ) == 1:
        return [node.inputs[0], node.inputs[1]]
    return [node.inputs[0]]


def _join(host: Node, node: Node, through: Value) -> Node | None:
    """Append a node's program to its host's."""
    x, *operands = node.inputs
    steps = [dict(step) for step in node.attrs["program"]]
    if through is not x:
        operands[0] = x
    if through in operands:
        return None
    base = base_inputs(host)
    present = len(host.inputs) - base
    for step in steps:
        if "operand" in step:
            step["operand"] += present
    attrs = dict(host.attrs)
    attrs["program"] = [*attrs.get("program", []), *steps]
    return Node(host.op, [*host.inputs, *operands], node.output, attrs, host.name)
