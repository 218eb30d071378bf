"""Kernels work on the caller's tensors wherever these lie."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

import tvmconv
from tvmconv.accuracy import trial
from tvmconv.problem import Problem

Array = npt.NDArray[np.float32]


def placed(array: Array, bytes_past_a_line: int) -> Array:
    """A copy so many bytes past a multiple of 64."""
    memory = np.zeros(array.nbytes + 128, np.uint8)
    start = -memory.ctypes.data % 64 + bytes_past_a_line
    copy = memory[start : start + array.nbytes].view(np.float32).reshape(array.shape)
    copy[...] = array
    return copy


@pytest.mark.parametrize(
    "problem",
    [
        "conv2d:1x32x14x14:48x1x1:bias=true:activation=relu",
        "conv2d:1x3x33x33:32x3x3:stride=2:padding=1",
        "conv2d:1x12x9x9:12x3x3:groups=3",
        "depthwise_conv2d:1x40x19x19:40x3x3:padding=1",
        "conv2d_transpose:1x24x9x9:3x4x4:stride=2:padding=1",
        "conv2d_transpose:1x24x9x9:20x2x2:stride=2",
        "max_pool2d:1x24x19x19:3x3:stride=2:padding=1",
        "avg_pool2d:1x24x17x17:3x3:padding=1",
        "global_avg_pool2d:1x40x13x13",
        "dense:1x100:33:bias=true",
    ],
)
def test_any_address(problem: str) -> None:
    arrays = trial(Problem.parse(problem)).arrays
    x = arrays.pop("x").astype(np.float32)
    with tvmconv.compile(problem, params=arrays, threads=2) as module:
        (expected,) = module(x)
        for offset in (0, 4, 20, 60):
            y = placed(np.full_like(expected, np.nan), 64 - offset)
            module(placed(x, offset), out=[y])
            np.testing.assert_array_equal(y, expected)
