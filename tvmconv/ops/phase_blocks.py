"""Transposed convolutions on channel blocks: phase by phase, with the lanes over the channels.

A phase with fewer taps than another has a weight padded to the same size, but the loop over its
taps ends before the padding: those trips are not executed, and their zeros never read.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from tvmconv.kernel import INTERLEAVED, KIND, PHASES, KernelSpec
from tvmconv.ops import Array, Shape, channels, expressions, phases, summing
from tvmconv.problem import Problem


def packed_shape(problem: Problem, in_block: int, block: int) -> Shape:
    """Shape of the packed weight: (slots, phases, channels / step, *taps, step, block).

    Without the axes of channels where each channel is a group.
    """
    axes = phases.axes(problem)
    slots, most = -(-problem.co // block), [axis.most for axis in axes]
    if phases.lanewise(problem):
        return (slots, phases.number(axes), *most, block)
    plan = channels.channel_plan(problem, in_block, block)
    return (slots, phases.number(axes), plan.trips, *most, plan.step, block)


def packed_element(
    problem: Problem, in_block: int, block: int, source: Any, index: Sequence[Any]
) -> Any:
    """Element of the packed weight as an expression of the weight as ONNX has it."""
    from tvmconv._tvm import te, tirx

    axes = phases.axes(problem)
    per_in, per_out = problem.ci // problem.groups, problem.co // problem.groups
    slot, phase, *rest, lane = index
    co = slot * block + lane
    near_co = te.min(co, problem.co - 1)
    group = near_co // per_out
    conditions, place = [co < problem.co], []
    if phases.lanewise(problem):
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
    weight = phases.as_conv(problem, constants[0])
    if phases.lanewise(problem):
        wide = np.zeros((slots * block, 1, *problem.kernel), weight.dtype)
        wide[: problem.co] = weight
        shape: Shape = (slots, block, 1, 1)
    else:
        plan = channels.channel_plan(problem, in_block, block)
        wide = channels.widened(problem, plan, weight, block)
        shape = (slots, block, plan.trips, plan.step)
    by_phase = phases.by_phase(phases.axes(problem), wide.reshape(*shape, *problem.kernel))
    packed = by_phase.reshape(packed_shape(problem, in_block, block))
    return [packed, *(expressions.pack_channels(bias, slots, block) for bias in constants[1:])]


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
    axes = phases.axes(p)
    x = expressions.placeholder(x_layout, "x")
    shape = packed_shape(p, x_layout.block, out.block)
    weight = te.placeholder(shape, x_layout.dtype, name="weight")
    bias = te.placeholder((out.own_slots, out.block), name="bias") if p.bias else None
    counts = [axis.count for axis in axes]
    shape = (p.batch, out.own_slots, phases.number(axes), *counts, out.block)
    sums = (_lane_sums if phases.lanewise(p) else _channel_sums)(spec, p, axes, x, weight, shape)

    def locate(n: Any, slot: Any, phase: Any, *rest: Any) -> tuple[Any, ...]:
        """Index of an element in the output, the nearest one for what a phase has too much."""
        parts = phases.split(phase, [axis.phases for axis in axes])
        return (n, slot, *phases.places(axes, parts, rest[:-1]), rest[-1])

    form = [number for axis in axes for number in (axis.stride, axis.phases, axis.outputs)]
    operands, output = expressions.finish(
        spec, lambda *index: sums(*index), bias, shape=shape, locate=locate,
        attrs={INTERLEAVED: form},
    )  # fmt: skip
    return [x, weight, *([] if bias is None else [bias]), *operands, output]


def _channel_sums(
    spec: KernelSpec, p: Problem, axes: Sequence[phases.Axis], x: Any, weight: Any, shape: Shape
) -> Any:
    """The sums over channels and taps."""
    from tvmconv._tvm import te

    layout, block = spec.inputs[0], spec.output.block
    plan = channels.channel_plan(p, layout.block, block)
    together = summing.together(plan.trips, plan.step * prod(axis.most for axis in axes))
    rc, rk = te.reduce_axis((0, together), "rc"), phases.tap_axes(axes)
    ri = te.reduce_axis((0, plan.step), "ri")

    def terms(index: tuple[Any, ...], first_trip: Any) -> Any:
        n, slot, phase, *position, lane = index
        trip = first_trip + rc
        channel = channels.channel_start(p, plan, slot, block) + trip * plan.step + ri
        element = layout.at(x, n, channel, phases.position(axes, phase, position, rk))
        product = expressions.product(element, weight[(slot, phase, trip, *rk, ri, lane)])
        return te.sum(product, axis=[rc, *rk, ri])

    kind = "grouped" if any(plan.starts) else "contraction"
    attrs = {PHASES: phases.form(axes, skipping=True), **expressions.product_attrs(spec)}
    return summing.summed(shape, terms, plan.trips, together, kind, attrs)


def _lane_sums(
    spec: KernelSpec, p: Problem, axes: Sequence[phases.Axis], x: Any, weight: Any, shape: Shape
) -> Any:
    """The sums over taps, channel by channel."""
    from tvmconv._tvm import te

    layout, block = spec.inputs[0], spec.output.block
    rk, multiplier = phases.tap_axes(axes), p.co // p.ci

    def body(n: Any, slot: Any, phase: Any, *rest: Any) -> Any:
        *position, lane = rest
        place = phases.position(axes, phase, position, rk)
        if multiplier == 1 and layout.block == block:
            element = layout.at_slot(x, n, slot, place, (lane,))
        else:
            # Lanes past the last channel read that one: their results are never read.
            channel = te.min((slot * block + lane) // multiplier, p.ci - 1)
            element = layout.at(x, n, channel, place)
        return te.sum(expressions.product(element, weight[(slot, phase, *rk, lane)]), axis=rk)

    attrs = {KIND: "window", PHASES: phases.form(axes, skipping=False)}
    return te.compute(shape, body, name="transposed", attrs=attrs)
