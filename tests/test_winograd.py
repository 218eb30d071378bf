"""Winograd: the transforms are exact, the kernels right, and graphs choose among algorithms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.kernels import host, problem_kernel, problem_spec, run, trials
from tvmconv import accuracy, verify
from tvmconv.autoschedule.choose import Chooser
from tvmconv.autoschedule.workload import algorithm, alternatives, canonical, parse, weight_bytes
from tvmconv.errors import InputError
from tvmconv.kernel import KernelSpec
from tvmconv.ops import winograd
from tvmconv.problem import Problem

NAMES = list(winograd.ALGORITHMS)

PROBLEMS = [
    "conv2d:1x16x4x4:16x3x3",
    "conv2d:1x64x14x14:64x3x3:padding=1:bias=true:activation=relu",
    "conv2d:2x24x9x11:40x3x3:padding=1:activation=silu",
    "conv2d:1x136x7x7:48x3x3:padding=1,0,2,1",
    "conv2d:1x16x1x1:16x3x3:padding=1",
    "conv2d:3x512x5x3:32x3x3:padding=1:bias=true",
    "conv1d:2x48x29:33x3:padding=1:bias=true:activation=relu6",
    "conv1d:1x16x23:16x3:padding=3:dilation=3",
    "conv2d:1x16x11x9:24x3x3:padding=2:dilation=2:bias=true",
    "conv2d:2x32x7x10:16x3x3:padding=3,0,1,2:dilation=4,1",
    "conv2d:1x16x6x13:16x1x3:padding=1,2:activation=relu",
    "conv2d:2x32x13x5:16x3x1:padding=1,0",
    "conv2d:1x16x9x8:16x3x5:padding=1,2:dilation=2,1",
    "conv3d:1x16x3x6x7:24x3x3x3:padding=1:bias=true:activation=relu",
    "conv3d:2x160x2x5x4:16x2x3x3:padding=1,1,0,0,1,2:dilation=2,1,2",
    "conv3d:1x16x7x3x3:16x3x1x1:padding=1,0,0",
    "conv3d:1x16x2x7x5:16x1x3x3:padding=0,1,1",
]


@pytest.mark.parametrize("outputs", list(winograd.POINTS))
def test_the_transforms_are_those_of_a_convolution(outputs: int) -> None:
    """``y[i] = sum over k of x[i+k] w[k]``, in float64, for every unit vector."""
    at, g, bt = winograd.matrices(outputs)
    for tap in range(winograd.TAPS):
        for place in range(outputs + winograd.TAPS - 1):
            y = at @ ((g @ np.eye(winograd.TAPS)[tap]) * (bt @ np.eye(bt.shape[0])[place]))
            wanted = [float(place == i + tap) for i in range(outputs)]
            np.testing.assert_allclose(y, wanted, atol=1e-14)


@pytest.mark.parametrize("name", [*NAMES, winograd.ONLINE])
def test_kernels_are_right(name: str) -> None:
    problems = [Problem.parse(text).replace(algorithm=name) for text in PROBLEMS]
    checks = [trials(problem)[-1] for problem in problems]
    kernels = [
        problem_kernel(trial, problem_spec(problem))
        for problem, trial in zip(problems, checks, strict=True)
    ]
    for trial, got in zip(checks, run(kernels), strict=True):
        report = trial.check(got, name)
        assert report.passed, f"{trial.problem}: {report.message}"


def test_the_transforms_of_a_pair_of_points_share_their_sums() -> None:
    """A tile's rows for ±p differ in one sign: the second costs one addition."""
    _, _, bt = winograd.matrices(4)
    for row in (1, 3):
        np.testing.assert_allclose(bt[row] * [1, -1, 1, -1, 1, -1], bt[row + 1], atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_transform_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound of the accuracy formula is no free pass: 1% off in one coefficient is seen."""
    at, g, bt = winograd.matrices(winograd.ALGORITHMS[name])
    changed = g.copy()
    changed[1, 1] *= 1.01
    monkeypatch.setattr(winograd, "matrices", lambda outputs: (at, changed, bt))
    problem = Problem.parse(PROBLEMS[1]).replace(algorithm=name)
    trial = trials(problem)[-1]
    (got,) = run([problem_kernel(trial, problem_spec(problem))])
    assert not trial.check(got, name).passed


def test_a_residual_is_added_where_tiles_reach_beyond_the_map() -> None:
    problem = Problem.parse("conv2d:1x16x7x9:20x3x3:padding=1:algorithm=winograd4")
    shape = problem.output_shape
    spec = problem_spec(
        problem,
        program=({"op": "add", "operand": 0}, {"op": "relu"}),
        operands=[problem_spec(problem).output],
    )
    trial = trials(problem)[-1]
    other = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    (got,) = run([problem_kernel(trial, spec, [other])])
    wanted = np.maximum(trial.reference + other, 0)
    bound = 1e-4 + 1e-4 * np.abs(wanted)
    assert (np.abs(got - wanted) <= bound).all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", ["512x7x7:64", "128x14x14:32"])
def test_weights_transformed_in_the_kernel_keep_the_bound(size: str, seed: int) -> None:
    """Their transform is rounded to float32; the error stays far below the algorithm's bound."""
    problem = Problem.parse(f"conv2d:1x{size}x3x3:padding=1:algorithm={winograd.ONLINE}")
    drawn = accuracy.trial(problem, seed)
    (got,) = run([problem_kernel(drawn, problem_spec(problem))])
    assert drawn.check(got).ratio < 0.5


# --- workloads


def spec_of(text: str) -> KernelSpec:
    return problem_spec(Problem.parse(text))


def test_alternatives() -> None:
    text = "conv2d:1x64x14x14:64x3x3:padding=1"
    found = alternatives(spec_of(text))
    assert [algorithm(spec) for spec in found] == ["direct", *NAMES, winograd.ONLINE]
    assert found[0].text == canonical(spec_of(text + ":algorithm=direct")).text
    assert all(parse(spec.text) == spec for spec in found)
    assert weight_bytes(found[0]) == 4 * 64 * 64 * 9
    sides = (4, 6, 8, 3)
    assert [weight_bytes(spec) for spec in found[1:]] == [4 * 64 * 64 * n**2 for n in sides]


def test_weights_are_transformed_in_the_kernel_if_they_are_more_than_the_input() -> None:
    for text, online in (("128x28x28:128", True), ("64x56x56:64", False), ("512x7x7:512", True)):
        spec = spec_of(f"conv2d:1x{text}x3x3:padding=1")
        for network in (False, True):
            names = [algorithm(other) for other in alternatives(spec, network=network)]
            assert (winograd.ONLINE in names) == online


@pytest.mark.parametrize(
    "text",
    [
        "conv2d:1x3x14x14:64x3x3:padding=1",
        "conv2d:1x64x14x14:64x3x3:padding=1:stride=2",
        "conv2d:1x64x14x14:64x3x3:groups=2",
        "conv2d:1x64x14x14:64x5x5",
        "conv2d:1x64x14x14:64x3x1:stride=2,1",
        "conv3d:1x64x4x4x4:64x1x1x1",
        "depthwise_conv2d:1x64x14x14:64x3x3",
        "max_pool2d:1x64x14x14:3x3",
    ],
)
def test_what_has_no_alternative(text: str) -> None:
    assert [algorithm(spec) for spec in alternatives(spec_of(text))] == ["direct"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:-1], "malformed"),
        (lambda text: text.replace('"conv"', '"concat"'), "malformed"),
        (lambda text: text.replace('"conv"', '"nosuch"'), "nosuch"),
        (lambda text: text.replace("64x14x14", "64x14x15"), "not those of"),
        (lambda text: text.replace("[1, 64, 14, 14]", "[1, 64, 14, -14]"), "size that is none"),
        (lambda text: text.replace("[1, 1]", "[2, 1]", 1), "canonical"),
        (lambda text: "[" * 10_000, "malformed"),
        (lambda text: "null", "malformed"),
        (lambda text: text + " " * 30_000, "characters"),
    ],
)
def test_a_workload_that_is_none_is_refused(damage: Any, message: str) -> None:
    text = canonical(spec_of("conv2d:1x64x14x14:64x3x3:padding=1")).text
    with pytest.raises(InputError, match=message):
        KernelSpec.parse(damage(text))


# --- choosing


def test_the_model_chooses_transformed_tiles_for_a_large_layer_only() -> None:
    large = spec_of("conv2d:1x256x28x28:256x3x3:padding=1")
    assert Chooser(host()).algorithm(large) in NAMES
    assert Chooser(host(), exact=True).algorithm(large) == "direct"
    assert Chooser(host()).algorithm(spec_of("conv2d:1x16x2x2:16x3x3:padding=1")) == "direct"


def test_exact_refuses_an_algorithm_that_is_not() -> None:
    import tvmconv

    with pytest.raises(InputError, match="algorithm=winograd2 is not exact"):
        tvmconv.compile("conv2d:1x16x6x6:16x3x3:algorithm=winograd2", exact=True)


def test_a_network_has_no_coarse_algorithm() -> None:
    large = spec_of("conv2d:1x64x56x56:64x3x3:padding=1")
    assert Chooser(host()).algorithm(large) == "winograd6"
    assert Chooser(host(), cold_bytes=10**8).algorithm(large) == "winograd4"


def test_weights_that_have_to_come_from_memory_count() -> None:
    """Those of winograd4 are four times as many; on a small map that is most of the time."""
    spec = spec_of("conv2d:1x512x7x7:512x3x3:padding=1")
    assert Chooser(host(), cold_bytes=10**8).algorithm(spec) in ("direct", "winograd2")


@pytest.mark.parametrize("name", ["direct", *NAMES])
def test_a_problem_names_its_algorithm(name: str) -> None:
    text = f"conv2d:1x32x12x12:32x3x3:padding=1:bias=true:algorithm={name}"
    report = verify(text)
    assert report.ok, report.outputs[0].message


def test_an_algorithm_that_needs_constants_says_so() -> None:
    import tvmconv

    with pytest.raises(InputError, match=r"algorithm needs weights that are constants.*--params"):
        tvmconv.compile("conv2d:1x32x12x12:32x3x3:algorithm=winograd4")


def test_an_algorithm_that_needs_blocks_says_so() -> None:
    problem = Problem.parse("conv2d:1x3x12x12:32x3x3:algorithm=winograd4")
    import tvmconv

    weight = np.ones((32, 3, 3, 3), np.float32)
    with pytest.raises(InputError, match="algorithm needs a block of input channels, got 3"):
        tvmconv.compile(problem.text, params={"weight": weight})
