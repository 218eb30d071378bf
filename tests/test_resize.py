"""Resize: the reference by ONNX's evaluator, every schedule, what is imported, what refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import tvmconv
from tests.kernels import BLOCK, host, problem_spec, trials
from tests.test_schedules import candidates_of, wrong_schedules
from tvmconv import frontend
from tvmconv.errors import InputError
from tvmconv.graph.evaluate import evaluate
from tvmconv.ops import resize
from tvmconv.problem import Problem

Array = npt.NDArray[Any]


def model_of(
    shape: tuple[int, ...], opset: int = 19, op: str = "Resize", dtype: int = TensorProto.FLOAT,
    **given: Any,
) -> onnx.ModelProto:  # fmt: skip
    """A model of one node; arrays are its inputs by name, the rest its attributes."""
    order = ["roi", "scales", "sizes"] if op == "Resize" and opset > 10 else ["scales"][opset < 9 :]
    arrays = {name: given.pop(name) for name in order if isinstance(given.get(name), np.ndarray)}
    names = [name if name in arrays else "" for name in order]
    node = helper.make_node(op, ["x", *names], ["y"], **given)
    x = helper.make_tensor_value_info("x", dtype, shape)
    y = helper.make_tensor_value_info("y", dtype, None)
    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph([node], "one", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def random_attributes(rng: np.random.Generator) -> dict[str, Any]:
    mode = str(rng.choice(resize.MODES))
    kinds = list(resize.COORDINATES)
    if mode == "nearest":
        # Where rounding makes a coordinate a bit more than an integer, the evaluator takes the
        # element below it.
        kinds.remove("half_pixel_symmetric")
    found: dict[str, Any] = {
        "mode": mode,
        "coordinate_transformation_mode": str(rng.choice(kinds)),
    }
    if mode == "nearest":
        found["nearest_mode"] = str(rng.choice(resize.ROUNDINGS))
    else:
        found["antialias"] = int(rng.integers(0, 2))
        if found["coordinate_transformation_mode"] != "tf_crop_and_resize":
            found["exclude_outside"] = int(rng.integers(0, 2))
    if mode == "cubic":
        found["cubic_coeff_a"] = float(rng.choice([-0.75, -0.5]))
    return found


@pytest.mark.parametrize("seed", range(60))
def test_reference_is_that_of_onnx(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rank = int(rng.integers(1, 4))
    shape = (2, 3, *rng.integers(1, 9, rank).tolist())
    given = random_attributes(rng)
    if rng.integers(0, 2):
        scales = np.array([1, 1, *rng.choice([0.5, 0.7, 1.0, 1.6, 2.0, 3.0], rank)], np.float32)
        if min(np.floor(scales * np.array(shape))) < 1:
            scales = np.ceil(scales).astype(np.float32)
        given["scales"] = scales
    else:
        given["sizes"] = np.array([2, 3, *rng.integers(1, 14, rank)], np.int64)
    if given["coordinate_transformation_mode"] == "tf_crop_and_resize":
        ends = np.sort(rng.uniform(-0.2, 1.2, (2, rank)), axis=0)
        given["roi"] = np.array([0, 0, *ends[0], 1, 1, *ends[1]], np.float64)
        given["extrapolation_value"] = 7.0
    model = model_of(shape, dtype=TensorProto.DOUBLE, **given)
    x = rng.standard_normal(shape)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    graph = frontend.load(model_of(shape, **given))
    (got,) = evaluate(graph, {"x": x})
    assert got.shape == expected.shape
    # The evaluator computes cubic weights in float32.
    tolerance = 2e-5 if given["mode"] == "cubic" else 1e-6
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "text",
    [
        "resize2d:1x20x5x6:10x12:mode=linear",
        "resize2d:2x3x4x33:8x99:mode=linear",
        "resize2d:1x17x5x6:20x24:mode=cubic",
        "resize2d:1x5x9x40:4x17:mode=linear:antialias=true",
        "resize2d:1x5x9x4:9x90:mode=cubic:coordinates=align_corners",
        "resize2d:1x5x9x600:18x1200",
        "resize2d:1x2x3x600:5x1200:mode=linear",
        "resize1d:3x9x20:40:mode=linear",
        "resize3d:1x5x3x4x5:6x8x10:mode=linear",
    ],
)
@pytest.mark.parametrize("block", [BLOCK, 1])
def test_every_schedule_is_right(text: str, block: int) -> None:
    problem = Problem.parse(text)
    spec = problem_spec(problem, block=block)
    if resize.resampling.terms(resize.axes_of(problem)) > 1:
        assert len(candidates_of(spec, host())) == 2
    if block == BLOCK:
        assert not wrong_schedules(spec, trials(problem))
    else:
        from tests.kernels import compile_specs, problem_kernel

        found = candidates_of(spec, host())
        compiled = compile_specs([spec] * len(found), choices=found)
        (trial,) = trials(problem)
        for k in range(len(found)):
            assert trial.check(compiled.run(k, problem_kernel(trial, spec))).passed


@pytest.mark.parametrize(
    ("shape", "given"),
    [
        ((1, 5, 6, 3), {"scales": np.array([1, 2, 2, 1], np.float32), "mode": "linear"}),
        ((2, 3, 4), {"scales": np.array([2, 1, 2], np.float32)}),
        ((5, 7), {"sizes": np.array([10, 7]), "mode": "cubic"}),
        ((6,), {"sizes": np.array([9])}),
        ((1, 2, 6, 8), {"sizes": np.array([9, 9]), "axes": [-2, -1],
                        "keep_aspect_ratio_policy": "not_larger"}),
        ((1, 2, 6, 8), {"sizes": np.array([1, 2, 6, 8])}),
    ],
)  # fmt: skip
def test_other_axes(shape: tuple[int, ...], given: dict[str, Any]) -> None:
    model = model_of(shape, **given)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    if "axes" in given:  # negative ones are beyond the evaluator
        given["axes"] = [axis % len(shape) for axis in given["axes"]]
    (expected,) = ReferenceEvaluator(model_of(shape, **given)).run(None, {"x": x})
    (got,) = tvmconv.compile(model, threads=1)(x)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("opset", [7, 9, 10])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_old_forms(opset: int, mode: str) -> None:
    """They sample from the corner."""
    scales = [1.0, 1.0, 2.0, 3.0]
    given: Any = scales if opset == 7 else np.array(scales, np.float32)
    op = "Resize" if opset == 10 else "Upsample"
    graph = frontend.load(model_of((1, 2, 3, 4), opset, op, mode=mode, scales=given))
    assert graph.nodes[0].attrs["problem"] == (
        "resize2d:1x2x3x4:6x12"
        + ("" if mode == "nearest" else ":mode=linear")
        + ":coordinates=asymmetric:nearest=floor"
    )


def test_fewer_by_opset_10_are_the_next_ones() -> None:
    """The expected output of opset 10's own example: from 2x4 to 1x2 it takes elements 1 and 3."""
    model = model_of((1, 1, 2, 4), 10, scales=np.array([1, 1, 0.6, 0.6], np.float32))
    x = np.arange(1, 9, dtype=np.float32).reshape(1, 1, 2, 4)
    (got,) = evaluate(frontend.load(model), {"x": x})
    assert got.ravel().tolist() == [1, 3]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "needs scales or sizes, and not both"),
        ({"sizes": np.array([1, 2, 6, 8]), "scales": np.ones(4, np.float32)}, "and not both"),
        ({"sizes": np.array([6, 8])}, "sizes must have 4 elements, have 2"),
        ({"scales": np.array([1, 1, -1, 1], np.float32)}, "scales must be positive"),
        ({"scales": np.array([1, 1, 0.1, 1], np.float32)}, "the output would have shape"),
        ({"scales": np.array([1, 1, 2, 2], np.float32), "mode": "area"}, "mode must be one of"),
        ({"scales": np.array([1, 1, 2, 2], np.float32),
          "coordinate_transformation_mode": "tf_half_pixel_for_nn"}, "coordinates must be one of"),
        ({"scales": np.array([1, 1, 2, 2], np.float32), "keep_aspect_ratio_policy": "x"},
         "'keep_aspect_ratio_policy' 'x' is unknown"),
        ({"sizes": np.array([2, 2, 6, 8]), "mode": "linear"}, "more than three axes"),
        ({"sizes": np.array([1, 2, 9, 9]),
          "coordinate_transformation_mode": "tf_crop_and_resize"}, "input 1 is required"),
    ],
)  # fmt: skip
def test_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        frontend.load(model_of((1, 2, 5, 5), **given))
    assert message in str(caught.value)
    assert "(Resize)" in str(caught.value)
    assert "\n" not in str(caught.value)
