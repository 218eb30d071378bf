"""The channel reduction of a convolution on blocked tensors, and the weight packed for it.

A block of output channels reads a run of input channels; the packed weight holds, for every block,
the filters of that run. Where a block belongs to several groups the run covers them all, and the
weight is 0 where an output channel does not belong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvmconv.kernel import KernelSpec
from tvmconv.ops import Array, PackedWeight, Shape
from tvmconv.ops.expressions import pack_channels
from tvmconv.problem import Problem


@dataclass(frozen=True)
class ChannelPlan:
    """Which input channels each block of output channels reads, and in which steps.

    Attributes
    ----------
    length : int
        Input channels that every block reads.
    step : int
        Extent of the inner reduction axis: divides ``length``, every start and the input's block.
    starts : tuple of int
        First input channel of each output block.
    """

    length: int
    step: int
    starts: tuple[int, ...]

    @property
    def trips(self) -> int:
        """Extent of the outer reduction axis."""
        return self.length // self.step


def channel_plan(problem: Problem, in_block: int, block: int) -> ChannelPlan:
    """Plan the channel reduction of a convolution, grouped or not."""
    ci, co, groups = problem.ci, problem.co, problem.groups
    per_in, per_out = ci // groups, co // groups
    lows = range(0, co, block)
    spans = max((min(low + block, co) - 1) // per_out - low // per_out + 1 for low in lows)
    length = min(spans * per_in, ci)
    starts = tuple(min(low // per_out * per_in, ci - length) for low in lows)
    step = math.gcd(length, *starts)
    return ChannelPlan(length, math.gcd(step, in_block) if in_block > 1 else 1, starts)


def channel_start(problem: Problem, plan: ChannelPlan, slot: Any, block: int) -> Any:
    """First input channel of output block ``slot`` as an index expression."""
    from tvmconv._tvm import te, tirx

    if not any(plan.starts):
        return tirx.const(0, "int32")
    per_in, per_out = problem.ci // problem.groups, problem.co // problem.groups
    start = slot * block // per_out * per_in
    last = (len(plan.starts) - 1) * block // per_out * per_in
    return start if last == plan.starts[-1] else te.min(start, plan.starts[-1])


def packed_shape(problem: Problem, in_block: int, block: int) -> Shape:
    """Shape of the packed weight: (slots, channels / step, *kernel, step, block)."""
    plan = channel_plan(problem, in_block, block)
    return (-(-problem.co // block), plan.trips, *problem.kernel, plan.step, block)


def packed_element(
    problem: Problem, in_block: int, block: int, source: Any, index: Sequence[Any]
) -> Any:
    """Element of the packed weight as an expression of the weight as ONNX has it."""
    from tvmconv._tvm import te, tirx

    slot, trip, *taps, inner, lane = index
    plan = channel_plan(problem, in_block, block)
    per_in, per_out = problem.ci // problem.groups, problem.co // problem.groups
    co = slot * block + lane
    near_co = te.min(co, problem.co - 1)
    channel = channel_start(problem, plan, slot, block) + trip * plan.step + inner
    own = channel - near_co // per_out * per_in
    near = te.max(te.min(own, per_in - 1), 0)
    there = tirx.all(co < problem.co, own >= 0, own < per_in)
    return tirx.if_then_else(there, source[(near_co, near, *taps)], 0.0)


#: The packed form of the weight of an ordinary convolution or a dense layer.
PACKED_WEIGHT = PackedWeight(packed_shape, packed_element)


def widened(problem: Problem, plan: ChannelPlan, weight: Array, block: int) -> Array:
    """A weight (CO, CI/groups, kernel) as (slots·block, channels that a block reads, kernel)."""
    wide = np.zeros((-(-problem.co // block) * block, plan.length, *problem.kernel), weight.dtype)
    if problem.groups == 1:
        wide[: problem.co] = weight
        return wide
    per_in, per_out = problem.ci // problem.groups, problem.co // problem.groups
    for co in range(problem.co):
        first = co // per_out * per_in - plan.starts[co // block]
        wide[co, first : first + per_in] = weight[co]
    return wide


def pack(spec: KernelSpec, constants: Sequence[Array]) -> list[Array]:
    """Weight as :func:`packed_shape` says and bias (slots, block), both padded with 0."""
    problem = Problem.parse(spec.attrs["problem"])
    block, slots = spec.output.block, spec.output.own_slots
    plan = channel_plan(problem, spec.inputs[0].block, block)
    weight = constants[0].reshape(problem.co, -1, *problem.kernel)
    wide = widened(problem, plan, weight, block)
    shaped = wide.reshape(slots, block, plan.trips, plan.step, *problem.kernel)
    order = (0, 2, *range(4, shaped.ndim), 3, 1)
    packed = np.ascontiguousarray(shaped.transpose(order), spec.inputs[0].dtype)
    return [packed, *(pack_channels(bias, slots, block) for bias in constants[1:])]
