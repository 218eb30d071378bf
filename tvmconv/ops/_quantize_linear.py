"""Importers of ONNX's QuantizeLinear, DequantizeLinear and DynamicQuantizeLinear.

A scale and a zero point that are constants, one for all elements, are attributes of one node. Those
along an axis, and those that are known only at run time, are operands of arithmetic around it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tvmconv.graph.ir import Quantised
from tvmconv.ops import Importer, qlinear
from tvmconv.ops._shapes import Shape
from tvmconv.ops.qlinear import BYTES

if TYPE_CHECKING:
    from tvmconv.frontend.node import Builder, OnnxNode
    from tvmconv.graph.ir import Value

#: Element types that can be dequantised.
_INTEGERS = (*BYTES, "int32")
_UNIT = {"scale": 1.0, "zero_point": 0}


@dataclass(frozen=True)
class _Factors:
    """The scale and the zero point of a node, in shapes that broadcast against its input.

    Attributes
    ----------
    scale : Value
        Of float32.
    zero : Value
        Of the quantised type; a constant 0 where the node has none.
    axis : int
        Along which they lie, if they are vectors.
    attrs : dict or None
        Both as attributes, if they are constants of one element.
    """

    scale: Value
    zero: Value
    axis: int
    attrs: dict[str, float] | None = None


def _factors(node: OnnxNode, builder: Builder, dtype: str) -> _Factors:
    """Read inputs 1 and 2 of a node."""
    shape = node.input(0).shape
    axis, count = _channel_axis(node, shape, 1)
    along = (-1, *(1,) * (len(shape) - 1 - axis))
    given = (node.input(1), node.optional(2))
    if not all(value is None or value.is_constant for value in given):
        scale, zero = _at_run_time(node, builder, dtype, count)
        return _Factors(_along(builder, scale, along), _along(builder, zero, along), axis)
    scales = qlinear.scales(node, 1, count)
    zeros = qlinear.zero_points(node, 2, dtype, count).astype(dtype)
    attrs = None
    if scales.size == zeros.size == 1:
        attrs = {"scale": float(scales[0]), "zero_point": int(zeros[0])}
    scale, zero = (
        builder.constant(a.reshape(along if a.size > 1 else ())) for a in (scales, zeros)
    )
    return _Factors(scale, zero, axis, attrs)


def _at_run_time(
    node: OnnxNode, builder: Builder, dtype: str, count: int | None
) -> tuple[Value, Value]:
    """The scale and the zero point, of which at least one is known only at run time."""
    scale, zero = node.input(1), node.optional(2) or builder.constant(np.zeros((), dtype))
    for index, what, value, wanted in (
        (1, "scale", scale, "float32"),
        (2, "zero point", zero, dtype),
    ):
        if value.dtype != wanted:
            node.fail(f"the {what} (input {index}) must be {wanted}, is {value.dtype}")
        if value.shape not in ((), (1,), (count,)):
            node.fail(f"the {what} (input {index}) must have 1 or {count} elements, has shape"
                      f" {value.shape}")  # fmt: skip
    return scale, zero


def _along(builder: Builder, vector: Value, along: Shape) -> Value:
    """A vector that lies along an axis, or a scalar."""
    size = int(np.prod(vector.shape))
    shape = () if size == 1 else (size, *along[1:])
    if vector.shape == shape:
        return vector
    return builder.emit("reshape", [vector], {"shape": list(shape)})


def _channel_axis(node: OnnxNode, shape: Shape, default: int) -> tuple[int, int | None]:
    """The axis along which scales may differ, and how many there are; refuse blocks of them."""
    if node.int_attr("block_size", 0):
        node.fail("attribute 'block_size' is not supported")
    scale = node.input(1)
    if not scale.shape or not shape:
        return 0, None
    if node.opset < 13 and scale.shape != (1,):
        node.fail(f"the scale must be a scalar before opset 13, has shape {scale.shape}")
    if scale.shape == (1,):
        return 0, None
    axis = node.axis(node.int_attr("axis", default), len(shape))
    return axis, shape[axis]


def import_quantize(node: OnnxNode, builder: Builder) -> Value:
    """ONNX ``QuantizeLinear`` to bytes."""
    node.allow_attrs("axis", "block_size", "output_dtype", "precision", "saturate")
    x = node.input(0)
    if x.dtype != "float32":
        node.fail(f"input 0 must be float32, is {x.dtype}")
    dtype = _quantised_type(node)
    factors = _factors(node, builder, dtype)
    if factors.attrs is not None:
        return builder.emit("quantize", [x], {**factors.attrs, "dtype": dtype})
    steps = _rounded(builder, builder.emit("div", [x, factors.scale]))
    return _moved(builder, steps, factors.zero, dtype)


def _rounded(builder: Builder, x: Value) -> Value:
    """The nearest integers, the even ones of two, as int32; such as bytes come from."""
    return builder.emit("quantize", [x], {**_UNIT, "dtype": "int32"})


def _moved(builder: Builder, steps: Value, zero: Value, dtype: str) -> Value:
    """Integers plus a zero point, as bytes."""
    moved = builder.emit("add", [steps, qlinear.as_words(builder, zero)])
    return builder.emit("saturate", [moved], {"dtype": dtype})


def _quantised_type(node: OnnxNode) -> str:
    """The element type of a QuantizeLinear's result: that of its zero point, or uint8."""
    if node.int_attr("precision", 0) not in (0, 1):
        node.fail("attribute 'precision' must be that of float32")
    zero, wanted = node.optional(2), node.int_attr("output_dtype", 0)
    names = {0: "uint8", 2: "uint8", 3: "int8"}
    dtype = names.get(wanted, f"ONNX element type {wanted}") if zero is None else zero.dtype
    if dtype not in BYTES:
        node.fail(f"quantises to {dtype}, which is not supported, only to {' and '.join(BYTES)}")
    return dtype


def import_dequantize(node: OnnxNode, builder: Builder) -> Value:
    """ONNX ``DequantizeLinear``; a constant keeps its integers beside its floats."""
    node.allow_attrs("axis", "block_size", "output_dtype")
    x = node.input(0)
    if x.dtype not in _INTEGERS:
        node.fail(f"input 0 must be one of {', '.join(_INTEGERS)}, is {x.dtype}")
    if node.int_attr("output_dtype", 1) not in (0, 1):
        node.fail("attribute 'output_dtype' must be float32")
    factors = _factors(node, builder, x.dtype)
    if factors.attrs is not None and x.data is None:
        return builder.emit("dequantize", [x], factors.attrs)
    if x.data is not None and factors.scale.data is not None and factors.zero.data is not None:
        scale, zero = factors.scale.data, factors.zero.data.astype(np.int32)
        real = (x.data.astype(np.float64) - zero).astype(np.float32) * scale
        value = builder.constant(np.asarray(real, np.float32))
        vectors = (scale.reshape(-1), zero.reshape(-1))
        value.quantised = Quantised(x.data, *vectors, factors.axis)
        return value
    zero_point = builder.emit("dequantize", [factors.zero], _UNIT)
    moved = builder.emit("sub", [builder.emit("dequantize", [x], _UNIT), zero_point])
    return builder.emit("mul", [moved, factors.scale])


def import_dynamic(node: OnnxNode, builder: Builder) -> list[Value]:
    """ONNX ``DynamicQuantizeLinear``: to uint8, by the range of the input and zero.

    Of nothing but zeros the range is 1, as ONNX's evaluator has it; by ONNX's text the scale would
    be 0, and ONNX Runtime's is 1.
    """
    node.allow_attrs()
    x = node.input(0)
    nothing = builder.constant(np.zeros((), np.float32))
    ends = []
    for reduction, larger in (("reduce_min", "minimum"), ("reduce_max", "maximum")):
        axes = {"axes": list(range(len(x.shape))), "keepdims": False}
        ends.append(builder.emit(larger, [builder.emit(reduction, [x], axes), nothing]))
    low, high = ends
    steps = builder.constant(np.array(255, np.float32))
    width = builder.emit("sub", [high, low])
    one = builder.constant(np.ones((), np.float32))
    width = builder.emit("where", [builder.emit("equal", [width, nothing]), one, width])
    scale = builder.emit("div", [width, steps])
    from_zero = builder.emit("div", [builder.emit("sub", [nothing, low]), scale])
    zero = builder.emit("quantize", [from_zero], {**_UNIT, "dtype": "uint8"})
    rounded = _rounded(builder, builder.emit("div", [x, scale]))
    return [_moved(builder, rounded, zero, "uint8"), scale, zero]


QUANTIZE: dict[str, Importer] = {
    "QuantizeLinear": import_quantize,
    "DynamicQuantizeLinear": import_dynamic,
}
DEQUANTIZE: dict[str, Importer] = {"DequantizeLinear": import_dequantize}
