"""Dense layer (fully connected): ``y[n, m] = sum over k of x[n, k] * w[m, k] + b[m]``.

ONNX's ``Gemm`` and ``MatMul`` with a constant right-hand side become it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from tvmconv.ops import Array, Family, Float64, Shape, _matmul, channels, conv, importing
from tvmconv.ops import family as shared
from tvmconv.ops import options as opt
from tvmconv.problem import Problem

if TYPE_CHECKING:
    from tvmconv.frontend.node import Builder, OnnxNode
    from tvmconv.graph.ir import Quantised, Value

#: Elements of the weight that the reference converts at a time.
_BLOCK = 1 << 22


def inputs(problem: Problem) -> dict[str, Shape]:
    """Shapes of the input (N, K), the weight (M, K) and the bias (M,)."""
    bias = {"bias": (problem.co,)} if problem.bias else {}
    return {"x": problem.input_shape, "weight": (problem.co, problem.ci), **bias}


def reference(problem: Problem, arrays: Mapping[str, Array]) -> Float64:
    """Output before the activation, by blocks of columns: a weight in float64 can be large."""
    x, weight = np.asarray(arrays["x"], np.float64), arrays["weight"]
    step = max(1, _BLOCK // problem.ci)
    blocks = [weight[start : start + step] for start in range(0, problem.co, step)]
    y = np.concatenate([x @ np.asarray(block, np.float64).T for block in blocks], axis=1)
    return shared.add_bias(problem, y, arrays)


def import_gemm(node: OnnxNode, builder: Builder) -> Value:
    """ONNX ``Gemm``: ``alpha * A' * B' + beta * C``."""
    node.allow_attrs("alpha", "beta", "transA", "transB", *(["broadcast"] * (node.opset < 7)))
    x = node.input(0)
    if len(x.shape) != 2 or len(node.input(1).shape) != 2:
        node.fail(f"A and B must have 2 axes, have shapes {x.shape} and {node.input(1).shape}")
    weight = node.input(1).data
    if weight is None:
        return _gemm_at_run_time(node, builder)
    if importing.flag_attr(node, "transA"):
        x = builder.emit("transpose", [x], {"perm": [1, 0]})
    transposed = importing.flag_attr(node, "transB")
    weight = weight if transposed else weight.T
    alpha, beta = node.float_attr("alpha", 1.0), node.float_attr("beta", 1.0)
    integers = node.input(1).quantised if alpha == 1 else None
    if integers is not None and not transposed:
        data = np.ascontiguousarray(integers.data.T)
        integers = replace(integers, data=data, axis=1 - integers.axis)
    if x.shape[1] != weight.shape[1]:
        node.fail(f"A' has {x.shape[1]} columns, but B' has {weight.shape[1]} rows")
    weight = _scaled(weight, alpha)
    shape = (x.shape[0], weight.shape[0])
    added = node.optional(2)
    if added is None or beta == 0:
        return _emit(node, builder, x, weight, integers=integers)
    if len(added.shape) > 2 or not _broadcasts(added.shape, shape):
        node.fail(f"C of shape {added.shape} does not broadcast to the output's {shape}")
    if added.data is not None:
        scaled = _scaled(added.data, beta)
        if added.shape[:-1] in ((), (1,)):
            row = np.broadcast_to(scaled.reshape(-1), shape[1:])
            bias = builder.constant(np.ascontiguousarray(row))
            if beta == 1 and added.shape == bias.shape:
                bias.quantised = added.quantised
            return _emit(node, builder, x, weight, bias, integers)
        added = builder.constant(scaled)
    elif beta == 1 and added.shape == shape[1:]:
        return _emit(node, builder, x, weight, added, integers)
    else:
        added = _times(builder, added, beta)
    return builder.emit("add", [_emit(node, builder, x, weight, integers=integers), added])


def _gemm_at_run_time(node: OnnxNode, builder: Builder) -> Value:
    """Gemm with a B that is known only at run time: transposes, a product, and arithmetic."""
    a, b = node.input(0), node.input(1)
    if importing.flag_attr(node, "transA"):
        a = builder.emit("transpose", [a], {"perm": [1, 0]})
    if importing.flag_attr(node, "transB"):
        b = builder.emit("transpose", [b], {"perm": [1, 0]})
    y = _times(builder, _matmul.product(node, builder, a, b), node.float_attr("alpha", 1.0))
    added, beta = node.optional(2), node.float_attr("beta", 1.0)
    if added is None or beta == 0:
        return y
    if len(added.shape) > 2 or not _broadcasts(added.shape, y.shape):
        node.fail(f"C of shape {added.shape} does not broadcast to the output's {y.shape}")
    return builder.emit("add", [y, _times(builder, added, beta)])


def _times(builder: Builder, value: Value, factor: float) -> Value:
    """``value * factor``."""
    if factor == 1:
        return value
    return builder.emit("mul", [value, builder.constant(np.asarray(factor, value.dtype))])


def import_matmul(node: OnnxNode, builder: Builder) -> Value:
    """ONNX ``MatMul``; with a constant matrix, leading axes of the left side become rows."""
    node.allow_attrs()
    x = node.input(0)
    weight = node.input(1).data
    if weight is None or weight.ndim != 2 or not x.shape:
        return _matmul.product(node, builder, x, node.input(1))
    if x.shape[-1] != weight.shape[0]:
        node.fail(f"the left side has {x.shape[-1]} columns, the right {weight.shape[0]} rows")
    integers = node.input(1).quantised
    if integers is not None:
        axis = 1 - integers.axis
        integers = replace(integers, data=np.ascontiguousarray(integers.data.T), axis=axis)
    rows = x
    if len(x.shape) != 2:
        rows = builder.emit("reshape", [x], {"shape": [prod(x.shape[:-1]), x.shape[-1]]})
    y = _emit(node, builder, rows, _scaled(weight.T, 1.0), integers=integers)
    if len(x.shape) == 2:
        return y
    return builder.emit("reshape", [y], {"shape": [*x.shape[:-1], weight.shape[1]]})


def _broadcasts(shape: Shape, wanted: Shape) -> bool:
    """Whether a shape broadcasts to the wanted one, in that direction only."""
    tail = wanted[len(wanted) - len(shape) :]
    return all(size in (1, target) for size, target in zip(shape, tail, strict=True))


def _scaled(array: Array, factor: float) -> Array:
    """``array * factor`` in the array's dtype, contiguous."""
    if factor != 1:
        array = (array.astype(np.float64) * factor).astype(array.dtype)
    return np.ascontiguousarray(array)


def _emit(
    node: OnnxNode,
    builder: Builder,
    x: Value,
    weight: Array,
    bias: Value | None = None,
    integers: Quantised | None = None,
) -> Value:
    """Emit the layer; ``integers`` are what its weight was before it was dequantised."""
    constant = builder.constant(weight)
    constant.quantised = integers
    operands = [x, constant, *([] if bias is None else [bias])]
    return importing.emit(node, builder, "dense", operands, (weight.shape[0],))


FAMILY = Family(
    filter_form=("CO",),
    options=(opt.BIAS, opt.ACTIVATION, opt.DTYPE),
    validate=lambda problem: None,
    inputs=inputs,
    out_spatial=lambda problem: (),
    taps=lambda problem: problem.ci,
    reference=reference,
)

CASES = (
    ("dense:1x2048:1000:bias=true", "ResNet-50 fc1000"),
    ("dense:1x9216:4096:bias=true:activation=relu", "AlexNet fc6"),
    ("dense:1x4096:1000:bias=true", "VGG-19 fc8"),
    ("dense:8x84:10", "LeNet-5 output, batch 8"),
    ("dense:3x17:13:activation=sigmoid", "prime sizes"),
    ("dense:1x1:1", "one element"),
    ("dense:1x7:1:bias=true", "a dot product"),
)

BAD_CASES = (
    ("dense:1x2048x1x1:1000", "input must have 2 sizes, got 4"),
    ("dense:1x2048", "filter sizes are missing"),
    ("dense:1x2048:1000x2048", "filter must have 1 sizes (CO), got 2"),
    ("dense:1x2048:-5", "filter sizes must be positive integers, got -5"),
    ("dense:1x2048:1000:stride=1", "option 'stride' is unknown"),
)

shared.register_family(
    "dense",
    "fully connected layer (Gemm, MatMul)",
    FAMILY,
    ranks=(),
    onnx={"Gemm": import_gemm, "MatMul": import_matmul},
    cases=CASES,
    bad_cases=BAD_CASES,
    compute=conv.compute,
    pack=channels.pack,
    packed_weight=channels.PACKED_WEIGHT,
    layout="any",
)
