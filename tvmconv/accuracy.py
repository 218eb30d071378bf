"""When an output is right: an error bound from the arithmetic, exact integers, a network's bound.

With the reference y in float64, S = conv(|x|, |w|) + |b| and K = taps + 1, an output is right if

    |got - y| <= u·|y| + L·c·u_acc·S + e + smallest subnormal

u is the unit roundoff of the output's type, u_acc that of the accumulator. L is the Lipschitz
constant of the activation (1 without one) and e = 8·u·(|y| + spread) what computing it may round (0
for relu, relu6 and clip). c = min(K + 2, 8 + 2·√K) for the direct algorithm: the first is the
worst case of a sum in any order, the second holds for the random signs of real data. Where tensor
cores round float32 to TF32, with u_in = 2^-11, c·u_acc·S becomes (c·u_acc + d·u_in)·S, of which
d = min(2, 8/√T) is what the roundings of both factors of T products add up to, at worst and for
random signs; T is counted for each element, for padding has no products.

References
----------
N. J. Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed., sections 3.1 and 4.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod, sqrt
from typing import Literal

import numpy as np
import numpy.typing as npt

from tvmconv.errors import InputError
from tvmconv.layout import HALVES
from tvmconv.ops import Array, Float64, activation
from tvmconv.ops.options import BYTE_DTYPES, DTYPES
from tvmconv.problem import Problem

Mask = npt.NDArray[np.bool_]
Status = Literal["right", "wrong", "inconclusive"]
#: What Winograd's transforms F(m, 3) add to c; its relative L2 error is limited too.
WINOGRAD = {"winograd2": 16.0, "winograd4": 64.0, "winograd6": 384.0, "winograd4_online": 64.0}
WINOGRAD_L2 = 2e-5
#: Products of float32 on tensor cores, and the unit roundoff of their factors.
TF32, TF32_ROUNDOFF = "tf32", 2.0**-11
_TF32_WORST, _TF32_RANDOM = 2.0, 8.0
#: Algorithms that add up the products of the definition.
_DIRECT = ("direct", TF32)
NETWORK_RTOL, NETWORK_ATOL = 1e-3, 1e-5
#: Relative L2 error of a quantised network's output beside the model's in float arithmetic.
QUANTISED_L2 = 0.05
#: Of a network in halves: what its layers may amplify, and elements beside their mean square.
_HALVES_GAIN, _HALVES_SPREAD = 4.0, 8.0
#: Roundings that an activation may take, in units of u.
_ACTIVATION_ROUNDINGS = 8
#: A reference counts if this share of what can differ from zero does; relu alone takes half of it.
_NONZERO_SHARE = 0.25


@dataclass(frozen=True)
class AccuracyReport:
    """The result of comparing an output with its reference.

    Attributes
    ----------
    status : {"right", "wrong", "inconclusive"}
        Inconclusive if the reference is mostly zeros where it need not be: what computes nothing
        could pass.
    ratio : float
        The largest error over its bound; at most 1 if right, infinite if it has no number.
    index : tuple of int or None
        Where that is.
    message : str
        One line.
    """

    status: Status
    ratio: float
    index: tuple[int, ...] | None
    message: str

    @property
    def passed(self) -> bool:
        """Whether the output is right; an inconclusive one is not."""
        return self.status == "right"


def algorithm_of(problem: Problem) -> str:
    """The algorithm that a problem names: "direct" if none."""
    name = problem.option("algorithm")
    return name if name in WINOGRAD else "direct"


def error_bound(
    problem: Problem, reference: Float64, magnitude: Float64, algorithm: str | None = None
) -> Float64:
    """The largest error that each element of a right output can have.

    Parameters
    ----------
    problem : Problem
    reference, magnitude : ndarray of float64
        :meth:`Problem.reference` and :meth:`Problem.magnitude` of the same inputs.
    algorithm : {"direct", "tf32"} or one of :data:`WINOGRAD`, optional
        That the problem names if left out; if it names none, "direct".

    Raises
    ------
    InputError
        If the algorithm is unknown.
    """
    algorithm = algorithm or algorithm_of(problem)
    terms = problem.taps + 1
    factor = 8 + 2 * sqrt(terms)
    if algorithm in _DIRECT:
        factor = min(terms + 2, factor)
    elif algorithm in WINOGRAD:
        factor += WINOGRAD[algorithm]
    else:
        names = ", ".join([*_DIRECT[1:], *WINOGRAD])
        raise InputError(f"algorithm must be direct or one of {names}: {algorithm!r}")
    kind = problem.element
    size = np.abs(reference)
    share: Float64 | float = factor * kind.acc_roundoff
    if algorithm == TF32:
        share = share + TF32_ROUNDOFF * _tf32_factor(problem)
    bound = share * magnitude
    if problem.activation and not problem.family.gated:
        function, parameters = activation.split(problem.activation)
        bound = function.lipschitz(*parameters) * bound
        if not function.exact:
            bound = bound + _ACTIVATION_ROUNDINGS * kind.roundoff * (size + function.spread)
    return np.asarray(kind.roundoff * size + bound + kind.smallest_subnormal)


def _tf32_factor(problem: Problem) -> Float64:
    """D of the module's formula, for each element of the output."""
    ones = {name: np.ones(shape, np.float32) for name, shape in problem.inputs.items()}
    products = problem.magnitude({n: a if n in ("x", "weight") else 0 * a for n, a in ones.items()})
    return np.minimum(_TF32_WORST, _TF32_RANDOM / np.sqrt(np.maximum(products, 1.0)))


def check(
    problem: Problem,
    got: Array,
    reference: Float64,
    magnitude: Float64,
    algorithm: str | None = None,
    reached: Mask | None = None,
) -> AccuracyReport:
    """Compare an output with its reference by the module's formula.

    Parameters
    ----------
    problem : Problem
    got : ndarray
        The output, in the problem's shape and dtype; otherwise it is wrong.
    reference, magnitude, algorithm
        As for :func:`error_bound`.
    reached : ndarray of bool, optional
        Which elements can differ from zero; all if left out.
    """
    algorithm = algorithm or algorithm_of(problem)
    bound = error_bound(problem, reference, magnitude, algorithm)
    proves = counts(reference, reached)
    report = _compare(got, reference, bound, problem.dtypes["output"], proves)
    if report.passed and algorithm in WINOGRAD:
        norm = float(np.linalg.norm(reference)) or 1.0
        share = float(np.linalg.norm(got - reference)) / norm
        if share > WINOGRAD_L2:
            message = f"relative L2 error {share:.2e} is over {WINOGRAD_L2:.0e}"
            return AccuracyReport("wrong", share / WINOGRAD_L2, None, message)
    return report


def check_exact(
    problem: Problem, got: Array, reference: Float64, reached: Mask | None = None
) -> AccuracyReport:
    """Compare an output of :func:`integer_inputs` with its reference, which it has to equal.

    A half is rounded once, when the sum is stored. ``reached`` is that of :func:`check`.

    Raises
    ------
    InputError
        If the problem rounds even then: see :func:`is_exact`.
    """
    if not is_exact(problem):
        raise InputError(f"{problem}: its arithmetic rounds, integers cannot be compared exactly")
    dtype = problem.dtypes["output"]
    with np.errstate(over="ignore"):
        rounded = reference.astype(dtype).astype(np.float64) if dtype in HALVES else reference
    return _compare(got, rounded, np.zeros_like(reference), dtype, counts(reference, reached))


def check_network(
    got: Array, reference: Array, rtol: float = NETWORK_RTOL, atol: float = NETWORK_ATOL
) -> AccuracyReport:
    """Compare an output of a whole network: ``|got - y| <= atol + rtol·|y|``.

    Inconclusive if that lets zeros pass for the whole output. Integers and truth values have to be
    equal.
    """
    expected = np.asarray(reference, np.float64)
    if reference.dtype.kind in "iub":
        return _compare(got, expected, np.zeros_like(expected), str(reference.dtype), proves=True)
    bound = atol + rtol * np.abs(expected)
    large = np.isfinite(expected) & (np.abs(expected) > bound)
    return _compare(got, expected, bound, str(reference.dtype), bool(large.any()))


def check_halves(got: Array, reference: Array, dtype: str, roundings: int) -> AccuracyReport:
    """Compare an output of a network that is stored in halves, or whose products are of TF32.

    Rounding a tensor changes it by at most u in relative L2 norm, at random; after R roundings one
    after the other, of activations and of weights, errors of √R·u are expected. Let

        s = 4·u·√R,  4 for what layers amplify.

    Right is ``‖got - y‖ <= s·‖y‖`` and, element by element, ``|got - y| <= s·(|y| + 8·rms(y))``,
    each with R times the smallest subnormal beside it; what the output's type cannot hold is
    infinite.

    Parameters
    ----------
    dtype : {"float16", "bfloat16", "tf32"}
        What tensors are rounded to.
    roundings : int
        R, at least 1: see :func:`tvmconv.graph.precision.roundings`.
    """
    wide = np.asarray(reference, np.float64)
    if str(got.dtype) in HALVES:
        with np.errstate(over="ignore"):
            stored = wide.astype(got.dtype).astype(np.float64)
        wide = np.where(np.isinf(stored), stored, wide)
    kind = DTYPES["float32" if dtype == TF32 else dtype]
    roundoff = TF32_ROUNDOFF if dtype == TF32 else kind.roundoff
    share = _HALVES_GAIN * roundoff * sqrt(max(roundings, 1))
    finite = np.isfinite(wide)
    size = float(np.linalg.norm(wide[finite]))
    rms = size / sqrt(int(np.count_nonzero(finite)) or 1)
    least = max(roundings, 1) * kind.smallest_subnormal
    bound = share * (np.abs(wide) + _HALVES_SPREAD * rms) + least
    report = _compare(got, wide, bound, str(got.dtype), proves=size > 0)
    error = float(np.linalg.norm(got.astype(np.float64)[finite] - wide[finite]))
    norm = max(0.0, error - least * sqrt(wide.size)) / (size or 1.0)
    if report.passed and norm > share:
        message = f"relative L2 error {norm:.2e} is over {share:.2e}"
        return AccuracyReport("wrong", norm / share, None, message)
    return report


def counts(reference: Float64, reached: Mask | None = None) -> bool:
    """Whether enough of a reference is a number other than zero, of what can be."""
    found = np.isfinite(reference) & (reference != 0)
    if reached is None:
        return bool(np.count_nonzero(found) >= _NONZERO_SHARE * reference.size)
    return bool(np.count_nonzero(found & reached) >= _NONZERO_SHARE * np.count_nonzero(reached))


def reached_elements(problem: Problem) -> Mask:
    """Which elements of the output have a term; padding alone makes the others zero.

    Of bytes, those that the largest terms, all of one sign, make other than zero.
    """
    if problem.family.arithmetic == "maximum":  # no window has padding alone
        return np.ones(problem.output_shape, np.bool_)
    fill = dict.fromkeys(problem.inputs, 1)
    if problem.dtype in BYTE_DTYPES:
        limits = np.iinfo(problem.dtype)
        zero = int(problem.option("zero_point") or 0)
        above = limits.max - zero >= zero - limits.min
        fill["x"] = int(limits.max if above else limits.min)
        if "weight" in fill:
            weights = np.iinfo(problem.dtypes["weight"])
            fill["weight"] = int(weights.max if above else weights.min)
    full = {
        name: np.full(shape, fill[name], problem.dtypes[name])
        for name, shape in problem.inputs.items()
    }
    return np.asarray(problem.family.reference(problem, full) != 0)


def _compare(
    got: Array, reference: Float64, bound: Float64, dtype: str, proves: bool
) -> AccuracyReport:
    """Find the element whose error is the largest multiple of its bound.

    ``proves`` is whether the reference tells a right output from zeros.
    """
    if got.shape != reference.shape or str(got.dtype) != dtype:
        message = f"output is {got.dtype} {got.shape}, not {dtype} {reference.shape}"
        return AccuracyReport("wrong", float("inf"), None, message)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.abs(got.astype(np.float64) - reference)
        ratios = np.where(error > 0, error / bound, 0.0)
    ratios = np.where(np.isnan(error), np.inf, ratios)
    same = (got == reference) | (np.isnan(got) & np.isnan(reference))
    ratios = np.where(same, 0.0, np.where(np.isfinite(got), ratios, np.inf))
    ratios = np.where(np.isnan(ratios), np.inf, ratios)
    if got.dtype == np.bool_:  # a byte that is neither 0 nor 1 was not written as a truth value
        ratios = np.where(got.view(np.uint8) > 1, np.inf, ratios)
    place = np.unravel_index(int(np.argmax(ratios)), ratios.shape)
    index, ratio = tuple(int(i) for i in place), float(ratios[place])
    wrong = int(np.count_nonzero(ratios > 1))
    found = (
        f"got {float(got[index]):.9g} for {float(reference[index]):.9g} at {index},"
        f" error {ratio:.3g} times the bound"
    )
    if wrong:
        message = f"{found}; {wrong} of {got.size} elements are wrong"
        return AccuracyReport("wrong", ratio, index, message)
    if not proves:
        share = np.mean(~np.isfinite(reference) | (np.abs(reference) <= bound))
        message = f"{share:.0%} of the reference is zero or no number, the check does not count"
        return AccuracyReport("inconclusive", ratio, index, message)
    return AccuracyReport("right", ratio, index, found)


def random_inputs(problem: Problem, seed: int) -> dict[str, Array]:
    """Draw inputs of few zeros or equal elements, for outputs of a size that activations bend.

    ``x`` is uniform in -1..1, ``weight`` in ±6/√taps and ``bias`` in -1..1, which gives outputs a
    standard deviation of 2; so have those of a part with a weight of its own. Bytes are drawn from
    all that there are.
    """
    rng = np.random.default_rng(seed)
    if problem.dtype in BYTE_DTYPES:
        return {name: _bytes(rng, problem, name) for name in problem.inputs}

    def scale(name: str, shape: tuple[int, ...]) -> np.float32:
        if name in ("x", "bias") or len(shape) == 1:
            return np.float32(1.0)
        return np.float32(6.0 / sqrt(problem.taps if name == "weight" else prod(shape[1:])))

    return {
        name: ((2 * rng.random(shape, np.float32) - 1) * scale(name, shape)).astype(
            problem.dtype, copy=False
        )
        for name, shape in problem.inputs.items()
    }


def _bytes(rng: np.random.Generator, problem: Problem, name: str) -> Array:
    """Integers of an input of a quantised problem: all of its type, or what its kernel takes."""
    dtype, shape = problem.dtypes[name], problem.inputs[name]
    if name == "bias":
        return rng.integers(-(2**15), 2**15, shape, np.int32)
    if name == "x":
        limits = np.iinfo(dtype)
        low, high = int(limits.min), int(limits.max)
    else:
        terms = problem.option("weight_terms") or 3
        low, high = max(-128 * terms, -255), min(127 * terms, 255)
    return rng.integers(low, high + 1, shape).astype(dtype)


def is_exact(problem: Problem) -> bool:
    """Whether a right output of :func:`integer_inputs` has no rounding error at all.

    So it is for sums of products and maxima, without activation or with one that does not round;
    not for transformed tiles, and not for means, whose division may be a multiplication by a
    reciprocal.
    """
    rounds = problem.family.arithmetic in ("mean", "norm") or algorithm_of(problem) != "direct"
    rounds |= problem.family.gated
    texts = (problem.activation, *(part.activation for part in problem.parts))
    rounds |= any(text and not activation.split(text)[0].exact for text in texts)
    return not rounds


def integer_inputs(problem: Problem, seed: int) -> dict[str, Array]:
    """Draw small integers, none of them 0, whose every partial sum is representable.

    The largest is at most 8 and leaves ``taps·m² + m`` below 1/u of the accumulator, so sums are
    exact in any order. Maxima have larger ones, or most would be equal; those
    of integer types have all that there are.

    Raises
    ------
    InputError
        If there are more taps than that allows even for ±1.
    """
    if problem.dtype in BYTE_DTYPES:
        return random_inputs(problem, seed)
    limit = 1 / problem.element.acc_roundoff
    largest = min(8, int(sqrt(limit / (problem.taps + 1))))
    if problem.family.largest_sum is not None:
        sums = {m: problem.family.largest_sum(problem, m) for m in range(1, largest + 1)}
        largest = max((m for m, total in sums.items() if total < limit), default=0)
    if problem.family.arithmetic == "maximum":
        largest = int(min(1 / problem.element.roundoff, 2**16))
    if largest < 1:
        raise InputError(f"{problem}: a sum of {problem.taps} terms cannot be exact")
    rng = np.random.default_rng(seed)
    values = np.array([v for v in range(-largest, largest + 1) if v], problem.dtype)
    return {name: rng.choice(values, shape) for name, shape in problem.inputs.items()}


@dataclass(frozen=True)
class Trial:
    """Inputs for one check of a problem, and what is right for them.

    Attributes
    ----------
    problem : Problem
    arrays : mapping
        ``x``, ``weight``, ``bias`` as the problem has them.
    reference, magnitude : ndarray of float64
    exact : bool
        Whether the inputs are integers for exact comparison.
    reached : ndarray of bool or None
        Which elements count, if not all: those that padding alone makes zero are compared, but do
        not.
    """

    problem: Problem
    arrays: Mapping[str, Array]
    reference: Float64
    magnitude: Float64
    exact: bool = False
    reached: Mask | None = None

    def check(self, got: Array, algorithm: str | None = None) -> AccuracyReport:
        """Compare an output: exactly if so drawn and the algorithm is direct, else by the bound.

        The integers that are drawn are so small that TF32 has them all.
        """
        if self.exact and (algorithm or algorithm_of(self.problem)) in _DIRECT:
            return check_exact(self.problem, got, self.reference, self.reached)
        return check(self.problem, got, self.reference, self.magnitude, algorithm, self.reached)

    def poisoned_output(self) -> Array:
        """An output array of NaN, or large integers, so that what a kernel leaves out is seen."""
        dtype = np.dtype(self.problem.dtypes["output"])
        poison = np.nan if dtype.kind in "fV" else np.iinfo(dtype).max - 2
        return np.full(self.problem.output_shape, poison, dtype)


def trial(
    problem: Problem,
    seed: int = 0,
    exact: bool = False,
    attempts: int = 16,
    fixed: Mapping[str, Array] | None = None,
) -> Trial:
    """Draw inputs whose reference counts: few small outputs can all be zero after a relu.

    Parameters
    ----------
    exact : bool
        Draw integers; the problem must be :func:`is_exact`.
    attempts : int
        How many draws to make before taking the last one though it does not count; its check is
        then inconclusive.
    fixed : mapping, optional
        Arrays that are given, and not drawn.
    """
    draw = integer_inputs if exact else random_inputs
    reached: Mask | None = None
    for attempt in range(attempts):
        arrays = {**draw(problem, seed + attempt * 1_000_003), **(fixed or {})}
        reference = problem.reference(arrays)
        if counts(reference, reached):
            break
        if reached is None and counts(reference, reached := reached_elements(problem)):
            break
    return Trial(problem, arrays, reference, problem.magnitude(arrays), exact, reached)
