"""Arithmetic between dequantised tensors on the integers themselves.

Tools that quantise a network write ``QuantizeLinear`` and ``DequantizeLinear`` around its float
operators. The rewrites, until none applies:

* a convolution or dense layer of a dequantised tensor and weight is one of bytes (``qconv``), its
  sums times both scales, plus the bias;
* what moves or compares numbers (maximum pooling, reshape, transpose, concatenation of tensors with
  one scale, …) does so before they are dequantised;
* an average is a sum of bytes, times the scale over their number;
* a concatenation is of quantised parts;
* quantising what was dequantised with the same scale and zero point is nothing;
* sums that are multiplied by a scale and then quantised by another are multiplied by the quotient,
  as ONNX's QLinearConv has it.

What is left is computed in floats, between explicit conversions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod

import numpy as np

from tvmconv.frontend.limits import ConstantBudget
from tvmconv.frontend.simplify.rewrite import View, rebuild
from tvmconv.graph.ir import Graph, Node, Quantised, Value
from tvmconv.ops import Array, avg_pool, qlinear
from tvmconv.problem import Problem

#: What a rule makes of a node: nodes that compute the same, the last of them its output; or None.
Rule = Callable[[Node, View], "list[Node] | None"]

_HOSTS = ("conv", "depthwise_conv", "dense")
#: Operators that give some of the numbers that they are given, in another order.
_MOVES = ("channel_shuffle", "concat", "reshape", "slice", "transpose")
_UNIT = {"scale": 1.0, "zero_point": 0}


def run(graph: Graph, budget: ConstantBudget) -> Graph:
    """Rewrite until nothing changes."""
    if not any(node.op in ("quantize", "dequantize") for node in graph.nodes):
        return graph
    changed = True
    while changed:
        changed = False
        for rule in RULES:
            view = View(graph)
            nodes: list[Node] = []
            for node in graph.nodes:
                made = rule(node, view)
                changed = changed or made is not None
                nodes += [node] if made is None else made
            graph = rebuild(graph, nodes, {})
        graph, cancelled = _cancel(graph)
        changed = changed or cancelled
    return graph


def _dequantised(value: Value, view: View) -> Node | None:
    """The node that dequantises bytes to this value, or None."""
    node = view.producer(value, "dequantize")
    return node if node is not None and node.inputs[0].dtype in qlinear.BYTES else None


def _value(like: Value, suffix: str, dtype: str, shape: tuple[int, ...] | None = None) -> Value:
    return Value(f"{like.name}:{suffix}", like.shape if shape is None else shape, dtype)


def _constant(like: Value, suffix: str, data: Array) -> Value:
    data = np.asarray(data)
    return Value(f"{like.name}:{suffix}", data.shape, data.dtype.name, data)


# --- convolutions


def _convolution(node: Node, view: View) -> list[Node] | None:
    """A convolution of bytes in the place of one of what they were dequantised to."""
    if node.op not in _HOSTS:
        return None
    source, weight = _dequantised(node.inputs[0], view), node.inputs[1].quantised
    problem = Problem.parse(node.attrs["problem"])
    if source is None or weight is None or not _fits(weight) or problem.activation:
        return None
    x_scale = np.float32(source.attrs["scale"])
    scale = (x_scale * weight.scale).astype(np.float32)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    integers = None if bias is None else _integer_bias(bias, scale)
    if bias is not None and integers is None and not bias.is_constant:
        return None
    x, nodes = source.inputs[0], []
    data = weight.data
    if node.op == "dense":
        shape = (*x.shape, 1)
        nodes.append(_reshape(x, _value(x, "column", x.dtype, shape)))
        x, data = nodes[-1].output, data[..., None]
    less, terms = qlinear.less_zero(data, weight.zero_point)
    made = _qconv_problem(node.op, problem, x, terms, source.attrs["zero_point"], integers)
    operands = [x, _constant(node.output, "weight", less)]
    operands += [] if integers is None else [_constant(node.output, "bias", integers)]
    sums = _value(node.output, "sums", "int32", made.output_shape)
    nodes.append(Node(made.op, operands, sums, {"problem": made.text}, node.name))
    added = None if bias is None or integers is not None else np.asarray(bias.data)
    return [*nodes, *_scaled(node, sums, scale, added)]


def _fits(weight: Quantised) -> bool:
    """Whether a weight is of bytes, with a scale for all of it or for each output channel."""
    counts = {weight.scale.size, weight.zero_point.size} - {1}
    return str(weight.data.dtype) in qlinear.BYTES and (not counts or weight.axis == 0)


def _integer_bias(bias: Value, scale: Array) -> Array | None:
    """The integers of a bias whose scale is that of the sums, or None."""
    quantised = bias.quantised
    if quantised is None or quantised.data.dtype != np.int32 or quantised.zero_point.any():
        return None
    same = np.allclose(quantised.scale, scale, rtol=1e-6, atol=0.0)
    return quantised.data if same else None


def _qconv_problem(
    op: str, problem: Problem, x: Value, terms: int, zero_point: int, bias: Array | None
) -> Problem:
    """The problem of bytes in the place of one of floats."""
    kept = ("stride", "padding", "dilation")
    options: dict[str, object] = {name: problem.option(name) for name in kept}
    if op == "conv":
        options["groups"] = problem.groups
    options = {name: value for name, value in options.items() if value is not None}
    options |= {"dtype": x.dtype, "zero_point": zero_point, "bias": bias is not None}
    options["weight_terms"] = terms
    filters = problem.filter_shape if problem.rank else (problem.co, 1)
    name = "depthwise_qconv" if op == "depthwise_conv" else "qconv"
    return Problem.make(name, x.shape, filters, **options)


def _scaled(node: Node, sums: Value, scale: Array, bias: Array | None) -> list[Node]:
    """The float result of sums: times their scale, plus a bias, in the shape of the node's."""
    output = node.output
    real, product = _value(sums, "real", "float32"), _value(sums, "scaled", "float32")
    rank = len(sums.shape)
    factor = _constant(output, "scale", qlinear.per_channel(scale, rank))
    nodes = [
        Node("dequantize", [sums], real, dict(_UNIT), node.name),
        Node("mul", [real, factor], product, {}, node.name),
    ]
    if bias is not None:
        added = _constant(output, "bias", qlinear.per_channel(bias.reshape(-1), rank))
        nodes.append(Node("add", [product, added], _value(sums, "sum", "float32"), {}, node.name))
    if sums.shape != output.shape:
        nodes.append(_reshape(nodes[-1].output, output))
    nodes[-1] = replace(nodes[-1], output=output)
    return nodes


def _reshape(x: Value, output: Value) -> Node:
    return Node("reshape", [x], output, {"shape": list(output.shape)}, output.name)


# --- what moves, compares or adds numbers


def _before(node: Node, view: View) -> list[Node] | None:
    """Move or compare the integers, then dequantise: if all inputs have one scale and zero point.

    A scale is positive, so that the largest number is also the largest integer.
    """
    if node.op not in (*_MOVES, "max_pool", "global_max_pool"):
        return None
    sources = [_dequantised(value, view) for value in node.inputs]
    first = sources[0]
    if first is None or any(s is None or s.attrs != first.attrs for s in sources):
        return None
    dtypes = {s.inputs[0].dtype for s in sources if s is not None}
    if len(dtypes) > 1:
        return None
    attrs, op = dict(node.attrs), node.op
    dtype = first.inputs[0].dtype
    if "problem" in attrs:
        problem = Problem.parse(attrs["problem"])
        if op == "global_max_pool":
            op, problem = "max_pool", Problem.make("max_pool", problem.input_shape, problem.kernel)
        attrs["problem"] = problem.replace(dtype=dtype).text
    integers = _value(node.output, "integers", dtype)
    inputs = [s.inputs[0] for s in sources if s is not None]
    return [
        Node(op, inputs, integers, attrs, node.name),
        Node("dequantize", [integers], node.output, first.attrs, node.name),
    ]


def _average(node: Node, view: View) -> list[Node] | None:
    """Sum bytes, and multiply by the scale over how many there are."""
    if node.op not in ("avg_pool", "global_avg_pool"):
        return None
    source = _dequantised(node.inputs[0], view)
    if source is None:
        return None
    problem, x = Problem.parse(node.attrs["problem"]), source.inputs[0]
    kept = ("stride", "padding", "dilation", "ceil_mode")
    options = {name: problem.option(name) for name in kept}
    options = {name: value for name, value in options.items() if value is not None}
    options |= {"dtype": x.dtype, "zero_point": source.attrs["zero_point"]}
    made = Problem.make("sum_pool", x.shape, problem.kernel, **options)
    if made.output_shape != node.output.shape:
        return None
    counts = np.full((), float(prod(problem.kernel)))
    if node.op == "avg_pool":
        counts = avg_pool.divisors(problem)
        counts = counts.reshape(-1)[0] if np.ptp(counts) == 0 else counts
    factor = (np.float32(source.attrs["scale"]) / counts).astype(np.float32)
    sums, real = (_value(node.output, s, d) for s, d in (("sums", "int32"), ("real", "float32")))
    return [
        Node("sum_pool", [x], sums, {"problem": made.text}, node.name),
        Node("dequantize", [sums], real, dict(_UNIT), node.name),
        Node("mul", [real, _constant(node.output, "factor", factor)], node.output, {}, node.name),
    ]


def _parts(node: Node, view: View) -> list[Node] | None:
    """Quantise the parts of a concatenation, and concatenate those."""
    if node.op != "quantize":
        return None
    whole = view.private_producer(node.inputs[0], "concat")
    if whole is None or not any(_dequantised(v, view) for v in whole.inputs):
        return None
    parts, nodes = [], []
    for number, value in enumerate(whole.inputs):
        parts.append(_value(value, f"{node.output.name}:{number}", node.output.dtype))
        nodes.append(Node("quantize", [value], parts[-1], node.attrs, node.name))
    return [*nodes, Node("concat", parts, node.output, whole.attrs, whole.name)]


# --- scales


def _requantise(node: Node, view: View) -> list[Node] | None:
    """Multiply sums by the quotient of two scales, in the place of one and then the other.

    Between them there may be an addition of a constant, a relu and reshapes.
    """
    if node.op != "quantize" or node.attrs["scale"] == 1:
        return None
    chain: list[Node] = []
    value = node.inputs[0]
    while view.only_consumer(value) is not None:
        producer = view.producers.get(value)
        if producer is None or producer.op not in ("mul", "add", "relu", "reshape"):
            return None
        chain.append(producer)
        value = producer.inputs[0]
        if producer.op == "mul":
            break
    source = view.private_producer(value, "dequantize") if chain else None
    if source is None or source.attrs != _UNIT or chain[-1].op != "mul":
        return None
    if any(n.op in ("mul", "add") and not n.inputs[1].is_constant for n in chain):
        return None
    nodes: list[Node] = []
    scale = np.float32(node.attrs["scale"])
    for step in reversed(chain):
        output = _value(step.output, f"{node.output.name}:steps", "float32")
        inputs = [value]
        if step.op in ("mul", "add"):
            data = np.asarray(step.inputs[1].data, np.float32)
            inputs.append(_constant(output, step.op, data / scale))
        nodes.append(Node(step.op, inputs, output, step.attrs, step.name))
        value = output
    attrs = {**node.attrs, "scale": 1.0}
    return [*nodes, Node("quantize", [value], node.output, attrs, node.name)]


def _cancel(graph: Graph) -> tuple[Graph, bool]:
    """Read the integers themselves where they are dequantised and quantised in the same way."""
    view = View(graph)
    renamed: dict[Value, Value] = {}
    for node in graph.nodes:
        source = view.producer(node.inputs[0], "dequantize") if node.op == "quantize" else None
        if source is None or view.is_output(node.output):
            continue
        attrs = {**source.attrs, "dtype": source.inputs[0].dtype}
        if attrs == node.attrs and source.inputs[0].dtype in qlinear.BYTES:
            renamed[node.output] = source.inputs[0]
    return (rebuild(graph, graph.nodes, renamed), True) if renamed else (graph, False)


RULES: tuple[Rule, ...] = (_convolution, _before, _average, _parts, _requantise)
