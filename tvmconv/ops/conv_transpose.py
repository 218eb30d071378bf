"""Transposed convolution: ``y[n,co,i*stride+k*dilation-low] += x[n,ci,i] * w[ci,co,k]``.

Over one to three spatial axes, grouped or not. It is computed phase by phase
(:mod:`tvmconv.ops.phases`): the outputs of one residue class modulo the stride are a convolution of
stride 1 with a subset of the taps, so that the multiply-adds are those of the definition.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tvmconv.kernel import KernelSpec
from tvmconv.ops import (
    Array,
    Family,
    Float64,
    PackedWeight,
    Shape,
    importing,
    phase_blocks,
    phase_planes,
    phases,
)
from tvmconv.ops import family as shared
from tvmconv.ops import options as opt
from tvmconv.problem import Problem

if TYPE_CHECKING:
    from tvmconv.frontend.node import Builder, OnnxNode
    from tvmconv.graph.ir import Value

# --- the problem


def validate(problem: Problem) -> None:
    """Refuse groups that do not divide the channels, long output padding and a very long stride."""
    for name, count in (("input", problem.ci), ("output", problem.co)):
        if count % problem.groups:
            problem.fail("groups", f"must divide the {count} {name} channels,"
                         f" got {problem.groups}")  # fmt: skip
    extra = problem.option("output_padding")
    for more, stride, dilation in zip(extra, problem.stride, problem.dilation, strict=True):
        if more >= max(stride, dilation):
            problem.fail("output_padding", f"must be less than the stride {stride} or the dilation"
                         f" {dilation}, got {more}")  # fmt: skip
    for stride in problem.stride:
        if stride > phases.MAX_PHASES:
            problem.fail("stride", f"must be at most {phases.MAX_PHASES}, got {stride}")


def inputs(problem: Problem) -> dict[str, Shape]:
    """Shapes of the input, the weight (CI, CO/groups, kernel) and the bias."""
    weight = (problem.ci, problem.co // problem.groups, *problem.kernel)
    bias = {"bias": (problem.co,)} if problem.bias else {}
    return {"x": problem.input_shape, "weight": weight, **bias}


def whole_spatial(problem: Problem) -> Shape:
    """Output sizes without padding: ``stride·(I - 1) + output_padding + dilation·(K - 1) + 1``."""
    extra = problem.option("output_padding")
    axes = zip(problem.in_spatial, problem.stride, extra, problem.kernel_extent, strict=True)
    return tuple(stride * (size - 1) + more + span for size, stride, more, span in axes)


def out_spatial(problem: Problem) -> Shape:
    """Output sizes: those of :func:`whole_spatial` less the padding."""
    axes = zip(whole_spatial(problem), problem.pads_low, problem.pads_high, strict=True)
    return tuple(size - low - high for size, low, high in axes)


def taps(problem: Problem) -> int:
    """Terms of an output element of the phase that has most: its taps times channels of a group."""
    return phases.most_taps(problem) * (problem.ci // problem.groups)


def reference(problem: Problem, arrays: Mapping[str, Array]) -> Float64:
    """Output before the activation: each tap adds its products where they belong."""
    batch, groups, spatial = problem.batch, problem.groups, problem.in_spatial
    x = arrays["x"].astype(np.float64).reshape(batch, groups, problem.ci // groups, -1)
    weight = np.asarray(arrays["weight"], np.float64)
    w = weight.reshape(groups, problem.ci // groups, -1, *problem.kernel)
    steps = zip(spatial, problem.stride, problem.kernel_extent, strict=True)
    reach = [(size - 1) * stride + span for size, stride, span in steps]
    ends = [low + n for low, n in zip(problem.pads_low, problem.out_spatial, strict=True)]
    whole = np.zeros((batch, problem.co, *map(max, reach, ends)))
    every = (slice(None),)
    for tap in itertools.product(*map(range, problem.kernel)):
        products = np.swapaxes(w[every * 3 + tap], 1, 2) @ x
        starts = [k * d for k, d in zip(tap, problem.dilation, strict=True)]
        axes = zip(starts, problem.stride, spatial, strict=True)
        cuts = (slice(at, at + (size - 1) * stride + 1, stride) for at, stride, size in axes)
        whole[every * 2 + tuple(cuts)] += products.reshape(batch, problem.co, *spatial)
    kept = (slice(low, end) for low, end in zip(problem.pads_low, ends, strict=True))
    return shared.add_bias(problem, whole[every * 2 + tuple(kept)], arrays)


def _resolve(problem: Problem) -> Mapping[str, opt.Value]:
    """Turn automatic padding and a given output shape into padding and output padding.

    With ``T`` the size of :func:`whole_spatial` less the wanted one, ``T // 2`` goes before the
    axis and the rest behind it for SAME_UPPER, the other way round otherwise. A wanted size that is
    larger than the whole is refused where ONNX's text, its evaluator and ONNX Runtime divide what
    is missing in different ways; one missing element goes to the end.
    """
    auto, wanted = problem.option("padding"), problem.option("output_shape")
    if auto == "valid" and not wanted:
        return {"padding": (0,) * (2 * problem.rank)}
    if not isinstance(auto, str) and not wanted:
        return {}
    name = "output_shape" if wanted else "padding"
    if not wanted:
        wanted = [size * s for size, s in zip(problem.in_spatial, problem.stride, strict=True)]
    lows, highs, extra = [], [], list(problem.option("output_padding"))
    for axis, (size, whole) in enumerate(zip(wanted, whole_spatial(problem), strict=True)):
        total = whole - size
        if total < -1 or (total < 0 and auto in ("same_upper", "same_lower")):
            problem.fail(name, f"asks for {size} elements on spatial axis {axis}, {-total} more"
                         f" than there are: where they go, ONNX does not say")  # fmt: skip
        extra[axis] -= min(total, 0)
        small = max(total, 0) // 2
        large = max(total, 0) - small
        lows.append(small if auto == "same_upper" else large)
        highs.append(large if auto == "same_upper" else small)
    return {"padding": (*lows, *highs), "output_padding": tuple(extra), "output_shape": ()}


# --- the kernel


def compute(spec: KernelSpec) -> list[Any]:
    """The tensor expression on blocks or on planes."""
    if spec.output.block == 1:
        return phase_planes.compute(spec)
    return phase_blocks.compute(spec)


def pack(spec: KernelSpec, constants: Sequence[Array]) -> list[Array]:
    """The weight and the bias as the kernel reads them."""
    if spec.output.block == 1:
        return phase_planes.pack(spec, constants)
    return phase_blocks.pack(spec, constants)


# --- the importer


def import_conv_transpose(node: OnnxNode, builder: Builder) -> Value:
    """ONNX ``ConvTranspose``."""
    known = ("auto_pad", "dilations", "group", "kernel_shape", "output_padding", "output_shape")
    node.allow_attrs(*known, "pads", "strides")
    x, weight, bias = node.input(0), node.input(1), node.optional(2)
    rank, groups = importing.spatial_rank(node), node.int_attr("group", 1)
    shape = weight.shape
    if len(shape) != rank + 2:
        node.fail(f"weight must have {rank + 2} axes, has shape {shape}")
    if node.has("kernel_shape") and importing.kernel_shape(node, rank) != shape[2:]:
        kernel, given = node.ints_attr("kernel_shape"), list(shape[2:])
        node.fail(f"attribute 'kernel_shape' {kernel} disagrees with the weight's {given}")
    if groups < 1:
        node.fail(f"attribute 'group' must be at least 1, is {groups}")
    if shape[0] != x.shape[1]:
        node.fail(f"input has {x.shape[1]} channels, but the weight takes {shape[0]}")
    channels_out = shape[1] * groups
    if bias is not None and bias.shape != (channels_out,):
        node.fail(f"bias must have shape ({channels_out},), has {bias.shape}")
    options = importing.window_options(node, rank) | {"groups": groups}
    for key in ("output_padding", "output_shape"):
        if not node.has(key):
            continue
        values = node.ints_attr(key)
        if len(values) != rank:
            node.fail(f"attribute '{key}' must have {rank} values, has {len(values)}")
        options[key] = tuple(values)
    operands = [x, weight] if bias is None else [x, weight, bias]
    filters = (channels_out, *shape[2:])
    value = importing.emit(node, builder, "conv_transpose", operands, filters, options)
    if node.opset < 11 and node.has("output_shape"):
        _refuse_uneven(node, builder)
    return value


def _refuse_uneven(node: OnnxNode, builder: Builder) -> None:
    """Refuse an output shape whose padding is not the same on both sides: opsets differ there."""
    problem = Problem.parse(builder.nodes[-1].attrs["problem"])
    if problem.pads_low != problem.pads_high:
        node.fail("attribute 'output_shape' needs uneven padding, which opset 1 divides in another"
                  " way than opset 11; convert the model to opset 11")  # fmt: skip


FAMILY = Family(
    filter_form=("CO", "K"),
    options=(
        opt.STRIDE,
        opt.padding(_resolve),
        opt.DILATION,
        opt.per_axis("output_padding", default=0, smallest=0),
        opt.OUTPUT_SHAPE,
        opt.GROUPS,
        opt.BIAS,
        opt.ACTIVATION,
        opt.DTYPE,
    ),
    validate=validate,
    inputs=inputs,
    out_spatial=out_spatial,
    taps=taps,
    reference=reference,
    transposed=True,
)

CASES = (
    ("conv2d_transpose:1x100x1x1:256x4x4", "DCGAN generator's first layer: outputs of one tap"),
    ("conv2d_transpose:1x256x4x4:128x4x4:stride=2:padding=1:bias=true:activation=relu", "DCGAN"),
    ("conv2d_transpose:1x128x32x32:3x4x4:stride=2:padding=1:activation=tanh", "DCGAN's last layer"),
    ("conv2d_transpose:1x128x28x28:64x2x2:stride=2:bias=true", "U-Net up-convolution"),
    (
        "conv2d_transpose:1x64x14x14:32x3x3:stride=2:padding=1:output_padding=1",
        "phases of 1, 2, 2 and 4 taps",
    ),
    ("conv2d_transpose:1x21x16x16:21x4x4:stride=2", "FCN: from scores to twice the size"),
    ("conv2d_transpose:1x21x10x9:21x16x16:stride=8:padding=4:groups=21", "FCN-8s: bilinear, a group"
     " a class"),
    ("conv2d_transpose:1x16x7x9:48x3x3:stride=2:groups=16:bias=true", "channel multiplier 3"),
    ("conv2d_transpose:2x24x5x7:40x3x2:stride=2,3:padding=1,0,0,1:groups=4", "groups of 6 and 10"),
    ("conv2d_transpose:1x32x9x9:32x3x3:padding=1", "stride 1: a convolution with flipped taps"),
    ("conv2d_transpose:1x16x9x8:24x3x3:stride=2:dilation=2", "every other output is the bias"
     " alone"),
    ("conv2d_transpose:1x8x7x5:17x4x3:stride=3:dilation=2,4:padding=2:bias=true", "stride and"
     " dilation without a common divisor"),
    ("conv2d_transpose:1x8x5x5:8x2x2:stride=5:output_padding=3:bias=true", "phases without taps"),
    ("conv2d_transpose:1x16x6x6:16x5x5:stride=2:padding=same_upper", "twice the size, odd padding"),
    ("conv2d_transpose:1x3x3x3:2x3x3:stride=3,2:output_shape=10,8", "ONNX's example: one more"),
    ("conv2d_transpose:1x5x6x6:7x3x3:stride=2:padding=4", "padding longer than the kernel"),
    ("conv2d_transpose:1x1x1x1:1x1x1", "one element"),
    ("conv1d_transpose:1x64x32:32x25:stride=4:padding=11:output_padding=1", "WaveGAN"),
    ("conv1d_transpose:2x7x37:5x8:stride=3:padding=1,2", "prime sizes, asymmetric padding"),
    ("conv3d_transpose:1x64x4x7x7:32x2x2x2:stride=2", "3-D U-Net"),
    ("conv3d_transpose:1x5x3x4x3:6x3x3x3:stride=1,2,2:padding=1", "strides of the time axis apart"),
)  # fmt: skip

BAD_CASES = (
    ("conv2d_transpose:1x8x9x9:8x3x3:stride=0", "stride must be at least 1, got 0"),
    ("conv2d_transpose:1x8x9x9:8x3x3:padding=-1", "padding must be at least 0, got -1"),
    ("conv2d_transpose:1x8x9x9:8x3x3:groups=3", "groups must divide the 8 input channels, got 3"),
    ("conv2d_transpose:1x8x9x9:9x3x3:groups=2", "groups must divide the 9 output channels, got 2"),
    ("conv2d_transpose:1x8x9x9:8x3x3:stride=2:output_padding=2", "output_padding must be less than"
     " the stride 2 or the dilation 1, got 2"),
    ("conv1d_transpose:1x1x2:1x1:stride=2000000000", "stride must be at most 4096, got 2000000000"),
    ("conv2d_transpose:1x8x2x2:8x3x3:padding=2", "padding leaves an output of size 0 on spatial"
     " axis 0"),
    ("conv2d_transpose:1x8x9x9:8x1x1:stride=3:padding=same_upper", "padding asks for 27 elements on"
     " spatial axis 0, 2 more than there are: where they go, ONNX does not say"),
    ("conv2d_transpose:1x8x9x9:8x3x3:stride=2:output_shape=21,19", "output_shape asks for 21"
     " elements on spatial axis 0, 2 more than there are"),
    ("conv2d_transpose:1x8x9x9:8x3x3:output_shape=9,9,9", "output_shape must have 1 or 2 values,"
     " got 3"),
    ("conv2d_transpose:1x8x9x9:8x3x3:output_shape=0", "output_shape must be at least 1, got 0"),
    ("conv2d_transpose:1x8x9x9:8x3x3:algorithm=direct", "option 'algorithm' is unknown"),
)  # fmt: skip

shared.register_family(
    "conv_transpose",
    "transposed convolution: strided, dilated, grouped, without inserted zeros",
    FAMILY,
    ranks=(1, 2, 3),
    onnx={"ConvTranspose": import_conv_transpose},
    cases=CASES,
    bad_cases=BAD_CASES,
    compute=compute,
    pack=pack,
    packed_weight=PackedWeight(phase_blocks.packed_shape, phase_blocks.packed_element),
    layout="any",
    planes=True,
)
