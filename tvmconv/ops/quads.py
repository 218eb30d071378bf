"""The channel reduction of a convolution of bytes: four neighbouring channels make a word.

As :mod:`tvmconv.ops.channels`, with quads of channels in the place of channels: a block of output
channels reads a run of whole quads, and the packed weight is 0 where a channel does not belong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvmconv.ops import Array, Shape
from tvmconv.problem import Problem

#: Channels of a word.
QUAD = 4


@dataclass(frozen=True)
class QuadPlan:
    """Which quads of input channels each block of output channels reads, and in which steps.

    Attributes
    ----------
    length : int
        Quads that every block reads.
    step : int
        Extent of the inner reduction axis: divides ``length``, every start and the input's block.
    starts : tuple of int
        First quad of each output block.
    """

    length: int
    step: int
    starts: tuple[int, ...]

    @property
    def trips(self) -> int:
        """Extent of the outer reduction axis."""
        return self.length // self.step


def quad_plan(problem: Problem, in_block: int, block: int) -> QuadPlan:
    """Plan the channel reduction of a convolution, grouped or not."""
    ci, co, groups = problem.ci, problem.co, problem.groups
    per_in, per_out = ci // groups, co // groups
    total = -(-ci // QUAD)
    firsts, ends = [], []
    for low in range(0, co, block):
        last = min(low + block, co) - 1
        firsts.append(low // per_out * per_in // QUAD)
        ends.append(-(-(last // per_out + 1) * per_in // QUAD))
    length = max(end - first for first, end in zip(firsts, ends, strict=True))
    starts = tuple(min(first, total - length) for first in firsts)
    return QuadPlan(length, math.gcd(length, in_block // QUAD, *starts), starts)


def quad_start(problem: Problem, plan: QuadPlan, slot: Any, block: int) -> Any:
    """First quad of output block ``slot`` as an index expression."""
    from tvmconv._tvm import te, tirx

    if not any(plan.starts):
        return tirx.const(0, "int32")
    per_in, per_out = problem.ci // problem.groups, problem.co // problem.groups
    start = slot * block // per_out * per_in // QUAD
    last = (len(plan.starts) - 1) * block // per_out * per_in // QUAD
    return start if last == plan.starts[-1] else te.min(start, plan.starts[-1])


def packed_shape(problem: Problem, in_block: int, block: int, terms: int = 1) -> Shape:
    """Shape of the packed weight in words: (slots, quads / step, *kernel, terms * step, block)."""
    plan = quad_plan(problem, in_block, block)
    return (-(-problem.co // block), plan.trips, *problem.kernel, plan.step * terms, block)


def pack_weight(weight: Array, problem: Problem, in_block: int, block: int, terms: int) -> Array:
    """Weights (CO, CI/groups, *kernel), sums of so many int8 each, as :func:`packed_shape` says."""
    plan = quad_plan(problem, in_block, block)
    slots = -(-problem.co // block)
    per_in, per_out = problem.ci // problem.groups, problem.co // problem.groups
    wide = np.zeros((slots * block, plan.length * QUAD, *problem.kernel), np.int16)
    for group in range(problem.groups):
        for low in range(group * per_out, (group + 1) * per_out, 1):
            first = group * per_in - plan.starts[low // block] * QUAD
            wide[low, first : first + per_in] = weight[low]
    bytes_ = np.stack(split_terms(wide, terms))
    rank = len(problem.kernel)
    shape = (terms, slots, block, plan.trips, plan.step, QUAD, *problem.kernel)
    shaped = bytes_.reshape(shape)
    order = (1, 3, *range(6, 6 + rank), 4, 0, 2, 5)
    packed = np.ascontiguousarray(shaped.transpose(order))
    words = packed.view(np.int32)
    return words.reshape(packed_shape(problem, in_block, block, terms))


def split_terms(weight: Array, terms: int) -> list[Array]:
    """Integers as sums of so many int8.

    Raises
    ------
    ValueError
        If some need more.
    """
    rest = weight.astype(np.int16)
    found = []
    for _ in range(terms):
        part = np.clip(rest, -128, 127)
        found.append(part.astype(np.int8))
        rest = rest - part
    if rest.any():
        raise ValueError(f"{terms} bytes do not hold {int(np.abs(weight).max())}")
    return found


def terms_of(weight: Array) -> int:
    """How many int8 each weight has to be a sum of: 1 to 3 for differences of two bytes."""
    low, high = int(weight.min(initial=0)), int(weight.max(initial=0))
    return max(1, -(-high // 127), -(low // 128))
