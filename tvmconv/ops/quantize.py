"""Quantisation: ``q = saturate(round(x / scale) + zero_point)``, ``x = (q - zero_point) * scale``.

Rounding is half to even, arithmetic is float32, as ONNX has it. A scale or zero point for each
channel is a division, a multiplication or an addition beside these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tvmconv import te_math
from tvmconv.errors import InputError
from tvmconv.graph.ir import Quantised
from tvmconv.ops import Array, Attrs, BadCase, Case, Float64, Operator, qlinear, register
from tvmconv.ops._shapes import Shape, expect_inputs, integer, number
from tvmconv.ops.qlinear import BYTES

if TYPE_CHECKING:
    from tvmconv.frontend.node import Builder, OnnxNode
    from tvmconv.graph.ir import Value
    from tvmconv.problem import Problem

#: Smallest and largest number of each quantised type; of integers that are bytes later, such as
#: float32 arithmetic rounds to.
LIMITS = {"uint8": (0, 255), "int8": (-128, 127), "int32": (-(2**21), 2**21)}


def check_zero_point(problem: Problem, option: str) -> None:
    """Refuse a zero point that is no element of the problem's type."""
    low, high = LIMITS[problem.dtype]
    if not low <= problem.option(option) <= high:
        problem.fail(option, f"must be {low} to {high} for {problem.dtype}, got"
                     f" {problem.option(option)}")  # fmt: skip


def quantized(x: Array, attrs: Attrs) -> Array:
    """Quantise an array: the formula in float32."""
    low, high = LIMITS[attrs["dtype"]]
    with np.errstate(all="ignore"):
        steps = np.rint(np.asarray(x, np.float32) / np.float32(attrs["scale"]))
    zero = attrs["zero_point"]
    clipped = np.clip(np.nan_to_num(steps, nan=low - zero), low - zero, high - zero)
    return np.asarray((clipped.astype(np.int32) + zero).astype(attrs["dtype"]))


def dequantized(q: Array, attrs: Attrs) -> Array:
    """Dequantise an array: the formula in float32."""
    integers = np.asarray(q).astype(np.int64) - attrs["zero_point"]
    return np.asarray(integers.astype(np.float32) * np.float32(attrs["scale"]))


def requantize_steps(problem: Problem) -> list[dict[str, Any]]:
    """The steps of a program that quantise a problem's sums again; none without a scale."""
    scale = problem.option("scale")
    if not scale:
        return []
    zero_point, dtype = problem.option("out_zero_point"), problem.dtype
    return [
        {"op": "dequantize", "scale": 1.0, "zero_point": 0},
        {"op": "mul", "scalar": scale},
        {"op": "quantize", "scale": 1.0, "zero_point": zero_point, "dtype": dtype},
    ]


def requantized(problem: Problem, sums: Float64) -> Float64:
    """What a problem's scale makes of its sums: themselves without one."""
    if not problem.option("scale"):
        return sums
    value = sums.astype(np.int32).astype(np.float32) * np.float32(problem.option("scale"))
    attrs = {"zero_point": problem.option("out_zero_point"), "dtype": problem.dtype, "scale": 1.0}
    return np.asarray(quantized(value, attrs), np.float64)


def import_quantize(node: OnnxNode, builder: Builder) -> Value:
    """ONNX ``QuantizeLinear`` to bytes, with constant scale and zero point."""
    node.allow_attrs("axis", "block_size", "output_dtype", "precision", "saturate")
    x = node.input(0)
    if x.dtype != "float32":
        node.fail(f"input 0 must be float32, is {x.dtype}")
    dtype = _quantised_type(node)
    axis, count = _channel_axis(node, x.shape, 1)
    scale = qlinear.scales(node, 1, count)
    zero = qlinear.zero_points(node, 2, dtype, count)
    if scale.size == 1 and zero.size == 1:
        attrs = {"scale": float(scale[0]), "zero_point": int(zero[0]), "dtype": dtype}
        return builder.emit("quantize", [x], attrs)
    if scale.size == 1:
        scale = np.repeat(scale, zero.size)
    shape = _along(axis, len(x.shape))
    divided = builder.emit("div", [x, builder.constant(scale.reshape(shape))])
    if zero.size == 1:
        attrs = {"scale": 1.0, "zero_point": int(zero[0]), "dtype": dtype}
        return builder.emit("quantize", [divided], attrs)
    attrs = {"scale": 1.0, "zero_point": 0, "dtype": "int32"}
    wide = builder.emit("quantize", [divided], attrs)
    moved = builder.emit("add", [wide, builder.constant(zero.reshape(shape))])
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


def _along(axis: int, rank: int) -> Shape:
    """The shape in which a vector lies along an axis, as a reshape takes it."""
    return (-1, *(1,) * (rank - 1 - axis))


def import_dequantize(node: OnnxNode, builder: Builder) -> Value:
    """ONNX ``DequantizeLinear``; a constant keeps its integers beside its floats."""
    node.allow_attrs("axis", "block_size", "output_dtype")
    x = node.input(0)
    if x.dtype not in LIMITS:
        node.fail(f"input 0 must be one of {', '.join(LIMITS)}, is {x.dtype}")
    if node.int_attr("output_dtype", 1) not in (0, 1):
        node.fail("attribute 'output_dtype' must be float32")
    axis, count = _channel_axis(node, x.shape, 1)
    scale = qlinear.scales(node, 1, count)
    zero = qlinear.zero_points(node, 2, x.dtype, count)
    shape = _along(axis, len(x.shape))
    if x.data is not None:
        wide = x.data.astype(np.float64) - zero.reshape(shape if zero.size > 1 else ())
        real = wide.astype(np.float32) * scale.reshape(shape if scale.size > 1 else ())
        value = builder.constant(np.asarray(real, np.float32))
        value.quantised = Quantised(x.data, scale, zero, axis)
        return value
    if scale.size == 1 and zero.size == 1:
        attrs = {"scale": float(scale[0]), "zero_point": int(zero[0])}
        return builder.emit("dequantize", [x], attrs)
    value = builder.emit("dequantize", [x], {"scale": 1.0, "zero_point": 0})
    moved = zero.astype(np.float32).reshape(shape if zero.size > 1 else ())
    value = builder.emit("sub", [value, builder.constant(moved)])
    scaled = scale.reshape(shape if scale.size > 1 else ())
    return builder.emit("mul", [value, builder.constant(scaled)])


def _quantize_expression(value: Any, attrs: Attrs) -> Any:
    low, high = (limit - attrs["zero_point"] for limit in LIMITS[attrs["dtype"]])
    scaled = te_math.divided(value, attrs["scale"])
    inside = te_math.at_most(te_math.at_least(scaled, low), high)
    return (te_math.to_integer(inside) + attrs["zero_point"]).astype(attrs["dtype"])


def _dequantize_expression(value: Any, attrs: Attrs) -> Any:
    zero, scale = attrs["zero_point"], attrs["scale"]
    wide = value.astype("int32")
    wide = (wide - zero if zero else wide).astype("float32")
    # Rounded before a sum takes it, as ONNX has it.
    return wide if scale == 1 else te_math.rounded(wide * te_math.number(scale))


def _quantize_shape(shapes: Sequence[Shape], attrs: Attrs) -> Shape:
    expect_inputs(shapes, 1)
    _check_scale(attrs)
    if attrs.get("dtype") not in LIMITS:
        raise InputError(f"attribute 'dtype' must be one of {', '.join(LIMITS)}")
    low, high = LIMITS[attrs["dtype"]]
    if not low <= integer(attrs, "zero_point") <= high:
        raise InputError(f"attribute 'zero_point' must be {low} to {high}")
    return shapes[0]


def _dequantize_shape(shapes: Sequence[Shape], attrs: Attrs) -> Shape:
    expect_inputs(shapes, 1)
    _check_scale(attrs)
    integer(attrs, "zero_point")
    return shapes[0]


def _saturate_shape(shapes: Sequence[Shape], attrs: Attrs) -> Shape:
    expect_inputs(shapes, 1)
    if attrs.get("dtype") not in BYTES:
        raise InputError(f"attribute 'dtype' must be one of {', '.join(BYTES)}")
    return shapes[0]


def _saturate_expression(value: Any, attrs: Attrs) -> Any:
    from tvmconv._tvm import te, tirx

    low, high = (tirx.const(limit, "int32") for limit in LIMITS[attrs["dtype"]])
    return te.max(te.min(value, high), low).astype(attrs["dtype"])


def _check_scale(attrs: Attrs) -> None:
    scale = number(attrs, "scale")
    if not (scale > 0 and math.isfinite(scale)):
        raise InputError(f"attribute 'scale' must be positive, is {scale}")


def _attrs(scale: float, zero_point: int, dtype: str = "") -> Mapping[str, Any]:
    given = {"scale": scale, "zero_point": zero_point}
    return {**given, "dtype": dtype} if dtype else given


_SHAPE = (1, 24, 7, 7)

register(
    Operator(
        name="quantize",
        summary="y = saturate(round(x / scale) + zero_point)",
        output_shape=_quantize_shape,
        reference=lambda arrays, attrs: quantized(arrays[0], attrs),
        output_dtype=lambda dtypes, attrs: str(attrs["dtype"]),
        cases=(
            Case("an activation map", shapes=(_SHAPE,), attrs=_attrs(0.0117, 128, "uint8")),
            Case("signed", shapes=((2, 13, 5, 3),), attrs=_attrs(0.02, -3, "int8")),
            Case("halves are rounded to even", shapes=((1, 10),), attrs=_attrs(0.5, 0, "int8")),
        ),
        bad_cases=(
            BadCase("'scale' must be positive", shapes=(_SHAPE,), attrs=_attrs(0.0, 0, "int8")),
            BadCase("'zero_point' must be -128 to", shapes=(_SHAPE,), attrs=_attrs(1, 128, "int8")),
            BadCase("'dtype' must be one of", shapes=(_SHAPE,), attrs=_attrs(1, 0, "int16")),
        ),
        onnx={"QuantizeLinear": import_quantize},
        expression=_quantize_expression,
    )
)

register(
    Operator(
        name="dequantize",
        summary="y = (x - zero_point) · scale",
        output_shape=_dequantize_shape,
        reference=lambda arrays, attrs: dequantized(arrays[0], attrs),
        output_dtype=lambda dtypes, attrs: "float32",
        cases=(
            Case(
                "an activation map",
                shapes=(_SHAPE,),
                attrs=_attrs(0.0117, 128),
                dtypes=("uint8",),
            ),
            Case("signed", shapes=((2, 13, 5, 3),), attrs=_attrs(0.02, -3), dtypes=("int8",)),
            Case("sums", shapes=((1, 10),), attrs=_attrs(0.001, 0), dtypes=("int32",)),
        ),
        bad_cases=(
            BadCase("'scale' must be positive", shapes=(_SHAPE,), attrs=_attrs(-1.0, 0)),
            BadCase("'zero_point' must be an integer", shapes=(_SHAPE,), attrs={"scale": 1.0}),
        ),
        onnx={"DequantizeLinear": import_dequantize},
        expression=_dequantize_expression,
    )
)

register(
    Operator(
        name="saturate",
        summary="integers to bytes, the nearest where there is none",
        output_shape=_saturate_shape,
        reference=lambda arrays, attrs: np.clip(arrays[0], *LIMITS[attrs["dtype"]]).astype(
            attrs["dtype"]
        ),
        output_dtype=lambda dtypes, attrs: str(attrs["dtype"]),
        cases=(
            Case("sums", shapes=(_SHAPE,), attrs={"dtype": "uint8"}, dtypes=("int32",)),
            Case("signed", shapes=((2, 13, 5),), attrs={"dtype": "int8"}, dtypes=("int32",)),
        ),
        bad_cases=(BadCase("'dtype' must be one of", shapes=(_SHAPE,), attrs={"dtype": "int16"}),),
        expression=_saturate_expression,
    )
)
