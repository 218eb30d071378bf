"""Pools beyond maximum and mean: indices, unpooling, norms, adaptive windows, other types."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import tvmconv
from tests.kernels import Kernel, compile_specs, problem_spec
from tvmconv import frontend, ops
from tvmconv.errors import InputError
from tvmconv.problem import Problem

Array = npt.NDArray[Any]
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def model_of(
    nodes: list[onnx.NodeProto], inputs: dict[str, tuple[int, tuple[int, ...]]],
    outputs: dict[str, int], constants: dict[str, Array] | None = None,
) -> onnx.ModelProto:  # fmt: skip
    """A model of some nodes; inputs are given by type and shape, outputs by type."""
    info = helper.make_tensor_value_info
    given = [info(name, kind, shape) for name, (kind, shape) in inputs.items()]
    made = [info(name, kind, None) for name, kind in outputs.items()]
    weights = [numpy_helper.from_array(a, name) for name, a in (constants or {}).items()]
    graph = helper.make_graph(nodes, "pools", given, made, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


def max_pool(**attributes: Any) -> onnx.NodeProto:
    return helper.make_node("MaxPool", ["x"], ["y", "i"], **attributes)


@pytest.mark.parametrize(
    ("shape", "attributes"),
    [
        ((2, 3, 12), {"kernel_shape": [3], "strides": [2], "pads": [1, 1]}),
        ((1, 17, 7, 9), {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}),
        ((2, 3, 7, 9), {"kernel_shape": [2, 3], "strides": [2, 2], "storage_order": 1}),
        ((1, 4, 9, 9), {"kernel_shape": [3, 3], "dilations": [2, 3], "pads": [2, 2, 2, 2]}),
        ((1, 2, 7, 7), {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
        ((2, 3, 4, 5, 6), {"kernel_shape": [2, 2, 3], "strides": [2, 1, 2], "storage_order": 1}),
    ],
)
def test_indices(shape: tuple[int, ...], attributes: dict[str, Any]) -> None:
    """Of equal maxima the first, which few integers make many of."""
    node = max_pool(**attributes)
    model = model_of([node], {"x": (FLOAT, shape)}, {"y": FLOAT, "i": INT64})
    x = np.random.default_rng(0).integers(-4, 4, shape).astype(np.float32)
    y, indices = tvmconv.compile(model, threads=2)(x)
    expected = ReferenceEvaluator(model).run(None, {"x": x})
    np.testing.assert_array_equal(y, expected[0])
    np.testing.assert_array_equal(indices, expected[1])
    assert indices.dtype == np.int64


def test_indices_alone_and_of_no_number() -> None:
    """Whatever the input, an index is one of its window."""
    node = max_pool(kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 1, 1])
    model = model_of([node], {"x": (FLOAT, (1, 2, 4, 4))}, {"i": INT64})
    x = np.full((1, 2, 4, 4), np.nan, np.float32)
    (indices,) = tvmconv.compile(model, threads=1)(x)
    assert indices[0, 0].tolist() == [[0, 1, 3], [4, 5, 7], [12, 13, 15]]
    assert (indices[0, 1] == indices[0, 0] + 16).all()
    x = np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)
    x[0, 0, 2, 2] = x[0, 1, 0, 0] = np.nan
    (indices,) = tvmconv.compile(model, threads=1)(x)
    problem = "max_pool2d:1x2x4x4:2x2:stride=2:padding=1"
    attrs = {"problem": problem, "storage_order": 0}
    wanted = ops.get("max_pool_indices").reference([x, x], attrs)
    np.testing.assert_array_equal(indices, wanted)
    assert indices[0, 0, 1, 1] == 5  # where its window begins


#: Windows on blocks and on planes, with padding and without, as long as a map, of several sizes.
MAXIMA = [
    "max_pool2d:1x17x6x7:2x2:stride=2",
    "max_pool2d:2x5x6x7:3x3:padding=1",
    "max_pool2d:1x5x9x9:2x3:dilation=2:padding=0,1",
    "max_pool1d:1x4x40:3:stride=2:padding=1",
    "max_pool3d:1x2x3x4x5:2x2x2:dtype=float16",
    "global_max_pool2d:1x17x9x9",
    "global_max_pool2d:1x3x1x5:dtype=bfloat16",
    "adaptive_max_pool2d:1x4x7x9:3x4",
]


@pytest.mark.parametrize("block", [16, 1])
def test_nan_wins_and_nothing_but_minus_infinity_is_that(block: int) -> None:
    """As NumPy has it; ONNX Runtime and ONNX's evaluator drop NaN unless a window begins with it.

    Of -inf alone the evaluator makes -inf, ONNX Runtime that or the lowest number.
    """
    problems = [Problem.parse(text) for text in MAXIMA]
    specs = [problem_spec(problem, block) for problem in problems]
    compiled = compile_specs(specs)
    rng = np.random.default_rng(0)
    for share in (0.0, 0.1, 1.0):
        for number, (problem, spec) in enumerate(zip(problems, specs, strict=True)):
            x = np.full(problem.input_shape, -np.inf)
            if share < 1:
                x = np.where(rng.random(x.shape) < share, np.nan, rng.standard_normal(x.shape))
                x[0, 0, ..., : x.shape[-1] // 2] = -np.inf
            arrays = {"x": x.astype(problem.dtype)}
            got = compiled.run(number, Kernel(spec, (arrays["x"],)))
            wanted = problem.reference(arrays)
            assert np.isnan(wanted).any() == (share == 0.1)
            np.testing.assert_array_equal(got.astype(np.float64), wanted, problem.text)


def test_what_was_pooled_is_unpooled() -> None:
    """An encoder and a decoder: the maxima come back to their places."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["y", "i"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Sigmoid", ["y"], ["s"]),
        helper.make_node("MaxUnpool", ["s", "i"], ["u"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["u", "v"], ["z"], pads=[1] * 4),
    ]
    rng = np.random.default_rng(1)
    weights = {
        "w": rng.standard_normal((20, 3, 3, 3)).astype(np.float32),
        "v": rng.standard_normal((5, 20, 3, 3)).astype(np.float32) / 8,
    }
    model = model_of(nodes, {"x": (FLOAT, (2, 3, 10, 12))}, {"z": FLOAT}, weights)
    x = rng.standard_normal((2, 3, 10, 12)).astype(np.float32)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    for threads in (1, 2):
        (got,) = tvmconv.compile(model, threads=threads)(x)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert tvmconv.verify(model).ok


@pytest.mark.parametrize(
    ("node", "kind"),
    [
        (max_pool(kernel_shape=[3, 2], strides=[2, 2], storage_order=1), FLOAT),
        (max_pool(kernel_shape=[3, 3], dilations=[2, 1], ceil_mode=1, pads=[1] * 4), FLOAT),
        (helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[3, 2]), TensorProto.INT8),
        (helper.make_node("LpPool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2],
                          ceil_mode=1, p=3), FLOAT),
        (helper.make_node("GlobalLpPool", ["x"], ["y"]), FLOAT),
    ],
)  # fmt: skip
def test_verified_by_whole_models(node: onnx.NodeProto, kind: int) -> None:
    """The oracle of models is ours for pools; the evaluator's own are not right everywhere."""
    outputs = {name: INT64 if name == "i" else kind for name in node.output}
    assert tvmconv.verify(model_of([node], {"x": (kind, (2, 5, 10, 8))}, outputs)).ok


def unpool(shape: tuple[int, ...], extra: list[str], **attributes: Any) -> onnx.ModelProto:
    node = helper.make_node("MaxUnpool", ["x", "i", *extra], ["y"], **attributes)
    constants = {"s": np.array(attributes.pop("wanted", []), np.int64)} if extra else {}
    return model_of([node], {"x": (FLOAT, shape), "i": (INT64, shape)}, {"y": FLOAT}, constants)


def test_an_index_may_be_anywhere_and_outside() -> None:
    model = unpool((1, 2, 2, 2), [], kernel_shape=[2, 2], strides=[2, 2])
    x = np.arange(1, 9, dtype=np.float32).reshape(1, 2, 2, 2)
    indices = np.array([31, 0, -1, 32, 2**40, 5, -(2**40), 16], np.int64).reshape(x.shape)
    (y,) = tvmconv.compile(model, threads=1)(x, indices)
    expected = np.zeros(32, np.float32)
    expected[[31, 0, 5, 16]] = [1, 2, 6, 8]
    assert y.ravel().tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ([1, 2, 3, 4], "is less than [1, 2, 4, 4], which the windows cover"),
        ([1, 3, 4, 4], "disagrees with the input's [1, 2, 2, 2]"),
        ([4, 4], "disagrees with the input's [1, 2, 2, 2]"),
    ],
)
def test_refused_shapes(wanted: list[int], message: str) -> None:
    node = helper.make_node(
        "MaxUnpool", ["x", "i", "s"], ["y"], kernel_shape=[2, 2], strides=[2, 2]
    )
    shape = (1, 2, 2, 2)
    model = model_of(
        [node], {"x": (FLOAT, shape), "i": (INT64, shape)}, {"y": FLOAT}, {"s": np.array(wanted)}
    )
    with pytest.raises(InputError, match="MaxUnpool") as caught:
        frontend.load(model)
    assert message in str(caught.value)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_maxima_of_integers(dtype: str) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    shape = (1, 19, 9, 8)
    node = helper.make_node(
        "MaxPool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 1], pads=[1, 1, 1, 1]
    )
    model = model_of([node], {"x": (kind, shape)}, {"y": kind})
    limits = np.iinfo(dtype)
    x = np.random.default_rng(0).integers(limits.min, limits.max + 1, shape).astype(dtype)
    (y,) = tvmconv.compile(model, threads=1)(x)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x.astype(np.int32)})
    assert y.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(y, expected)


def test_other_operators_refuse_integers_at_run_time() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    model = model_of(nodes, {"x": (INT64, (2, 3))}, {"y": INT64})
    with pytest.raises(InputError, match=r"\(Relu\): is not supported for int64 tensors"):
        frontend.load(model)


def test_global_norm() -> None:
    node = helper.make_node("GlobalLpPool", ["x"], ["y"], p=3)
    model = model_of([node], {"x": (FLOAT, (2, 5, 4, 3))}, {"y": FLOAT})
    x = np.random.default_rng(0).standard_normal((2, 5, 4, 3)).astype(np.float32)
    (y,) = tvmconv.compile(model, threads=1)(x)
    expected = (np.abs(x.astype(float)) ** 3).sum(axis=(2, 3), keepdims=True) ** (1 / 3)
    np.testing.assert_allclose(y, expected, rtol=1e-6)


def test_adaptive_windows_that_divide_are_ordinary_ones() -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, 12, 8)).astype(np.float32)
    for kind in ("avg", "max"):
        adaptive = Problem.parse(f"adaptive_{kind}_pool2d:1x3x12x8:4x2").reference({"x": x})
        ordinary = Problem.parse(f"{kind}_pool2d:1x3x12x8:3x4:stride=3,4").reference({"x": x})
        np.testing.assert_allclose(adaptive, ordinary, rtol=1e-12)


def test_adaptive_windows_by_hand() -> None:
    """Of 7 inputs and 3 outputs: 0 to 2, 2 to 4, 4 to 6."""
    x = np.arange(7, dtype=np.float32).reshape(1, 1, 7)
    y = Problem.parse("adaptive_avg_pool1d:1x1x7:3").reference({"x": x})
    assert y.ravel().tolist() == [1, 3, 5]
    (y,) = tvmconv.compile("adaptive_max_pool1d:1x1x7:3", threads=1)(x)
    assert y.ravel().tolist() == [2, 4, 6]
