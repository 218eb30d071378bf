"""Depthwise convolution: each input channel has ``multiplier`` filters of its own.

``y[n,co,o] = sum over k of x[n, co // multiplier, o*stride - low + k*dilation] * w[co,0,k]``
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from tvmconv.ops import Array, Float64, conv
from tvmconv.ops import family as shared
from tvmconv.ops import options as opt
from tvmconv.problem import Problem


def validate(problem: Problem) -> None:
    """Refuse output channels that are no multiple of the input channels."""
    if problem.co % problem.ci:
        problem.fail("filter", f"must have a multiple of the {problem.ci} input channels,"
                     f" got {problem.co}")  # fmt: skip


def correlate(problem: Problem, x: Array, weight: Float64) -> Float64:
    """Convolve by a product of all windows with their filters, summed over the kernel's axes."""
    windows = shared.window_view(problem, shared.padded(problem, x, 0.0))
    filters = weight.reshape(problem.ci, -1, *problem.kernel)
    out, kernel = "opq"[: problem.rank], "xyz"[: problem.rank]
    y = np.einsum(f"nc{out}{kernel},cm{kernel}->ncm{out}", windows, filters, optimize=False)
    return np.asarray(y, np.float64).reshape(problem.output_shape)


def reference(problem: Problem, arrays: Mapping[str, Array]) -> Float64:
    """Output before the activation."""
    y = correlate(problem, arrays["x"], np.asarray(arrays["weight"], np.float64))
    return shared.add_bias(problem, y, arrays)


FAMILY = replace(
    conv.FAMILY,
    options=tuple(option for option in conv.FAMILY.options if option is not opt.GROUPS),
    validate=validate,
    reference=reference,
    depthwise=True,
)

CASES = (
    ("depthwise_conv2d:1x32x112x112:32x3x3:padding=1", "MobileNet v1 conv2_1/dw"),
    (
        "depthwise_conv2d:1x144x56x56:144x3x3:stride=2:padding=1:bias=true:activation=relu6",
        "MobileNet v2 block 3, batch norm folded",
    ),
    ("depthwise_conv2d:1x68x28x28:68x3x3:padding=1", "ShuffleNet v1: no block divides 68"),
    ("depthwise_conv2d:1x96x14x14:96x7x7:padding=3:bias=true", "ConvNeXt-T stage 1"),
    ("depthwise_conv2d:1x240x14x14:240x5x5:stride=2:padding=1,1,2,2", "EfficientNet-B0, SAME"),
    ("depthwise_conv2d:1x8x9x9:24x3x3:padding=1", "channel multiplier 3"),
    ("depthwise_conv2d:2x16x20x20:16x3x3:padding=3:dilation=3", "dilated"),
    ("depthwise_conv2d:1x3x5x5:3x1x1", "a 1x1 kernel scales channels"),
    ("depthwise_conv2d:1x1x6x6:4x3x3", "one input channel: an ordinary convolution"),
    ("depthwise_conv1d:1x64x200:64x7:padding=6,0", "causal temporal convolution"),
    ("depthwise_conv3d:1x16x4x10x10:16x3x3x3:padding=1", "X3D-like"),
)

BAD_CASES = (
    ("depthwise_conv2d:1x32x9x9:48x3x3", "filter must have a multiple of the 32 input channels"),
    ("depthwise_conv2d:1x32x9x9:32x3x3:groups=32", "option 'groups' is unknown"),
    ("depthwise_conv2d:1x32x9x9:32x3x3:dilation=-2", "dilation must be at least 1, got -2"),
    ("depthwise_conv2d:1x32x1x9:32x3x3", "the output would have size 0"),
)

shared.register_family(
    "depthwise_conv",
    "depthwise convolution, with a channel multiplier",
    FAMILY,
    ranks=(1, 2, 3),
    onnx={},
    cases=CASES,
    bad_cases=BAD_CASES,
)
