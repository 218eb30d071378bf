"""Accuracy of the vector functions against float64, and what they make of NaN and infinities."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from tests.kernels import Kernel, host, run, runnable_targets
from tvmconv import ops, te_math
from tvmconv.graph.fuse import fuse
from tvmconv.graph.ir import Graph, Node, Value
from tvmconv.kernel import KernelSpec, canonical_json
from tvmconv.layout import Layout
from tvmconv.ops import Array, rounding, trigonometric
from tvmconv.ops.elementwise import ATTRS, FUNCTIONS
from tvmconv.target import Target

MANTISSAS = 256
TARGETS = pytest.mark.parametrize("target", runnable_targets(), ids=lambda target: target.name)


@cache
def arguments() -> Array:
    """Both signs of every exponent with its first, last and random mantissas; and usual sizes."""
    rng = np.random.default_rng(1)
    mantissas = np.concatenate([[0, 1, 0x400000, 0x7FFFFF], rng.integers(0, 1 << 23, MANTISSAS)])
    bits = (np.arange(256)[:, None] << 23) | mantissas
    positive = bits.astype(np.uint32).view(np.float32).ravel()
    usual = [rng.uniform(-low, low, 1 << 15).astype(np.float32) for low in (1, 10, 110)]
    values = np.concatenate([positive, -positive, *usual])
    return values[: values.size // 16 * 16].reshape(-1, 16)


def evaluate(expression: Callable[[Any], Any], target: Target) -> Array:
    """A function of all arguments, compiled as a vectorised loop."""
    from tvmconv._tvm import s_tir, te, tvm

    x = arguments()
    source = te.placeholder(x.shape, name="x")
    output = te.compute(
        x.shape, lambda *i: te_math.scoped(lambda: expression(source(*i))), name="y"
    )
    schedule = s_tir.Schedule(te.create_prim_func([source, output]))
    schedule.vectorize(schedule.get_loops(schedule.get_sblock("y"))[-1])
    compiled = tvm.compile(schedule.mod, tvm.target.Target(target.llvm_target()))
    tensors = [tvm.runtime.tensor(x), tvm.runtime.tensor(np.full_like(x, 7))]
    compiled(*tensors)
    return np.asarray(tensors[1].numpy())


def ulps(got: Array, reference: Array) -> Array:
    """Errors in units in the last place of the reference; 0 where it has none."""
    _, exponent = np.frexp(reference)
    unit = np.ldexp(1.0, np.maximum(exponent - 1, -126) - 23)
    with np.errstate(invalid="ignore"):
        error = np.abs(got.astype(np.float64) - reference) / unit
    return np.where(np.isfinite(reference) & np.isfinite(got), error, 0.0)


def sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, e) / (1.0 + e)


EVERYWHERE = (-math.inf, math.inf)
CASES: list[tuple[str, Callable[[Any], Any], Callable[[Array], Array], Any, float]] = [
    ("exp", te_math.exp, np.exp, EVERYWHERE, 1.1),
    ("expm1", te_math.expm1_negative, np.expm1, (-math.inf, 0.0), 1.0),
    ("log", te_math.log, np.log, EVERYWHERE, 1.0),
    ("log1p", te_math.log1p_small, np.log1p, (0.0, 1.0), 1.5),
    ("sigmoid", te_math.sigmoid, sigmoid, (-87.3, math.inf), 2.5),
    ("tanh", te_math.tanh, np.tanh, EVERYWHERE, 3.0),
    ("softplus", te_math.softplus, lambda x: np.logaddexp(0, x), EVERYWHERE, 2.5),
    ("erf", te_math.erf, np.vectorize(math.erf), EVERYWHERE, 1.0),
    ("sqrt", te_math.sqrt, np.sqrt, EVERYWHERE, 0.5),
    (
        "power",
        lambda x: te_math.power(x, te_math.number(-0.75)),
        lambda x: x**-0.75,
        EVERYWHERE,
        0.6,
    ),
]


@pytest.mark.parametrize(
    ("expression", "function", "domain", "allowed"),
    [case[1:] for case in CASES],
    ids=[case[0] for case in CASES],
)
@TARGETS
def test_accuracy(
    expression: Callable[[Any], Any],
    function: Callable[[Array], Array],
    domain: tuple[float, float],
    allowed: float,
    target: Target,
) -> None:
    """As the module's table says; NaN and infinities are where NumPy has them."""
    x, got = arguments(), evaluate(expression, target)
    with np.errstate(all="ignore"):
        reference = function(x.astype(np.float64))
        rounded = reference.astype(np.float32)
    inside = (x >= domain[0]) & (x <= domain[1]) | np.isnan(x)
    error = ulps(got, reference)[inside]
    # Where the result overflows, the one before may be a step away from it.
    finite = np.isfinite(rounded)[inside]
    assert error[finite].max() <= allowed
    assert error[finite].max() > 0.2 * allowed, "the table is far too pessimistic"
    np.testing.assert_array_equal(np.isnan(got)[inside], np.isnan(reference)[inside])
    largest = np.finfo(np.float32).max
    disagree = (np.isinf(got) != np.isinf(rounded)) & inside & (np.abs(reference) < 0.999 * largest)
    assert not disagree.any()


def test_sigmoid_of_very_negative_numbers_is_0() -> None:
    """There the result is below the smallest normal number."""
    x, got = arguments(), evaluate(te_math.sigmoid, host())
    assert not got[x < -88.73].any()
    small = x < -87.3
    assert np.abs(got[small] - sigmoid(x[small].astype(np.float64))).max() <= 2.0**-126


SPECIAL = np.array(
    [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-45, 1e-38, 3.4e38, -3.4e38, 88.8, -88.8, 104.5,
     -104.5, 0.625, -0.625, 1.0, -1.0, 2.5, -2.5], np.float32,
)  # fmt: skip


def elementwise(steps: list[dict[str, Any]], *arrays: Array) -> Array:
    """A program applied to vectors of as many channels, through a kernel."""
    wide = tuple(array.reshape(1, -1, 1, 1) for array in arrays)
    layouts = tuple(Layout(array.shape, 16) for array in wide)
    spec = KernelSpec("elementwise", canonical_json({"program": steps}), layouts, layouts[0])
    (got,) = run([Kernel(spec, wide)])
    return got.reshape(-1)


@pytest.mark.parametrize("name", [*FUNCTIONS, *rounding.FUNCTIONS, *trigonometric.FUNCTIONS])
def test_special_values(name: str) -> None:
    """NaN, infinities, zeros and the ends of the range give what the reference gives."""
    attrs = ATTRS.get(name, {})
    got = elementwise([{"op": name, **attrs}], SPECIAL)
    with np.errstate(all="ignore"):
        expected = ops.get(name).reference([SPECIAL], attrs)
    if name in ("sigmoid", "silu"):  # too small for normal numbers, see the table
        got, expected = (np.where(np.abs(y) < 1e-36, 0, y) for y in (got, expected))
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "name", ["maximum", "minimum", "add", "sub", "mul", "div", "pow", "fmod", "mod"]
)
def test_special_pairs(name: str) -> None:
    """Every special value with every other, on either side."""
    a, b = (grid.ravel() for grid in np.meshgrid(SPECIAL, SPECIAL))
    got = elementwise([{"op": name, "operand": 0}], a, b)
    with np.errstate(all="ignore"):
        expected = ops.get(name).reference([a, b], {})
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-44)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.4028234663852886e38), (-1e39, 2.0)])
def test_clip_with_one_bound(low: float, high: float) -> None:
    got = elementwise([{"op": "clip", "min": low, "max": high}], SPECIAL)
    wide = SPECIAL.astype(np.float64)
    expected = np.maximum(wide, low) if high > 1e38 else np.minimum(wide, high)
    np.testing.assert_array_equal(got, expected.astype(np.float32))


def test_a_value_needs_a_scope() -> None:
    with pytest.raises(LookupError):
        te_math.bind(te_math.number(1.0))


def test_a_program_has_one_costly_step() -> None:
    """TVM's simplifier takes seconds for two, and minutes for three."""
    x, a, b, y = (Value(name, (1, 16, 4, 4)) for name in "xaby")
    nodes = [
        Node("tanh", [x], a, {}, "first"),
        Node("relu", [a], b, {}, "second"),
        Node("softplus", [b], y, {}, "third"),
    ]
    fused = fuse(Graph("g", [x], [y], nodes))
    programs = [[step["op"] for step in node.attrs["program"]] for node in fused.nodes]
    assert programs == [["tanh", "relu"], ["softplus"]]
