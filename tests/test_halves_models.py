"""Networks of float16 and bfloat16, and float32 networks that are stored in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - NumPy then has bfloat16
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import tvmconv
from tvmconv.accuracy import check_halves
from tvmconv.errors import InputError
from tvmconv.frontend import load
from tvmconv.graph.evaluate import evaluate
from tvmconv.graph.precision import roundings, stored_in
from tvmconv.layout import HALVES
from tvmconv.verify import verify

Array = np.ndarray[Any, Any]
_TYPES = {"float32": 1, "float16": 10, "bfloat16": 16}


def network(dtype: str = "float32", casts: bool = False) -> onnx.ModelProto:
    """A small residual network; with casts its input and first output are float32."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        scale = np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 1.0
        return numpy_helper.from_array((rng.standard_normal(shape) / scale).astype(dtype), name)

    def node(kind: str, inputs: str, output: str, **attrs: Any) -> onnx.NodeProto:
        return helper.make_node(kind, inputs.split(), [output], name=output, **attrs)

    nodes = [
        node("Conv", "h w1 b1", "c1", pads=[1] * 4),
        node("Relu", "c1", "r1"),
        node("MaxPool", "r1", "p1", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "p1 w2", "c2", pads=[1] * 4),
        node("Add", "c2 p1", "a2"),
        node("Sigmoid", "a2", "s2"),
        node("Mul", "a2 s2", "m2"),
        node("GlobalAveragePool", "m2", "g"),
        node("Flatten", "g", "f"),
        node("Gemm", "f w3 b3", "logits", transB=1),
        node("Softmax", "logits", "s"),
        node("Cast" if casts else "Identity", "s", "y", **({"to": 1} if casts else {})),
    ]
    first = node("Cast", "x", "h", to=_TYPES[dtype]) if casts else node("Identity", "x", "h")
    outer = 1 if casts else _TYPES[dtype]
    graph = helper.make_graph(
        [first, *nodes],
        "network",
        [helper.make_tensor_value_info("x", outer, [1, 3, 16, 16])],
        [
            helper.make_tensor_value_info("y", outer, [1, 10]),
            helper.make_tensor_value_info("logits", _TYPES[dtype], [1, 10]),
        ],
        [weight("w1", 24, 3, 3, 3), weight("b1", 24), weight("w2", 24, 24, 3, 3),
         weight("w3", 10, 24), weight("b3", 10)],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


@pytest.mark.parametrize("casts", [False, True])
@pytest.mark.parametrize("dtype", HALVES)
def test_network(dtype: str, casts: bool) -> None:
    """The types are the model's, and so are the numbers but for rounding."""
    model = network(dtype, casts)
    x = np.random.default_rng(1).standard_normal((1, 3, 16, 16)).astype("f4" if casts else dtype)
    got = tvmconv.compile(model)(x)
    assert [str(y.dtype) for y in got] == ["float32" if casts else dtype, dtype]
    graph = load(model)
    for y, wanted in zip(got, evaluate(graph, {"x": x}), strict=True):
        report = check_halves(y, wanted, dtype, roundings(graph))
        assert report.passed, report.message


@pytest.mark.parametrize("dtype", HALVES)
def test_precision(dtype: str, tmp_path: Path) -> None:
    """Inputs and outputs stay float32, and all between is half as large."""
    path = tmp_path / "network.onnx"
    onnx.save(network(), path)
    report = verify(str(path), precision=dtype)
    assert report.ok, report.outputs
    assert max(check.ratio for check in report.outputs) > 1e-3  # something is rounded
    graph = stored_in(load(str(path)), dtype)
    assert [v.dtype for v in (*graph.inputs, *graph.outputs)] == ["float32"] * 3
    stored = {node.op: node.output.dtype for node in graph.nodes if node.op != "cast"}
    assert {op for op, kind in stored.items() if kind == "float32"} == {"softmax"}
    casts = [node.attrs["to"] for node in graph.nodes if node.op == "cast"]
    assert casts == [dtype, "float32"]


def test_wrong_networks_are_seen() -> None:
    graph = stored_in(load(network()), "float16")
    x = np.random.default_rng(1).standard_normal((1, 3, 16, 16)).astype(np.float32)
    (_, logits) = evaluate(load(network()), {"x": x})
    count = roundings(graph)
    assert 10 <= count <= 14
    assert check_halves(logits.astype(np.float32), logits, "float16", count).passed
    assert not check_halves((1.1 * logits).astype("f4"), logits, "float16", count).passed
    swapped = np.roll(logits, 1, axis=1).astype(np.float32)
    assert not check_halves(swapped, logits, "bfloat16", count).passed


def test_the_range_of_halves_is_not_an_error() -> None:
    large = np.array([1.0, 78222.0, -1e6])
    with np.errstate(over="ignore"):
        halves = large.astype(np.float16)
    assert check_halves(halves, large, "float16", 1).passed
    assert not check_halves(halves[[0, 2, 1]], large, "float16", 1).passed
    assert not check_halves(halves.astype(np.float32), large, "float16", 1).passed
    small = np.array([2.9e-8, 1e-7, -3e-8])
    assert check_halves(small.astype(np.float16), small, "float16", 1).passed
    assert not check_halves(np.float16([1e-6, 0, 0]), small, "float16", 1).passed


def test_weights_that_are_too_large_stay(tmp_path: Path) -> None:
    """A weight beyond float16's largest number keeps its layer in float32."""
    model = network()
    weight = next(w for w in model.graph.initializer if w.name == "w3")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1e6), "w3"))
    graph = stored_in(load(model), "float16")
    dense = next(node for node in graph.nodes if node.op in ("dense",))
    assert {v.dtype for v in (*dense.inputs, dense.output)} == {"float32"}


def test_refusals() -> None:
    with pytest.raises(InputError, match="precision must be one of float32, float16, bfloat16"):
        tvmconv.compile(network(), precision="float64")
    with pytest.raises(InputError, match="a problem has dtype=float16"):
        tvmconv.compile("dense:1x4:4", precision="float16")
