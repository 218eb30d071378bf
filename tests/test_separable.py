"""Depthwise-separable convolutions: their parts, as one kernel and as two, alone and in graphs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from tvmconv.schedules import costs

import tvmconv
from tests.graph_cases import Maker
from tests.kernels import host, problem_kernel, problem_spec, trials
from tests.test_schedules import candidates_of, compile_specs
from tvmconv import accuracy
from tvmconv.autoschedule.choose import Chooser
from tvmconv.bench.layer import problem_to_onnx
from tvmconv.explain import explain
from tvmconv.explain.problem import ProblemExplanation
from tvmconv.frontend import load
from tvmconv.graph.evaluate import evaluate
from tvmconv.graph.ir import Graph, Value
from tvmconv.graph.parts import split_parts
from tvmconv.kernel import KernelSpec
from tvmconv.problem import Problem

MOBILE = (
    "separable_conv2d:1x32x20x18:64x3x3:padding=1:inner_bias=true:inner_activation=relu6:bias=true"
)


@pytest.fixture(params=[True, False], ids=["one", "two"])
def together(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether pairs become one kernel, whatever they are priced at."""
    monkeypatch.setattr(Chooser, "together", lambda self, one, two: request.param)
    monkeypatch.setattr(Chooser, "forms", lambda self, blocks, planes: (0.0, math.inf))
    return bool(request.param)


def kinds(module: Any) -> list[str]:
    return [step["kind"] for step in module.metadata["steps"] if "kind" in step]


def test_the_reference_is_a_grouped_convolution_and_a_pointwise_one() -> None:
    problem = Problem.parse("separable_conv2d:2x6x9x8:5x3x2:stride=2,1:padding=1,0:bias=true")
    assert list(problem.inputs) == ["x", "depthwise", "weight", "bias"]
    grouped = Problem.parse("conv2d:2x6x9x8:6x3x2:stride=2,1:padding=1,0:groups=6")
    points = Problem.make("conv", grouped.output_shape, (5, 1, 1), bias=True)
    arrays = accuracy.integer_inputs(problem, 1)
    inner = grouped.reference({"x": arrays["x"], "weight": arrays["depthwise"]})
    expected = points.reference({"x": inner, "weight": arrays["weight"], "bias": arrays["bias"]})
    assert np.array_equal(problem.reference(arrays), expected)
    assert problem.macs == grouped.macs + points.macs
    assert problem.parameters == 6 * 6 + 5 * 6 + 5


def test_what_is_between_is_biased_and_bent() -> None:
    problem = Problem.parse("separable_conv1d:1x2x3:1x1:inner_bias=true:inner_activation=relu6")
    arrays = {
        "x": np.array([[[1, 2, 3], [-1, 0, 1]]], np.float32),
        "depthwise": np.array([[[2]], [[3]]], np.float32),
        "depthwise_bias": np.array([1, -1], np.float32),
        "weight": np.array([[[1], [10]]], np.float32),
    }
    assert problem.reference(arrays).tolist() == [[[3, 5, 6 + 20]]]


@pytest.mark.parametrize("limit", [1, 8])
def test_integers_stay_exact(limit: int) -> None:
    problem = Problem.parse(f"separable_conv2d:1x{4096 * limit}x3x3:2x3x3")
    arrays = accuracy.integer_inputs(problem, 0)
    assert problem.magnitude(arrays).max() < 2**24
    inner = {"depthwise": np.abs(arrays["depthwise"]).max()}
    assert inner["depthwise"] >= 1


@pytest.mark.parametrize(
    "text",
    [
        "separable_conv2d:1x20x4x11:40x3x3:padding=1:inner_bias=true:inner_activation=relu",
        "separable_conv2d:2x17x3x5:16x2x3:stride=1,2:inner_activation=tanh:activation=silu",
        "separable_conv1d:1x16x18:33x4:dilation=2:bias=true",
        "separable_conv3d:1x5x2x4x3:16x2x2x2:padding=1,0,0",
    ],
)
@pytest.mark.parametrize("shared", [False, True])
def test_every_schedule_is_right(text: str, shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with strips shared among threads, which the model finds too small."""
    if shared:
        monkeypatch.setattr(costs, "LAUNCH_CYCLES", -1e9)
    problem = Problem.parse(text)
    spec = problem_spec(problem)
    found = candidates_of(spec, host())
    assert len(found) > 10
    assert dict(found[0].knobs)["shared"] == shared
    part = [found[0], *np.random.default_rng(0).permutation(np.array(found, object))[:9]]
    compiled = compile_specs([spec] * len(part), choices=part)
    for trial in trials(problem):
        for k, candidate in enumerate(part):
            report = trial.check(compiled.run(k, problem_kernel(trial, spec)))
            assert report.passed, f"{candidate}: {report.message}"


@pytest.mark.parametrize("text", [MOBILE, "separable_conv2d:1x5x7x7:9x3x3:stride=2:bias=true"])
def test_alone_as_one_kernel_and_as_two(text: str, together: bool) -> None:
    problem = Problem.parse(text)
    trial = accuracy.trial(problem)
    weights = {name: a for name, a in trial.arrays.items() if name != "x"}
    module = tvmconv.compile(text, params=weights)
    (got,) = module({"x": trial.arrays["x"]})
    assert trial.check(got).passed
    expected = ["separable_conv"] if together else ["depthwise_conv", "conv"]
    assert [kind for kind in kinds(module) if kind.endswith("conv")] == expected


def test_weights_that_are_known_at_run_time(together: bool) -> None:
    trial = accuracy.trial(Problem.parse(MOBILE))
    module = tvmconv.compile(MOBILE)
    assert "separable_conv" not in kinds(module)
    assert trial.check(module(trial.arrays)[0]).passed


def _depthwise(m: Maker, x: Value, **options: object) -> Value:
    problem = Problem.make("depthwise_conv", x.shape, (x.shape[1], 3, 3), padding=1, **options)
    weights = [m.constant(*shape, scale=0.3) for shape in [*problem.inputs.values()][1:]]
    return m.emit("depthwise_conv", [x, *weights], {"problem": problem.text})


def _compiled(m: Maker, *outputs: Value) -> list[str]:
    """Compile a graph, compare its outputs, and return the kinds of its kernels."""
    graph = Graph("g", m.inputs, list(outputs), m.nodes)
    x = np.random.default_rng(1).standard_normal(m.inputs[0].shape).astype(np.float32)
    module = tvmconv.compile(graph)
    for got, wanted in zip(module(x), evaluate(graph, [x]), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
    return kinds(module)


def test_pairs_are_found_in_graphs(together: bool) -> None:
    """Depthwise, bias, relu6; pointwise, bias, residual sum: an inverted residual."""
    m = Maker(np.random.default_rng(0))
    x = m.relu(m.conv(m.x(1, 16, 9, 7), 32))
    inner = m.emit("clip", [_depthwise(m, x, bias=True)], {"min": 0.0, "max": 6.0})
    y = m.relu(m.emit("add", [m.conv(inner, 32, bias=True), x]))
    assert _compiled(m, y).count("separable_conv") == int(together)


@pytest.mark.parametrize("case", ["read twice", "an output", "3x3", "gate", "shuffled"])
def test_other_pairs_are_left_alone(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Chooser, "together", lambda self, one, two: True)
    monkeypatch.setattr(Chooser, "forms", lambda self, blocks, planes: (0.0, math.inf))
    m = Maker(np.random.default_rng(0))
    x = m.relu(m.conv(m.x(1, 16, 9, 7), 32))
    inner = _depthwise(m, x)
    outputs = [inner] if case == "an output" else []
    if case == "gate":
        inner = m.emit("mul", [inner, m.emit("sigmoid", [x])])
    if case == "shuffled":
        inner = m.emit("channel_shuffle", [inner], {"groups": 4})
    outputs.append(m.conv(inner, 24, 3 if case == "3x3" else 1))
    if case == "read twice":
        outputs.append(m.emit("abs", [inner]))
    assert "separable_conv" not in _compiled(m, *outputs)


def test_parts_that_are_faster_on_planes_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Chooser, "together", lambda self, one, two: True)
    monkeypatch.setattr(Chooser, "forms", lambda self, blocks, planes: (1.0, 0.0))
    trial = accuracy.trial(Problem.parse(MOBILE))
    weights = {name: a for name, a in trial.arrays.items() if name != "x"}
    module = tvmconv.compile(MOBILE, params=weights)
    assert "separable_conv" not in kinds(module)
    assert trial.check(module({"x": trial.arrays["x"]})[0]).passed


def test_the_cheaper_way_is_chosen() -> None:
    problem = Problem.parse(MOBILE)
    one = problem_spec(problem)
    first, second = (problem_spec(part) for part in problem.parts)
    chooser = Chooser(host())
    costs: dict[str, float] = {}

    def cycles(spec: KernelSpec) -> float:
        return costs[spec.op]

    chooser._cycles = cycles  # type: ignore[method-assign]
    costs.update(separable_conv=80.0, depthwise_conv=50.0, conv=50.0)
    assert chooser.together(one, (first, second))
    costs.update(separable_conv=101.0)
    assert not chooser.together(one, (first, second))


def test_parts_are_in_order() -> None:
    trial = accuracy.trial(Problem.parse(MOBILE))
    weights = {name: a for name, a in trial.arrays.items() if name != "x"}
    graph = load(MOBILE, params=weights)
    parts = split_parts(graph)
    assert [node.op for node in parts.nodes] == ["depthwise_conv", "conv"]
    for found in (parts, graph):
        (y,) = evaluate(found, [trial.arrays["x"]])
        np.testing.assert_allclose(y, trial.reference, rtol=1e-4, atol=1e-4)


def test_explained() -> None:
    found = explain(MOBILE, "znver5")
    assert isinstance(found, ProblemExplanation)
    problem = Problem.parse(MOBILE)
    pixels = 20 * 18
    assert found.macs == problem.macs == pixels * 32 * 9 + pixels * 32 * 64
    edges = 2 * (20 + 18) * 3 - 4  # taps in the padding, corners counted once
    assert found.useful_flops == 2 * (found.macs - 32 * edges)
    text = str(found)
    assert "1x32x20x18 outputs × 1 channel × 3x3 taps, then 1x64x20x18 outputs × 32" in text
    assert "all channels with all" in text
    small = "separable_conv1d:1x2x3:1x2"
    inputs = Problem.parse(small).inputs
    shown = explain(small, "znver5", arrays={k: np.ones(v) for k, v in inputs.items()})
    assert "y[0,0,1] = 4" in str(shown)
    assert "as a dense matrix" not in str(shown)


def test_libraries_get_two_convolutions() -> None:
    from onnx.reference import ReferenceEvaluator

    problem = Problem.parse(MOBILE + ":activation=relu")
    model, inputs = problem_to_onnx(problem, seed=2)
    (got,) = list(ReferenceEvaluator(model).run(None, inputs))
    expected = problem.reference(accuracy.random_inputs(problem, 2))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
