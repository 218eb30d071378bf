"""Transposed convolution: ``y[n,co,i*stride+k*dilation-low] += x[n,ci,i] * w[ci,co,k]``.

Over one to three spatial axes, grouped or not. It is computed phase by phase
(:mod:`tvmconv.ops.phases`): the outputs of one residue class modulo the stride are a convolution of
stride 1 with a subset of the taps, so that the multiply-adds are those of the definition. A phase
with fewer taps than another has a weight padded to the same size, but the loop over its taps ends
before the padding: the trips that are left out are not executed, and their zeros never read.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tvmconv.kernel import GROUP, INTERLEAVED, KIND, PHASES, KernelSpec
from tvmconv.ops import (
    Array,
    Family,
    Float64,
    PackedWeight,
    Shape,
    channels,
    expressions,
    importing,
    phases,
    planes,
    summing,
)
from tvmconv.ops import family as shared
from tvmconv.ops import options as opt
from tvmconv.problem import Problem

if TYPE_CHECKING:
    from tvmconv.frontend.node import Builder, OnnxNode
    from tvmconv.graph.ir import Value

#: Strides of the last axis whose phases a kernel on planes interleaves.
_INTERLEAVED = (1, 2, 4)

# --- the problem


def validate(problem: Problem) -> None:
    """Refuse groups that do not divide the channels, and an output padding that is too long."""
    for name, count in (("input", problem.ci), ("output", problem.co)):
        if count % problem.groups:
            problem.fail("groups", f"must divide the {count} {name} channels,"
                         f" got {problem.groups}")  # fmt: skip
    extra = problem.option("output_padding")
    for more, stride, dilation in zip(extra, problem.stride, problem.dilation, strict=True):
        if more >= max(stride, dilation):
            problem.fail("output_padding", f"must be less than the stride {stride} or the dilation"
                         f" {dilation}, got {more}")  # fmt: skip


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
    most = prod(axis.most for axis in phases.axes(problem))
    return most * (problem.ci // problem.groups)


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
    for tap in itertools.product(*map(range, problem.kernel)):
        products = np.swapaxes(w[(..., *tap)], 1, 2) @ x
        starts = [k * d for k, d in zip(tap, problem.dilation, strict=True)]
        axes = zip(starts, problem.stride, spatial, strict=True)
        cuts = [slice(at, at + (size - 1) * stride + 1, stride) for at, stride, size in axes]
        whole[(..., *cuts)] += products.reshape(batch, problem.co, *spatial)
    cropped = [slice(low, end) for low, end in zip(problem.pads_low, ends, strict=True)]
    return shared.add_bias(problem, whole[(..., *cropped)], arrays)


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
            problem.fail(name, f"is ambiguous in ONNX where it asks for {size} elements on axis"
                         f" {axis} and there are {whole}")  # fmt: skip
        extra[axis] -= min(total, 0)
        small = max(total, 0) // 2
        large = max(total, 0) - small
        lows.append(small if auto == "same_upper" else large)
        highs.append(large if auto == "same_upper" else small)
    return {"padding": (*lows, *highs), "output_padding": tuple(extra), "output_shape": ()}


# --- the kernel on channel blocks


def lanewise(problem: Problem) -> bool:
    """Whether each input channel is a group of its own."""
    return problem.groups == problem.ci > 1


def packed_shape(problem: Problem, in_block: int, block: int) -> Shape:
    """Shape of the packed weight: (slots, phases, channels / step, *taps, step, block).

    Without the axes of channels where each channel is a group; on planes (phases, CO, terms).
    """
    axes = phases.axes(problem)
    if block == 1:
        return (phases.number(axes), problem.co, planes.row_length(taps(problem)))
    slots, most = -(-problem.co // block), [axis.most for axis in axes]
    if lanewise(problem):
        return (slots, phases.number(axes), *most, block)
    plan = channels.channel_plan(problem, in_block, block)
    return (slots, phases.number(axes), plan.trips, *most, plan.step, block)


def packed_element(
    problem: Problem, in_block: int, block: int, source: Any, index: Sequence[Any]
) -> Any:
    """Element of the packed weight as an expression of the weight as ONNX has it."""
    from tvmconv._tvm import te, tirx

    if block == 1:
        raise ValueError(f"{problem}: weights that are known only at run time are for blocks")
    axes = phases.axes(problem)
    per_in, per_out = problem.ci // problem.groups, problem.co // problem.groups
    slot, phase, *rest, lane = index
    co = slot * block + lane
    near_co = te.min(co, problem.co - 1)
    group = near_co // per_out
    conditions, place = [co < problem.co], []
    if lanewise(problem):
        ci, numbers = group, rest
    else:
        trip, *numbers, inner = rest
        plan = channels.channel_plan(problem, in_block, block)
        channel = channels.channel_start(problem, plan, slot, block) + trip * plan.step + inner
        conditions += [channel >= group * per_in, channel < (group + 1) * per_in]
        ci = channel
    parts = phases.split(phase, [axis.phases for axis in axes])
    for axis, part, tap in zip(axes, parts, numbers, strict=True):
        table = [tap for own in axis.taps for tap in (*own, *[-1] * (axis.most - len(own)))]
        place.append(phases.lookup(table, part * axis.most + tap))
        conditions.append(place[-1] >= 0)
    at = (ci, near_co % per_out, *(te.max(tap, 0) for tap in place))
    return tirx.if_then_else(tirx.all(*conditions), source[at], 0.0)


def pack(spec: KernelSpec, constants: Sequence[Array]) -> list[Array]:
    """The weight as :func:`packed_shape` says and the bias (slots, block), padded with 0."""
    problem = Problem.parse(spec.attrs["problem"])
    block, slots, in_block = spec.output.block, spec.output.own_slots, spec.inputs[0].block
    groups, per_in = problem.groups, problem.ci // problem.groups
    weight = constants[0].reshape(groups, per_in, -1, *problem.kernel)
    weight = np.swapaxes(weight, 1, 2).reshape(problem.co, per_in, *problem.kernel)
    if block == 1:
        return [_rows(problem, weight), *constants[1:]]
    if lanewise(problem):
        wide = np.zeros((slots * block, 1, *problem.kernel), weight.dtype)
        wide[: problem.co] = weight
        shape: Shape = (slots, block, 1, 1)
    else:
        plan = channels.channel_plan(problem, in_block, block)
        wide = channels.widened(problem, plan, weight, block)
        shape = (slots, block, plan.trips, plan.step)
    by_phase = _by_phase(phases.axes(problem), wide.reshape(*shape, *problem.kernel))
    packed = by_phase.reshape(packed_shape(problem, in_block, block))
    return [packed, *(expressions.pack_channels(bias, slots, block) for bias in constants[1:])]


def _by_phase(axes: Sequence[phases.Axis], weight: Array) -> Array:
    """(slots, *phases, trips, *taps, step, block) of (slots, block, trips, step, *kernel)."""
    weight = np.pad(weight, [(0, 0)] * 4 + [(0, 1)] * len(axes))  # tap -1 is a zero
    for place in range(len(axes) - 1, -1, -1):
        axis = axes[place]
        table = np.array([(*own, *[-1] * (axis.most - len(own))) for own in axis.taps])
        weight = np.take(weight, table.reshape(axis.phases, axis.most), axis=4 + place)
    first = [4 + 2 * place for place in range(len(axes))]
    order = (0, *first, 2, *(place + 1 for place in first), 3, 1)
    return np.ascontiguousarray(weight.transpose(order))


def _rows(problem: Problem, weight: Array) -> Array:
    """The weight (CO, CI/groups, kernel) as a row of terms for each phase and output channel."""
    axes = phases.axes(problem)
    by_phase = _by_phase(axes, weight.reshape(1, problem.co, -1, 1, *problem.kernel))
    ordered = np.moveaxis(by_phase.reshape(phases.number(axes), -1, problem.co), 1, 2)
    packed = np.zeros(packed_shape(problem, 1, 1), weight.dtype)
    packed[..., : ordered.shape[-1]] = ordered
    return packed


def compute(spec: KernelSpec) -> list[Any]:
    """The sum over ``rc`` (trips over channels), ``rk0`` … (taps) and ``ri`` (inner channels).

    The result has the axes (batch, slot, phase, *position in the phase, lane); the attribute
    ``INTERLEAVED`` says where its elements belong.

    Arguments are ``x``, the weight of :func:`packed_shape`, the bias (slots, block) if there is
    one, the operands of the program, and the output.
    """
    from tvmconv._tvm import te

    p = Problem.parse(spec.attrs["problem"])
    x_layout, out = spec.inputs[0], spec.output
    if out.block == 1:
        return _on_planes(spec, p)
    axes = phases.axes(p)
    x = expressions.placeholder(x_layout, "x")
    weight = te.placeholder(packed_shape(p, x_layout.block, out.block), name="weight")
    bias = te.placeholder((out.own_slots, out.block), name="bias") if p.bias else None
    counts = [axis.count for axis in axes]
    shape = (p.batch, out.own_slots, phases.number(axes), *counts, out.block)
    sums = (_lane_sums if lanewise(p) else _channel_sums)(spec, p, axes, x, weight, shape)

    def locate(n: Any, slot: Any, phase: Any, *rest: Any) -> tuple[Any, ...]:
        """Index of an element in the output, the nearest one for what a phase has too much."""
        parts = phases.split(phase, [axis.phases for axis in axes])
        return (n, slot, *_places(axes, parts, rest[:-1]), rest[-1])

    form = [number for axis in axes for number in (axis.stride, axis.phases, axis.outputs)]
    operands, output = expressions.finish(
        spec, lambda *index: sums(*index), bias, shape=shape, locate=locate,
        attrs={INTERLEAVED: form},
    )  # fmt: skip
    return [x, weight, *([] if bias is None else [bias]), *operands, output]


def _places(
    axes: Sequence[phases.Axis], parts: Sequence[Any], position: Sequence[Any]
) -> list[Any]:
    """Where a position of a phase is in the output, or the nearest output if it is not there."""
    from tvmconv._tvm import te

    found = []
    for axis, part, q in zip(axes, parts, position, strict=True):
        place = q * axis.stride + part
        found.append(te.min(place, axis.outputs - 1) if axis.ragged else place)
    return found


def _position(
    axes: Sequence[phases.Axis], phase: Any, position: Sequence[Any], taps: Sequence[Any]
) -> list[Any]:
    """The input of a tap at a position of a phase."""
    parts = phases.split(phase, [axis.phases for axis in axes])
    return [
        q + phases.lookup(axis.firsts, part) + tap * axis.step
        for axis, part, q, tap in zip(axes, parts, position, taps, strict=True)
    ]


def _tap_axes(axes: Sequence[phases.Axis]) -> list[Any]:
    """One reduction axis for each axis of the window, of the taps that the largest phase has."""
    from tvmconv._tvm import te

    return [te.reduce_axis((0, axis.most), f"rk{i}") for i, axis in enumerate(axes)]


def _channel_sums(
    spec: KernelSpec, p: Problem, axes: Sequence[phases.Axis], x: Any, weight: Any, shape: Shape
) -> Any:
    """The sums over channels and taps."""
    from tvmconv._tvm import te

    layout, block = spec.inputs[0], spec.output.block
    plan = channels.channel_plan(p, layout.block, block)
    together = summing.together(plan.trips, plan.step * prod(axis.most for axis in axes))
    rc, rk = te.reduce_axis((0, together), "rc"), _tap_axes(axes)
    ri = te.reduce_axis((0, plan.step), "ri")

    def terms(index: tuple[Any, ...], first_trip: Any) -> Any:
        n, slot, phase, *position, lane = index
        trip = first_trip + rc
        channel = channels.channel_start(p, plan, slot, block) + trip * plan.step + ri
        element = layout.at(x, n, channel, _position(axes, phase, position, rk))
        return te.sum(element * weight[(slot, phase, trip, *rk, ri, lane)], axis=[rc, *rk, ri])

    kind = "grouped" if any(plan.starts) else "contraction"
    attrs = {PHASES: phases.form(axes, skipping=True)}
    return summing.summed(shape, terms, plan.trips, together, kind, attrs)


def _lane_sums(
    spec: KernelSpec, p: Problem, axes: Sequence[phases.Axis], x: Any, weight: Any, shape: Shape
) -> Any:
    """The sums over taps, channel by channel."""
    from tvmconv._tvm import te

    layout, block = spec.inputs[0], spec.output.block
    rk, multiplier = _tap_axes(axes), p.co // p.ci

    def body(n: Any, slot: Any, phase: Any, *rest: Any) -> Any:
        *position, lane = rest
        place = _position(axes, phase, position, rk)
        if multiplier == 1 and layout.block == block:
            element = layout.at_slot(x, n, slot, place, (lane,))
        else:
            # Lanes past the last channel read that one: their results are never read.
            channel = te.min((slot * block + lane) // multiplier, p.ci - 1)
            element = layout.at(x, n, channel, place)
        return te.sum(element * weight[(slot, phase, *rk, lane)], axis=rk)

    attrs = {KIND: "window", PHASES: phases.form(axes, skipping=False)}
    return te.compute(shape, body, name="transposed", attrs=attrs)


# --- the kernel on planes


def fits_planes(problem: Problem) -> bool:
    """Whether there is a kernel on planes: some whole vectors interleave to a run of a row."""
    last = phases.axes(problem)[-1]
    return last.stride in _INTERLEAVED and not last.ragged and not lanewise(problem)


def _on_planes(spec: KernelSpec, p: Problem) -> list[Any]:
    """The sums of every phase, and the output in runs of all phases of the last axis.

    The weight is (phases, CO, terms of a sum padded by zeros), the bias (CO,).
    """
    from tvmconv._tvm import te

    axes = phases.axes(p)
    x = expressions.placeholder(spec.inputs[0], "x")
    weight = te.placeholder(packed_shape(p, 1, 1), name="weight")
    bias = te.placeholder((p.co,), name="bias") if p.bias else None
    at = _reader(spec, axes, x)
    per_in, per_out = p.ci // p.groups, p.co // p.groups
    together = summing.together(per_in, prod(axis.most for axis in axes))
    rc, rk = te.reduce_axis((0, together), "rc"), _tap_axes(axes)

    def terms(index: tuple[Any, ...], first: Any) -> Any:
        n, co, phase, *position = index
        channel = term = first + rc
        if p.groups > 1:
            channel = co // per_out * per_in + channel
        for axis, tap in zip(axes, rk, strict=True):
            term = term * axis.most + tap
        element = at(n, channel, _position(axes, phase, position, rk))
        return te.sum(element * weight[phase, co, term], axis=[rc, *rk])

    last, counts = axes[-1], [axis.count for axis in axes]
    attrs = {PHASES: phases.form(axes, skipping=False)}
    shape = (p.batch, p.co, phases.number(axes), *counts)
    sums = summing.summed(shape, terms, per_in, together, "planes", attrs)

    def result(n: Any, co: Any, phase: Any, *rest: Any) -> Any:
        value = sums(n, co, phase * last.phases + rest[-1], *rest[:-1])
        return value if bias is None else value + bias[co]

    def locate(n: Any, co: Any, phase: Any, *rest: Any) -> tuple[Any, ...]:
        parts = phases.split(phase, [axis.phases for axis in axes[:-1]])
        return (n, co, *_places(axes, [*parts, rest[-1]], rest[:-1]))

    form = [number for axis in axes for number in (axis.stride, axis.phases, axis.outputs)]
    form[-2] = 0
    shape = (p.batch, p.co, phases.number(axes[:-1]), *counts, last.phases)
    operands, output = expressions.finish(
        spec, result, shape=shape, locate=locate, attrs={INTERLEAVED: form, GROUP: per_out}
    )
    return [x, weight, *([] if bias is None else [bias]), *operands, output]


def _reader(spec: KernelSpec, axes: Sequence[phases.Axis], x: Any) -> Callable[..., Any]:
    """``at(n, channel, position)``: an element of the input, from a copy with zeros if need be."""
    layout, reaches = spec.inputs[0], [axis.reach for axis in axes]
    lows = [max(0, -low) for low, _ in reaches]
    highs = [max(0, high + 1 - n) for (_, high), n in zip(reaches, layout.shape[2:], strict=True)]
    if not any((*lows, *highs)):
        return lambda n, channel, position: layout.at(x, n, channel, position)
    ends = zip(lows, layout.shape[2:], highs, strict=True)
    *rows, columns = (low + size + high for low, size, high in ends)
    copy = planes.padded(layout, x, lows, (*rows, 1, columns))

    def at(n: Any, channel: Any, position: Sequence[Any]) -> Any:
        *outer, column = (q + low for q, low in zip(position, lows, strict=True))
        return copy[(n, channel, *outer, 0, column)]

    return at


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
    ("conv2d_transpose:1x8x2x2:8x3x3:padding=2", "padding leaves an output of size 0 on axis 0"),
    ("conv2d_transpose:1x8x9x9:8x1x1:stride=3:padding=same_upper", "padding is ambiguous in ONNX"
     " where it asks for 27 elements on axis 0 and there are 25"),
    ("conv2d_transpose:1x8x9x9:8x3x3:stride=2:output_shape=21,19", "output_shape is ambiguous in"
     " ONNX where it asks for 21 elements on axis 0 and there are 19"),
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
    packed_weight=PackedWeight(packed_shape, packed_element),
    layout="any",
    planes=True,
)
