"""Adaptive maximum pooling: the maximum over windows that share the input out among the outputs.

The windows are those of :mod:`tvmconv.ops.adaptive_avg_pool`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tvmconv.kernel import KernelSpec
from tvmconv.ops import Array, Float64, adaptive_avg_pool, resampling, resampling_kernel
from tvmconv.ops import family as shared
from tvmconv.problem import Problem


def reference(problem: Problem, arrays: Mapping[str, Array]) -> Float64:
    """The maximum of each window."""
    return adaptive_avg_pool.pooled(problem, arrays["x"], np.max)


def compute(spec: KernelSpec) -> list[Any]:
    """The maximum of rows, then of columns."""
    axes = adaptive_avg_pool.axes_of(Problem.parse(spec.attrs["problem"]), False)
    return resampling_kernel.compute(spec, axes, "max")


def pack(spec: KernelSpec, constants: Sequence[Array]) -> list[Array]:
    """The tables of places."""
    axes = adaptive_avg_pool.axes_of(Problem.parse(spec.attrs["problem"]), False)
    return resampling.tables(axes, spec.output.block == 1)


FAMILY = replace(adaptive_avg_pool.FAMILY, reference=reference, arithmetic="maximum")

CASES = (
    ("adaptive_max_pool2d:1x64x7x9:3x3", "windows of several extents"),
    ("adaptive_max_pool2d:1x256x13x13:1x1", "global"),
    ("adaptive_max_pool2d:2x5x8x6:4x3", "windows that divide the input"),
    ("adaptive_max_pool1d:1x16x50:7", "1-D"),
    ("adaptive_max_pool3d:1x8x4x9x7:2x4x3", "3-D"),
)

BAD_CASES = (
    ("adaptive_max_pool2d:1x8x9x9:3", "filter must have 2 sizes (KxK), got 1"),
    ("adaptive_max_pool2d:1x8x9x9:3x3:padding=1", "option 'padding' is unknown"),
)

shared.register_family(
    "adaptive_max_pool",
    "maximum over windows that share the input out",
    FAMILY,
    ranks=(1, 2, 3),
    onnx={},
    cases=CASES,
    bad_cases=BAD_CASES,
    compute=compute,
    pack=pack,
    planes=True,
)
