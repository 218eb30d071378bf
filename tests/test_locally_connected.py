"""Locally connected layers: a convolution at each position, at every schedule, explained."""

from __future__ import annotations

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

import tvmconv
from tests.kernels import host, problem_kernel, problem_spec, trials
from tests.test_schedules import candidates_of, compile_specs
from tvmconv import accuracy
from tvmconv.bench.layer import problem_to_onnx
from tvmconv.explain import explain
from tvmconv.problem import Problem

PROBLEM = Problem.parse(
    "locally_connected2d:2x5x6x7:3x3x2:stride=2,1:padding=1,0,0,1:dilation=1,2:bias=true"
)


def test_with_the_same_weights_everywhere_it_is_a_convolution() -> None:
    plain = Problem("conv", PROBLEM.input_shape, PROBLEM.filter_shape, PROBLEM.options)
    arrays = accuracy.integer_inputs(plain, 1)
    out = PROBLEM.out_spatial
    same = np.broadcast_to(arrays["weight"], PROBLEM.inputs["weight"])
    bias = np.broadcast_to(arrays["bias"].reshape(-1, 1, 1), PROBLEM.inputs["bias"])
    given = {"x": arrays["x"], "weight": same, "bias": bias}
    assert np.array_equal(PROBLEM.reference(given), plain.reference(arrays))
    assert PROBLEM.macs == plain.macs
    assert PROBLEM.parameters == np.prod(out) * plain.parameters


def test_each_position_has_the_convolution_of_its_weights() -> None:
    plain = Problem("conv", PROBLEM.input_shape, PROBLEM.filter_shape, PROBLEM.options)
    arrays = accuracy.integer_inputs(PROBLEM, 2)
    y = PROBLEM.reference(arrays)
    for place in np.ndindex(*PROBLEM.out_spatial):
        own = {"weight": arrays["weight"][place], "bias": arrays["bias"][(slice(None), *place)]}
        expected = plain.reference({"x": arrays["x"], **own})
        assert np.array_equal(y[(..., *place)], expected[(..., *place)])


@pytest.mark.parametrize(
    "text",
    [
        "locally_connected2d:3x5x4x3:33x3x2:padding=1:bias=true",
        "locally_connected2d:1x20x3x7:40x2x3:stride=1,2:activation=relu",
        "locally_connected1d:5x16x9:16x3:dilation=2",
        "locally_connected3d:2x3x2x3x2:20x2x2x1:bias=true",
    ],
)
@pytest.mark.parametrize("in_block", [16, 1])
def test_every_schedule_is_right(text: str, in_block: int) -> None:
    problem = Problem.parse(text)
    spec = problem_spec(problem, in_block=in_block)
    found = candidates_of(spec, host())
    assert len(found) >= 8
    compiled = compile_specs([spec] * len(found), choices=found)
    for trial in trials(problem):
        for k, candidate in enumerate(found):
            report = trial.check(compiled.run(k, problem_kernel(trial, spec)))
            assert report.passed, f"{candidate}: {report.message}"


@pytest.mark.parametrize("constant", [True, False])
def test_weights_are_constants_or_inputs(constant: bool) -> None:
    trial = accuracy.trial(PROBLEM)
    weights = {name: a for name, a in trial.arrays.items() if name != "x"} if constant else {}
    module = tvmconv.compile(PROBLEM.text, params=weights or None)
    (got,) = module({name: a for name, a in trial.arrays.items() if name not in weights})
    assert trial.check(got).passed


def test_libraries_get_a_matrix_product_for_each_position() -> None:
    problem = PROBLEM.replace(activation="relu")
    model, inputs = problem_to_onnx(problem, seed=2)
    (got,) = list(ReferenceEvaluator(model).run(None, inputs))
    expected = problem.reference(accuracy.random_inputs(problem, 2))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_explained() -> None:
    text = "locally_connected1d:1x1x3:1x2:bias=true"
    arrays = {"x": [1, 2, 3], "weight": [1, 10, 100, 1000], "bias": [5, 7]}
    shapes = Problem.parse(text).inputs
    given = {k: np.array(v, np.float32).reshape(shapes[k]) for k, v in arrays.items()}
    found = str(explain(text, "znver5", arrays=given, at=(1,)))
    assert "y[0,0,1] = 2·100 + 3·1000 + 7 = 3207" in found
    assert "each row has weights of its own" in found
    assert "as a dense matrix (banded, 2x3)" in found
    assert "the same weights everywhere" in found
