"""Gated convolutions: the product of two, as one kernel and as two, alone and found in graphs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

import tvmconv
from tests.kernels import host, problem_kernel, problem_spec, trials
from tests.onnx_models import net, normal
from tests.test_schedules import candidates_of, compile_specs
from tvmconv import accuracy
from tvmconv.autoschedule.choose import Chooser
from tvmconv.bench.layer import problem_to_onnx
from tvmconv.explain import explain
from tvmconv.frontend import load
from tvmconv.graph.fuse import fuse
from tvmconv.ops import activation
from tvmconv.ops.gated_conv import half, halves
from tvmconv.problem import Problem

WAVENET = "gated_conv1d:1x32x60:32x2:padding=4,0:dilation=4:bias=true:activation=tanh"


@pytest.fixture(params=[True, False], ids=["one", "two"])
def together(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a gated convolution is one kernel, whatever it is priced at."""
    monkeypatch.setattr(Chooser, "together", lambda self, one, two: request.param)
    return bool(request.param)


def kinds(module: Any) -> list[str]:
    return [step["kind"] for step in module.metadata["steps"] if "kind" in step]


def test_the_reference_is_a_product_of_two_convolutions() -> None:
    for text in ("tanh", "linear", "relu", "elu"):
        problem = Problem.parse(f"gated_conv2d:2x3x6x5:4x3x2:padding=1:activation={text}:bias=true")
        plain = Problem("conv", (2, 3, 6, 5), (4, 3, 2), {"padding": 1, "bias": True})
        arrays = accuracy.random_inputs(problem, 1)
        first, second = (
            plain.reference(
                {"x": arrays["x"], "weight": arrays["weight"][at], "bias": arrays["bias"][at]}
            )
            for at in (slice(4), slice(4, 8))
        )
        value = first if text == "linear" else activation.apply(text, first)
        expected = value / (1 + np.exp(-second))
        np.testing.assert_allclose(problem.reference(arrays), expected, rtol=1e-12)
        assert problem.macs == 2 * plain.macs
        assert problem.parameters == 2 * plain.parameters


def test_the_magnitude_is_what_errors_of_the_sums_are_multiplied_by() -> None:
    problem = Problem.parse(WAVENET)
    arrays = accuracy.random_inputs(problem, 1)
    y, magnitude = problem.reference(arrays), problem.magnitude(arrays)
    share, sums = 1e-6, []
    for own in halves(problem, arrays):
        size = half(problem).magnitude(own)
        sums.append(half(problem).reference(own) + share * size)
    error = np.abs(np.tanh(sums[0]) / (1 + np.exp(-sums[1])) - y)
    assert (error <= share * magnitude).all()
    assert (error / magnitude).max() > 0.4 * share


@pytest.mark.parametrize(
    "text",
    [
        "gated_conv1d:1x20x17:40x2:padding=2,0:dilation=2:bias=true:activation=tanh",
        "gated_conv2d:2x5x4x3:17x3x3:stride=1,2:padding=1",
        "gated_conv3d:1x4x2x3x4:16x2x2x2:padding=1,0,0:activation=relu",
        "gated_conv1d:1x2304x3:20x1",
    ],
)
@pytest.mark.parametrize("in_block", [16, 1])
def test_every_schedule_is_right(text: str, in_block: int) -> None:
    problem = Problem.parse(text)
    spec = problem_spec(problem, in_block=in_block)
    found = candidates_of(spec, host())
    assert len(found) >= 6
    order = np.random.default_rng(0).permutation(len(found))[:9]
    part = [found[0], *(found[k] for k in order)]
    compiled = compile_specs([spec] * len(part), choices=part)
    for trial in trials(problem):
        for k, candidate in enumerate(part):
            report = trial.check(compiled.run(k, problem_kernel(trial, spec)))
            assert report.passed, f"{candidate}: {report.message}"


@pytest.mark.parametrize("constant", [True, False])
def test_alone_as_one_kernel_and_as_two(constant: bool, together: bool) -> None:
    trial = accuracy.trial(Problem.parse(WAVENET))
    weights = {name: a for name, a in trial.arrays.items() if name != "x"} if constant else {}
    module = tvmconv.compile(WAVENET, params=weights or None)
    (got,) = module({name: a for name, a in trial.arrays.items() if name not in weights})
    assert trial.check(got).passed
    expected = ["gated_conv"] if together and constant else ["conv", "conv"]
    assert [kind for kind in kinds(module) if kind.endswith("conv")] == expected


_WEIGHT, _BIAS = normal(32, 20, 3, 3) / 8, normal(32)
_SPLIT = "both = Conv<pads=[1,1,1,1]>(x, w, b); a, g = Split<axis=1>(both);"
_TWO = "a = Conv<pads=[1,1,1,1]>(x, w, b); g = Conv<pads=[1,1,1,1]>(x, w2, b2);"
_GRAPHS = {
    "split": f"{_SPLIT} t = Tanh(a); s = Sigmoid(g); y = Mul(t, s);",
    "the other way round": f"{_SPLIT} t = Tanh(g); s = Sigmoid(a); y = Mul(s, t);",
    "linear": f"{_SPLIT} s = Sigmoid(g); y = Mul(a, s);",
    "two convolutions": f"{_TWO} t = LeakyRelu<alpha=0.2>(a); s = Sigmoid(g); y = Mul(t, s);",
    "with what follows": f"{_SPLIT} t = Tanh(a); s = Sigmoid(g); m = Mul(t, s); y = Relu(m);",
}


@pytest.mark.parametrize("body", _GRAPHS.values(), ids=_GRAPHS)
def test_found_in_graphs(body: str, together: bool) -> None:
    constants = {"w": _WEIGHT, "b": _BIAS}
    if "w2" in body:
        constants |= {"w2": normal(32, 20, 3, 3, seed=2) / 8, "b2": normal(32, seed=2)}
    model = net(body, x="2,20,7,6", **constants)
    x = normal(2, 20, 7, 6)
    (expected,) = list(ReferenceEvaluator(model).run(None, {"x": x}))
    module = tvmconv.compile(model)
    np.testing.assert_allclose(module(x)[0], expected, rtol=1e-4, atol=1e-5)
    found = kinds(module)
    assert found.count("gated_conv") == int(together)
    assert found.count("conv") == (0 if together else 2)


_OTHERS = {
    "uneven": "both = Conv(x, w); a = Slice(both, zero, ten, one);"
    " g = Slice(both, ten, twenty, one); s = Sigmoid(g); y = Mul(a, s);",
    "a third reader": f"{_SPLIT} s = Sigmoid(g); m = Mul(a, s); n = Neg(both);"
    " k = Slice(n, zero, sixteen, one); y = Add(m, k);",
    "other inputs": "z = Neg(x); a = Conv(x, w); g = Conv(z, w); s = Sigmoid(g); y = Mul(a, s);",
    "other windows": "a = Conv<pads=[1,1,1,1]>(x, w); g = Conv<pads=[2,2,2,2], dilations=[2,2]>"
    "(x, w); s = Sigmoid(g); y = Mul(a, s);",
    "the same half": f"{_SPLIT} t = Tanh(a); s = Sigmoid(a); y = Mul(t, s);",
}


@pytest.mark.parametrize("body", _OTHERS.values(), ids=_OTHERS)
def test_other_products_are_left_alone(body: str) -> None:
    numbers = {"zero": 0, "one": 1, "ten": 10, "sixteen": 16, "twenty": 20}
    constants = {k: np.array([v], np.int64) for k, v in numbers.items() if f" {k}" in body}
    constants |= {"b": _BIAS} if "b)" in body else {}
    model = net(body, x="1,20,7,6", w=_WEIGHT, **constants)
    assert "gated_conv" not in [node.op for node in fuse(load(model)).nodes]


def test_libraries_get_a_split_convolution() -> None:
    for text in (WAVENET, "gated_conv2d:1x3x6x5:4x3x2:padding=1"):
        problem = Problem.parse(text)
        model, inputs = problem_to_onnx(problem, seed=2)
        (got,) = list(ReferenceEvaluator(model).run(None, inputs))
        expected = problem.reference(accuracy.random_inputs(problem, 2))
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_explained() -> None:
    found = explain(WAVENET, "znver5")
    problem = Problem.parse(WAVENET)
    assert found.macs == problem.macs == 2 * 60 * 32 * 32 * 2
    assert found.useful_flops == 2 * (found.macs - 2 * 4 * 32 * 32)
    assert "1x32x60 outputs × 32 channels × 2 taps × 2 halves" in str(found)
    assert "as a dense matrix" not in str(explain("gated_conv1d:1x1x4:1x2", "znver5"))
