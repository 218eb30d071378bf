"""Adaptive average pooling: the mean over windows that share the input out among the outputs.

With I inputs and O outputs along an axis, output ``o`` is the mean of the inputs from
``floor(o*I/O)`` up to ``ceil((o+1)*I/O)``.

References
----------
PyTorch's ``AdaptiveAvgPool2d``; ONNX has no such operator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tvmconv.kernel import KernelSpec
from tvmconv.ops import Array, Family, Float64, resampling, resampling_kernel
from tvmconv.ops import family as shared
from tvmconv.ops import options as opt
from tvmconv.ops.resampling import Axis
from tvmconv.problem import Problem


def windows_of(size: int, count: int) -> list[tuple[int, int]]:
    """The first and last input, that included, of each output."""
    return [(o * size // count, -(-(o + 1) * size // count) - 1) for o in range(count)]


def axes_of(problem: Problem, mean: bool) -> list[Axis]:
    """The spatial axes: places beyond a window's end are its last one, of weight 0 in a mean."""
    found = []
    for size, count in zip(problem.in_spatial, problem.kernel, strict=True):
        first, last = np.array(windows_of(size, count)).T
        taps = np.arange((last - first).max() + 1)[:, None]
        weights = np.where(first + taps <= last, 1.0 / (last - first + 1), 0.0)
        places = np.minimum(first + taps, last)
        plain = not mean or (weights == 1).all()
        found.append(Axis(size, places, None if plain else weights))
    return found


def pooled(problem: Problem, x: Array, reduce: Any) -> Float64:
    """Every window reduced on its own."""
    y = np.zeros(problem.output_shape)
    bounds = [
        windows_of(size, count)
        for size, count in zip(problem.in_spatial, problem.kernel, strict=True)
    ]
    axes = tuple(range(2, 2 + problem.rank))
    for place in np.ndindex(*problem.kernel):
        cuts = (slice(b[o][0], b[o][1] + 1) for b, o in zip(bounds, place, strict=True))
        window = x[(slice(None), slice(None), *cuts)]
        y[(slice(None), slice(None), *place)] = reduce(window.astype(np.float64), axis=axes)
    return y


def reference(problem: Problem, arrays: Mapping[str, Array]) -> Float64:
    """The mean of each window."""
    return pooled(problem, arrays["x"], np.mean)


def compute(spec: KernelSpec) -> list[Any]:
    """Sums of rows, then of columns, with the reciprocal of each window's extent as weight."""
    return resampling_kernel.compute(spec, axes_of(Problem.parse(spec.attrs["problem"]), True))


def pack(spec: KernelSpec, constants: Sequence[Array]) -> list[Array]:
    """The tables of places and weights."""
    axes = axes_of(Problem.parse(spec.attrs["problem"]), True)
    return resampling.tables(axes, spec.output.block == 1)


FAMILY = Family(
    filter_form=("K",),
    options=(opt.DTYPE,),
    validate=lambda problem: None,
    inputs=lambda problem: {"x": problem.input_shape},
    out_spatial=lambda problem: problem.kernel,
    taps=lambda problem: resampling.terms(axes_of(problem, True)),
    reference=reference,
    arithmetic="mean",
    windows=False,
)

CASES = (
    ("adaptive_avg_pool2d:1x64x7x9:3x3", "windows of several extents"),
    ("adaptive_avg_pool2d:1x256x13x13:6x6", "AlexNet of torchvision, another input size"),
    ("adaptive_avg_pool2d:1x32x12x12:6x6", "windows that divide the input"),
    ("adaptive_avg_pool2d:2x5x8x6:1x1", "global"),
    ("adaptive_avg_pool2d:1x20x3x4:5x4", "more outputs than inputs"),
    ("adaptive_avg_pool1d:1x16x50:7", "1-D"),
    ("adaptive_avg_pool3d:1x8x4x9x7:2x4x3", "3-D"),
)

BAD_CASES = (
    ("adaptive_avg_pool2d:1x8x9x9:3", "filter must have 2 sizes (KxK), got 1"),
    ("adaptive_avg_pool2d:1x8x9x9:0x3", "filter sizes must be positive integers, got 0"),
    ("adaptive_avg_pool2d:1x8x9x9:3x3:stride=2", "option 'stride' is unknown"),
)

shared.register_family(
    "adaptive_avg_pool",
    "mean over windows that share the input out",
    FAMILY,
    ranks=(1, 2, 3),
    onnx={},
    cases=CASES,
    bad_cases=BAD_CASES,
    compute=compute,
    pack=pack,
    planes=True,
)
