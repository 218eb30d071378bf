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
from tvmconv.ops import Array, Attrs, BadCase, Case, Float64, Operator, register
from tvmconv.ops._quantize_linear import DEQUANTIZE, QUANTIZE
from tvmconv.ops._shapes import Shape, expect_inputs, integer, number
from tvmconv.ops.qlinear import BYTES

if TYPE_CHECKING:
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
        onnx=QUANTIZE,
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
        onnx=DEQUANTIZE,
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
