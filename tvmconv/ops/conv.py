"""Convolution: ``y[n,co,o] = sum over rc, k of x[n,g+rc,o*stride-low+k*dilation] * w[co,rc,k]``.

Standard, strided, dilated, grouped and pointwise, over one to three spatial axes. With the option
``flipped`` it is what mathematics calls a convolution, ``w[co,rc,K-1-k]`` in the sum; without it,
as in ONNX and in networks, the cross-correlation. Kernels know only one of them: the taps change
their order where the weight is packed.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tvmconv.kernel import REACH, KernelSpec
from tvmconv.ops import (
    Array,
    Family,
    Float64,
    PackedWeight,
    Shape,
    channels,
    expressions,
    importing,
    planes,
    summing,
    winograd,
)
from tvmconv.ops import family as shared
from tvmconv.ops import options as opt
from tvmconv.problem import Problem

if TYPE_CHECKING:
    from tvmconv.frontend.node import Builder, OnnxNode
    from tvmconv.graph.ir import Value

#: Elements of a narrow halo: along the last spatial axis, and along the others.
_COLUMN_REACH, _ROW_REACH = 7, 1


def validate(problem: Problem) -> None:
    """Refuse groups that do not divide the channels, padding and algorithms that cannot be."""
    shared.check_padding(problem)
    for name, count in (("input", problem.ci), ("output", problem.co)):
        if count % problem.groups:
            problem.fail("groups", f"must divide the {count} {name} channels,"
                         f" got {problem.groups}")  # fmt: skip
    if winograd.tile_outputs(problem) and not winograd.fits(problem):
        problem.fail("algorithm", f"{problem.option('algorithm')} is for filters of 3 taps"
                     " along some axis, with stride and groups 1 and less padding than the filter"
                     " spans, in float32")  # fmt: skip


def inputs(problem: Problem) -> dict[str, Shape]:
    """Shapes of the input, the weight (CO, CI/groups, kernel) and the bias."""
    weight = (problem.co, problem.ci // problem.groups, *problem.kernel)
    bias = {"bias": (problem.co,)} if problem.bias else {}
    return {"x": problem.input_shape, "weight": weight, **bias}


def taps(problem: Problem) -> int:
    """Terms an output element: taps of the kernel times channels of a group."""
    return prod(problem.kernel) * (problem.ci // problem.groups)


def correlate(problem: Problem, x: Array, weight: Float64) -> Float64:
    """Convolve by one matrix product a tap, each over a strided view of the padded input."""
    groups, pixels = problem.groups, prod(problem.out_spatial)
    padded = shared.padded(problem, x, 0.0)
    w = weight.reshape(groups, problem.co // groups, problem.ci // groups, *problem.kernel)
    y = np.zeros((problem.batch, groups, problem.co // groups, pixels))
    for tap in itertools.product(*map(range, problem.kernel)):
        read = shared.tap_view(problem, padded, tap)
        read = read.reshape(problem.batch, groups, problem.ci // groups, pixels)
        y += np.moveaxis(w, (0, 1, 2), (-3, -2, -1))[tap] @ read
    return y.reshape(problem.output_shape)


def reference(problem: Problem, arrays: Mapping[str, Array]) -> Float64:
    """Output before the activation."""
    weight = shared.as_read(problem, np.asarray(arrays["weight"], np.float64))
    y = correlate(problem, arrays["x"], weight)
    return shared.add_bias(problem, y, arrays)


def reach(problem: Problem) -> list[int]:
    """How far tiles may read beyond each axis where taps in the padding are skipped.

    It allows for tiles of two rows of eight, at stride 1: larger ones skip little.
    """
    return [_ROW_REACH] * (problem.rank - 1) + [_COLUMN_REACH]


def compute(spec: KernelSpec) -> list[Any]:
    """The sum over ``rc`` (trips over channels), ``rk0`` … (taps) and ``ri`` (inner channels).

    With the attribute ``shuffled``, the convolution reads the channel shuffle of ``x`` in so many
    groups; :mod:`tvmconv.graph.shuffle` sets it. With ``edges: "skip"`` the halo is no wider than
    :func:`reach`, and a schedule has to skip the taps beyond. Where the problem names
    that algorithm, it is computed as :mod:`tvmconv.ops.winograd` has it, and on planes as
    :mod:`tvmconv.ops.planes` has it.

    Arguments are ``x``, the weight of :func:`tvmconv.ops.channels.packed_shape`, the bias
    (slots, block) if there is one, the operands of the program, and the output.
    """
    from tvmconv._tvm import te

    p = shared.with_zeros(Problem.parse(spec.attrs["problem"]))
    if winograd.tile_outputs(p):
        return winograd.compute(spec)
    if spec.output.block == 1:
        return planes.compute(spec)
    x_layout, block = spec.inputs[0], spec.output.block
    plan = channels.channel_plan(p, x_layout.block, block)
    x = expressions.placeholder(x_layout, "x")
    shape = channels.packed_shape(p, x_layout.block, block)
    weight = te.placeholder(shape, x_layout.dtype, name="weight")
    bias = te.placeholder((spec.output.own_slots, block), name="bias") if p.bias else None
    together = summing.together(plan.trips, plan.step * prod(p.kernel))
    shuffled = spec.attrs.get("shuffled", 0)
    rc, rk = te.reduce_axis((0, together), "rc"), expressions.tap_axes(p)
    ri = te.reduce_axis((0, plan.step), "ri")

    def terms(index: tuple[Any, ...], first_trip: Any) -> Any:
        n, slot, *position, lane = index
        trip = first_trip + rc
        channel = channels.channel_start(p, plan, slot, block) + trip * plan.step + ri
        if shuffled:
            channel = channel % shuffled * (p.ci // shuffled) + channel // shuffled
        element = x_layout.at(x, n, channel, expressions.window(p, position, rk))
        product = expressions.product(element, weight[(slot, trip, *rk, ri, lane)])
        return te.sum(product, axis=[rc, *rk, ri])

    kind = "grouped" if any(plan.starts) else "contraction"
    attrs = expressions.window_attrs(p) | expressions.product_attrs(spec)
    if spec.attrs.get("edges") == "skip":
        pads = map(max, p.pads_low, p.pads_high)
        attrs[REACH] = [-1 if pad <= r else r for pad, r in zip(pads, reach(p), strict=True)]
    result = summing.summed(spec.output.iteration_shape, terms, plan.trips, together, kind, attrs)
    operands, output = expressions.finish(spec, lambda *index: result(*index), bias)
    return [x, weight, *([] if bias is None else [bias]), *operands, output]


def pack(spec: KernelSpec, constants: Sequence[Array]) -> list[Array]:
    """The weight and the bias as the kernel's algorithm reads them."""
    problem = Problem.parse(spec.attrs["problem"])
    constants = [shared.as_read(problem, constants[0]), *constants[1:]]
    if winograd.tile_outputs(problem):
        return winograd.pack(spec, constants)
    if spec.output.block == 1:
        return planes.pack(spec, constants)
    return channels.pack(spec, constants)


def packed_shape(problem: Problem, in_block: int, block: int) -> Shape:
    """Shape of the packed weight."""
    if block == 1:
        return planes.packed_shape(problem)
    return channels.packed_shape(problem, in_block, block)


def packed_element(
    problem: Problem, in_block: int, block: int, source: Any, index: Sequence[Any]
) -> Any:
    """Element of the packed weight as an expression of the weight as ONNX has it."""
    source = shared.AsRead(problem, source)
    if block == 1:
        return planes.packed_element(problem, source, index)
    return channels.packed_element(problem, in_block, block, source, index)


def check_weight(node: OnnxNode, x: Shape, weight: Shape) -> None:
    """Refuse a weight that does not fit the input or the attributes of a convolution."""
    rank, groups = importing.spatial_rank(node), node.int_attr("group", 1)
    if len(weight) != rank + 2:
        node.fail(f"weight must have {rank + 2} axes, has shape {weight}")
    if node.has("kernel_shape") and importing.kernel_shape(node, rank) != weight[2:]:
        kernel = node.ints_attr("kernel_shape")
        given = list(weight[2:])
        node.fail(f"attribute 'kernel_shape' {kernel} disagrees with the weight's {given}")
    if groups < 1:
        node.fail(f"attribute 'group' must be at least 1, is {groups}")
    if weight[1] * groups != x[1]:
        node.fail(f"input has {x[1]} channels, but the weight takes {weight[1]} in each of"
                  f" {groups} groups")  # fmt: skip


def import_conv(node: OnnxNode, builder: Builder) -> Value:
    """ONNX ``Conv``; one with as many groups as input channels, more than one, is depthwise."""
    node.allow_attrs("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    x, weight, bias = node.input(0), node.input(1), node.optional(2)
    rank, groups = importing.spatial_rank(node), node.int_attr("group", 1)
    shape = weight.shape
    check_weight(node, x.shape, shape)
    if bias is not None and bias.shape != (shape[0],):
        node.fail(f"bias must have shape ({shape[0]},), has {bias.shape}")
    options = importing.window_options(node, rank)
    depthwise = groups == x.shape[1] > 1
    if not depthwise:
        options["groups"] = groups
    operands = [x, weight] if bias is None else [x, weight, bias]
    op = "depthwise_conv" if depthwise else "conv"
    return importing.emit(node, builder, op, operands, (shape[0], *shape[2:]), options)


FAMILY = Family(
    filter_form=("CO", "K"),
    options=(
        opt.STRIDE,
        opt.PADDING,
        opt.PADDING_MODE,
        opt.DILATION,
        opt.GROUPS,
        opt.FLIPPED,
        opt.BIAS,
        opt.ACTIVATION,
        opt.ALGORITHM,
        opt.DTYPE,
    ),
    validate=validate,
    inputs=inputs,
    out_spatial=shared.out_spatial,
    taps=taps,
    reference=reference,
)

CASES = (
    ("conv2d:1x3x224x224:64x7x7:stride=2:padding=3", "ResNet-50 conv1"),
    ("conv2d:1x64x56x56:64x1x1", "ResNet-50 res2a_branch2a"),
    ("conv2d:1x64x56x56:64x3x3:padding=1:bias=true:activation=relu", "ResNet-50 res2a_branch2b"),
    ("conv2d:1x64x56x56:256x1x1", "ResNet-50 res2a_branch2c"),
    ("conv2d:1x256x56x56:512x1x1:stride=2", "ResNet-50 res3a_branch1"),
    ("conv2d:1x512x7x7:512x3x3:padding=1", "ResNet-50 res5b_branch2b"),
    ("conv2d:1x64x112x112:128x3x3:padding=1", "VGG-19 conv2_1"),
    ("conv2d:1x96x27x27:256x5x5:padding=2:groups=2", "AlexNet conv2"),
    ("conv2d:1x3x224x224:96x11x11:stride=4:bias=true", "AlexNet conv1"),
    ("conv2d:1x128x28x28:128x3x3:padding=1:groups=32", "ResNeXt-50 32x4d conv3"),
    ("conv2d:1x136x28x28:136x1x1:groups=4", "ShuffleNet v1 stage 3: no block divides a group"),
    ("conv2d:1x64x28x28:64x3x3:padding=2:dilation=2", "DeepLab v3 atrous"),
    ("conv2d:2x16x9x9:24x3x3:padding=1:activation=silu", "EfficientNet's activation"),
    ("conv2d:1x64x28x28:64x3x3:padding=1:algorithm=winograd4", "VGG-like, on transformed tiles"),
    ("conv1d:1x64x1000:64x9:padding=16:dilation=4", "WaveNet-like dilated 1-D"),
    ("conv1d:2x1x101:8x5:stride=3:padding=1,2", "one input channel, asymmetric padding"),
    ("conv3d:1x3x8x56x56:64x3x7x7:stride=1,2,2:padding=1,3,3", "R3D-18 stem"),
    ("conv2d:1x1x1x1:1x1x1", "one element"),
    ("conv2d:1x5x7x7:3x3x3:stride=5", "stride longer than the kernel, channels 5 to 3"),
    ("conv2d:1x8x1x1:16x3x3:padding=1", "one-pixel map, all but the middle tap in padding"),
    ("conv2d:1x8x6x7:8x2x4:padding=0,1,1,2:stride=2,1", "even kernel, asymmetric padding"),
    ("conv2d:1x3x10x10:8x3x3:stride=2:padding=same_upper", "TensorFlow's SAME, extra at the end"),
    ("conv2d:1x3x10x10:8x3x3:stride=2:padding=same_lower", "SAME_LOWER, extra at the beginning"),
    ("conv2d:3x17x13x11:19x3x3:padding=1", "prime sizes, batch 3"),
    ("conv2d:1x20x9x10:24x3x2:padding=1,0:flipped=true:bias=true", "true convolution"),
    ("conv2d:1x48x28x28:48x3x3:padding=1:flipped=true:algorithm=winograd4", "true, transformed"),
    ("conv1d:1x6x40:9x4:stride=2:groups=3:flipped=true", "true convolution in groups"),
    ("conv2d:1x4x5x5:4x3x3:padding=3", "padding as long as the kernel: outputs of padding alone"),
)

BAD_CASES = (
    ("conv2d:1x64x56x56:64x3x3:dilation=0", "dilation must be at least 1, got 0"),
    ("conv2d:1x64x56x56:64x3x3:stride=0,1", "stride must be at least 1, got 0"),
    ("conv2d:1x64x56x56:64x3x3:padding=-1", "padding must be at least 0, got -1"),
    ("conv2d:1x64x56x56:64x3x3:padding=1,1,1", "padding must have 1 or 2 or 4 values, got 3"),
    ("conv2d:1x64x56x56:64x3x3:padding=sane", "padding must be integers, same_upper, same_lower"),
    ("conv2d:1x64x56x56:64x3x3:groups=3", "groups must divide the 64 input channels, got 3"),
    ("conv2d:1x64x56x56:72x3x3:groups=16", "groups must divide the 72 output channels, got 16"),
    ("conv2d:1x8x8x8:8x1x1:stride=4:padding=same_upper", "padding same_upper is ambiguous in ONNX"),
    ("conv2d:1x64x2x2:64x3x3", "the output would have size 0"),
    ("conv2d:1x0x56x56:64x3x3", "input sizes must be positive integers, got 0"),
    ("conv2d:1x64x56x2147483648:64x3x3", "input sizes must be at most 2147483647"),
    ("conv2d:1x65536x65536x65536:1x1x1", "x of shape 1x65536x65536x65536 is too large"),
    ("conv2d:1x64x56x56:64x3", "filter must have 3 sizes (COxKxK), got 2"),
    ("conv2d:1x64x56:64x3x3", "input must have 4 sizes, got 3"),
    ("conv2d:1x64x56x56", "filter sizes are missing"),
    ("conv2d:1x64x56x56:64x3x3:strides=2", "option 'strides' is unknown; did you mean stride?"),
    ("conv2d:1x64x56x56:64x3x3:stride=2:stride=2", "stride is given twice"),
    (
        "conv2d:1x64x56x56:64x3x3:dtype=float8",
        "dtype must be one of float32, float16, bf",
    ),
    ("conv2d:1x64x56x56:64x3x3:activation=rellu", "did you mean relu"),
    ("conv2d:1x64x56x56:64x3x3:bias=yes", "bias must be true or false, got 'yes'"),
    ("conv2d:1x8x9x9:8x3x3:dilation=2000000000", "dilation makes the filter span 4000000001"),
    ("conv2d:1x64x56x56:64x3x3:algorithm=fft", "algorithm must be one of auto, direct, winograd2"),
    ("conv2d:1x64x56x56:64x5x5:algorithm=winograd2", "algorithm winograd2 is for filters of 3"),
    (
        "conv2d:1x8x9x9:8x3x3:stride=2:algorithm=winograd2",
        "along some axis, with stride and groups",
    ),
    ("conv2d:1x8x9x9:8x3x3:padding=3:algorithm=winograd4", "less padding than the filter spans"),
    ("conv2d:1x8x9x9:8x3x3:flipped=maybe", "flipped must be true or false, got 'maybe'"),
    ("convd2:1x64x56x56:64x3x3", "unknown operator 'convd2'; did you mean conv"),
)

shared.register_family(
    "conv",
    "convolution: standard, strided, dilated, grouped, pointwise",
    FAMILY,
    ranks=(1, 2, 3),
    onnx={"Conv": import_conv},
    cases=CASES,
    bad_cases=BAD_CASES,
    compute=compute,
    pack=pack,
    packed_weight=PackedWeight(packed_shape, packed_element),
    layout="any",
    planes=True,
)
