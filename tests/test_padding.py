"""Padding modes: borders before convolutions and pools, ONNX's Pad, spheres."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import tvmconv
from tests.kernels import problem_spec
from tvmconv import accuracy, frontend, ops
from tvmconv.bench.layer import problem_to_onnx
from tvmconv.codegen.kernels import prim_func
from tvmconv.errors import InputError
from tvmconv.frontend.problems import graph_of
from tvmconv.graph.fuse import fuse
from tvmconv.graph.layout import place
from tvmconv.ops import pad
from tvmconv.problem import Problem

Array = npt.NDArray[Any]

PROBLEMS = [
    "conv2d:1x20x9x8:33x3x3:padding=1:padding_mode=reflect:bias=true:activation=relu",
    "conv2d:2x3x9x8:16x5x5:stride=2:padding=2,1,2,2:padding_mode=edge",
    "conv2d:1x32x12x12:32x3x3:padding=2:dilation=2:padding_mode=wrap",
    "conv2d:1x16x8x16:24x3x3:padding=1:padding_mode=sphere:bias=true",
    "conv2d:1x3x8x16:8x7x7:stride=2:padding=3:padding_mode=sphere",
    "conv1d:1x17x30:16x5:padding=4,0:padding_mode=wrap",
    "conv3d:1x8x4x5x6:16x3x3x3:padding=1:padding_mode=reflect",
    "depthwise_conv2d:1x24x9x7:24x3x3:padding=1:padding_mode=edge",
    "conv2d:1x32x6x6:32x3x3:padding=same_upper:padding_mode=reflect:groups=4",
    "conv2d:1x20x9x8:24x3x2:padding=1:padding_mode=wrap:flipped=true",
    "gated_conv2d:2x17x9x8:20x3x3:padding=1,0,2,1:padding_mode=reflect:bias=true:activation=tanh",
    "locally_connected2d:2x3x7x6:20x3x3:padding=1:padding_mode=edge:bias=true",
]


@pytest.mark.parametrize("text", PROBLEMS)
def test_convolutions(text: str) -> None:
    """With weights at run time, and as constants, which lets transformed tiles compete."""
    problem = Problem.parse(text)
    trial = accuracy.trial(problem, 1)
    weights = {name: array for name, array in trial.arrays.items() if name != "x"}
    for params, inputs in ((None, trial.arrays), (weights, {"x": trial.arrays["x"]})):
        (y,) = tvmconv.compile(text, threads=1, params=params, exact=True)(dict(inputs))
        report = trial.check(y)
        assert report.passed, report.message


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
def test_reference_is_numpy(mode: str) -> None:
    problem = Problem.parse(f"conv2d:1x3x6x7:4x3x3:stride=2,1:padding=2,1,1,2:padding_mode={mode}")
    arrays = accuracy.random_inputs(problem, 0)
    wide = np.pad(arrays["x"], [(0, 0), (0, 0), (2, 1), (1, 2)], mode=mode)
    valid = Problem.make("conv", wide.shape, (4, 3, 3), stride=(2, 1))
    expected = valid.reference({"x": wide, "weight": arrays["weight"]})
    np.testing.assert_allclose(problem.reference(arrays), expected, rtol=1e-12)


def test_beyond_the_poles_by_hand() -> None:
    x = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32).reshape(1, 1, 2, 4)
    border = pad.padded(x, [0, 0, 1, 1], [0, 0, 2, 0], "sphere", 0.0)
    assert border[0, 0].tolist() == [
        [2, 3, 4, 1, 2],
        [4, 1, 2, 3, 4],
        [8, 5, 6, 7, 8],
        [6, 7, 8, 5, 6],
        [2, 3, 4, 1, 2],
    ]


def test_a_sphere_has_no_edge() -> None:
    """Turning the image around its axis turns the result, and so does turning it upside down."""
    problem = Problem.parse("conv2d:1x2x6x8:3x3x3:padding=1:padding_mode=sphere")
    arrays = accuracy.random_inputs(problem, 0)
    y = problem.reference(arrays)
    turned = problem.reference({**arrays, "x": np.roll(arrays["x"], 3, axis=3)})
    np.testing.assert_allclose(turned, np.roll(y, 3, axis=3), rtol=1e-12)
    flipped = {"x": arrays["x"][:, :, ::-1], "weight": arrays["weight"][:, :, ::-1]}
    np.testing.assert_allclose(problem.reference(flipped), y[:, :, ::-1], rtol=1e-12)


def model_of(nodes: list[onnx.NodeProto], constants: dict[str, Array], kind: int, shape: Any,
             opset: int = 22) -> onnx.ModelProto:  # fmt: skip
    info = helper.make_tensor_value_info
    given = [numpy_helper.from_array(a, name) for name, a in constants.items()]
    graph = helper.make_graph(
        nodes, "pads", [info("x", kind, shape)], [info("y", kind, None)], given
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


@pytest.mark.parametrize("dtype", ["float32", "int32", "uint8"])
@pytest.mark.parametrize("mode", pad.ONNX_MODES)
def test_onnx(mode: str, dtype: str) -> None:
    node = helper.make_node("Pad", ["x", "pads", "", "axes"], ["y"], mode=mode)
    constants = {"pads": np.array([2, 0, 1, 3]), "axes": np.array([-1, 1])}
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    model = model_of([node], constants, kind, (2, 4, 5, 6))
    x = np.random.default_rng(0).integers(0, 99, (2, 4, 5, 6)).astype(dtype)
    (y,) = tvmconv.compile(model, threads=1)(x)
    widths = [(0, 0), (0, 3), (0, 0), (2, 1)]
    expected = np.pad(x, widths, mode=mode)  # type: ignore[call-overload]
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("mode", pad.ONNX_MODES)
def test_what_negative_pads_cut_off_is_cut_off_first(mode: str) -> None:
    node = helper.make_node("Pad", ["x", "pads"], ["y"], mode=mode)
    constants = {"pads": np.array([0, 0, 2, -1, 0, 0, -1, 3])}
    model = model_of([node], constants, TensorProto.FLOAT, (1, 3, 6, 7))
    x = np.random.default_rng(0).standard_normal((1, 3, 6, 7)).astype(np.float32)
    (y,) = tvmconv.compile(model, threads=1)(x)
    widths = [(0, 0), (0, 0), (2, 0), (0, 3)]
    expected = np.pad(x[:, :, :-1, 1:], widths, mode=mode)  # type: ignore[call-overload]
    np.testing.assert_array_equal(y, expected)


def test_a_value_that_no_float_holds() -> None:
    node = helper.make_node("Pad", ["x", "pads", "value"], ["y"])
    constants = {"pads": np.array([0, 1]), "value": np.array(2**53 + 1)}
    (y,) = tvmconv.compile(model_of([node], constants, TensorProto.INT64, (1,)), threads=1)(
        np.array([2**53 - 1])
    )
    assert y.tolist() == [2**53 - 1, 2**53 + 1]


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_an_infinite_value(value: float) -> None:
    node = helper.make_node("Pad", ["x", "pads", "value"], ["y"])
    constants = {"pads": np.array([0, 1]), "value": np.array(value, np.float32)}
    model = model_of([node], constants, TensorProto.FLOAT, (2,))
    (y,) = tvmconv.compile(model, threads=1)(np.array([1, 2], np.float32))
    np.testing.assert_array_equal(y, np.array([1, 2, value], np.float32))


@pytest.mark.parametrize("mode", pad.ONNX_MODES)
def test_between_convolutions(mode: str) -> None:
    """A border in a network: it lies in channel blocks like what it surrounds."""
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["a"], pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Pad", ["r", "pads", "value"], ["p"], mode=mode),
        helper.make_node("Conv", ["p", "w"], ["z"]),
        helper.make_node("Add", ["z", "r"], ["y"]),
    ]
    rng = np.random.default_rng(0)
    constants = {
        "v": rng.standard_normal((24, 3, 3, 3)).astype(np.float32),
        "w": rng.standard_normal((24, 24, 3, 3)).astype(np.float32) / 8,
        "pads": np.array([0, 0, 1, 1] * 2),
        "value": np.array(0.5, np.float32),
    }
    model = model_of(nodes, constants, TensorProto.FLOAT, (1, 3, 10, 12))
    x = rng.standard_normal((1, 3, 10, 12)).astype(np.float32)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    (y,) = tvmconv.compile(model, threads=2)(x)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("conv2d:1x3x4x4:8x9x9:padding=4:padding_mode=reflect",
         "padding_mode cannot be: a border of 4 in mode 'reflect' is too wide for axis 2 of 4"),
        ("conv2d:1x3x4x5:8x3x3:padding=1:padding_mode=sphere", "image of even width"),
        ("conv1d:1x3x4:8x3:padding=1:padding_mode=sphere", "'sphere' pads rows and columns"),
        ("conv2d:1x3x4x4:8x3x3:padding=1:padding_mode=mirror",
         "padding_mode must be one of zeros, reflect, edge, wrap, sphere, got 'mirror'"),
        ("max_pool2d:1x3x4x4:3x3:padding=1:padding_mode=edge", "option 'padding_mode' is unknown"),
    ],
)  # fmt: skip
def test_refused(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        Problem.parse(text)
    assert message in str(caught.value)


def test_no_padding_has_no_mode() -> None:
    assert Problem.parse("conv2d:1x3x4x4:8x3x3:padding_mode=wrap").text == "conv2d:1x3x4x4:8x3x3"


def test_a_border_too_wide_is_refused_by_name() -> None:
    node = helper.make_node("Pad", ["x", "pads"], ["y"], mode="reflect")
    model = model_of([node], {"pads": np.array([0, 3])}, TensorProto.FLOAT, (3, 3)[:1])
    with pytest.raises(InputError, match=r"\(Pad\): a border of 3 in mode 'reflect' is too wide"):
        frontend.load(model)


@pytest.mark.parametrize(("channels", "block"), [(16, 16), (3, 1)])
def test_a_border_of_an_input_lies_as_windows_read_it(channels: int, block: int) -> None:
    """In blocks, but for a few channels, which a convolution reads one by one."""
    problem = Problem.parse(f"conv2d:1x{channels}x6x6:16x3x3:padding=1:padding_mode=wrap")
    graph = fuse(graph_of(problem.text))
    layouts = place(graph, 16).layouts
    assert [v.block for value, v in layouts.items() if value.name.endswith(":border")] == [block]


def test_a_kernel_pads_with_zeros_alone() -> None:
    """So what a pass must have split cannot be compiled by mistake, nor be given to a library."""
    for name in ("conv2d", "depthwise_conv2d", "gated_conv2d", "locally_connected2d"):
        problem = Problem.parse(f"{name}:1x16x6x6:16x3x3:padding=1:padding_mode=edge")
        assert ops.get(problem.op).family is not None
        with pytest.raises(ValueError, match="a kernel pads with zeros"):
            prim_func(problem_spec(problem), "main")
        with pytest.raises(InputError, match="no ONNX operator does this"):
            problem_to_onnx(problem)
