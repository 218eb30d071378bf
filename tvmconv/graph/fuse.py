"""Fusion: what follows a kernel element by element is computed while its result is in registers.

The rewrites, in the order of :data:`REWRITES`:

* :func:`~tvmconv.graph.flip.flip_transposed`: a transposed convolution of stride 1 becomes an
  ordinary one;
* :func:`~tvmconv.graph.parts.split_parts`: a depthwise-separable convolution becomes two;
* :func:`~tvmconv.graph.shuffle.fold_shuffles`: a convolution reads its channels shuffled itself;
* :func:`~tvmconv.graph.gates.find_gates`: a product with a sigmoid becomes a gated convolution;
* :func:`as_programs`: every elementwise node becomes an ``elementwise`` node with a *program*, a
  list of steps;
* :func:`sink_reshapes`: a reshape before an elementwise node moves behind it, out of its way;
* :func:`dense_on_maps`: a flatten before ``dense`` disappears: the dense layer becomes a
  convolution whose kernel covers the whole map, so that the map never has to be brought into plain
  order; its result is reshaped, and that may have to sink again;
* :func:`fuse_elementwise`: a program joins the program of the node whose result it reads, if
  nothing else reads that: bias, activation and residual addition thus become part of the
  convolution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tvmconv import ops
from tvmconv.graph.flip import flip_transposed
from tvmconv.graph.gates import find_gates
from tvmconv.graph.ir import Graph, Node, Value
from tvmconv.graph.padding import split_padding_modes
from tvmconv.graph.parts import split_parts
from tvmconv.graph.shuffle import fold_shuffles
from tvmconv.layout import HALVES
from tvmconv.problem import Problem

#: Operators that can take a program.
HOSTS = ops.names(lambda operator: operator.takes_program)
#: Operators whose inputs, less the operands of a program, are those of a problem.
FAMILY = ops.names(lambda operator: operator.family is not None)


def dense_on_maps(graph: Graph) -> Graph:
    """Replace ``dense(reshape(x))`` by a convolution over the whole map of ``x``."""
    producers = graph.producers()
    nodes: list[Node] = []
    for node in graph.nodes:
        source = producers.get(node.inputs[0]) if node.op == "dense" else None
        if source is not None and source.op == "reshape" and _flattens(source):
            nodes.extend(_whole_map(node, source.inputs[0]))
        else:
            nodes.append(node)
    return remove_dead(Graph(graph.name, graph.inputs, graph.outputs, nodes))


def remove_dead(graph: Graph) -> Graph:
    """Drop the nodes from which no output can be reached."""
    wanted = set(graph.outputs)
    nodes = []
    for node in reversed(graph.nodes):
        if node.output in wanted:
            wanted.update(node.inputs)
            nodes.append(node)
    return Graph(graph.name, graph.inputs, graph.outputs, nodes[::-1])


def _flattens(node: Node) -> bool:
    """Whether a reshape turns (N, C, *spatial) into (N, C * spatial)."""
    shape = node.inputs[0].shape
    return (
        len(shape) in (3, 4, 5)
        and node.output.shape[:1] == shape[:1]
        and (len(node.output.shape) == 2)
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
    options: dict[str, object] = {"activation": old.activation, "dtype": old.dtype}
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


def as_programs(graph: Graph) -> Graph:
    """Turn every elementwise node into an ``elementwise`` node with a program."""
    nodes: list[Node] = []
    for node in graph.nodes:
        rank = len(node.output.shape)
        found = _program(node)
        if found is None:
            nodes.append(node)
            continue
        x, steps, operands = found
        per_channel = node.op in ("scale_shift", "prelu")
        shapes = [_wide(value.shape, rank, per_channel) for value in operands]
        aligned = [
            _in_shape(value, shape, nodes) for value, shape in zip(operands, shapes, strict=True)
        ]
        attrs = {"program": steps}
        nodes.append(Node("elementwise", [x, *aligned], node.output, attrs, node.name))
    return Graph(graph.name, graph.inputs, graph.outputs, nodes)


Program = tuple[Value, list[dict[str, Any]], list[Value]]


def _program(node: Node) -> Program | None:
    """Running value, steps and operands of an elementwise node; None if it is not elementwise."""
    if ops.get(node.op).expression is None and node.op != "scale_shift":
        return None
    if len(node.inputs) == 1:
        return node.inputs[0], [{"op": node.op, **node.attrs}], []
    if node.op == "scale_shift":
        steps = [{"op": "mul", "operand": 0}, {"op": "add", "operand": 1}]
        return node.inputs[0], steps, node.inputs[1:]
    if node.op == "prelu":
        return _binary("prelu", *node.inputs, reverse=False)
    a, b = node.inputs
    if b.shape == node.output.shape and (a.shape != b.shape or (a.is_constant > b.is_constant)):
        return _binary(node.op, b, a, reverse=True)
    return _binary(node.op, a, b, reverse=False) if a.shape == node.output.shape else None


def _binary(op: str, x: Value, other: Value, *, reverse: bool) -> Program:
    """The program of one step with an operand, or with a number if that is all the operand is."""
    step: dict[str, Any] = {"op": op, "reverse": True} if reverse else {"op": op}
    if other.data is not None and other.data.size == 1 and other.dtype in ("float32", *HALVES):
        return x, [{**step, "scalar": float(other.data.reshape(-1)[0])}], []
    return x, [{**step, "operand": 0}], [other]


def _wide(shape: tuple[int, ...], rank: int, per_channel: bool) -> tuple[int, ...]:
    """A shape with as many axes as the result: (C,) is (1, C, 1, ...), others align at the end."""
    if per_channel and len(shape) == 1:
        return (1, shape[0], *(1,) * (rank - 2))
    return (1,) * (rank - len(shape)) + shape


def _in_shape(value: Value, shape: tuple[int, ...], nodes: list[Node]) -> Value:
    """A value in another shape: a constant at once, a computed one by a reshape among ``nodes``."""
    if value.shape == shape:
        return value
    name = f"{value.name}:{'x'.join(map(str, shape))}"
    if value.data is not None:
        return Value(name, shape, value.dtype, value.data.reshape(shape))
    reshaped = Value(name, shape, value.dtype)
    nodes.append(Node("reshape", [value], reshaped, {"shape": list(shape)}, name))
    return reshaped


def sink_reshapes(graph: Graph) -> Graph:
    """Turn ``elementwise(reshape(x))`` into ``reshape(elementwise(x))`` where no operand minds.

    That is so if there are none, or if all are constants and the reshape drops axes of extent 1
    behind the others, as after a dense layer on a map.
    """
    readers = graph.consumers()
    reshapes: dict[Value, Node] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        reshape = reshapes.get(node.inputs[0]) if node.op == "elementwise" else None
        if reshape is not None and _sinks(reshape, node):
            nodes.remove(reshape)
            x = reshape.inputs[0]
            inner = Value(f"{node.output.name}:{reshape.name}", x.shape, node.output.dtype)
            missing = (1,) * (len(x.shape) - len(node.output.shape))
            operands = [_in_shape(v, (*v.shape, *missing), []) for v in node.inputs[1:]]
            nodes.append(Node("elementwise", [x, *operands], inner, node.attrs, node.name))
            node = Node("reshape", [inner], node.output, reshape.attrs, reshape.name)
        once = len(readers.get(node.output, ())) == 1 and node.output not in graph.outputs
        if node.op == "reshape" and once:
            reshapes[node.output] = node
        nodes.append(node)
    return Graph(graph.name, graph.inputs, graph.outputs, nodes)


def _sinks(reshape: Node, node: Node) -> bool:
    """Whether an elementwise node can be computed in the shape before a reshape."""
    before, after = reshape.inputs[0].shape, reshape.output.shape
    trailing = before == (*after, *(1,) * (len(before) - len(after)))
    return len(node.inputs) == 1 or (trailing and all(v.is_constant for v in node.inputs[1:]))


def absorb_conversions(graph: Graph) -> Graph:
    """Let an elementwise node dequantise an operand itself, as part of the step that takes it.

    Of the two terms of a sum, that which is made last stays the running value: the kernel that
    makes it can take the node over. Who reads what others dequantise as well does so on its own,
    so that no floats are stored.
    """
    graph = _split_conversions(graph)
    made = {node.output: node for node in graph.nodes if _dequantises(node)}
    places = {node.output: k for k, node in enumerate(graph.nodes)}
    nodes: list[Node] = []
    for node in graph.nodes:
        step = node.attrs["program"][0] if node.op == "elementwise" else {}
        source = made.get(node.inputs[1]) if step.get("operand") == 0 else None
        if source is None or source.output.shape != node.output.shape:
            nodes.append(node)
            continue
        x, operand = node.inputs[0], node.inputs[1]
        other = made.get(x)
        if step["op"] == "add" and other is not None and x.shape == operand.shape:
            first, second = (places.get(n.inputs[0], -1) for n in (other, source))
            if first < second:
                x, source = operand, other
        steps = [{**step, "program": source.attrs["program"]}, *node.attrs["program"][1:]]
        inputs = [x, source.inputs[0], *node.inputs[2:]]
        nodes.append(replace(node, inputs=inputs, attrs={**node.attrs, "program": steps}))
    return remove_dead(replace(graph, nodes=nodes))


def _split_conversions(graph: Graph) -> Graph:
    """Give each reader of dequantised numbers a node of its own that dequantises them."""
    made = {node.output: node for node in graph.nodes if _dequantises(node)}
    taken: set[Value] = set()
    nodes: list[Node] = []
    for node in graph.nodes:
        inputs = list(node.inputs)
        for k, value in enumerate(node.inputs):
            if value in made and value in taken:
                inputs[k] = Value(f"{value.name}:{node.output.name}:{k}", value.shape, value.dtype)
                nodes.append(replace(made[value], output=inputs[k]))
            taken.add(value)
        nodes.append(replace(node, inputs=inputs))
    return replace(graph, nodes=nodes)


def _dequantises(node: Node) -> bool:
    """Whether a node does nothing but dequantise."""
    steps = node.attrs.get("program", [])
    return node.op == "elementwise" and [s["op"] for s in steps] == ["dequantize"]


def fuse_elementwise(graph: Graph) -> Graph:
    """Let every elementwise node join the node whose result it reads, where that can be."""
    readers = graph.consumers()
    merged: list[Node] = []
    position: dict[Value, int] = {}
    for node in graph.nodes:
        for through in _hosts_of(node) if node.op == "elementwise" else ():
            place = position.get(through)
            if place is None or merged[place].op not in HOSTS or through in graph.outputs:
                continue
            if len(readers[through]) > 1:
                continue
            if _costly(merged[place]) and _costly(node):
                continue
            joined = _join(merged[place], node, through)
            # Every operand has to be there when the host runs.
            if any(position.get(v, -1) >= place for v in joined.inputs):
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
    if (
        swappable
        and not first.get("program")
        and node.inputs[1].shape == node.output.shape
        and node.inputs.count(node.inputs[1]) == 1
    ):
        return [node.inputs[0], node.inputs[1]]
    return [node.inputs[0]]


def _costly(node: Node) -> bool:
    """Whether a step of the node's program is one of which a kernel takes only one.

    A gated convolution has its own before the program.
    """
    family = ops.get(node.op).family
    steps = node.attrs.get("program", [])
    return (family is not None and family.gated) or any(
        ops.get(step["op"]).costly for step in steps
    )


def _join(host: Node, node: Node, through: Value) -> Node:
    """Append a node's program to its host's."""
    x, *operands = node.inputs
    steps = [dict(step) for step in node.attrs["program"]]
    if through is not x:
        operands[0] = x
    base = base_inputs(host)
    present = len(host.inputs) - base
    for step in steps:
        if "operand" in step:
            step["operand"] += present
    attrs = dict(host.attrs)
    attrs["program"] = [*attrs.get("program", []), *steps]
    return Node(host.op, [*host.inputs, *operands], node.output, attrs, host.name)


REWRITES: tuple[tuple[str, Callable[[Graph], Graph]], ...] = (
    ("SplitParts", split_parts),
    ("SplitPaddingModes", split_padding_modes),
    ("FlipTransposed", flip_transposed),
    ("FoldShuffles", fold_shuffles),
    ("FindGates", find_gates),
    ("AsPrograms", as_programs),
    ("SinkReshapes", sink_reshapes),
    ("DenseOnMaps", dense_on_maps),
    ("SinkReshapes", sink_reshapes),
    ("AbsorbConversions", absorb_conversions),
    ("FuseElementwise", fuse_elementwise),
)


def fuse(graph: Graph) -> Graph:
    """Return the graph with elementwise work fused into the kernels that feed it."""
    for _, rewrite in REWRITES:
        graph = rewrite(graph)
    return graph
