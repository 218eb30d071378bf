"""Operators outside the convolution family: tables, references, and the opsets of importers."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from tests.kernels import inputs_of
from tests.onnx_models import check, ints, net, normal, ops_of
from tvmconv import ops
from tvmconv.errors import InputError
from tvmconv.frontend import load
from tvmconv.graph.evaluate import evaluate
from tvmconv.ops import BadCase, Case

OPERATORS = [op for op in ops.operators().values() if op.family is None]
CASES = [(op.name, case) for op in OPERATORS for case in op.cases]
BAD = [(op.name, case) for op in OPERATORS for case in op.bad_cases]


@pytest.mark.parametrize(("name", "case"), CASES, ids=lambda item: getattr(item, "source", item))
def test_case(name: str, case: Case) -> None:
    """The reference has the shape that is announced, its own dtype, and no side effects."""
    operator = ops.get(name)
    arrays = inputs_of(operator, case)
    copies = [array.copy() for array in arrays]
    result = operator.reference(arrays, case.attrs)
    assert result.shape == operator.output_shape(case.shapes, case.attrs)
    dtypes = [str(array.dtype) for array in arrays]
    assert result.dtype == (ops.result_dtype(name, dtypes, case.attrs) if dtypes else np.float32)
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)
    assert json.loads(json.dumps(case.attrs)) == case.attrs


@pytest.mark.parametrize(("name", "case"), BAD, ids=lambda item: getattr(item, "message", item))
def test_bad_case(name: str, case: BadCase) -> None:
    with pytest.raises(InputError) as raised:
        ops.get(name).output_shape(case.shapes, case.attrs)
    assert case.message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_every_operator_has_cases() -> None:
    assert all(op.cases and op.bad_cases and op.summary for op in OPERATORS)


@pytest.mark.parametrize(
    ("name", "attrs", "x", "y"),
    [
        ("relu", {}, [-1.0, 0.0, 2.0], [0.0, 0.0, 2.0]),
        ("sigmoid", {}, [0.0, -800.0, 800.0], [0.5, 0.0, 1.0]),
        ("sigmoid", {}, [-30.0], [math.exp(-30) / (1 + math.exp(-30))]),
        ("clip", {"min": -1, "max": 2}, [-3.0, 0.5, 7.0], [-1.0, 0.5, 2.0]),
        ("leaky_relu", {"alpha": 0.1}, [-10.0, 3.0], [-1.0, 3.0]),
        ("elu", {"alpha": 2.0}, [-1.0, 3.0], [2 * (math.exp(-1) - 1), 3.0]),
        ("hard_sigmoid", {"alpha": 0.2, "beta": 0.5}, [-9.0, 1.0, 9.0], [0.0, 0.7, 1.0]),
        ("hard_swish", {}, [-4.0, 1.0, 4.0], [0.0, 4 / 6, 4.0]),
        ("silu", {}, [0.0, 1.0], [0.0, 1 / (1 + math.exp(-1))]),
        ("erf", {}, [0.5], [math.erf(0.5)]),
        ("softplus", {}, [0.0, 1000.0], [math.log(2), 1000.0]),
        ("reciprocal", {}, [4.0], [0.25]),
    ],
)
def test_elementwise_by_hand(
    name: str, attrs: dict[str, float], x: list[float], y: list[float]
) -> None:
    result = ops.get(name).reference([np.array(x)], attrs)
    np.testing.assert_allclose(result, y, rtol=1e-14)


def test_nan_is_not_hidden() -> None:
    for name in ("relu", "clip", "sigmoid", "maximum"):
        operator = ops.get(name)
        arrays = [np.array([np.nan])] * (2 if name == "maximum" else 1)
        assert np.isnan(operator.reference(arrays, {"min": 0.0, "max": 6.0})).all()


def test_lrn_by_hand() -> None:
    x = np.array([1.0, 2.0, 3.0]).reshape(1, 3, 1)
    attrs = {"size": 3, "alpha": 3.0, "beta": 1.0, "bias": 1.0}
    y = ops.get("lrn").reference([x], attrs).reshape(-1)
    np.testing.assert_allclose(y, [1 / 6, 2 / 15, 3 / 14])


def test_channel_shuffle_by_hand() -> None:
    x = np.arange(6.0).reshape(1, 6, 1)
    y = ops.get("channel_shuffle").reference([x], {"groups": 2}).reshape(-1)
    assert y.tolist() == [0, 3, 1, 4, 2, 5]


def test_integer_division_rounds_towards_zero() -> None:
    a, b = np.array([7, -7, 7, -7]), np.array([2, 2, -2, -2])
    assert ops.get("div").reference([a, b], {}).tolist() == [3, -3, -3, 3]
    with pytest.raises(InputError, match="by zero"):
        ops.get("div").reference([a, a * 0], {})


SCALAR = {"lo": np.array(-0.5, np.float32), "hi": np.array(0.5, np.float32)}

#: What changed between opsets: (statement, opset, constants).
VERSIONS = [
    ("y = Clip<min=-0.5, max=0.5>(x);", 7, {}),
    ("y = Clip<max=0.5>(x);", 10, {}),
    ("y = Clip(x, lo, hi);", 11, SCALAR),
    ("y = Clip(x, , hi);", 13, SCALAR),
    ("y = Clip(x, hi, lo);", 13, SCALAR),
    ("y = Softmax<axis=-1>(x);", 11, {}),
    ("y = Softmax(x);", 13, {}),
    ("y = Softmax<axis=1>(x);", 13, {}),
    ("y = LogSoftmax<axis=0>(x);", 13, {}),
    ("y = Squeeze(x);", 9, {}),
    ("y = Squeeze<axes=[0]>(x);", 11, {}),
    ("y = Squeeze(x, i0);", 13, {"i0": ints(0)}),
    ("y = Unsqueeze<axes=[0,4]>(x);", 9, {}),
    ("y = Unsqueeze(x, a);", 13, {"a": ints(-1, 0)}),
    ("y = ReduceMean<axes=[1,-1], keepdims=0>(x);", 13, {}),
    ("y = ReduceMean(x, a);", 18, {"a": ints(1)}),
    ("y = ReduceMean(x);", 18, {}),
    ("y = ReduceMean<noop_with_empty_axes=1>(x);", 18, {}),
    ("y = ReduceSum<axes=[1]>(x);", 11, {}),
    ("y = ReduceSum<keepdims=0>(x, a);", 13, {"a": ints(-1, 0)}),
    ("y = ReduceMax<axes=[2,3]>(x);", 13, {}),
    ("y = ReduceMin(x);", 18, {}),
    ("y = ReduceProd(x, a);", 18, {"a": ints(2)}),
    ("y = ReduceL1<keepdims=0>(x, a);", 18, {"a": ints(1, 2)}),
    ("y = ReduceL2(x, a);", 18, {"a": ints(0, 2, 3)}),
    ("y = ReduceL2<noop_with_empty_axes=1>(x);", 18, {}),
    ("y = ReduceSumSquare<noop_with_empty_axes=1>(x);", 18, {}),
    ("e = Exp(x); y = ReduceLogSum<keepdims=0>(e, a);", 18, {"a": ints(1)}),
    ("y = ReduceLogSumExp(x, a);", 18, {"a": ints(1)}),
    ("y = InstanceNormalization(x, k, k);", 9, {"k": normal(3)}),
    ("y = GroupNormalization<num_groups=1>(x, k, k);", 21, {"k": normal(3)}),
    ("y = LayerNormalization<axis=2>(x, k, k);", 17, {"k": normal(8, 8)}),
    ("a, y = LayerNormalization(x, k);", 17, {"k": normal(8)}),
    ("y = MeanVarianceNormalization(x);", 13, {}),
    ("e = Exp(x); y = LpNormalization<axis=1, p=1>(e);", 13, {}),
    ("y = RMSNormalization(x, k);", 23, {"k": normal(8)}),
    ("y = DepthToSpace<blocksize=2>(r);", 13, {"r": normal(1, 12, 2, 3)}),
    ("y = SpaceToDepth<blocksize=2>(x);", 13, {}),
    ("y = Expand(x, s);", 13, {"s": ints(2, 1, 8, 8)}),
    ("y = Tile(x, s);", 13, {"s": ints(1, 2, 1, 3)}),
    ("a = ReduceMax(x); b = ReduceMin(x); y = Clip(x, b, a);", 13, {}),
    ("a = Neg(x); y = MatMul(x, a);", 13, {}),
    ("y = MatMul(x, k);", 13, {"k": normal(2, 1, 8, 5)}),
    ("y = MatMul(k, x);", 13, {"k": normal(8)}),
    ("y = MatMul(x, k);", 13, {"k": normal(8)}),
    ("c = Less(x, k); n = Not(c); y = Where(n, x, k);", 13, {"k": normal(3, 1, 1)}),
    ("a = Greater(x, k); b = Less(x, k); c = Or(a, b); y = Cast<to=1>(c);", 13, {"k": normal(8)}),
    ("y = Mod<fmod=1>(x, k);", 13, {"k": normal(3, 1, 1)}),
    ("y = ThresholdedRelu<alpha=0.5>(x);", 10, {}),
    ("y = Shrink<bias=0.25>(x);", 9, {}),
    (
        "a = ArgMax<axis=1, keepdims=0>(x); s = Cast<to=1>(o); b = Shape(a); y = Reshape(x, t);",
        13,
        {"o": ints(1), "t": ints(-1)},
    ),
    ("y = Round(x);", 11, {}),
    ("a = Floor(x); b = Ceil(x); c = Sign(x); y = Sum(a, b, c);", 13, {}),
    ("y = Slice<starts=[1,-3], ends=[99,-1], axes=[2,3]>(x);", 9, {}),
    ("y = Slice<starts=[0,1], ends=[1,2]>(x);", 9, {}),
    (
        "y = Slice(x, s, e, a, t);",
        10,
        {"s": ints(-1), "e": ints(-99), "a": ints(-1), "t": ints(-2)},
    ),
    ("y = Slice(x, s, e, a, t);", 13, {"s": ints(1), "e": ints(7), "a": ints(3), "t": ints(3)}),
    ("a, y = Split<axis=3, split=[3,5]>(x);", 11, {}),
    ("a, y = Split<axis=-1>(x);", 11, {}),
    ("a, y = Split<axis=3>(x, p);", 13, {"p": ints(3, 5)}),
    ("a, b, y = Split<axis=3, num_outputs=3>(x);", 18, {}),
    ("y = Pad<pads=[0,0,1,0,0,0,2,1], value=1.5>(x);", 9, {}),
    ("y = Pad(x, p, lo);", 13, {"p": ints(0, 0, 3, 0, 0, 0, 0, 0), **SCALAR}),
    ("y = Pad(x, p, lo, a);", 18, {"p": ints(1, 2, 3, 4), "a": ints(-1, 1), **SCALAR}),
    ('y = Pad<mode="reflect">(x, p);', 13, {"p": ints(*[0] * 8)}),
    ("y = Reshape(x, s);", 13, {"s": ints(0, -1)}),
    ("y = Reshape<allowzero=1>(x, s);", 14, {"s": ints(-1, 8)}),
    ("y = Flatten<axis=0>(x);", 9, {}),
    ("y = Flatten<axis=-2>(x);", 13, {}),
    ("y = Flatten<axis=4>(x);", 13, {}),
    ("y = Transpose(x);", 13, {}),
    ("y = PRelu(x, k);", 9, {"k": normal(3, 1, 1)}),
    ("y = PRelu(x, k);", 16, {"k": normal(1)}),
    ("y = PRelu(x, k);", 16, {"k": normal(8)}),  # aligned to the last axis, not to channels
    ("y = PRelu(x, k);", 16, {"k": normal(3, 8, 8)}),
    ("y = Pow(x, two);", 7, {"two": np.array(2, np.float32)}),
    ("y = Pow(x, two);", 13, {"two": np.array(2, np.int64)}),
    ("e = Exp(x); y = Pow(e, k);", 13, {"k": normal(3, 1, 1)}),
    ("y = Sum(x);", 8, {}),
    ("y = Sum(x, x, k);", 13, {"k": normal(3, 1, 1)}),
    ("y = Mean(x, k, x);", 13, {"k": normal(3, 1, 1)}),
    ("y = Max(x, k, lo);", 13, {"k": normal(8), **SCALAR}),
    ("y = Min(x, k);", 8, {"k": normal(1, 3, 8, 8)}),
    ("y = Concat<axis=-3>(x, k, x);", 13, {"k": normal(1, 2, 8, 8)}),
    ("y = Concat<axis=1>(x);", 11, {}),
    ("y = LRN<size=3, alpha=0.5, beta=0.6, bias=1.5>(x);", 13, {}),
    ("y = LRN<size=5>(x);", 7, {}),
    ("y = Elu<alpha=0.5>(x);", 7, {}),
    ("y = Selu(x);", 7, {}),
    ("y = Celu<alpha=0.5>(x);", 12, {}),
    ("y = LeakyRelu(x);", 7, {}),
    ("y = HardSigmoid<alpha=0.3>(x);", 7, {}),
    ("y = HardSwish(x);", 14, {}),
    ("y = Gelu(x);", 20, {}),
    ('y = Gelu<approximate="tanh">(x);', 20, {}),
    ("y = Mish(x);", 18, {}),
    ("y = Softsign(x);", 7, {}),
    ("y = Dropout<ratio=0.3>(x);", 10, {}),
    ("y = Dropout(x, hi);", 13, SCALAR),
    ("y = BatchNormalization(x, k, k, k, v);", 9, {"k": normal(3), "v": abs(normal(3))}),
    ("s = Shape(x); y = Reshape(x, s);", 13, {}),
    ("s = Shape<start=1>(x); n = Size(x); y = Reshape(x, t);", 15, {"t": ints(-1)}),
    (
        "s = Shape(x); b = Gather(s, i); u = Unsqueeze<axes=[0]>(b); c = Concat<axis=0>(u, m);"
        "y = Reshape(x, c);",
        11,
        {"i": np.array(0, np.int64), "m": ints(-1)},
    ),
    (
        "s = Shape(x); h = Slice(s, two, four); d = Div(h, two); p = Add(d, d); q = Cast<to=7>(p);"
        "c = Concat<axis=0>(q, m); y = Reshape(x, c);",
        13,
        {"two": ints(2), "four": ints(4), "m": ints(-1)},
    ),
]


@pytest.mark.parametrize(
    ("body", "opset", "constants"), VERSIONS, ids=[f"{body} {n}" for body, n, _ in VERSIONS]
)
def test_opsets(body: str, opset: int, constants: dict[str, np.ndarray]) -> None:
    check(net(body, opset=opset, **constants))


def test_constants_vanish() -> None:
    body = """
        s = ConstantOfShape<value=float[1]{2.0}>(n); u = Unsqueeze(s, i); z = Neg(u); e = Exp(z);
        r = Range(a, b, d); f = Cast<to=1>(r); t = Tile(f, rep); w = Where(c, t, f3);
        g = Greater(w, e3); h = Not(g); k = Cast<to=1>(h); p = ReduceSum<keepdims=0>(k);
        q = Add(x, p); y = Add(q, e);"""
    constants = {
        "n": ints(3),
        "i": ints(1, 2),
        "a": np.array(1, np.int64),
        "b": np.array(4, np.int64),
        "d": np.array(1, np.int64),
        "rep": ints(1),
        "c": np.array([True, False, True]),
        "f3": normal(3),
        "e3": normal(3, seed=1),
    }
    assert ops_of(check(net(body, **constants))) == ["scale_shift"]


@pytest.mark.parametrize("axis", [1, 2, 3, -4])
def test_softmax_before_opset_13_takes_all_axes_from_one_on(axis: int) -> None:
    """onnx.reference takes that axis alone in every opset."""
    x = normal(2, 3, 4, 5)
    rows = np.exp(x.reshape(int(np.prod(x.shape[:axis])), -1).astype(np.float64))
    expected = (rows / rows.sum(axis=1, keepdims=True)).reshape(x.shape)
    graph = load(net(f"y = Softmax<axis={axis}>(x);", x="2,3,4,5", opset=11))
    np.testing.assert_allclose(evaluate(graph, [x])[0], expected, rtol=1e-12)
    graph = load(net(f"y = LogSoftmax<axis={axis}>(x);", x="2,3,4,5", opset=11))
    np.testing.assert_allclose(evaluate(graph, [x])[0], np.log(expected), rtol=1e-12)


def test_negative_pads_crop() -> None:
    """onnx.reference refuses them."""
    x = normal(1, 3, 8, 8)
    model = net("y = Pad(x, p);", opset=11, p=ints(0, 1, 0, -1, 0, 0, 2, -2))
    expected = np.pad(x[:, :, :, 1:6], [(0, 0), (1, 0), (0, 2), (0, 0)])
    np.testing.assert_array_equal(evaluate(load(model), [x])[0], expected)
