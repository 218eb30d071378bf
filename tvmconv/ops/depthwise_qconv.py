"""Depthwise convolution of bytes: each input channel has filters of its own; sums are int32.

``y[n,co,o] = sum over k of (x[n, co // multiplier, ...] - zero_point) * w[co,0,k]``. The types, the
zero points and the scale are those of :mod:`tvmconv.ops.qconv`; the kernel extends bytes to words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tvmconv.kernel import KIND, KernelSpec
from tvmconv.ops import Array, Float64, depthwise_conv, expressions, qconv, quantize
from tvmconv.ops import family as shared
from tvmconv.ops import options as opt
from tvmconv.problem import Problem


def validate(problem: Problem) -> None:
    """Refuse what depthwise_conv refuses, and zero points beyond the bytes."""
    depthwise_conv.validate(problem)
    qconv.validate(problem)


def reference(problem: Problem, arrays: Mapping[str, Array]) -> Float64:
    """The sums, exact in float64, or what they are quantised to."""
    x = np.asarray(arrays["x"], np.float64) - float(problem.option("zero_point"))
    y = depthwise_conv.correlate(problem, x, np.asarray(arrays["weight"], np.float64))
    return quantize.requantized(problem, shared.add_bias(problem, y, arrays))


def pack(spec: KernelSpec, constants: Sequence[Array]) -> list[Array]:
    """The weight (slots, *kernel, block), and the bias less what the zero point adds."""
    problem = Problem.parse(spec.attrs["problem"])
    weight = constants[0].astype(np.int16)
    packed, *_ = depthwise_conv.pack(spec, [weight])
    zero = int(problem.option("zero_point"))
    return [packed, *qconv.packed_bias(problem, weight, constants[1:], spec, zero)]


def compute(spec: KernelSpec) -> list[Any]:
    """The sum over the taps ``rk0`` …, channel by channel.

    Arguments are ``x``, the weight, the bias (slots, block) if there is a bias or a zero point, the
    operands of the program, and the output.
    """
    from tvmconv._tvm import te

    p = Problem.parse(spec.attrs["problem"])
    x_layout, out = spec.inputs[0], spec.output
    x = expressions.placeholder(x_layout, "x")
    shape = depthwise_conv.packed_shape(p, x_layout.block, out.block)
    weight = te.placeholder(shape, "int16", name="weight")
    bias = None
    if p.bias or p.option("zero_point"):
        bias = te.placeholder((out.own_slots, out.block), "int32", name="bias")
    taps = expressions.tap_axes(p)
    channel_at = depthwise_conv.channel_reader(p, x_layout, out, x)

    def body(*index: Any) -> Any:
        n, slot, *position, lane = index
        place = expressions.window(p, position, taps)
        element = channel_at(n, slot, place, lane).astype("int32")
        return te.sum(element * weight[(slot, *taps, lane)].astype("int32"), axis=taps)

    conv = te.compute(out.iteration_shape, body, name="depthwise", attrs={KIND: "window"})
    operands, output = expressions.finish(spec, lambda *index: conv(*index), bias)
    return [x, weight, *([] if bias is None else [bias]), *operands, output]


FAMILY = replace(
    qconv.FAMILY,
    options=tuple(option for option in qconv.FAMILY.options if option is not opt.GROUPS),
    validate=validate,
    reference=reference,
    depthwise=True,
)

CASES = (
    (
        "depthwise_qconv2d:1x144x28x28:144x3x3:stride=2:padding=1:bias=true:zero_point=128:"
        "scale=0.001:out_zero_point=3",
        "MobileNet v2 block 3",
    ),
    ("depthwise_qconv2d:1x68x14x14:68x3x3:padding=1:dtype=int8:zero_point=-5", "signed x"),
    (
        "depthwise_qconv2d:1x8x9x9:24x3x3:padding=1:zero_point=200:weight_terms=3",
        "channel multiplier 3",
    ),
    ("depthwise_qconv2d:2x16x12x12:16x5x3:padding=3:dilation=2,3", "dilated"),
    ("depthwise_qconv1d:1x64x50:64x7:padding=6,0:scale=0.002", "causal temporal convolution"),
    ("depthwise_qconv3d:1x16x4x6x6:16x3x3x3:padding=1:dtype=int8", "X3D-like"),
)

BAD_CASES = (
    ("depthwise_qconv2d:1x32x9x9:48x3x3", "filter must have a multiple of the 32 input channels"),
    ("depthwise_qconv2d:1x32x9x9:32x3x3:groups=32", "option 'groups' is unknown"),
    ("depthwise_qconv2d:1x32x9x9:32x3x3:zero_point=300", "zero_point must be -128 to 255"),
)

shared.register_family(
    "depthwise_qconv",
    "depthwise convolution of bytes with 32-bit sums",
    FAMILY,
    ranks=(1, 2, 3),
    onnx={},
    cases=CASES,
    bad_cases=BAD_CASES,
    compute=compute,
    pack=pack,
)
