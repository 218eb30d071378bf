"""ONNX's quantised operators in NumPy, by the formulas of its documents, for ONNX's evaluator.

Its own convolutions of bytes loop over pixels in Python, and it has QuantizeLinear and
DequantizeLinear of late opsets only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
#: ``correlate(x, weight, attrs)``: a convolution in float64.
Correlate = Callable[[Array, Array, Mapping[str, Any]], Array]


def along(vector: Array, x: Array, axis: int | None) -> Array:
    """A scale or zero point in a shape that broadcasts against x."""
    if vector.size == 1:
        return np.asarray(vector.reshape(()))
    behind = x.ndim - 1 - (1 if axis is None else axis) % x.ndim
    return np.asarray(vector.reshape(-1, *(1,) * behind))


def _less(array: Array, zero: Array | None) -> Array:
    """Bytes less their zero point, one or one for each slice along the first axis."""
    wide = array.astype(np.float64)
    return wide if zero is None else wide - along(zero, array, 0)


def requantized(sums: Array, multiplier: Array, zero: Array) -> Array:
    """``saturate(round(sums · multiplier) + zero)`` in float32, half to even."""
    real = sums.astype(np.int32).astype(np.float32)
    factor = along(multiplier, real, 1).astype(np.float32)
    limits = np.iinfo(zero.dtype)
    q = np.rint(real * factor) + int(zero.reshape(()))
    return np.asarray(np.clip(q, limits.min, limits.max).astype(zero.dtype))


def quantised_operators(correlate: Correlate) -> list[Any]:
    """Operator classes that ONNX's evaluator takes instead of its own."""
    from onnx.reference.op_run import OpRun

    def sums(
        x: Array, w: Array, x_zero: Array | None, w_zero: Array | None, attrs: Mapping[str, Any]
    ) -> Array:
        """The sums of a convolution of bytes, exact in float64."""
        return correlate(_less(x, x_zero), _less(w, w_zero), attrs)

    class ConvInteger(OpRun):  # type: ignore[misc,unused-ignore]
        op_domain = ""

        def _run(self, x: Array, w: Array, *zeros: Array | None, **attrs: Any) -> tuple[Array]:
            x_zero, w_zero = (*zeros, None, None)[:2]
            return (sums(x, w, x_zero, w_zero, attrs).astype(np.int32),)

    class QLinearConv(OpRun):  # type: ignore[misc,unused-ignore]
        op_domain = ""

        def _run(self, *inputs: Array | None, **attrs: Any) -> tuple[Array]:
            given = [np.zeros(0) if v is None else np.asarray(v) for v in inputs]
            x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, *bias = given
            y = sums(x, w, x_zero, w_zero, attrs)
            if bias and bias[0].size:
                y = y + along(bias[0], y, 1)
            return (requantized(y, x_scale * w_scale / y_scale, y_zero),)

    class QuantizeLinear(OpRun):  # type: ignore[misc,unused-ignore]
        op_domain = ""

        def _run(
            self, x: Array, scale: Array, zero: Array | None = None, **attrs: Any
        ) -> tuple[Array]:
            zero = np.zeros((), np.uint8) if zero is None else zero
            limits, axis = np.iinfo(zero.dtype), attrs.get("axis")
            q = np.rint(x / along(scale, x, axis)) + along(zero, x, axis).astype(np.float32)
            return (np.clip(q, limits.min, limits.max).astype(zero.dtype),)

    class DequantizeLinear(OpRun):  # type: ignore[misc,unused-ignore]
        op_domain = ""

        def _run(
            self, x: Array, scale: Array, zero: Array | None = None, **attrs: Any
        ) -> tuple[Array]:
            zero, axis = np.zeros((), np.int32) if zero is None else zero, attrs.get("axis")
            wide = x.astype(np.int64) - along(zero, x, axis).astype(np.int64)
            return (wide.astype(np.float32) * along(scale, x, axis),)

    return [ConvInteger, QLinearConv, QuantizeLinear, DequantizeLinear]
