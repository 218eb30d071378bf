"""Operators that combine two tensors element by element, with NumPy's broadcasting."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tvmconv import te_math
from tvmconv.errors import InputError
from tvmconv.kernel import KernelSpec
from tvmconv.ops import BadCase, Case, Importer, Operator, expressions, register
from tvmconv.ops._shapes import Shape, broadcast, expect_inputs, text

if TYPE_CHECKING:
    from tvmconv.frontend.node import Builder, OnnxNode
    from tvmconv.graph.ir import Value

Array = npt.NDArray[Any]
Attrs = Mapping[str, Any]


def _divide(a: Array, b: Array) -> Array:
    """Divide; integers round towards zero, as in C and in ONNX."""
    if a.dtype.kind not in "iu":
        return np.asarray(a / b)
    if not b.all():
        raise InputError("division of integers by zero")
    quotient = np.abs(a) // np.abs(b)
    return np.asarray(np.where((a < 0) != (b < 0), -quotient, quotient))


def _power(a: Array, b: Array) -> Array:
    """Raise in float64; the other operators here are rounded correctly in any dtype."""
    return np.power(a.astype(np.float64), b.astype(np.float64))


def _remainder(a: Any, b: Any) -> Any:
    return te_math.libm("fmodf", a, b)


def _modulo(a: Any, b: Any) -> Any:
    """The remainder, moved by b where it has not the sign of b; of a zero the sign is that of b."""
    b = te_math.bind(b)
    rest, zero = te_math.bind(_remainder(a, b)), te_math.number(0.0)
    other = te_math.select(rest < zero, b > zero, te_math.select(rest > zero, b < zero, False))
    zeroes = te_math.libm("copysignf", zero, b)
    return te_math.select(other, rest + b, te_math.select(rest == zero, zeroes, rest))


#: name -> (formula, function of arrays, TE expression of two elements)
FUNCTIONS: dict[str, tuple[str, Callable[[Array, Array], Array], Callable[[Any, Any], Any]]] = {
    "add": ("a + b", np.add, operator.add),
    "sub": ("a - b", np.subtract, operator.sub),
    "mul": ("a · b", np.multiply, operator.mul),
    "div": ("a / b", _divide, operator.truediv),
    "maximum": ("max(a, b)", np.maximum, te_math.maximum),
    "minimum": ("min(a, b)", np.minimum, te_math.minimum),
    "pow": ("a ^ b", _power, te_math.power),
    "fmod": ("a − b·trunc(a / b)", np.fmod, _remainder),
    "mod": ("a − b·⌊a / b⌋", np.mod, _modulo),
}


def output_shape(shapes: Sequence[Shape], attrs: Attrs) -> Shape:
    """Return the broadcast of two shapes."""
    expect_inputs(shapes, 2)
    return broadcast(shapes[0], shapes[1])


def _make_reference(
    function: Callable[[Array, Array], Array],
) -> Callable[[Sequence[Array], Attrs], Array]:
    def reference(arrays: Sequence[Array], attrs: Attrs) -> Array:
        a, b = arrays
        with np.errstate(all="ignore"):  # infinities and NaN are results here, as in IEEE 754
            return np.asarray(function(a, b)).astype(a.dtype, copy=False)

    return reference


def compute(spec: KernelSpec) -> list[Any]:
    """``f(a, b)`` with both inputs broadcast: for what fusion leaves, broadcast both ways."""
    a, b = (expressions.placeholder(v, n) for v, n in zip(spec.inputs, "ab", strict=True))
    of_a, of_b = spec.inputs
    out, function = spec.output, FUNCTIONS[spec.op][2]

    def body(*index: Any) -> Any:
        left = expressions.operand_at(a, of_a, out, index)
        return function(left, expressions.operand_at(b, of_b, out, index))

    return [a, b, expressions.elements(out.iteration_shape, body)]


def _operands(node: OnnxNode, builder: Builder) -> tuple[Value, Value]:
    """Both inputs, in shapes that NumPy broadcasts as ONNX means it.

    Before opset 7 the second one was broadcast only where the attribute ``broadcast`` said so; its
    axes then are those of the first from ``axis`` on, or the last ones.
    """
    a, b = node.input(0), node.input(1)
    if node.opset >= 7 or a.shape == b.shape:
        return a, b
    if not node.int_attr("broadcast", 0):
        node.fail(f"shapes {text(a.shape)} and {text(b.shape)} differ, and 'broadcast' is 0")
    rank = len(a.shape)
    axis = node.axis(node.int_attr("axis"), rank) if node.has("axis") else rank - len(b.shape)
    behind = rank - axis - len(b.shape)
    if axis < 0 or behind < 0 or broadcast(a.shape, (*b.shape, *(1,) * behind)) != a.shape:
        node.fail(f"shape {text(b.shape)} cannot be broadcast to {text(a.shape)} at axis {axis}")
    return a, builder.emit("reshape", [b], {"shape": [*b.shape, *(1,) * behind]})


def _pair(op: str) -> Importer:
    """Make an importer for an ONNX operator with exactly two inputs."""

    def importer(node: OnnxNode, builder: Builder) -> Value:
        return builder.emit(op, _operands(node, builder))

    return importer


def _chain(op: str) -> Importer:
    """Make an importer for an ONNX operator with any number of inputs: a chain of pairs."""

    def importer(node: OnnxNode, builder: Builder) -> Value:
        result = node.input(0)
        for index in range(1, len(node.inputs)):
            result = builder.emit(op, [result, node.input(index)])
        return result

    return importer


def _import_pow(node: OnnxNode, builder: Builder) -> Value:
    """Import Pow: since opset 12 the exponent may have another dtype; low powers are products."""
    x, exponent = _operands(node, builder)
    if exponent.data is not None:
        if exponent.data.size == 1 and len(exponent.shape) <= len(x.shape):
            value = float(exponent.data.reshape(()))
            if value == 1.0:
                return x
            if value in (2.0, 3.0, 4.0):
                square = builder.emit("mul", [x, x])
                if value == 2.0:
                    return square
                return builder.emit("mul", [square, x if value == 3.0 else square])
        if exponent.dtype != x.dtype:
            exponent = builder.constant(exponent.data.astype(x.dtype))
    return builder.emit("pow", [x, exponent])


def _import_mod(node: OnnxNode, builder: Builder) -> Value:
    """Import Mod: the sign of the divisor, or with ``fmod`` of the dividend."""
    a, b = _operands(node, builder)
    if b.data is not None and b.data.dtype.kind in "iu" and not b.data.all():
        node.fail("division of integers by zero")
    return builder.emit("fmod" if node.int_attr("fmod", 0) else "mod", [a, b])


IMPORTERS: dict[str, dict[str, Importer]] = {
    "add": {"Add": _pair("add"), "Sum": _chain("add")},
    "sub": {"Sub": _pair("sub")},
    "mul": {"Mul": _pair("mul")},
    "div": {"Div": _pair("div")},
    "maximum": {"Max": _chain("maximum")},
    "minimum": {"Min": _chain("minimum")},
    "pow": {"Pow": _import_pow},
    "mod": {"Mod": _import_mod},
}

CASES = (
    Case("a residual addition", shapes=((1, 24, 7, 7), (1, 24, 7, 7))),
    Case("squeeze and excitation: one number a channel", shapes=((2, 24, 7, 7), (2, 24, 1, 1))),
    Case("a constant per channel on the left", shapes=((13, 1, 1), (2, 13, 5, 3))),
    Case("a scalar", shapes=((1, 10), ())),
    Case("broadcast in both directions", shapes=((1, 6, 1, 5), (2, 1, 4, 1))),
)

BAD_CASES = (
    BadCase("shapes 1x3x4x4 and 1x2x4x4 cannot", shapes=((1, 3, 4, 4), (1, 2, 4, 4))),
    BadCase("takes 2 inputs, has 1", shapes=((1, 3),)),
)

for _name, (_formula, _function, _expression) in FUNCTIONS.items():
    register(
        Operator(
            name=_name,
            summary=f"y = {_formula}, broadcasting",
            output_shape=output_shape,
            reference=_make_reference(_function),
            onnx=IMPORTERS.get(_name, {}),
            cases=CASES,
            bad_cases=BAD_CASES,
            compute=compute,
            expression=_expression,
            any_dtype=_name in ("add", "sub", "mul"),
        )
    )
