"""ONNX's quantised operators, each alone: beside ONNX's formulas, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper

import tvmconv
from tests.quantised_models import (
    Maker,
    check_exactly,
    dynamic_conv,
    feeds_of,
    random_conv,
    random_conversion,
    random_product,
    run,
)
from tvmconv.errors import InputError
from tvmconv.frontend import load

Array = npt.NDArray[Any]


@pytest.mark.parametrize("kind", ["QLinearConv", "ConvInteger"])
@pytest.mark.parametrize("seed", range(12))
def test_random_convolutions(kind: str, seed: int) -> None:
    check_exactly(random_conv(np.random.default_rng(seed), kind), seed)


@pytest.mark.parametrize("kind", ["QLinearMatMul", "MatMulInteger"])
@pytest.mark.parametrize("seed", range(8))
def test_random_products(kind: str, seed: int) -> None:
    check_exactly(random_product(np.random.default_rng(seed), kind), seed)


@pytest.mark.parametrize("kind", ["QuantizeLinear", "DequantizeLinear"])
@pytest.mark.parametrize("seed", range(8))
def test_random_conversions(kind: str, seed: int) -> None:
    check_exactly(random_conversion(np.random.default_rng(seed), kind), seed)


@pytest.mark.parametrize("seed", range(3))
def test_quantised_by_the_range_at_run_time(seed: int) -> None:
    check_exactly(dynamic_conv(np.random.default_rng(seed)), seed)


def test_a_range_of_one_sign() -> None:
    """Zero belongs to the range, whatever the numbers are."""
    m = Maker(np.random.default_rng(0))
    m.nodes.append(helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], name="range"))
    model = m.model({"x": ("float32", (1, 3))}, {"q": "uint8", "s": "float32", "z": "uint8"})
    module = tvmconv.compile(model)
    for x, q, scale, zero in (
        ([1.0, 2.0, 5.1], [50, 100, 255], 5.1 / 255, 0),
        ([-5.1, -2.0, -1.0], [0, 155, 205], 5.1 / 255, 255),
        ([0.0, 0.0, 0.0], [0, 0, 0], 1 / 255, 0),  # as ONNX's evaluator has it
    ):
        got = module(np.array([x], np.float32))
        assert got[0].tolist() == [q]
        assert got[1] == np.float32(np.float32(255 * scale) / np.float32(255))
        assert got[1] == pytest.approx(scale)
        assert got[2] == zero


def beside_onnxruntime(model: onnx.ModelProto, seed: int) -> bool:
    """Compare with ONNX Runtime, where it has the operator; whether it has."""
    import onnxruntime as ort
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    options = ort.SessionOptions()
    options.log_severity_level = 4
    feeds = feeds_of(model, seed)
    try:
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        expected = session.run(None, feeds)
    except (errors.Fail, errors.InvalidArgument, errors.NotImplemented):
        return False
    for got, wanted in zip(run(model, feeds), expected, strict=True):
        if wanted.dtype == np.float32:
            np.testing.assert_allclose(got, wanted, rtol=1e-6)
        else:
            np.testing.assert_array_equal(got, wanted)
    return True


@pytest.mark.parametrize(
    ("make", "kind", "least"),
    [
        (random_conv, "QLinearConv", 10),
        (random_conv, "ConvInteger", 6),
        (random_product, "QLinearMatMul", 10),
        (random_product, "MatMulInteger", 6),
        (random_conversion, "QuantizeLinear", 15),
        (random_conversion, "DequantizeLinear", 15),
        (dynamic_conv, "", 4),
    ],
)
def test_beside_onnxruntime(make: Callable[..., onnx.ModelProto], kind: str, least: int) -> None:
    """Weights have 7 bits: ONNX Runtime sums products in 16 bits on processors without VNNI.

    It refuses some types, and scales and zero points of channels.
    """
    pytest.importorskip("onnxruntime")
    compared = 0
    for seed in range(100, 120 if kind else 104):
        rng = np.random.default_rng(seed)
        halved = {"halved": True} if make in (random_conv, random_product) else {}
        model = make(rng, kind, **halved) if kind else make(rng)
        compared += beside_onnxruntime(model, seed)
    assert compared >= least


@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (1, 1, 1, 1), (2, 0, 1, 3), (3, 3, 3, 3)])
@pytest.mark.parametrize("zero", [0, 1, 128, 255])
def test_padding_is_the_zero_point(pads: Sequence[int], zero: int) -> None:
    m = Maker(np.random.default_rng(zero))
    m.bytes("w", (8, 3, 3, 3), "int8")
    m.constant("zero", np.uint8(zero))
    m.node("ConvInteger", ["x", "w", "zero"], "y", pads=list(pads))
    check_exactly(m.model({"x": ("uint8", (1, 3, 5, 4))}, {"y": "int32"}))


def test_readers_with_different_zero_points() -> None:
    """A value that two convolutions and a pool read, each with its own padding."""
    m = Maker(np.random.default_rng(1))
    m.bytes("w", (8, 16, 3, 3), "int8")
    m.constant("a_zero", np.uint8(3))
    m.constant("b_zero", np.uint8(200))
    m.quantize("x", "q", 0.02, 100, "uint8")
    m.node("ConvInteger", ["q", "w", "a_zero"], "a", pads=[1, 1, 1, 1])
    m.node("ConvInteger", ["q", "w", "b_zero"], "b", pads=[2, 2, 2, 2])
    m.node("MaxPool", ["q"], "c", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    outputs = {"a": "int32", "b": "int32", "c": "uint8"}
    check_exactly(m.model({"x": ("float32", (1, 16, 6, 7))}, outputs))


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("shape", [(1, 24, 7, 7), (2, 13, 5, 3), (3, 10), (7,)])
def test_quantize_and_dequantize(dtype: str, shape: tuple[int, ...]) -> None:
    m = Maker(np.random.default_rng(2))
    m.quantize("x", "q", 0.0217, -3 if dtype == "int8" else 120, dtype)
    m.dequantize("q", "y", 0.0417, 7, dtype)
    check_exactly(m.model({"x": ("float32", shape)}, {"q": dtype, "y": "float32"}))


def test_halves_are_rounded_to_even() -> None:
    m = Maker(np.random.default_rng(0))
    m.quantize("x", "y", 2.0, 1, "uint8")
    x = np.array([[-3.0, -1, 1, 3, 5, 7, 9, 1e9, -1e9, np.inf, -np.inf]], np.float32)
    (y,) = run(m.model({"x": ("float32", x.shape)}, {"y": "uint8"}), {"x": x})
    assert y.tolist() == [[0, 1, 1, 3, 3, 5, 5, 255, 0, 255, 0]]


@pytest.mark.parametrize("zeros", [[84, 24, 196], [7, 7, 7]])
def test_scales_along_an_axis(zeros: list[int]) -> None:
    m = Maker(np.random.default_rng(3))
    m.constant("s", np.array([0.02, 0.4, 0.05], np.float32))
    m.constant("z", np.array(zeros, np.uint8))
    m.node("QuantizeLinear", ["x", "s", "z"], "q", axis=1)
    m.node("DequantizeLinear", ["q", "s", "z"], "y", axis=1)
    check_exactly(m.model({"x": ("float32", (2, 3, 5, 4))}, {"q": "uint8", "y": "float32"}))


@pytest.mark.parametrize("stack", [(), (2, 3)])
def test_matrix_products(stack: tuple[int, ...]) -> None:
    m = Maker(np.random.default_rng(4))
    m.bytes("w", (*stack, 20, 9), "uint8")
    for name, value in (("a", 11), ("b", 130), ("c", 99)):
        m.constant(f"{name}_zero", np.uint8(value))
    m.constant("a_scale", np.float32(0.01))
    m.constant("b_scale", np.float32(0.02))
    m.constant("c_scale", np.float32(0.9))
    m.node("MatMulInteger", ["x", "w", "a_zero", "b_zero"], "s")
    operands = ["x", "a_scale", "a_zero", "w", "b_scale", "b_zero", "c_scale", "c_zero"]
    m.node("QLinearMatMul", operands, "y")
    check_exactly(m.model({"x": ("uint8", (*stack, 5, 20))}, {"s": "int32", "y": "uint8"}))


# --- refusals


def refusal(kind: str, inputs: Mapping[str, Any], shape: Sequence[int] = (1, 4, 5, 5)) -> str:
    """What a node is refused with; inputs that are strings are run-time inputs of that type."""
    m = Maker(np.random.default_rng(0))
    ports = {}
    for name, value in inputs.items():
        if isinstance(value, str):
            ports[name] = (value, shape)
        else:
            m.constant(name, value)
    m.node(kind, list(inputs), "y")
    with pytest.raises(InputError) as caught:
        load(m.model(ports, {"y": "float32"}))
    return str(caught.value)


ONE, ZERO = np.float32(1), np.uint8(0)


@pytest.mark.parametrize(
    ("kind", "inputs", "message"),
    [
        ("ConvInteger", {"x": "uint8", "w": "uint8"}, "the weight (input 'w') must be a constant"),
        (
            "ConvInteger",
            {"x": "uint8", "w": np.zeros((2, 4, 3, 3), np.uint8), "z": np.int8(0)},
            "the zero point (input 2) must be uint8, is int8",
        ),
        (
            "ConvInteger",
            {"x": "uint8", "w": np.zeros((2, 3, 3, 3), np.uint8)},
            "input has 4 channels, but the weight takes 3",
        ),
        ("QuantizeLinear", {"x": "uint8", "s": ONE}, "input 0 must be float32, is uint8"),
        ("QuantizeLinear", {"x": "float32", "s": ONE, "z": np.uint16(0)}, "quantises to uint16"),
        ("QuantizeLinear", {"x": "float32", "s": np.float32(-1)}, "must be positive and finite"),
        (
            "QuantizeLinear",
            {"x": "float32", "s": "float32"},
            "the scale (input 1) must have 1 or 4 elements, has shape (1, 4, 5, 5)",
        ),
        ("QuantizeLinear", {"x": "float32", "s": "uint8"}, "the scale (input 1) must be float32"),
        ("DequantizeLinear", {"x": "float32", "s": ONE}, "input 0 must be one of uint8, int8"),
        (
            "DequantizeLinear",
            {"x": "uint8", "s": np.ones(3, np.float32)},
            "the scale (input 1) must have 1 or 4 elements, has shape (3,)",
        ),
        ("Relu", {"x": "uint8"}, "is not supported for uint8 tensors"),
        ("Add", {"x": "uint8", "y2": np.ones((1, 4, 5, 5), np.float32)}, "different element types"),
    ],
)
def test_refused(kind: str, inputs: Mapping[str, Any], message: str) -> None:
    assert message in refusal(kind, inputs)


def test_the_node_that_is_refused_is_named() -> None:
    node = helper.make_node("ConvInteger", ["x", "w"], ["y"], name="first")
    assert node.name == "first"
    assert "'ConvInteger_0' (ConvInteger)" in refusal("ConvInteger", {"x": "uint8", "w": "uint8"})
