"""ONNX's operators on quantised tensors as nodes: what their importers share, and the importers.

Scales, zero points and weights must be constants, but for the zero point of the input of
ConvInteger and MatMulInteger. A weight is brought in as int8, less its zero point; where that needs
more than eight bits it is the sum of two or three.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tvmconv.ops import Array, Importer, conv, importing, quads
from tvmconv.problem import Problem

if TYPE_CHECKING:
    from tvmconv.frontend.node import Builder, OnnxNode
    from tvmconv.graph.ir import Value


#: Element types of quantised tensors.
BYTES = ("uint8", "int8")


def scales(node: OnnxNode, index: int, count: int | None = None) -> Array:
    """The scale that is an input, (1,) or one for each of ``count`` channels."""
    data = node.constant_input(index, "the scale")
    if data.dtype != np.float32:
        node.fail(f"the scale (input {index}) must be float32, is {data.dtype}")
    found = _one_or(node, data, index, count, "scale")
    if not (np.isfinite(found).all() and (found > 0).all()):
        node.fail(f"the scale (input {index}) must be positive and finite")
    return found


def zero_points(node: OnnxNode, index: int, dtype: str, count: int | None = None) -> Array:
    """The zero point that is an input, in int32: (1,) or (count,); 0 where it is left out."""
    if node.optional(index) is None:
        return np.zeros(1, np.int32)
    data = node.constant_input(index, "the zero point")
    if str(data.dtype) != dtype:
        node.fail(f"the zero point (input {index}) must be {dtype}, is {data.dtype}")
    return _one_or(node, data, index, count, "zero point").astype(np.int32)


def zero_point(node: OnnxNode, index: int, dtype: str) -> int | Value:
    """The zero point of x that is an input: its number, or a value that is known at run time."""
    given = node.optional(index)
    if given is None or given.is_constant:
        return int(zero_points(node, index, dtype)[0])
    if given.dtype != dtype or given.shape not in ((), (1,)):
        node.fail(f"the zero point (input {index}) must be one {dtype}, is {given.dtype} of shape"
                  f" {given.shape}")  # fmt: skip
    return given


def as_words(builder: Builder, value: Value) -> Value:
    """Bytes as int32."""
    if value.data is not None:
        return builder.constant(value.data.astype(np.int32))
    attrs = {"scale": 1.0, "zero_point": 0}
    real = builder.emit("dequantize", [value], attrs)
    return builder.emit("quantize", [real], {**attrs, "dtype": "int32"})


def _one_or(node: OnnxNode, data: Array, index: int, count: int | None, what: str) -> Array:
    """A vector of one element or of ``count``, shortened to one if all are the same."""
    flat = data.reshape(-1)
    if flat.size != 1 and (flat.size != count or data.ndim != 1):
        wanted = "one element" if count is None else f"1 or {count} elements"
        node.fail(f"the {what} (input {index}) must have {wanted}, has shape {data.shape}")
    return flat[:1] if (flat == flat[0]).all() else flat


def byte_input(node: OnnxNode, index: int) -> Value:
    """A quantised input, uint8 or int8."""
    value = node.input(index)
    if value.dtype not in BYTES:
        node.fail(f"input {index} must be {' or '.join(BYTES)}, is {value.dtype}")
    return value


def weight_input(node: OnnxNode, index: int) -> Array:
    """A quantised weight, which must be a constant."""
    byte_input(node, index)
    return node.constant_input(index, "the weight")


def less_zero(weight: Array, zero: Array) -> tuple[Array, int]:
    """A weight (CO, ...) less its zero point, as int8 or int16, and how many int8 each is."""
    wide = weight.astype(np.int16) - zero.astype(np.int16).reshape(-1, *(1,) * (weight.ndim - 1))
    terms = quads.terms_of(wide)
    return (wide.astype(np.int8) if terms == 1 else wide), terms


def requantize(builder: Builder, sums: Value, scale: Array, zero_point: int, dtype: str) -> Value:
    """``saturate(round(float32(sums) * scale) + zero_point)``, the scale one for each channel."""
    real = builder.emit("dequantize", [sums], {"scale": 1.0, "zero_point": 0})
    scaled = builder.emit("mul", [real, builder.constant(per_channel(scale, len(sums.shape)))])
    attrs = {"scale": 1.0, "zero_point": zero_point, "dtype": dtype}
    return builder.emit("quantize", [scaled], attrs)


def per_channel(vector: Array, rank: int) -> Array:
    """A vector over channels in a shape that broadcasts, or a scalar."""
    return vector.reshape(()) if vector.size == 1 else vector.reshape(-1, *(1,) * (rank - 2))


def emit_qconv(
    node: OnnxNode, builder: Builder, inputs: Sequence[Any], options: dict[str, Any]
) -> Value:
    """The sums of a convolution of bytes; depthwise where each channel is a group.

    A zero point that is known only at run time is taken out of the sums after them, times what each
    sums of the weights: those taps that meet no padding, which adds nothing.
    """
    x, weight, terms, *bias = inputs
    operands = [x, builder.constant(weight), *bias]
    depthwise = options.get("groups", 1) == x.shape[1] > 1
    zero = options.get("zero_point", 0)
    given = {**options, "weight_terms": terms, "zero_point": zero if isinstance(zero, int) else 0}
    if depthwise:
        del given["groups"]
    op = "depthwise_qconv" if depthwise else "qconv"
    filters = (weight.shape[0], *weight.shape[2:])
    sums = importing.emit(node, builder, op, operands, filters, given)
    if isinstance(zero, int):
        return sums
    words = builder.emit("reshape", [as_words(builder, zero)], {"shape": []})
    factors = builder.constant(_weight_sums(x, weight, options))
    return builder.emit("sub", [sums, builder.emit("mul", [factors, words])])


def _weight_sums(x: Value, weight: Array, options: dict[str, Any]) -> Array:
    """The sum of the weights that meet x, of each output, or of each channel if those agree."""
    kept = {k: v for k, v in options.items() if k not in ("groups", "zero_point")}
    problem = Problem.make(
        "conv", (1, 1, *x.shape[2:]), (weight.shape[0], *weight.shape[2:]), **kept
    )
    ones = np.ones(problem.input_shape)
    sums = conv.correlate(problem, ones, weight.sum(axis=1, keepdims=True, dtype=np.float64))
    flat = sums.reshape(sums.shape[1], -1)
    if np.ptp(flat, axis=1).any():
        return np.asarray(sums, np.int32)
    return per_channel(flat[:, 0].astype(np.int32), len(x.shape))


_CONV_ATTRS = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")


def _conv_options(node: OnnxNode, x: Value, weight: Array) -> dict[str, Any]:
    """Options of the window and groups, of a node with ONNX's attributes of a convolution."""
    node.allow_attrs(*_CONV_ATTRS)
    conv.check_weight(node, x.shape, weight.shape)
    rank = importing.spatial_rank(node)
    return {**importing.window_options(node, rank), "groups": node.int_attr("group", 1)}


def import_conv_integer(node: OnnxNode, builder: Builder) -> Value:
    """ONNX ``ConvInteger``."""
    x, weight = byte_input(node, 0), weight_input(node, 1)
    options = _conv_options(node, x, weight)
    of_weight = zero_points(node, 3, str(weight.dtype), weight.shape[0])
    options["zero_point"] = zero_point(node, 2, x.dtype)
    return emit_qconv(node, builder, [x, *less_zero(weight, of_weight)], options)


def import_qlinear_conv(node: OnnxNode, builder: Builder) -> Value:
    """ONNX ``QLinearConv``."""
    x, weight = byte_input(node, 0), weight_input(node, 3)
    options = _conv_options(node, x, weight)
    channels = weight.shape[0]
    of_weight = zero_points(node, 5, str(weight.dtype), channels)
    options["zero_point"] = int(zero_points(node, 2, x.dtype)[0])
    operands: list[Any] = [x, *less_zero(weight, of_weight)]
    if node.optional(8) is not None:
        operands.append(_bias_input(node, builder, 8, channels))
    sums = emit_qconv(node, builder, operands, options)
    return _requantized(node, builder, sums, scales(node, 1), scales(node, 4, channels))


def _bias_input(node: OnnxNode, builder: Builder, index: int, channels: int) -> Value:
    bias = node.constant_input(index, "the bias")
    if bias.shape != (channels,) or bias.dtype != np.int32:
        node.fail(f"bias must be int32 of shape ({channels},), is {bias.dtype} {bias.shape}")
    return builder.constant(bias)


def _requantized(
    node: OnnxNode, builder: Builder, sums: Value, of_x: Array, of_weight: Array
) -> Value:
    """The output of a node whose inputs 6 and 7 are its scale and zero point."""
    zero = node.input(7)
    if zero.dtype not in BYTES:
        node.fail(f"the zero point (input 7) must be {' or '.join(BYTES)}, is {zero.dtype}")
    zero_point = int(zero_points(node, 7, zero.dtype)[0])
    scale = of_x * of_weight / scales(node, 6)
    return requantize(builder, sums, scale, zero_point, zero.dtype)


def import_matmul_integer(node: OnnxNode, builder: Builder) -> Value:
    """ONNX ``MatMulInteger`` with a constant right-hand side."""
    node.allow_attrs()
    x, weight = byte_input(node, 0), weight_input(node, 1)
    of_weight = zero_points(node, 3, str(weight.dtype), weight.shape[-1])
    sums = _product(node, builder, x, weight, zero_point(node, 2, x.dtype), of_weight)
    return _as_rows(builder, sums, x, weight)


def import_qlinear_matmul(node: OnnxNode, builder: Builder) -> Value:
    """ONNX ``QLinearMatMul`` with a constant right-hand side."""
    node.allow_attrs()
    x, weight = byte_input(node, 0), weight_input(node, 3)
    columns = weight.shape[-1]
    zero = zero_points(node, 2, x.dtype)
    of_weight = zero_points(node, 5, str(weight.dtype), columns)
    sums = _product(node, builder, x, weight, int(zero[0]), of_weight)
    of_columns = scales(node, 4, columns)
    if of_columns.size > 1:  # the columns of each product of a stack are channels
        of_columns = np.tile(of_columns, sums.shape[1] // columns)
    y = _requantized(node, builder, sums, scales(node, 1), of_columns)
    return _as_rows(builder, y, x, weight)


def _product(
    node: OnnxNode, builder: Builder, x: Value, weight: Array, zero: int | Value, of_weight: Array
) -> Value:
    """Sums (rows, columns, 1) of a matrix product, or (1, stack * columns, rows) of a stack."""
    if min(len(x.shape), weight.ndim) < 2 or x.shape[-1] != weight.shape[-2]:
        node.fail(f"shapes {x.shape} and {weight.shape} are no matrices that can be multiplied")
    depth = x.shape[-1]
    if weight.ndim == 2:
        rows = builder.emit("reshape", [x], {"shape": [prod(x.shape[:-1]), depth, 1]})
        packed = less_zero(np.ascontiguousarray(weight.T)[..., None], of_weight)
        return emit_qconv(node, builder, [rows, *packed], {"zero_point": zero})
    if x.shape[:-2] != weight.shape[:-2]:
        node.fail(f"stacks of {x.shape[:-2]} and {weight.shape[:-2]} matrices differ")
    stack, rows_of = prod(x.shape[:-2]), x.shape[-2]
    flat = builder.emit("reshape", [x], {"shape": [stack, rows_of, depth]})
    turned = builder.emit("transpose", [flat], {"perm": [0, 2, 1]})
    channels = builder.emit("reshape", [turned], {"shape": [1, stack * depth, rows_of]})
    columns = np.moveaxis(weight, -1, -2).reshape(-1, depth, 1)
    if of_weight.size > 1:
        of_weight = np.tile(of_weight, stack)
    packed = less_zero(np.ascontiguousarray(columns), of_weight)
    return emit_qconv(node, builder, [channels, *packed], {"zero_point": zero, "groups": stack})


def _as_rows(builder: Builder, y: Value, x: Value, weight: Array) -> Value:
    """The result of :func:`_product` in the shape of the matrix product."""
    shape = [*x.shape[:-1], weight.shape[-1]]
    if weight.ndim > 2:
        stack = prod(x.shape[:-2])
        parts = builder.emit("reshape", [y], {"shape": [stack, weight.shape[-1], x.shape[-2]]})
        y = builder.emit("transpose", [parts], {"perm": [0, 2, 1]})
    return builder.emit("reshape", [y], {"shape": shape})


IMPORTERS: dict[str, Importer] = {
    "ConvInteger": import_conv_integer,
    "QLinearConv": import_qlinear_conv,
    "MatMulInteger": import_matmul_integer,
    "QLinearMatMul": import_qlinear_matmul,
}
