"""Scalar functions of the elementwise operators as TVM expressions that vectorise.

Exponential and logarithm are polynomials on the bits of exponent and mantissa: libm would be called
lane by lane, as it is for ``erf`` and ``power``. A value that is used more than once is bound to a
variable by a ``Let`` in front of the whole expression (:func:`scoped`). TVM's simplifier puts the
values back in place of the variables: one function of these is fine, one of another takes seconds.

NaN goes through every function, infinities give the limits. The largest errors over arguments of
every float32 exponent, in units in the last place of the result, measured against float64
(``tests/test_te_math.py`` holds them to these, with and without fused multiply-adds):

========  ==========================================================================
exp       1.1, results below the smallest normal number included
expm1     1.0 for arguments up to 0
log       1.0
log1p     1.5 for arguments from 0 to 1
sigmoid   2.5 from -87.3 up; from -88.7 down, where the result is no normal number, 0
tanh      3.0
softplus  2.5
erf       1.0
power     0.6
========  ==========================================================================

Nothing here imports TVM when it is imported.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextvars import ContextVar
from functools import cache
from typing import Any

#: An expression of TVM's.
Expr = Any

#: Variables and values of the innermost scope, in the order in which they are bound.
_bound: ContextVar[list[tuple[Expr, Expr]]] = ContextVar("_bound")

_LN2_HIGH = 0.693359375
_LN2_LOW = -2.12194440e-4
#: 1.5 * 2^23: a float of this size holds integers, the lowest bits of its mantissa.
_MAGIC, _MAGIC_BITS = 12582912.0, 0x4B400000
_SMALLEST_NORMAL = 2.0**-126
_SQRT_HALF_BITS, _ONE_BITS = 0x3F3504F3, 0x3F800000

#: Effect kind of a function without side effects, in ``tvm::tirx::CallEffectKind``.
_PURE = 1

#: exp(r) = 1 + r + r^2 * p(r) on |r| <= ln2 / 2; Cephes' expf. Coefficients are highest first.
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5)
#: log(1 + f) = f - f^2 / 2 + f^3 * p(f) on sqrt(1/2) <= 1 + f <= sqrt(2); Cephes' logf.
_LOG = (
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
    -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
)  # fmt: skip
#: tanh(x) = x + x^3 * p(x^2) on |x| < 0.625; Cephes' tanhf.
_TANH = (
    -5.70498872745e-3,
    2.06390887954e-2,
    -5.37397155531e-2,
    1.33314422036e-1,
    -3.33332819422e-1,
)


def number(value: float) -> Expr:
    """A float32 constant."""
    from tvmconv._tvm import tirx

    return tirx.const(value, "float32")


def scoped(body: Callable[[], Expr]) -> Expr:
    """The expression that ``body()`` makes, with the values that it binds computed in front.

    Every expression made of the functions below needs a scope around it.
    """
    from tvmconv._tvm import tirx

    bound: list[tuple[Expr, Expr]] = []
    token = _bound.set(bound)
    try:
        expression = body()
    finally:
        _bound.reset(token)
    for variable, value in reversed(bound):
        expression = tirx.Let(variable, value, expression)
    return expression


def bind(value: Expr, dtype: str = "float32") -> Expr:
    """A variable of that value, which the scope around it computes and writes down once.

    Raises
    ------
    LookupError
        If there is no scope.
    """
    from tvmconv._tvm import tirx

    variable = tirx.Var("t", dtype)
    _bound.get().append((variable, value))
    return variable


def select(condition: Expr, true: Expr, false: Expr) -> Expr:
    """One of two values, both of which are computed."""
    from tvmconv._tvm import tirx

    return tirx.Select(condition, true, false)


def at_least(x: Expr, low: float) -> Expr:
    """``max(x, low)``, NaN where x is."""
    from tvmconv._tvm import te

    return te.max(number(low), x)  # the second operand where they do not compare, as in maxps


def at_most(x: Expr, high: float) -> Expr:
    """``min(x, high)``, NaN where x is."""
    from tvmconv._tvm import te

    return te.min(number(high), x)


def maximum(a: Expr, b: Expr) -> Expr:
    """``max(a, b)``, NaN where one of them is."""
    from tvmconv._tvm import te, tirx

    a = bind(a)
    return select(tirx.isnan(a), a, te.max(a, b))


def minimum(a: Expr, b: Expr) -> Expr:
    """``min(a, b)``, NaN where one of them is."""
    from tvmconv._tvm import te, tirx

    a = bind(a)
    return select(tirx.isnan(a), a, te.min(a, b))


def rounded(x: Expr) -> Expr:
    """The value as float32 has it: no compiler makes one operation of it and what takes it."""
    from tvmconv._tvm import tirx

    return tirx.call_intrin("float32", _rounded_operator(), x)


@cache
def _rounded_operator() -> Any:
    """The operator behind :func:`rounded`, registered when it is first needed."""
    from tvmconv._tvm import tirx

    def for_llvm(call: Any) -> Expr:
        dtype = str(call.ty.dtype)
        return tirx.call_llvm_pure_intrin(dtype, "llvm.arithmetic.fence", *call.args)

    def for_cuda(call: Any) -> Expr:
        dtype = str(call.ty.dtype)
        zero = tirx.const(-0.0, dtype)  # x + -0 is x, of either zero too
        return tirx.call_pure_extern(dtype, "__fadd_rn", *call.args, zero)

    summary = "a value that takes part in no contraction"
    return _registered("tvmconv_rounded", summary, llvm=for_llvm, cuda=for_cuda)


def propagating(largest: bool, a: Expr, b: Expr) -> Expr:
    """The larger or smaller of two values by one operation of LLVM, NaN where one of them is."""
    from tvmconv._tvm import tirx

    return tirx.call_intrin("float32", _propagating_operator(largest), a, b)


@cache
def _propagating_operator(largest: bool) -> Any:
    """The operator behind :func:`propagating`, registered when it is first needed."""
    from tvmconv._tvm import tirx

    name = "maximum" if largest else "minimum"

    def for_llvm(call: Any) -> Expr:
        return tirx.call_llvm_pure_intrin(str(call.ty.dtype), f"llvm.{name}", *call.args)

    return _registered(f"tvmconv_{name}", f"{name} or NaN", llvm=for_llvm)


def _registered(name: str, summary: str, **lowerings: Callable[[Any], Expr]) -> Any:
    """An operator of TVM's without effects, lane by lane, with what becomes of it by target."""
    from tvmconv._tvm import tirx, tvm

    full = f"tirx.{name}"
    tvm.ir.op._ffi_api.RegisterOp(full, summary)
    tvm.ir.register_op_attr(full, "TVectorizable", True)
    tvm.ir.register_op_attr(full, "TScriptPrinterName", name)
    tvm.ir.register_op_attr(full, "TCallEffectKind", _PURE)
    for target, lowering in lowerings.items():
        tirx.register_intrin_lowering(full, target=target, f=lowering)
    return tvm.ir.Op.get(full)


def divided(x: Expr, divisor: float) -> Expr:
    """``x / divisor``, correctly rounded; TVM would multiply by the reciprocal of a constant."""
    mantissa, _ = math.frexp(divisor)
    if mantissa == 0.5:  # a power of two, whose reciprocal is one as well
        return x if divisor == 1 else x * number(1 / divisor)
    return x / rounded(number(divisor))


def to_integer(x: Expr) -> Expr:
    """The nearest int32, the even one of two, for |x| < 2^22."""
    return _reinterpret(x + number(_MAGIC), "int32") - _MAGIC_BITS


def sqrt(x: Expr) -> Expr:
    """The square root, correctly rounded."""
    from tvmconv._tvm import te

    return te.sqrt(x)


def absolute(x: Expr) -> Expr:
    """|x|."""
    from tvmconv._tvm import te

    return te.abs(x)


def floor(x: Expr) -> Expr:
    """The largest integer up to x."""
    from tvmconv._tvm import te

    return te.floor(x)


def ceil(x: Expr) -> Expr:
    """The smallest integer from x on."""
    from tvmconv._tvm import te

    return te.ceil(x)


def round_even(x: Expr) -> Expr:
    """The nearest integer, the even one of two."""
    from tvmconv._tvm import te

    return te.nearbyint(x)


def libm(name: str, *arguments: Expr) -> Expr:
    """A float32 function of the C library, called lane by lane."""
    from tvmconv._tvm import tirx

    return tirx.call_pure_extern("float32", name, *arguments)


def power(a: Expr, b: Expr) -> Expr:
    """``a ** b``, by libm."""
    from tvmconv._tvm import te

    return te.power(a, b)


def _polynomial(coefficients: tuple[float, ...], x: Expr) -> Expr:
    """The polynomial with these coefficients, highest first, by Horner's rule."""
    value = number(coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + number(coefficient)
    return value


def _reinterpret(x: Expr, dtype: str) -> Expr:
    from tvmconv._tvm import tirx

    return tirx.reinterpret(dtype, x)


def _exponential(x: Expr) -> tuple[Expr, Expr, Expr]:
    """Variables q, s, t with e^x = (1 + q)·s·t; s and t are powers of two, |q| < 0.42.

    e^x = 2^n · e^r with n = round(x / ln2). The power of two is in two parts, since neither 2^128
    nor numbers below the smallest normal one have an exponent's bits.

    References
    ----------
    S. L. Moshier, Cephes mathematical library, ``expf``.
    """
    # Beyond these e^x is infinite or rounds to 0, by the same arithmetic.
    x = bind(at_least(at_most(x, 89.0), -104.0))
    shifted = x * number(math.log2(math.e)) + number(_MAGIC)
    n = bind(_reinterpret(shifted, "int32") - _MAGIC_BITS, "int32")
    whole = bind(n.astype("float32"))
    r = bind(x - whole * number(_LN2_HIGH) - whole * number(_LN2_LOW))
    q = bind(_polynomial(_EXP, r) * (r * r) + r)
    half = bind(n >> 1, "int32")
    return q, bind(_power_of_two(half)), bind(_power_of_two(n - half))


def _power_of_two(n: Expr) -> Expr:
    return _reinterpret((n + 127) << 23, "float32")


def exp(x: Expr) -> Expr:
    """e^x."""
    q, s, t = _exponential(x)
    return (q + number(1.0)) * s * t


def expm1_negative(x: Expr) -> Expr:
    """e^x − 1 for x ≤ 0, to full accuracy near 0 too; no number for x above 88."""
    q, s, t = _exponential(x)
    scale = bind(s * t)
    return q * scale + (scale - number(1.0))


def log(x: Expr) -> Expr:
    """The natural logarithm.

    References
    ----------
    S. L. Moshier, Cephes mathematical library, ``logf``.
    """
    x, infinity = bind(x), number(math.inf)
    positive = select(x < infinity, _log_of_finite(x), infinity)
    below = select(x == number(0.0), number(-math.inf), number(math.nan))
    return select(x > number(0.0), positive, below)


def _log_of_finite(x: Expr) -> Expr:
    """The logarithm of a variable that is positive and finite: x = 2^n · (1 + f)."""
    tiny = x < number(_SMALLEST_NORMAL)
    normal = x * select(tiny, number(2.0**23), number(1.0))
    # Counted from sqrt(1/2), the exponent's bits are n and the others those of the mantissa.
    bits = bind(_reinterpret(normal, "int32") + (_ONE_BITS - _SQRT_HALF_BITS), "int32")
    exponent = ((bits >> 23) - 127).astype("float32")
    n = bind(exponent - select(tiny, number(23.0), number(0.0)))
    mantissa = _reinterpret((bits & 0x7FFFFF) + _SQRT_HALF_BITS, "float32")
    f = bind(mantissa - number(1.0))
    square = bind(f * f)
    tail = _polynomial(_LOG, f) * f * square + n * number(_LN2_LOW) - square * number(0.5)
    return n * number(_LN2_HIGH) + (f + tail)


def log1p_small(x: Expr) -> Expr:
    """log(1 + x) for 0 ≤ x ≤ 1."""
    x = bind(x)
    u = bind(number(1.0) + x)
    # u is 1 + x rounded; the rounding error, relative to u, is what its logarithm lacks.
    return _log_of_finite(u) + (x - (u - number(1.0))) / u


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + e^−x)."""
    return number(1.0) / (number(1.0) + exp(number(0.0) - x))


def tanh(x: Expr) -> Expr:
    """The hyperbolic tangent: an odd polynomial near zero, 1 − 2 / (e^2x + 1) elsewhere."""
    x = bind(x)
    square = bind(x * x)
    near = x + x * square * _polynomial(_TANH, square)
    large = number(1.0) - number(2.0) / (exp(x * number(2.0)) + number(1.0))
    return select(absolute(x) < number(0.625), near, large)


def softplus(x: Expr) -> Expr:
    """log(1 + e^x) = max(x, 0) + log(1 + e^−|x|)."""
    x = bind(x)
    return at_least(x, 0.0) + log1p_small(exp(number(0.0) - absolute(x)))


def erf(x: Expr) -> Expr:
    """The error function, by libm."""
    from tvmconv._tvm import te

    return te.erf(x)
