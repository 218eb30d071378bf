"""Wrong outputs are caught: each mutant computes a problem wrongly in one way, as kernels may.

A mutant gives None for a problem that has no such thing to get wrong.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.strategies import random_problem
from tvmconv import accuracy
from tvmconv.accuracy import Trial
from tvmconv.errors import InputError
from tvmconv.ops import Array
from tvmconv.problem import Problem

Mutant = Callable[[Trial], "Array | None"]


def other(trial: Trial, **options: object) -> Array | None:
    """What the problem with other options gives, if it has an output of the same shape."""
    try:
        problem = trial.problem.replace(**options)
    except InputError:
        return None
    if problem == trial.problem or problem.output_shape != trial.problem.output_shape:
        return None
    return problem.reference(trial.arrays).astype(np.float32)


def right(trial: Trial) -> Array:
    return trial.reference.astype(trial.problem.dtype)


def dropped_tap(trial: Trial) -> Array | None:
    if "weight" not in trial.arrays:
        return None
    weight = trial.arrays["weight"].copy()
    weight[..., -1] = 0
    return trial.problem.reference({**trial.arrays, "weight": weight}).astype(np.float32)


def dropped_last_channel(trial: Trial) -> Array | None:
    if "weight" not in trial.arrays:
        return None
    weight = trial.arrays["weight"].copy()
    weight[:, -1] = 0
    return trial.problem.reference({**trial.arrays, "weight": weight}).astype(np.float32)


def padding_plus_1(trial: Trial) -> Array | None:
    p = trial.problem
    if p.option("padding") is None:
        return None
    lows = [v + 1 for v in p.pads_low]
    return other(trial, padding=[*lows, *(max(v - 1, 0) for v in p.pads_high)])


def padding_minus_1(trial: Trial) -> Array | None:
    p = trial.problem
    if p.option("padding") is None:
        return None
    lows = [max(v - 1, 0) for v in p.pads_low]
    return other(trial, padding=[*lows, *(v + 1 for v in p.pads_high)])


def swapped_strides(trial: Trial) -> Array | None:
    """Read with the strides in the wrong order, cropped or filled with zeros to the shape."""
    p = trial.problem
    if len(set(p.stride)) < 2:
        return None
    try:
        swapped = p.replace(stride=p.stride[::-1]).reference(trial.arrays).astype(np.float32)
    except InputError:  # such as an output padding that is as long as the other stride
        return None
    y = np.zeros(p.output_shape, np.float32)
    common = tuple(slice(0, min(pair)) for pair in zip(swapped.shape, y.shape, strict=True))
    y[common] = swapped[common]
    return y


def wrong_dilation(trial: Trial) -> Array | None:
    p = trial.problem
    if max(p.kernel, default=1) == 1 or p.option("dilation") is None:
        return None
    low = [v + k - 1 for v, k in zip(p.pads_low, p.kernel, strict=True)]
    return other(trial, dilation=[d + 1 for d in p.dilation], padding=[*low, *p.pads_high])


def wrong_group(trial: Trial) -> Array | None:
    """Each group reads the channels of the next."""
    if trial.problem.groups == 1:
        return None
    share = trial.problem.ci // trial.problem.groups
    x = np.roll(trial.arrays["x"], -share, axis=1)
    return trial.problem.reference({**trial.arrays, "x": x}).astype(np.float32)


def swapped_channels(trial: Trial) -> Array | None:
    y = right(trial)
    if y.shape[1] < 2:
        return None
    y[:, :2] = y[:, 1::-1].copy()
    return y


def repeated_batch(trial: Trial) -> Array | None:
    y = right(trial)
    if y.shape[0] < 2:
        return None
    y[-1] = y[0]
    return y


def forgotten_bias(trial: Trial) -> Array | None:
    if not trial.problem.bias:
        return None
    bias = np.zeros_like(trial.arrays["bias"])
    return trial.problem.reference({**trial.arrays, "bias": bias}).astype(np.float32)


def forgotten_activation(trial: Trial) -> Array | None:
    return other(trial, activation="") if trial.problem.activation else None


def forgotten_divisor(trial: Trial) -> Array | None:
    p = trial.problem
    if p.option("count_include_pad") is None or not any(p.pads_low + p.pads_high):
        return None
    return other(trial, count_include_pad=not p.count_include_pad)


def unwritten_tail(trial: Trial) -> Array:
    y = trial.poisoned_output()
    y.reshape(-1)[:-1] = right(trial).reshape(-1)[:-1]
    return y


def zero_tail(trial: Trial) -> Array | None:
    y = right(trial)
    last = y.reshape(-1)[-1]
    y.reshape(-1)[-1] = 0
    return y if last else None


def bfloat16_inputs(trial: Trial) -> Array | None:
    """Arithmetic of too few bits."""
    if trial.exact:
        return None
    bits = {k: v.view(np.uint32) & np.uint32(0xFFFF0000) for k, v in trial.arrays.items()}
    rounded = {k: v.view(np.float32) for k, v in bits.items()}
    return trial.problem.reference(rounded).astype(np.float32)


MUTANTS: list[Mutant] = [
    dropped_tap,
    dropped_last_channel,
    padding_plus_1,
    padding_minus_1,
    swapped_strides,
    wrong_dilation,
    wrong_group,
    swapped_channels,
    repeated_batch,
    forgotten_bias,
    forgotten_activation,
    forgotten_divisor,
    unwritten_tail,
    zero_tail,
    bfloat16_inputs,
]
MUTATED = [
    "conv2d:2x8x9x7:16x3x3:stride=2,1:padding=1:bias=true",
    "conv2d:1x16x6x6:24x3x3:padding=1:groups=4:bias=true:activation=relu",
    "conv2d:1x64x7x7:32x1x1:activation=silu",
    "conv1d:1x8x40:8x5:padding=4:dilation=2:activation=relu6",
    "conv3d:1x4x5x6x6:6x3x3x3:stride=1,2,2:padding=1",
    "depthwise_conv2d:2x12x9x8:24x3x3:stride=1,2:padding=1:bias=true:activation=hardswish",
    "conv2d_transpose:2x8x5x4:16x3x3:stride=2,1:padding=1:bias=true:activation=relu",
    "conv2d_transpose:1x16x4x4:24x4x4:stride=2:padding=1:groups=4",
    "max_pool2d:2x6x9x8:3x3:stride=2,1:padding=1",
    "avg_pool2d:2x6x9x8:3x3:stride=2,1:padding=1",
    "avg_pool2d:1x6x8x8:2x2:stride=2:padding=1:count_include_pad=true",
    "global_avg_pool2d:2x17x5x5",
    "global_max_pool2d:2x17x5x5",
    "dense:3x100:11:bias=true:activation=sigmoid",
    "dense:1x2048:10:bias=true",
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
@pytest.mark.parametrize("exact", [False, True], ids=["random", "integer"])
def test_mutants_are_caught(mutant: Mutant, exact: bool) -> None:
    tried = 0
    for text in MUTATED:
        problem = Problem.parse(text)
        if exact and not accuracy.is_exact(problem):
            continue
        trial = accuracy.trial(problem, 1, exact)
        assert trial.check(right(trial)).passed
        got = mutant(trial)
        if got is not None:
            tried += 1
            report = trial.check(got)
            assert report.status == "wrong", f"{problem}: {report.message}"
            assert report.ratio > (1 if mutant is bfloat16_inputs else 10)
    assert tried >= 1 or (exact and mutant in (forgotten_divisor, bfloat16_inputs))


def test_mutants_of_random_problems_are_caught() -> None:
    """Over many problems a mutant is caught; a single problem may not be sensitive to it."""
    rng = np.random.default_rng(9)
    tried = dict.fromkeys(MUTANTS, 0)
    survived = dict.fromkeys(MUTANTS, 0)
    for seed in range(150):
        trial = accuracy.trial(random_problem(rng, 200_000), seed)
        for mutant in MUTANTS:
            got = mutant(trial)
            if got is not None:
                tried[mutant] += 1
                survived[mutant] += trial.check(got).passed
    for mutant in MUTANTS:
        assert tried[mutant] >= 5, mutant.__name__
        assert survived[mutant] <= 0.25 * tried[mutant], mutant.__name__
    assert survived[unwritten_tail] == 0
