"""Sums of bytes over windows, in int32: ``sum over k of (x[n, c, ...] - zero_point)``.

An average of dequantised numbers is such a sum, times the scale over the number of its terms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from tvmconv.kernel import KIND, KernelSpec
from tvmconv.ops import Array, Float64, expressions, max_pool, quantize
from tvmconv.ops import family as shared
from tvmconv.ops import options as opt
from tvmconv.problem import Problem


def dtypes(problem: Problem) -> dict[str, str]:
    """Element types by name."""
    return {"x": problem.dtype, "output": "int32"}


def validate(problem: Problem) -> None:
    """Refuse what max_pool refuses, and a zero point beyond the bytes."""
    max_pool.validate(problem)
    quantize.check_zero_point(problem, "zero_point")


def reference(problem: Problem, arrays: Mapping[str, Array]) -> Float64:
    """Sum over each window; padding adds nothing."""
    axes = tuple(range(-problem.rank, 0))
    x = np.asarray(arrays["x"], np.float64) - float(problem.option("zero_point"))
    return np.asarray(shared.window_view(problem, shared.padded(problem, x, 0.0)).sum(axis=axes))


def compute(spec: KernelSpec) -> list[Any]:
    """The sum over the taps ``rk0`` …, less the zero point of each; the halo holds that as well."""
    from tvmconv._tvm import te

    p = Problem.parse(spec.attrs["problem"])
    x_layout = spec.inputs[0]
    x = expressions.placeholder(x_layout, "x")
    taps = expressions.tap_axes(p)

    def body(*index: Any) -> Any:
        n, slot, *position, lane = index
        place = expressions.window(p, position, taps)
        element = x_layout.at_slot(x, n, slot, place, (lane,))
        return te.sum(element.astype("int32"), axis=taps)

    pool = te.compute(spec.output.iteration_shape, body, name="pool", attrs={KIND: "window"})
    zeros = int(p.option("zero_point")) * prod(p.kernel)
    operands, output = expressions.finish(spec, lambda *index: pool(*index) - zeros)
    return [x, *operands, output]


FAMILY = replace(
    max_pool.FAMILY,
    options=(
        opt.STRIDE,
        opt.PADDING,
        opt.DILATION,
        opt.CEIL_MODE,
        opt.BYTE_DTYPE,
        opt.ZERO_POINT,
    ),
    validate=validate,
    reference=reference,
    arithmetic="sum",
    dtypes=dtypes,
)

CASES = (
    ("sum_pool2d:1x64x7x7:7x7:zero_point=12", "ResNet-50 pool5"),
    ("sum_pool2d:1x24x15x15:3x3:stride=2:padding=1:zero_point=128", "ShuffleNet v1 shortcut"),
    ("sum_pool2d:1x17x9x8:2x3:stride=2:ceil_mode=true:dtype=int8:zero_point=-9", "ceil mode"),
    ("sum_pool1d:2x8x21:3:padding=1,0", "asymmetric padding"),
    ("sum_pool3d:1x4x6x7x7:2x3x3:dtype=int8", "3-D"),
)

BAD_CASES = (
    ("sum_pool2d:1x8x9x9:3x3:padding=3", "padding must be less than the window's extent 3"),
    ("sum_pool2d:1x8x9x9:3x3:dtype=int8:zero_point=200", "zero_point must be -128 to 127"),
)

shared.register_family(
    "sum_pool",
    "sums of bytes over windows, in 32 bits",
    FAMILY,
    ranks=(1, 2, 3),
    onnx={},
    cases=CASES,
    bad_cases=BAD_CASES,
    compute=compute,
)
