"""The accuracy formula, exact integers, and what a check reports."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

from tests.strategies import random_problem
from tvmconv import accuracy, ops
from tvmconv.errors import InputError
from tvmconv.ops import Array
from tvmconv.problem import Problem

CONV = Problem.parse("conv2d:1x8x9x7:16x3x3:stride=2,1:padding=1:bias=true")


def right(trial: accuracy.Trial) -> Array:
    return trial.reference.astype(trial.problem.dtypes["output"])


def in_float32(problem: Problem, arrays: dict[str, Array]) -> Array:
    """Convolve with f32 sums one term after the other, the worst order there is."""
    pads = [(0, 0), (0, 0), *zip(problem.pads_low, problem.pads_high, strict=True)]
    x = np.pad(arrays["x"], pads)
    windows = np.lib.stride_tricks.sliding_window_view(x, problem.kernel, (2, 3))
    windows = windows[:, :, :: problem.stride[0], :: problem.stride[1]]
    y = np.zeros(problem.output_shape, np.float32)
    for c, i, j in np.ndindex(problem.ci, *problem.kernel):
        y += windows[:, c, None, :, :, i, j] * arrays["weight"][None, :, c, i, j, None, None]
    return y + arrays["bias"][:, None, None]


def test_bound_by_hand() -> None:
    problem = Problem.parse("dense:1x15:1")  # K = 16: min(18, 8 + 2 * 4) = 16
    reference, magnitude = np.array([[3.0]]), np.array([[5.0]])
    u = 2.0**-24
    tiny = 2.0**-149
    bound = accuracy.error_bound(problem, reference, magnitude)
    assert bound.item() == pytest.approx(u * 3 + 16 * u * 5 + tiny, rel=1e-12)
    for algorithm, extra in (("winograd2", 16), ("winograd4", 64), ("winograd6", 384)):
        bound = accuracy.error_bound(problem, reference, magnitude, algorithm)
        assert bound.item() == pytest.approx(u * 3 + (16 + extra) * u * 5, rel=1e-9)
    few = Problem.parse("dense:1x1:1")  # K = 2: min(4, 8 + 2 * sqrt(2)) = 4
    assert accuracy.error_bound(few, reference, magnitude).item() == pytest.approx(u * 23)
    assert 8 + 2 * sqrt(2) > 4
    with pytest.raises(InputError, match="algorithm must be direct or one of tf32, winograd2"):
        accuracy.error_bound(problem, reference, magnitude, "fft")


def test_bound_of_tf32_by_hand() -> None:
    """d = min(2, 8/√T), T the products that an element has: padding has none."""
    problem = Problem.parse("conv1d:1x128x4:1x3:padding=3,1")  # no product, 128, 256, 384, ..., 256
    shape, u = problem.output_shape, 2.0**-24
    reference, magnitude = np.full(shape, 3.0), np.full(shape, 5.0)
    bound = accuracy.error_bound(problem, reference, magnitude, "tf32").reshape(-1)
    products = np.array([1, 128, 256, 384, 384, 256])
    d = np.minimum(2, 8 / np.sqrt(products))
    c = 8 + 2 * sqrt(385)
    np.testing.assert_allclose(bound, u * 3 + (c * u + d * 2.0**-11) * 5, rtol=1e-9)
    few = Problem.parse("dense:1x15:1:bias=true")
    bound = accuracy.error_bound(few, reference[:, :, 0], magnitude[:, :, 0], "tf32")
    assert bound.item() == pytest.approx(u * 3 + (16 * u + 2 * 2.0**-11) * 5)


def test_integers_are_exact_in_tf32() -> None:
    trial = accuracy.trial(CONV, exact=True)
    got = right(trial)
    assert trial.check(got, "tf32").passed
    got.flat[3] += 1
    assert not trial.check(got, "tf32").passed


def test_bound_passes_through_the_activation() -> None:
    reference, magnitude, u = np.array([[0.5]]), np.array([[5.0]]), 2.0**-24
    bounds = {
        name: accuracy.error_bound(
            Problem.parse(f"dense:1x15:1:activation={name}"), reference, magnitude
        ).item()
        for name in ("relu", "sigmoid", "leaky_relu,3", "tanh")
    }
    assert bounds["relu"] == pytest.approx(u * (0.5 + 80))
    assert bounds["sigmoid"] == pytest.approx(u * (0.5 + 80 / 4 + 8 * 0.5))
    assert bounds["leaky_relu,3"] == pytest.approx(u * (0.5 + 80 * 3 + 8 * 0.5))
    assert bounds["tanh"] == pytest.approx(u * (0.5 + 80 + 8 * (0.5 + 1)))


@pytest.mark.parametrize("seed", range(5))
def test_honest_f32_is_right(seed: int) -> None:
    trial = accuracy.trial(CONV, seed)
    report = trial.check(in_float32(CONV, dict(trial.arrays)))
    assert report.passed
    assert 0 < report.ratio < 0.5
    exact = accuracy.trial(CONV, seed, exact=True)
    report = exact.check(in_float32(CONV, dict(exact.arrays)))
    assert (report.passed, report.ratio) == (True, 0)


def test_rounded_reference_is_right_for_any_problem() -> None:
    rng = np.random.default_rng(2)
    for seed in range(150):
        problem = random_problem(rng, 200_000)
        for exact in (False, True) if accuracy.is_exact(problem) else (False,):
            trial = accuracy.trial(problem, seed, exact)
            report = trial.check(trial.reference.astype(np.float32))
            assert report.passed, f"{problem}: {report.message}"


# --- reports


def test_report_names_the_worst_element() -> None:
    trial = accuracy.trial(CONV, 0)
    got = right(trial)
    got[0, 3, 2, 1] += 1
    got[0, 5, 0, 0] += 0.05
    report = trial.check(got)
    assert (report.status, report.passed, report.index) == ("wrong", False, (0, 3, 2, 1))
    assert "at (0, 3, 2, 1)" in report.message
    assert f"2 of {got.size} elements are wrong" in report.message
    assert "\n" not in report.message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_wrong(value: float) -> None:
    for exact in (False, True):
        trial = accuracy.trial(CONV, 0, exact)
        got = right(trial)
        got[0, 1, 2, 3] = value
        report = trial.check(got)
        assert (report.status, report.ratio, report.index) == ("wrong", np.inf, (0, 1, 2, 3))


def test_shape_and_dtype_must_be_the_problems() -> None:
    trial = accuracy.trial(CONV, 0)
    for got in (right(trial)[:, :-1], right(trial).reshape(-1), trial.reference):
        report = trial.check(got)
        assert report.status == "wrong"
        assert "not float32 (1, 16, 5, 7)" in report.message


def test_mostly_zeros_do_not_count() -> None:
    problem = Problem.parse("conv1d:1x1x9:4x1")
    arrays = accuracy.random_inputs(problem, 0)
    arrays["x"][:, :, 2:] = 0
    reference, magnitude = problem.reference(arrays), problem.magnitude(arrays)
    got = reference.astype(np.float32)
    report = accuracy.check(problem, got, reference, magnitude)
    assert (report.status, report.passed) == ("inconclusive", False)
    assert "78% of the reference is zero or no number, the check does not count" in report.message
    got[0, 0, 0] = 1
    assert accuracy.check(problem, got, reference, magnitude).status == "wrong"


@pytest.mark.parametrize(
    ("problem", "reached"),
    [
        ("conv1d:1x1x2:4x1:padding=10", 8),
        ("conv1d:1x1x2:4x1:padding=10:activation=relu", 8),
        ("conv2d:1x1x1x1:2x1x1:padding=4", 2),
        ("conv2d_transpose:1x3x5x7:5x1x1:stride=3", 175),
        ("qconv1d:1x4x2:4x1:padding=10:zero_point=3", 8),
        ("conv1d:1x1x3:1x1:padding=20:stride=50", 0),
    ],
)
def test_zeros_of_padding_are_compared_but_not_counted(problem: str, reached: int) -> None:
    trial = accuracy.trial(Problem.parse(problem))
    assert trial.reached is not None
    assert np.count_nonzero(trial.reached) == reached
    y = trial.reference.astype(trial.problem.dtypes["output"])
    assert trial.check(y).passed
    assert trial.check(trial.poisoned_output()).status == "wrong"
    if reached:
        assert trial.check(np.zeros_like(y)).status == "wrong"
    y[~trial.reached] = 1
    assert trial.check(y).status == "wrong"


def test_arrays_that_are_given_are_not_drawn() -> None:
    problem = Problem.parse("dense:1x3:1:activation=relu")
    weight = np.float32([[-1, -2, -3]])
    for seed in range(8):
        trial = accuracy.trial(problem, seed, fixed={"weight": weight})
        assert trial.arrays["weight"] is weight
        assert trial.reference > 0


def test_draws_count_even_after_a_relu() -> None:
    problem = Problem.parse("dense:1x3:1:activation=relu")
    for seed in range(40):
        trial = accuracy.trial(problem, seed)
        assert trial.check(right(trial)).passed


def test_winograd_has_a_second_limit() -> None:
    problem = Problem.parse("conv2d:1x64x8x8:8x3x3:padding=1")
    trial = accuracy.trial(problem, 0)
    rng = np.random.default_rng(0)
    bound = accuracy.error_bound(problem, trial.reference, trial.magnitude, "winograd6")
    got = (trial.reference + 0.9 * bound * rng.choice([-1, 1], bound.shape)).astype(np.float32)
    report = trial.check(got, "winograd6")
    assert report.status == "wrong"
    assert "relative L2 error" in report.message
    one = trial.reference.copy()
    one[0, 1, 2, 3] += 0.5 * bound[0, 1, 2, 3]
    assert trial.check(one.astype(np.float32), "winograd6").passed
    assert not trial.check(one.astype(np.float32), "direct").passed


# --- inputs


def test_inputs_are_seeded() -> None:
    for draw in (accuracy.random_inputs, accuracy.integer_inputs):
        first, again, third = draw(CONV, 1), draw(CONV, 1), draw(CONV, 2)
        assert list(first) == ["x", "weight", "bias"]
        for name, array in first.items():
            assert array.dtype == np.float32
            assert array.shape == CONV.inputs[name]
            assert np.array_equal(array, again[name])
            assert not np.array_equal(array, third[name])
            assert np.count_nonzero(array) == array.size


def test_random_outputs_have_a_size_that_activations_bend() -> None:
    for text in ("conv2d:1x64x14x14:32x3x3", "dense:4x4096:64", "depthwise_conv2d:1x64x9x9:64x3x3"):
        problem = Problem.parse(text)
        y = problem.reference(accuracy.random_inputs(problem, 0))
        assert 1.5 < y.std() < 2.5


@pytest.mark.parametrize("taps", [1, 100, 10_000, 1_000_000])
def test_integer_sums_are_exact_in_f32(taps: int) -> None:
    problem = Problem.parse(f"dense:1x{taps}:1:bias=true")
    arrays = accuracy.integer_inputs(problem, 0)
    largest = max(float(np.abs(a).max()) for a in arrays.values())
    assert taps * largest**2 + largest <= 2**24
    assert problem.magnitude(arrays).max() <= 2**24


def test_exactness() -> None:
    exact = {"conv1d:1x2x9:3x3": True, "conv1d:1x2x9:3x3:activation=relu6": True,
             "conv1d:1x2x9:3x3:activation=tanh": False, "max_pool1d:1x2x9:3": True,
             "avg_pool1d:1x2x9:3": False, "global_avg_pool1d:1x2x9": False}  # fmt: skip
    assert {text: accuracy.is_exact(Problem.parse(text)) for text in exact} == exact
    problem = Problem.parse("avg_pool1d:1x2x9:3")
    with pytest.raises(InputError, match="its arithmetic rounds"):
        accuracy.check_exact(problem, np.zeros(1, np.float32), np.zeros(1))
    with pytest.raises(InputError, match="a sum of 20000000 terms cannot be exact"):
        accuracy.integer_inputs(Problem.parse("dense:1x20000000:1"), 0)


def test_network_tolerance() -> None:
    reference = np.array([1.0, -2.0, 0.5], np.float32)
    assert accuracy.check_network(reference, reference).passed
    got = (reference * np.float32(1.0009)).astype(np.float32)
    assert accuracy.check_network(got, reference).passed
    got = (reference * np.float32(1.002)).astype(np.float32)
    report = accuracy.check_network(got, reference)
    assert (report.status, report.index) == ("wrong", (1,))
    assert accuracy.check_network(reference[:2], reference).status == "wrong"
    tiny = np.full(20, 1e-7, np.float32)  # zeros pass
    assert accuracy.check_network(tiny, tiny).status == "inconclusive"
    labels = np.array([4920, 17])
    assert accuracy.check_network(labels, labels).passed
    assert accuracy.check_network(labels + 1, labels).status == "wrong"
    assert accuracy.check_network(np.zeros(3, np.bool_), np.zeros(3, np.bool_)).passed
    none = np.float32([1.0, np.nan])
    assert accuracy.check_network(none, none).passed
    assert accuracy.check_network(np.float32([1.0, 2.0]), none).status == "wrong"
    sparse = np.zeros(20, np.float32)
    sparse[3] = 1
    assert accuracy.check_network(sparse, sparse).passed
    zeros = np.zeros(8, np.float32)
    assert accuracy.check_network(zeros, zeros).status == "inconclusive"


def test_cases_pass_their_own_check() -> None:
    """The largest cases are left to the tests of kernels."""
    for op in ops.operators().values():
        for case in op.cases if op.family else ():
            problem = Problem.parse(case.problem)
            if problem.flops > 20_000_000:
                continue
            trial = accuracy.trial(problem)
            assert trial.check(right(trial)).status in ("right", "inconclusive"), case
