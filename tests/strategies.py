"""Random problems, small enough to check quickly, over every operator of the convolution family.

They lean towards what goes wrong: asymmetric padding, strides longer than the kernel, prime sizes,
one-pixel maps, groups and multipliers, dilation, channels that no vector width divides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np
from hypothesis import strategies as st

from tvmconv import ops
from tvmconv.errors import InputError
from tvmconv.ops import Family, windows
from tvmconv.ops.activation import ACTIVATIONS
from tvmconv.ops.options import ALGORITHMS
from tvmconv.ops.resize import COORDINATES, MODES, ROUNDINGS
from tvmconv.problem import Problem

T = TypeVar("T")

_KERNELS = {1: (1, 2, 3, 3, 5, 8, 9), 2: (1, 1, 2, 3, 3, 3, 5, 7), 3: (1, 2, 3, 3)}
_SIZES = {1: (1, 2, 5, 16, 23, 37, 64), 2: (1, 2, 3, 5, 7, 8, 11, 13, 16, 19), 3: (1, 2, 3, 5, 7)}
_CHANNELS = (1, 2, 3, 4, 5, 7, 8, 13, 16, 17, 24, 32)
_ACTIVATIONS = ("", "", "relu", "clip,-1,2", *(name for name in ACTIVATIONS if name != "clip"))

#: Operators whose filter is no window.
OTHER_MEANINGS = ("adaptive_avg_pool", "adaptive_max_pool", "resize")


class Picker(Protocol):
    """Where decisions come from: a random generator, or Hypothesis."""

    def integer(self, low: int, high: int) -> int:
        """An integer from low to high, both included."""

    def choice(self, values: Sequence[T]) -> T:
        """One of the values; the first is the simplest."""


class RandomPicker:
    """Decisions by a NumPy generator."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def integer(self, low: int, high: int) -> int:
        """An integer from low to high, both included."""
        return int(self._rng.integers(low, high + 1))

    def choice(self, values: Sequence[T]) -> T:
        """One of the values, all equally likely."""
        return values[self.integer(0, len(values) - 1)]


class HypothesisPicker:
    """Decisions by Hypothesis, which shrinks them."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw

    def integer(self, low: int, high: int) -> int:
        """An integer from low to high, both included."""
        return self._draw(st.integers(low, high))

    def choice(self, values: Sequence[T]) -> T:
        """One of the values, the first when shrunk."""
        return values[self.integer(0, len(values) - 1)]


@st.composite
def problems(draw: st.DrawFn, max_flops: int = 4_000_000) -> Problem:
    """Hypothesis's strategy for :func:`random_problem`."""
    return sample(HypothesisPicker(draw), max_flops)


def random_problem(
    rng: np.random.Generator, max_flops: int = 4_000_000, quantised: bool = False
) -> Problem:
    """Draw a problem of at most so many FLOP; its outputs are not mostly of padding alone."""
    return sample(RandomPicker(rng), max_flops, quantised=quantised)


def random_member(rng: np.random.Generator, max_flops: int = 4_000_000) -> Problem:
    """Draw a problem of any operator, element type, algorithm and padding mode."""
    return sample(RandomPicker(rng), max_flops, whole=True)


def sample(
    pick: Picker,
    max_flops: int = 4_000_000,
    attempts: int = 50,
    quantised: bool = False,
    whole: bool = False,
) -> Problem:
    """Decide on a problem; one that is refused, too expensive or all padding is decided anew.

    It is of float32, or, if ``quantised``, of bytes; or, if ``whole``, any that there is.
    """
    families = {
        op.name: op.family
        for op in ops.operators().values()
        if op.family is not None
        and (whole or op.name not in OTHER_MEANINGS)
        and (whole or (op.family.dtypes is not None) == quantised)
    }
    # The more options an operator takes, the more there is to try.
    names = [name for name, family in families.items() for _ in range(1 + len(family.options) // 2)]
    for _ in range(attempts):
        op = ops.get(pick.choice(names))
        rank = pick.choice([r for r in (2, 2, 2, 1, 3) if r in op.ranks] or [0])
        try:
            problem = draw(pick, op.name, families[op.name], rank, whole)
        except InputError:
            continue  # such as a dilated pool whose window misses the input
        if problem.flops <= max_flops and _has_data(problem):
            return problem
    return Problem.make("qconv" if quantised else "conv", (1, 1, 1, 1), (1, 1, 1))


def draw(pick: Picker, name: str, family: Family, rank: int, whole: bool = False) -> Problem:
    """Decide on sizes and those options that the operator takes; InputError if it refuses them."""
    known = {option.name for option in family.options}
    batch, ci, co, groups = _channels(pick, family.depthwise, "groups" in known)
    if name in OTHER_MEANINGS:
        sizes, counts, options = _resampling(pick, rank, name == "resize")
        return Problem(name, (batch, ci, *sizes), tuple(counts), options)
    axes = _windows(pick, rank, family.arithmetic == "multiply-add") if rank else ([], [], {})
    sizes, kernel, options = axes
    if "groups" in known:
        options["groups"] = groups
    if "output_padding" in known:
        options["output_padding"] = [pick.choice([0, 0, 1]) for _ in range(rank)]
    for flag in sorted(known & {"bias", "ceil_mode", "count_include_pad", "flipped", "inner_bias"}):
        options[flag] = bool(pick.integer(0, 1))
    if "activation" in known:
        options["activation"] = pick.choice(_ACTIVATIONS)
    if family.dtypes is not None:
        options |= _quantisation(pick)
    elif whole:
        options |= _variety(pick)
        if "algorithm" in known and str(options["algorithm"]).startswith("winograd"):
            kernel[-1] = 3
            options |= {"stride": 1, "groups": 1, "dtype": "float32"}
    if "inner_activation" in known:
        options["inner_activation"] = pick.choice(_ACTIVATIONS)
    filter_shape: list[int] = []
    for part in family.filter_form:
        filter_shape += kernel if part == "K" else [co]
    given = {key: value for key, value in options.items() if key in known}
    return Problem(name, (batch, ci, *sizes), tuple(filter_shape), given)


def _quantisation(pick: Picker) -> dict[str, object]:
    """Decide on the options of bytes."""
    low, high = ((0, 255), (-128, 127))[signed := pick.integer(0, 1)]
    scale = pick.choice([0.0, 0.0005, 0.003])
    return {
        "dtype": ("uint8", "int8")[signed],
        "zero_point": pick.choice([0, low, high, pick.integer(low, high)]),
        "weight_terms": pick.choice([1, 1, 2, 3]),
        "scale": scale,
        "out_zero_point": pick.integer(low, high) if scale else 0,
    }


def _variety(pick: Picker) -> dict[str, object]:
    """Decide on what most problems leave as it is."""
    return {
        "dtype": pick.choice([*["float32"] * 8, "float16", "bfloat16", "uint8", "int8"]),
        "padding_mode": pick.choice([*["zeros"] * 4, "reflect", "edge", "wrap", "sphere"]),
        "algorithm": pick.choice([*["auto"] * 6, *ALGORITHMS]),
        "p": pick.choice([1, 2, 2, 3]),
    }


def _resampling(
    pick: Picker, rank: int, resize: bool
) -> tuple[list[int], list[int], dict[str, object]]:
    """Decide on sizes before and after, and on how the outputs come about."""
    sizes = [pick.choice(_SIZES[rank]) for _ in range(rank)]
    factor = pick.choice([0, 0, 1, 2, 2, 3])
    counts = [size * factor or pick.choice(_SIZES[rank]) for size in sizes]
    options: dict[str, object] = {"dtype": pick.choice(["float32"] * 4 + ["float16", "bfloat16"])}
    if not resize:
        return sizes, counts, options
    options["mode"] = mode = pick.choice(MODES)
    options["coordinates"] = coordinates = pick.choice(COORDINATES)
    if mode == "nearest":
        options["nearest"] = pick.choice(ROUNDINGS)
    else:
        options["antialias"] = bool(pick.integer(0, 1))
        options["cubic_coeff"] = pick.choice([-0.75, -0.5])
        options["exclude_outside"] = coordinates != COORDINATES[-1] and bool(pick.integer(0, 1))
    if coordinates == "tf_crop_and_resize":
        options["roi"] = [pick.choice([0.0, -0.2, 0.3]) for _ in range(rank)]
        options["roi"] += [pick.choice([1.0, 1.2, 0.8]) for _ in range(rank)]
        options["extrapolation"] = 7.0
    return sizes, counts, options


def _channels(pick: Picker, depthwise: bool, grouped: bool) -> tuple[int, int, int, int]:
    """Decide on N, CI, CO and the groups."""
    batch = pick.choice([1, 1, 1, 2, 3])
    ci = pick.choice(_CHANNELS)
    if depthwise:
        return batch, ci, ci * pick.choice([1, 1, 1, 2, 3]), ci
    groups = pick.choice([1, 1, 1, 1, 2, 3, 4]) if grouped else 1
    if groups == 1:
        return batch, ci, pick.choice(_CHANNELS), 1
    return batch, groups * pick.choice(_CHANNELS[:8]), groups * pick.choice(_CHANNELS[:8]), groups


def _windows(
    pick: Picker, rank: int, overlong: bool
) -> tuple[list[int], list[int], dict[str, object]]:
    """Decide on input sizes, kernel, stride, dilation and padding; half the time alike on all axes.

    ``overlong`` allows padding that is longer than the window.
    """
    if pick.integer(0, 1):
        axes = [_axis(pick, rank, overlong)] * rank
    else:
        axes = [_axis(pick, rank, overlong) for _ in range(rank)]
    sizes, kernel, stride, dilation, lows, highs = (
        list(column) for column in zip(*axes, strict=True)
    )
    padding: object = pick.choice([lows + highs] * 6 + ["same_upper", "same_lower", "valid"])
    return sizes, kernel, {"stride": stride, "dilation": dilation, "padding": padding}


def _axis(pick: Picker, rank: int, overlong: bool) -> tuple[int, int, int, int, int, int]:
    """Decide on one axis: size, taps, stride, dilation, low and high padding."""
    taps = pick.choice(_KERNELS[rank])
    dilation = pick.choice([1, 1, 1, 1, 2, 3])
    span = windows.extent(taps, dilation)
    stride = pick.choice([1, 1, 1, 2, 2, 3, span + 1])
    most = span + 1 if overlong and pick.integer(0, 9) == 9 else min(span - 1, 4)
    low, high = pick.integer(0, most), pick.integer(0, most)
    size = max(pick.choice(_SIZES[rank]), span - low - high, 1)
    return size, taps, stride, dilation, low, high


def _has_data(problem: Problem) -> bool:
    """Whether at least half of the outputs see something else than padding."""
    seen = 1.0
    if problem.op in OTHER_MEANINGS:
        return True
    for axis, count in enumerate(problem.out_spatial):
        along = (problem.kernel[axis], problem.stride[axis], problem.dilation[axis])
        limits = (0, problem.in_spatial[axis])
        if problem.family.transposed:
            reached = _reached(problem, axis)
            seen *= len(reached) / count
            continue
        counts = windows.tap_counts(count, *along, problem.pads_low[axis], limits)
        seen *= np.count_nonzero(counts) / count
    return seen >= 0.5


def _reached(problem: Problem, axis: int) -> set[int]:
    """The outputs of a transposed convolution along an axis that see some input."""
    places = {
        i * problem.stride[axis] + k * problem.dilation[axis] - problem.pads_low[axis]
        for i in range(problem.in_spatial[axis])
        for k in range(problem.kernel[axis])
    }
    return places & set(range(problem.out_spatial[axis]))
