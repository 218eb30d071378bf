"""Convolution of bytes: ``y[n,co,o] = sum over rc, k of (x[...] - zero_point) * w[co,rc,k]``.

x is uint8 or int8, w is int8, sums are int32 and exact. ONNX's ConvInteger, QLinearConv,
MatMulInteger and QLinearMatMul become it, as do convolutions between dequantised tensors. With
``scale`` the sum is quantised again:

    y = saturate(round(float32(sum) * scale) + out_zero_point),

half to even, in the element type of x; otherwise y is int32.

The kernel multiplies words of four unsigned bytes with words of four signed ones
(:mod:`tvmconv.te_dot`). A signed x is read with 128 added, the zero point is taken out by what it
adds to every sum, which is known with the weights, and the halo holds the zero point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tvmconv.kernel import DOTS, KIND, KernelSpec
from tvmconv.ops import (
    Array,
    Family,
    Float64,
    conv,
    expressions,
    qlinear,
    quads,
    quantize,
)
from tvmconv.ops import family as shared
from tvmconv.ops import options as opt
from tvmconv.problem import Problem
from tvmconv.te_dot import dot

#: A byte that is added to a signed one, or its sign bit turned over, makes an unsigned one.
_SIGNED_OFFSET = 128
_SIGN_BITS = np.int32(-2139062144)  # 0x80 in each byte


def dtypes(problem: Problem) -> dict[str, str]:
    """Element types by name."""
    weight = "int8" if problem.option("weight_terms") == 1 else "int16"
    output = problem.dtype if problem.option("scale") else "int32"
    return {"x": problem.dtype, "weight": weight, "bias": "int32", "output": output}


def validate(problem: Problem) -> None:
    """Refuse what conv refuses, zero points beyond the bytes, sums beyond 32 bits."""
    for name, count in (("input", problem.ci), ("output", problem.co)):
        if count % problem.groups:
            problem.fail("groups", f"must divide the {count} {name} channels,"
                         f" got {problem.groups}")  # fmt: skip
    for option in ("zero_point", "out_zero_point"):
        quantize.check_zero_point(problem, option)
    if not problem.option("scale") and problem.option("out_zero_point"):
        problem.fail("out_zero_point", "needs a scale: without one the output is int32")


def reference(problem: Problem, arrays: Mapping[str, Array]) -> Float64:
    """The sums, exact in float64, or what they are quantised to."""
    x = np.asarray(arrays["x"], np.float64) - float(problem.option("zero_point"))
    y = conv.correlate(problem, x, np.asarray(arrays["weight"], np.float64))
    return quantize.requantized(problem, shared.add_bias(problem, y, arrays))


def offset(problem: Problem) -> int:
    """What the zero point is of x as the kernel reads it, without a sign."""
    return int(problem.option("zero_point")) + (_SIGNED_OFFSET if problem.dtype == "int8" else 0)


def has_bias(problem: Problem) -> bool:
    """Whether the kernel adds a number for each channel: a bias, or what the zero point takes."""
    return problem.bias or offset(problem) != 0


def compute(spec: KernelSpec) -> list[Any]:
    """The sum over ``rc`` (trips over quads), ``rk0`` … (taps) and ``ri`` (inner quads).

    Arguments are ``x`` in words, the weight of :func:`tvmconv.ops.quads.packed_shape`, the bias of
    :func:`packed_bias` if there is one, the operands of the program, and the output.
    """
    from tvmconv._tvm import te, tirx

    p = Problem.parse(spec.attrs["problem"])
    block, terms = spec.output.block, p.option("weight_terms")
    words = spec.inputs[0].words
    plan = quads.quad_plan(p, spec.inputs[0].block, block)
    x = expressions.placeholder(words, "x")
    shape = quads.packed_shape(p, spec.inputs[0].block, block, terms)
    weight = te.placeholder(shape, "int32", name="weight")
    bias = None
    if has_bias(p):
        bias = te.placeholder((spec.output.own_slots, block), "int32", name="bias")
    rc, rk = te.reduce_axis((0, plan.trips), "rc"), expressions.tap_axes(p)
    ri = te.reduce_axis((0, plan.step * terms), "ri")

    def body(*index: Any) -> Any:
        n, slot, *position, lane = index
        quad = quads.quad_start(p, plan, slot, block) + rc * plan.step + ri // terms
        element = words.at(x, n, quad, expressions.window(p, position, rk))
        if p.dtype == "int8":
            element = element ^ tirx.const(int(_SIGN_BITS), "int32")
        return te.sum(dot(element, weight[(slot, rc, *rk, ri, lane)]), axis=[rc, *rk, ri])

    kind = "grouped" if any(plan.starts) else "contraction"
    # Padding may be skipped where it adds nothing to the sums.
    attrs = {} if offset(p) else expressions.window_attrs(p)
    result = te.compute(
        spec.output.iteration_shape, body, name="conv", attrs={KIND: kind, DOTS: 1, **attrs}
    )
    operands, output = expressions.finish(spec, lambda *index: result(*index), bias)
    return [x, weight, *([] if bias is None else [bias]), *operands, output]


def pack(spec: KernelSpec, constants: Sequence[Array]) -> list[Array]:
    """The weight in words, and the bias less what the zero point adds to the sums."""
    problem = Problem.parse(spec.attrs["problem"])
    terms = problem.option("weight_terms")
    block, in_block = spec.output.block, spec.inputs[0].block
    weight = constants[0].reshape(problem.co, -1, *problem.kernel)
    packed = quads.pack_weight(weight, problem, in_block, block, terms)
    return [packed, *packed_bias(problem, weight, constants[1:], spec, offset(problem))]


def packed_bias(
    problem: Problem, weight: Array, biases: Sequence[Array], spec: KernelSpec, zero: int
) -> list[Array]:
    """The bias (slots, block) in int32, less ``zero`` times the sum of each channel's weights."""
    if not (zero or problem.bias):
        return []
    sums = weight.reshape(problem.co, -1).astype(np.int64).sum(axis=1)
    bias = -zero * sums + sum(b.astype(np.int64) for b in biases)
    wrapped = bias.astype(np.int32)
    return [expressions.pack_channels(wrapped, spec.output.own_slots, spec.output.block)]


FAMILY = Family(
    filter_form=("CO", "K"),
    options=(
        opt.STRIDE,
        opt.PADDING,
        opt.DILATION,
        opt.GROUPS,
        opt.BIAS,
        opt.BYTE_DTYPE,
        opt.ZERO_POINT,
        opt.WEIGHT_TERMS,
        opt.SCALE,
        opt.OUT_ZERO_POINT,
    ),
    validate=validate,
    inputs=conv.inputs,
    out_spatial=shared.out_spatial,
    taps=conv.taps,
    reference=reference,
    dtypes=dtypes,
)

CASES = (
    ("qconv2d:1x64x28x28:64x3x3:padding=1:zero_point=3:scale=0.0004", "ResNet-50 3x3, requantised"),
    ("qconv2d:1x3x56x56:64x7x7:stride=2:padding=3:zero_point=114", "ResNet-50 conv1"),
    ("qconv2d:1x64x14x14:256x1x1:bias=true:dtype=int8:scale=0.002:out_zero_point=-7", "signed x"),
    ("qconv2d:1x96x13x13:48x5x5:padding=2:groups=2:zero_point=128", "AlexNet conv2, grouped"),
    ("qconv2d:1x68x9x9:20x1x1:groups=4:dtype=int8:zero_point=5", "no quad divides a group"),
    ("qconv2d:1x24x9x9:36x3x3:groups=12:padding=1:bias=true", "groups of two input channels"),
    ("qconv2d:3x17x13x11:19x3x3:padding=1:zero_point=255", "prime sizes, batch 3"),
    ("qconv2d:1x16x9x9:24x3x3:padding=2:dilation=2:weight_terms=3", "unsigned weights, zero at 0"),
    ("qconv2d:1x24x10x9:16x2x4:padding=0,1,1,2:stride=2,1:weight_terms=2", "asymmetric padding"),
    ("qconv2d:1x4x5x5:4x3x3:padding=3:dtype=int8:zero_point=-128", "outputs of padding alone"),
    ("qconv1d:1x64x100:24x9:padding=16:dilation=4:zero_point=9:scale=0.001", "dilated 1-D"),
    ("qconv3d:1x3x5x9x9:16x3x3x3:stride=1,2,2:padding=1:zero_point=77", "3-D"),
    ("qconv2d:1x1x1x1:1x1x1", "one element"),
)

BAD_CASES = (
    ("qconv2d:1x64x56x56:64x3x3:groups=3", "groups must divide the 64 input channels, got 3"),
    ("qconv2d:1x64x56x56:64x3x3:dtype=float32", "dtype must be one of uint8, int8"),
    ("qconv2d:1x64x56x56:64x3x3:zero_point=-1", "zero_point must be 0 to 255 for uint8, got -1"),
    ("qconv2d:1x64x56x56:64x3x3:dtype=int8:zero_point=128", "zero_point must be -128 to 127"),
    ("qconv2d:1x64x56x56:64x3x3:out_zero_point=1", "out_zero_point needs a scale"),
    ("qconv2d:1x64x56x56:64x3x3:scale=-1", "scale must be a positive number"),
    ("qconv2d:1x64x56x56:64x3x3:weight_terms=4", "weight_terms must be 1 to 3"),
)

shared.register_family(
    "qconv",
    "convolution of bytes with 32-bit sums (ConvInteger, QLinearConv)",
    FAMILY,
    ranks=(1, 2, 3),
    onnx=qlinear.IMPORTERS,
    cases=CASES,
    bad_cases=BAD_CASES,
    compute=compute,
    pack=pack,
    words=True,
)
