"""Quantised networks: QDQ graphs run on integers, and beside ONNX Runtime."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import version_converter

import tvmconv
from tests.quantised_models import Maker, feeds_of, qdq_block, run
from tvmconv.accuracy import QUANTISED_L2
from tvmconv.frontend import load
from tvmconv.graph.evaluate import evaluate
from tvmconv.graph.fuse import fuse
from tvmconv.graph.ir import Graph, Node, Value
from tvmconv.models import light_model
from tvmconv.oracle import evaluate_model
from tvmconv.problem import Problem
from tvmconv.verify import random_feeds, verify

Array = npt.NDArray[Any]


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_a_network_of_quantised_floats_runs_on_integers(dtype: str) -> None:
    model = qdq_block(np.random.default_rng(5), dtype)
    graph = load(model)
    kinds = [node.op for node in graph.nodes]
    assert not {"conv", "depthwise_conv", "dense", "avg_pool", "global_avg_pool"} & {*kinds}
    assert kinds.count("qconv") == 3
    assert kinds.count("depthwise_qconv") == 1
    feeds = random_feeds(graph, 0)
    module = tvmconv.compile(model)
    (got,), (exact,) = module(feeds), evaluate(graph, feeds, "float32")
    np.testing.assert_allclose(got, exact, rtol=1e-6)
    assert np.unique(got).size > 4
    stored = [node.output.dtype for node in fuse(graph).nodes]
    assert set(stored[:-2]) == {dtype}, "what is elementwise is part of kernels that write bytes"


@pytest.mark.parametrize("seed", range(3))
def test_a_quantised_network_is_right(seed: int) -> None:
    model = qdq_block(np.random.default_rng(seed))
    report = verify(model, seed=seed)
    assert report.ok, report.outputs


def test_floats_between_quantised_tensors_are_left_alone() -> None:
    """What has no integer form is computed in floats between explicit conversions."""
    m = Maker(np.random.default_rng(6))
    m.quantize("x", "q", 0.03, 10, "uint8")
    m.dequantize("q", "d", 0.03, 10, "uint8")
    m.constant("w", np.random.default_rng(0).standard_normal((8, 16, 3, 3)).astype(np.float32))
    m.node("Conv", ["d", "w"], "c", pads=[1, 1, 1, 1])
    m.quantize(m.node("Sigmoid", ["c"], "s"), "y", 1 / 255, 0, "uint8")
    model = m.model({"x": ("float32", (1, 16, 6, 6))}, {"y": "uint8"})
    assert [n.op for n in load(model).nodes if n.op in ("conv", "qconv")] == ["conv"]
    feeds = feeds_of(model)
    (got,), (wanted,) = run(model, feeds), evaluate_model(model, feeds, ["y"])
    assert np.abs(got.astype(int) - wanted).max() <= 1
    assert (got != wanted).mean() < 0.01
    assert verify(model).ok


def test_halos_of_parts_of_parts_hold_what_each_reader_expects() -> None:
    """A concatenation in another one: readers of either's parts have zero points of their own."""
    rng, nodes = np.random.default_rng(0), list[Node]()

    def conv(x: Value, name: str, zero_point: int, scale: float = 0.0) -> Value:
        options = {"scale": scale, "out_zero_point": 50} if scale else {}
        problem = Problem.make("qconv", x.shape, (16, 3, 3), padding=1, zero_point=zero_point,
                               **options)  # fmt: skip
        data = rng.integers(-5, 5, problem.inputs["weight"]).astype(np.int8)
        weight = Value(f"{name}:weight", data.shape, "int8", data)
        y = Value(name, problem.output_shape, problem.dtypes["output"])
        nodes.append(Node("qconv", [x, weight], y, {"problem": problem.text}, name))
        return y

    def concat(name: str, *parts: Value) -> Value:
        shape = (1, sum(part.shape[1] for part in parts), *parts[0].shape[2:])
        y = Value(name, shape, "uint8")
        nodes.append(Node("concat", list(parts), y, {"axis": 1}, name))
        return y

    inputs = [Value(f"x{k}", (1, 16, 6, 6), "uint8") for k in range(3)]
    a, b, c = (conv(x, f"part{k}", 100, 0.01) for k, x in enumerate(inputs))
    whole = concat("whole", b, concat("inner", a, c))
    outputs = [conv(a, "of a", 7), conv(b, "of b", 90), conv(whole, "of all", 90)]
    graph = Graph("parts", inputs, outputs, nodes)
    feeds = {v.name: rng.integers(0, 256, v.shape).astype(np.uint8) for v in inputs}
    for got, wanted in zip(tvmconv.compile(graph)(feeds), evaluate(graph, feeds), strict=True):
        np.testing.assert_array_equal(got, wanted)


class Images:
    """What a network is calibrated on, as ONNX Runtime's tool reads it."""

    def __init__(self, name: str, images: Array) -> None:
        self._feeds = iter([{name: image} for image in images])

    def get_next(self) -> dict[str, Array] | None:
        return next(self._feeds, None)


def test_a_network_that_onnxruntime_quantised(tmp_path: Path) -> None:
    """Weights of 7 bits, of which ONNX Runtime's sums are exact on any processor."""
    ort = pytest.importorskip("onnxruntime")
    from onnxruntime import quantization as tool

    source, path = tmp_path / "source.onnx", tmp_path / "quantised.onnx"
    model = light_model("light_squeezenet")
    softmax = model.graph.node.pop()  # which hides differences
    model.graph.output[0].name = softmax.input[0]
    onnx.save(version_converter.convert_version(model, 13), source)  # scales of channels are new
    (x,) = load(str(source)).inputs
    images = np.random.default_rng(0).standard_normal((2, *x.shape)).astype(np.float32)
    tool.quantize_static(
        source,
        path,
        Images(x.name, images),
        quant_format=tool.QuantFormat.QDQ,
        weight_type=tool.QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
    )
    kinds = Counter(node.op for node in load(str(path)).nodes)
    assert kinds["qconv"] == 26, kinds
    assert not {"conv", "avg_pool", "global_avg_pool"} & {*kinds}
    report = verify(str(path))
    assert report.ok, report.outputs
    feeds = {x.name: np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)}
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, feeds)
    (got,) = tvmconv.compile(str(path))(feeds)
    assert np.unique(wanted).size > 4
    assert np.linalg.norm(got - wanted) < QUANTISED_L2 * np.linalg.norm(wanted)
