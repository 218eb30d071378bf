"""Rewrites: each pattern is found, is left alone where it would be wrong, and computes the same."""

from __future__ import annotations

import numpy as np
import pytest

from tests.onnx_models import check, feeds, ints, judged, net, normal, ops_of
from tvmconv.frontend import drop_final_softmax, load
from tvmconv.frontend.limits import ConstantBudget
from tvmconv.frontend.simplify import simplify
from tvmconv.graph.evaluate import evaluate
from tvmconv.problem import Problem

W = normal(6, 3, 3, 3)
BN = {
    "s": normal(6, seed=1),
    "b": normal(6, seed=2),
    "m": normal(6, seed=3),
    "v": abs(normal(6, seed=4)) + 0.5,
}
CONV = "c = Conv<pads=[1,1,1,1]>(x, w);"
NORM = "BatchNormalization<epsilon=0.01>(c, s, b, m, v);"


@pytest.mark.parametrize("opset", [7, 8, 9, 13, 14, 15, 20])
def test_batch_norm_folds(opset: int) -> None:
    graph = check(net(CONV + "y = " + NORM, opset=opset, w=W, **BN), atol=1e-4)
    assert ops_of(graph) == ["conv"]
    assert graph.nodes[0].attrs["problem"] == "conv2d:1x3x8x8:6x3x3:padding=1:bias=true"


def test_batch_norm_folds_with_bias_and_into_depthwise_and_dense() -> None:
    bias = normal(6, seed=9)
    graph = check(net("c = Conv(x, w, k); y = " + NORM, w=W, k=bias, **BN), atol=1e-4)
    assert ops_of(graph) == ["conv"]
    depthwise = normal(6, 1, 3, 3)
    body = "c = Conv<group=3>(x, w); y = " + NORM
    assert ops_of(check(net(body, w=depthwise, **BN), atol=1e-4)) == ["depthwise_conv"]
    body = "c = Gemm(x, w); y = " + NORM
    assert ops_of(check(net(body, x="2,5", w=normal(5, 6), **BN), atol=1e-4)) == ["dense"]


def test_caffe_scale_layers_fold() -> None:
    """inception_v2: BatchNormalization, then Mul and Add of unsqueezed vectors."""
    body = CONV + "n = " + NORM + "u = Unsqueeze(f, axes); p = Mul(n, u); y = Add(t, p);"
    graph = check(net(body, w=W, f=normal(6), axes=ints(1, 2), t=normal(6, 1, 1), **BN), atol=1e-4)
    assert ops_of(graph) == ["conv"]
    assert [value.name for value in graph.outputs] == ["y"]


def test_chain_without_convolution_becomes_scale_shift() -> None:
    body = "n = BatchNormalization(x, s, b, m, v); p = Mul(n, f); q = Sub(p, g); y = Relu(q);"
    constants = {"f": normal(1, 6, 1, 1), "g": normal(6, 1, 1), **BN}
    assert ops_of(check(net(body, x="1,6,5,5", **constants))) == ["scale_shift", "relu"]


def test_scalars_stay_scalars() -> None:
    body = "p = Mul(x, f); y = Add(p, g);"
    constants = {"f": np.float32(3) * np.ones((), np.float32), "g": normal(1)}
    assert ops_of(check(net(body, **constants))) == ["mul", "add"]


@pytest.mark.parametrize(
    ("body", "ops"),
    [
        ("y = Add(c, f);", ["conv"]),
        ("y = Sub(f, c);", ["conv"]),
        ("y = Div(c, f);", ["conv"]),
        ("y = Div(f, c);", ["conv", "div"]),
        ("p = Add(c, f); y = Mul(p, c);", ["conv", "add", "mul"]),  # c is read twice
        ("r = Relu(c); y = Add(r, f);", ["conv", "relu", "add"]),
        ("y = Add(c, rows);", ["conv", "add"]),  # a constant per row is not per channel
        ("y = Add(c, wide);", ["conv", "add"]),
    ],
)
def test_arithmetic_per_channel(body: str, ops: list[str]) -> None:
    constants = {"w": W, "f": normal(6, 1, 1) + 3, "rows": normal(8, 1), "wide": normal(1, 6, 8, 8)}
    assert ops_of(check(net(CONV + body, **constants), rtol=1e-3, atol=1e-4)) == ops


def test_convolution_that_is_an_output_is_not_folded() -> None:
    model = net(CONV + "y = Add(c, f);", outputs="float[] c, float[] y", w=W, f=normal(6, 1, 1))
    assert ops_of(check(model)) == ["conv", "add"]


def test_shared_weight_folds_separately() -> None:
    body = CONV + "d = Conv<pads=[1,1,1,1]>(x, w); p = Mul(c, f); q = Mul(d, g); y = Add(p, q);"
    graph = check(net(body, w=W, f=normal(6, 1, 1), g=normal(6, 1, 1, seed=5)), atol=1e-4)
    assert ops_of(graph) == ["conv", "conv", "add"]


def test_folding_stops_at_the_budget() -> None:
    model = net(CONV + "y = " + NORM, w=W, **BN)
    budget = ConstantBudget("model")
    budget.left = 100
    graph = simplify(load(model, simplify=False), budget)
    assert ops_of(graph) == ["conv", "scale_shift"]


def test_graph_given_to_simplify_is_unchanged() -> None:
    model = net(CONV + "n = " + NORM + "y = Identity(n);", w=W, **BN)
    raw = load(model, simplify=False)
    before = [(node.op, list(node.inputs), node.output.name) for node in raw.nodes]
    simplify(raw)
    assert [(node.op, list(node.inputs), node.output.name) for node in raw.nodes] == before


@pytest.mark.parametrize("spatial", ["5,7", "35"])
def test_channel_shuffle(spatial: str) -> None:
    rank = 2 + spatial.count(",") + 1
    perm = ",".join(map(str, [0, 2, 1, *range(3, rank + 1)]))
    body = f"a = Reshape(x, p); t = Transpose<perm=[{perm}]>(a); y = Reshape(t, q);"
    extents = tuple(map(int, spatial.split(",")))
    graph = check(
        net(body, x=f"2,12,{spatial}", p=ints(0, 3, 4, *extents), q=ints(0, 12, *extents))
    )
    assert ops_of(graph) == ["channel_shuffle"]
    assert graph.nodes[0].attrs == {"groups": 3}


def test_other_transposes_are_no_shuffle() -> None:
    body = "a = Reshape(x, p); t = Transpose<perm=[0,2,1,4,3]>(a); y = Reshape(t, q);"
    graph = check(net(body, x="2,12,5,5", p=ints(0, 3, 4, 5, 5), q=ints(0, 12, 5, 5)))
    assert ops_of(graph) == ["reshape", "transpose", "reshape"]


ONE_SIXTH = np.array(1 / 6, np.float32)


@pytest.mark.parametrize(
    ("body", "op"),
    [
        ("s = Sigmoid(x); y = Mul(x, s);", "silu"),
        ("s = Sigmoid(x); y = Mul(s, x);", "silu"),
        ("a = Add(x, three); c = Clip(a, zero, six); y = Div(c, six);", "hard_sigmoid"),
        ("a = Add(three, x); c = Clip(a, zero, six); y = Mul(c, sixth);", "hard_sigmoid"),
        ("s = HardSigmoid<alpha=0.16666667>(x); y = Mul(x, s);", "hard_swish"),
        (
            "a = Add(x, three); c = Clip(a, zero, six); d = Div(c, six); y = Mul(x, d);",
            "hard_swish",
        ),
        (
            "a = Add(x, three); c = Clip(a, zero, six); p = Mul(x, c); y = Div(p, six);",
            "hard_swish",
        ),
        ("y = Clip(x, zero);", "relu"),
        ("y = Max(x, zero);", "relu"),
        ("a = Relu(x); y = Relu(a);", "relu"),
        ("y = Clip(x, zero, six);", "clip"),
    ],
)
def test_activations(body: str, op: str) -> None:
    constants = {
        "zero": np.zeros((), np.float32),
        "three": np.full((), 3, np.float32),
        "six": np.full((), 6, np.float32),
        "sixth": ONE_SIXTH,
    }
    assert ops_of(check(net(body, **constants))) == [op]


def test_other_gates_are_no_activations() -> None:
    graph = check(net("a = Relu(x); s = Sigmoid(a); y = Mul(x, s);"))
    assert ops_of(graph) == ["relu", "sigmoid", "mul"]
    graph = check(net("s = HardSigmoid(x); y = Mul(x, s);"))
    assert ops_of(graph) == ["hard_sigmoid", "mul"]


@pytest.mark.parametrize(
    ("body", "ops", "problem"),
    [
        ("p = Pad(x, pads); y = Conv(p, w);", ["conv"], "padding=1,2,0,3"),
        ("p = Pad(x, pads); y = Conv<pads=[1,0,0,1]>(p, w);", ["conv"], "padding=2,2,0,4"),
        ("p = Pad(x, pads, one); y = Conv(p, w);", ["pad", "conv"], ""),
        ("p = Pad(x, batch); y = Conv(p, w);", ["pad", "conv"], ""),
        (
            "r = Relu(x); p = Pad(r, small); y = MaxPool<kernel_shape=[2,2]>(p);",
            ["relu", "max_pool"],
            "padding=0,0,1,1",
        ),
        ("p = Pad(x, small); y = MaxPool<kernel_shape=[2,2]>(p);", ["pad", "max_pool"], ""),
        (
            "p = Pad(x, small, lowest); y = MaxPool<kernel_shape=[2,2]>(p);",
            ["max_pool"],
            "padding=0,0,1,1",
        ),
        (
            "p = Pad(x, small); y = AveragePool<kernel_shape=[2,2]>(p);",
            ["avg_pool"],
            "count_include_pad=true",
        ),
        (
            "p = Pad(x, small); y = AveragePool<kernel_shape=[2,2], pads=[1,1,0,0]>(p);",
            ["pad", "avg_pool"],
            "",
        ),
        ("p = Pad(x, pads); y = AveragePool<kernel_shape=[2,2]>(p);", ["pad", "avg_pool"], ""),
    ],
)
def test_padding_merges(body: str, ops: list[str], problem: str) -> None:
    model = net(
        body,
        w=W,
        pads=ints(0, 0, 1, 2, 0, 0, 0, 3),
        small=ints(0, 0, 0, 0, 0, 0, 1, 1),
        batch=ints(1, 0, 0, 0, 0, 0, 0, 0),
        one=np.ones((), np.float32),
        lowest=np.full((), -np.inf, np.float32),
    )
    graph = check(model, atol=1e-4)
    assert ops_of(graph) == ops
    assert problem in graph.nodes[-1].attrs["problem"]


@pytest.mark.parametrize(
    ("body", "ops"),
    [
        ("y = ReduceMean<axes=[2,3]>(x);", ["global_avg_pool"]),
        ("y = ReduceMax<axes=[2,3]>(x);", ["global_max_pool"]),
        ("y = ReduceMean<axes=[3,2], keepdims=0>(x);", ["global_avg_pool", "reshape"]),
        ("y = ReduceMean<axes=[1]>(x);", ["reshape", "reduce_mean", "reshape"]),
        ("y = AveragePool<kernel_shape=[8,8]>(x);", ["global_avg_pool"]),
        ("y = MaxPool<kernel_shape=[8,8]>(x);", ["global_max_pool"]),
        ("y = AveragePool<kernel_shape=[8,8], pads=[0,0,1,1]>(x);", ["avg_pool"]),
        ("y = AveragePool<kernel_shape=[8,7]>(x);", ["avg_pool"]),
    ],
)
def test_whole_maps_become_global_pools(body: str, ops: list[str]) -> None:
    assert ops_of(check(net(body))) == ops


@pytest.mark.parametrize(
    ("body", "ops"),
    [
        ("a = Reshape(x, p); y = Relu(a);", ["reshape", "relu"]),
        ("a = Reshape(x, p); b = Reshape(a, q); y = Relu(b);", ["relu"]),
        ("a = Flatten(x); y = Reshape(a, p);", ["reshape"]),
        ("a = Relu(x); y = Identity(a);", ["relu"]),
        ("a = Relu(x); b = Reshape(a, p); y = Reshape(b, q);", ["relu"]),
        (
            "a = Transpose<perm=[0,2,3,1]>(x); b = Transpose<perm=[0,3,1,2]>(a); y = Relu(b);",
            ["relu"],
        ),
        ("a = Dropout(x); b = Identity(a); c = Cast<to=1>(b); y = Relu(c);", ["relu"]),
        ("d = Relu(x); e = Sigmoid(d); y = Tanh(x);", ["tanh"]),  # dead code
        ("y = Identity(x);", ["reshape"]),  # an output is a value of its own
    ],
)
def test_noops_vanish(body: str, ops: list[str]) -> None:
    graph = check(net(body, p=ints(3, 64), q=ints(1, 3, 8, 8)))
    assert ops_of(graph) == ops


def test_noop_that_two_outputs_share() -> None:
    body = "a = Relu(x); b = Identity(a); y = Identity(a);"
    graph = check(net(body, outputs="float[] a, float[] b, float[] y"))
    assert ops_of(graph) == ["relu", "reshape", "reshape"]


def test_reshape_of_a_shared_value_taken_over_by_the_output() -> None:
    body = "a = Relu(x); b = Reshape(a, p); y = Reshape(b, q); z = Tanh(b);"
    check(net(body, outputs="float[] y, float[] z", p=ints(3, 64), q=ints(1, 3, 8, 8)))


def test_drop_final_softmax() -> None:
    body = "f = Flatten(x); y = Softmax(f); z = Relu(x);"
    graph = load(net(body, outputs="float[] y, float[] z"))
    cut = drop_final_softmax(graph)
    assert [value.shape for value in cut.outputs] == [(1, 192), (1, 3, 8, 8)]
    assert ops_of(cut) == ["reshape", "relu"]
    assert ops_of(graph) == ["reshape", "softmax", "relu"]


def test_drop_softmax_of_old_opsets_between_reshapes() -> None:
    graph = load(net("r = Relu(x); y = Softmax(r);", opset=11))
    assert ops_of(graph) == ["relu", "reshape", "softmax", "reshape"]
    assert ops_of(drop_final_softmax(graph)) == ["relu", "reshape"]


def random_network(rng: np.random.Generator) -> tuple[str, dict[str, np.ndarray]]:
    """A chain of random layers with branches, whose every channel count is 6."""
    body, constants, last = "", {}, "x"
    for i in range(int(rng.integers(3, 9))):
        constants[f"w{i}"] = normal(6, 6, 1, 1, seed=int(rng.integers(99)))
        constants[f"f{i}"] = normal(6, 1, 1, seed=int(rng.integers(99))) + 2
        constants[f"v{i}"] = normal(6, seed=int(rng.integers(99)))
        layer = rng.choice(
            [
                f"Conv({last}, w{i})",
                f"Conv({last}, w{i}, v{i})",
                f"Mul({last}, f{i})",
                f"Add(f{i}, {last})",
                f"Sub(f{i}, {last})",
                f"Div({last}, f{i})",
                f"BatchNormalization({last}, v{i}, v{i}, v{i}, b)",
                f"Relu({last})",
                f"Add({last}, x)",
                f"Identity({last})",
                f"Max({last}, x)",
                f"Reshape({last}, s)",
                f"Mul({last}, {last})",
            ]
        )
        body += f"t{i} = {layer};"
        last = f"t{i}"
    constants["b"] = BN["v"]
    constants["s"] = ints(0, 6, -1, 4)
    return body + f"y = Identity({last});", constants


@pytest.mark.parametrize("seed", range(60))
def test_random_networks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    body, constants = random_network(rng)
    extra = ", float[] t1" if seed % 3 == 0 else ""
    model = net(body, x="2,6,4,4", outputs="float[] y" + extra, **constants)
    inputs = {"x": normal(2, 6, 4, 4)}
    expected = judged(model, inputs)
    graph = load(model)
    for result, wanted in zip(evaluate(graph, inputs), expected, strict=True):
        np.testing.assert_allclose(result, wanted, 1e-4, 1e-4 * float(abs(wanted).max()))
    assert feeds(graph).keys() == inputs.keys()


def test_problem_texts_are_canonical() -> None:
    model = net(
        "p = Pad(x, pads); c = Conv(p, w); y = " + NORM, w=W, pads=ints(*[0] * 6, 1, 1), **BN
    )
    text = load(model).nodes[0].attrs["problem"]
    assert Problem.parse(text).text == text
