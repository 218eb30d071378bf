"""Operators that map one tensor to another, element by element: activations and functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tvmconv import te_math
from tvmconv.errors import InputError
from tvmconv.ops import BadCase, Case, Importer, Operator, register
from tvmconv.ops._shapes import Shape, expect_inputs, number, size

if TYPE_CHECKING:
    from tvmconv.frontend.node import Builder, OnnxNode
    from tvmconv.graph.ir import Value

Array = npt.NDArray[Any]
Attrs = Mapping[str, Any]

#: What ONNX means by a bound of Clip that is left out: the finite limits of float32.
FLOAT32_MAX = 3.4028234663852886e38

_erf = np.frompyfunc(math.erf, 1, 1)


def _sigmoid(x: Array) -> Array:
    # exp of a negative number never overflows, and keeps relative accuracy on both sides.
    e = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1.0, e) / (1.0 + e))


def _hard_sigmoid(x: Array, a: Attrs) -> Array:
    return np.asarray(np.clip(a["alpha"] * x + a["beta"], 0.0, 1.0))


@dataclass(frozen=True)
class Function:
    """A function of one element.

    Attributes
    ----------
    formula : str
        For people.
    reference : callable
        ``reference(array, attrs)`` of a float64 array.
    expression : callable
        ``expression(value, attrs)``: the TE expression.
    keys : tuple of str
        Names of the attributes, all of them numbers.
    """

    formula: str
    reference: Callable[[Array, Attrs], Array]
    expression: Callable[[Any, Attrs], Any]
    keys: tuple[str, ...] = ()


def _clip(x: Any, attrs: Attrs) -> Any:
    low, high = attrs["min"], attrs["max"]
    x = te_math.at_least(x, low) if low > -FLOAT32_MAX else x
    return te_math.at_most(x, high) if high < FLOAT32_MAX else x


def _line_in_unit(x: Any, slope: float, offset: float) -> Any:
    line = x * te_math.number(slope) + te_math.number(offset)
    return te_math.at_least(te_math.at_most(line, 1.0), 0.0)


def _leaky_relu(x: Any, attrs: Attrs) -> Any:
    x = te_math.bind(x)
    return te_math.select(x >= te_math.number(0.0), x, x * te_math.number(attrs["alpha"]))


def _thresholded_relu(x: Any, attrs: Attrs) -> Any:
    x = te_math.bind(x)
    return te_math.select(x > te_math.number(attrs["alpha"]), x, te_math.number(0.0))


def _shrink(x: Any, attrs: Attrs) -> Any:
    x, bias, edge = te_math.bind(x), te_math.number(attrs["bias"]), attrs["lambd"]
    above = te_math.select(x > te_math.number(edge), x - bias, te_math.number(0.0))
    return te_math.select(x < te_math.number(-edge), x + bias, above)


def _elu(x: Any, attrs: Attrs) -> Any:
    x = te_math.bind(x)
    below = te_math.number(attrs["alpha"]) * te_math.expm1_negative(x)
    return te_math.select(x >= te_math.number(0.0), x, below)


def _hard_swish(x: Any, attrs: Attrs) -> Any:
    x = te_math.bind(x)
    return x * _line_in_unit(x, 1 / 6, 0.5)


def _silu(x: Any, attrs: Attrs) -> Any:
    x = te_math.bind(x)
    return x * te_math.sigmoid(x)


FUNCTIONS: dict[str, Function] = {
    "relu": Function(
        "max(x, 0)", lambda x, a: np.maximum(x, 0.0), lambda x, a: te_math.at_least(x, 0.0)
    ),
    "sigmoid": Function(
        "1 / (1 + exp(-x))", lambda x, a: _sigmoid(x), lambda x, a: te_math.sigmoid(x)
    ),
    "tanh": Function("tanh(x)", lambda x, a: np.tanh(x), lambda x, a: te_math.tanh(x)),
    "clip": Function(
        "min(max(x, min), max)",
        lambda x, a: np.minimum(np.maximum(x, a["min"]), a["max"]),
        _clip,
        ("min", "max"),
    ),
    "leaky_relu": Function(
        "x where x >= 0, else alpha·x",
        lambda x, a: np.where(x >= 0, x, a["alpha"] * x),
        _leaky_relu,
        ("alpha",),
    ),
    "elu": Function(
        "x where x >= 0, else alpha·(exp(x) - 1)",
        lambda x, a: np.where(x >= 0, x, a["alpha"] * np.expm1(np.minimum(x, 0.0))),
        _elu,
        ("alpha",),
    ),
    "thresholded_relu": Function(
        "x where x > alpha, else 0",
        lambda x, a: np.where(x > a["alpha"], x, 0.0),
        _thresholded_relu,
        ("alpha",),
    ),
    "shrink": Function(
        "x + bias where x < -lambd, x - bias where x > lambd, else 0",
        lambda x, a: np.select([x < -a["lambd"], x > a["lambd"]], [x + a["bias"], x - a["bias"]]),
        _shrink,
        ("lambd", "bias"),
    ),
    "hard_sigmoid": Function(
        "max(0, min(1, alpha·x + beta))",
        _hard_sigmoid,
        lambda x, a: _line_in_unit(x, a["alpha"], a["beta"]),
        ("alpha", "beta"),
    ),
    "hard_swish": Function(
        "x·max(0, min(1, x/6 + 1/2))",
        lambda x, a: x * np.clip(x / 6.0 + 0.5, 0.0, 1.0),
        _hard_swish,
    ),
    "silu": Function(
        "x / (1 + exp(-x))",
        lambda x, a: x * _sigmoid(x),
        _silu,
    ),
    "exp": Function("exp(x)", lambda x, a: np.exp(x), lambda x, a: te_math.exp(x)),
    "sqrt": Function("√x", lambda x, a: np.sqrt(x), lambda x, a: te_math.sqrt(x)),
    "neg": Function("-x", lambda x, a: -x, lambda x, a: x * te_math.number(-1.0)),
    "abs": Function("|x|", lambda x, a: np.abs(x), lambda x, a: te_math.absolute(x)),
    "erf": Function(
        "2/√π ∫₀ˣ exp(-t²) dt",
        lambda x, a: np.asarray(_erf(x), np.float64),
        lambda x, a: te_math.erf(x),
    ),
    "softplus": Function(
        "log(1 + exp(x))", lambda x, a: np.logaddexp(0.0, x), lambda x, a: te_math.softplus(x)
    ),
    "reciprocal": Function("1 / x", lambda x, a: 1.0 / x, lambda x, a: te_math.number(1.0) / x),
    "log": Function("log(x)", lambda x, a: np.log(x), lambda x, a: te_math.log(x)),
}


#: Those that te_math makes of an exponential or a logarithm.
_COSTLY = frozenset({"sigmoid", "tanh", "elu", "silu", "exp", "softplus", "log"})


def _make_shape(names: tuple[str, ...]) -> Callable[[Sequence[Shape], Attrs], Shape]:
    """Make the shape function of an operator with these attributes: the input's shape."""

    def output_shape(shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        expect_inputs(shapes, 1)
        for name in names:
            number(attrs, name)
        if "min" in names and attrs["min"] > attrs["max"]:
            raise InputError(f"attribute 'min' {attrs['min']} is above 'max' {attrs['max']}")
        return shapes[0]

    return output_shape


def _make_reference(
    function: Callable[[Array, Attrs], Array],
) -> Callable[[Sequence[Array], Attrs], Array]:
    """Make the reference: the function in float64, rounded once to the input's dtype."""

    def reference(arrays: Sequence[Array], attrs: Attrs) -> Array:
        with np.errstate(all="ignore"):  # infinities and NaN are results here, as in IEEE 754
            y = function(np.asarray(arrays[0], np.float64), attrs)
            return y.astype(arrays[0].dtype)

    return reference


def importer_of(op: str, **defaults: float) -> Importer:
    """Make an importer for an ONNX operator with one input and float attributes."""

    def importer(node: OnnxNode, builder: Builder) -> Value:
        attrs = {key: node.float_attr(key, value) for key, value in defaults.items()}
        return builder.emit(op, [node.input(0)], attrs)

    return importer


def _import_clip(node: OnnxNode, builder: Builder) -> Value:
    """Import Clip: bounds are attributes before opset 11, and constant scalar inputs since."""
    bounds = {"min": -FLOAT32_MAX, "max": FLOAT32_MAX}
    given = {"maximum": node.optional(1), "minimum": node.optional(2)}
    if any(value is not None and value.data is None for value in given.values()):
        return _clip_at_run_time(node, builder, given)
    for index, key in enumerate(("min", "max"), start=1):
        if node.opset < 11:
            bounds[key] = node.float_attr(key, bounds[key])
        elif node.optional(index) is not None:
            data = node.constant_input(index, f"'{key}'")
            if data.size != 1:
                node.fail(f"input '{key}' must be a scalar, has shape {data.shape}")
            bounds[key] = float(np.clip(data.reshape(()), -FLOAT32_MAX, FLOAT32_MAX))
    # ONNX: where min > max, every element becomes max.
    bounds["min"] = min(bounds["min"], bounds["max"])
    return builder.emit("clip", [node.input(0)], bounds)


def _clip_at_run_time(node: OnnxNode, builder: Builder, given: Mapping[str, Value | None]) -> Value:
    """Clip by bounds that are known only at run time: the lower one first, as ONNX has it."""
    y = node.input(0)
    for op, bound in given.items():
        if bound is not None:
            if size(bound.shape) != 1:
                node.fail(f"a bound must be a scalar, has shape {bound.shape}")
            y = builder.emit(op, [y, builder.emit("reshape", [bound], {"shape": []})])
    return y


IMPORTERS: dict[str, dict[str, Importer]] = {
    "relu": {"Relu": importer_of("relu")},
    "sigmoid": {"Sigmoid": importer_of("sigmoid")},
    "tanh": {"Tanh": importer_of("tanh")},
    "clip": {"Clip": _import_clip},
    "leaky_relu": {"LeakyRelu": importer_of("leaky_relu", alpha=0.01)},
    "thresholded_relu": {"ThresholdedRelu": importer_of("thresholded_relu", alpha=1.0)},
    "shrink": {"Shrink": importer_of("shrink", lambd=0.5, bias=0.0)},
    "elu": {"Elu": importer_of("elu", alpha=1.0)},
    "hard_sigmoid": {"HardSigmoid": importer_of("hard_sigmoid", alpha=0.2, beta=0.5)},
    "hard_swish": {"HardSwish": importer_of("hard_swish")},
    "exp": {"Exp": importer_of("exp")},
    "sqrt": {"Sqrt": importer_of("sqrt")},
    "neg": {"Neg": importer_of("neg")},
    "abs": {"Abs": importer_of("abs")},
    "erf": {"Erf": importer_of("erf")},
    "softplus": {"Softplus": importer_of("softplus")},
    "reciprocal": {"Reciprocal": importer_of("reciprocal")},
    "log": {"Log": importer_of("log")},
}

ATTRS: dict[str, Attrs] = {
    "clip": {"min": 0.0, "max": 6.0},
    "leaky_relu": {"alpha": 0.1},
    "elu": {"alpha": 1.0},
    "thresholded_relu": {"alpha": 0.5},
    "shrink": {"lambd": 0.5, "bias": 0.25},
    "hard_sigmoid": {"alpha": 0.2, "beta": 0.5},
}


def _cases(name: str) -> tuple[Case, ...]:
    attrs = ATTRS.get(name, {})
    return (
        Case("an activation map", shapes=((1, 24, 7, 7),), attrs=attrs),
        Case("channels and pixels that divide by nothing", shapes=((2, 13, 5, 3),), attrs=attrs),
        Case("a classifier's vector", shapes=((1, 10),), attrs=attrs),
    )


def _bad_cases(name: str, keys: tuple[str, ...]) -> tuple[BadCase, ...]:
    shape = (1, 4, 2, 2)
    bad = [BadCase("takes 1 input, has 2", shapes=(shape, shape), attrs=ATTRS.get(name, {}))]
    if keys:
        bad.append(BadCase(f"attribute '{keys[0]}' must be a number, is None", shapes=(shape,)))
    if name == "clip":
        bad.append(BadCase("'min' 6 is above 'max' 0", shapes=(shape,), attrs={"min": 6, "max": 0}))
    return tuple(bad)


def register_functions(
    functions: Mapping[str, Function],
    importers: Mapping[str, Mapping[str, Importer]],
    costly: Container[str] = (),
) -> None:
    """Add functions of one element to the registry.

    Parameters
    ----------
    functions : mapping of str to Function
    importers : mapping of str to mapping
        ONNX operator types and their importers, by the function's name.
    costly : container of str
        Names of those with long expressions.
    """
    for name, function in functions.items():
        register(
            Operator(
                name=name,
                summary=f"y = {function.formula}",
                output_shape=_make_shape(function.keys),
                reference=_make_reference(function.reference),
                onnx=importers.get(name, {}),
                cases=_cases(name),
                bad_cases=_bad_cases(name, function.keys),
                expression=function.expression,
                costly=name in costly,
            )
        )


register_functions(FUNCTIONS, IMPORTERS, _COSTLY)
