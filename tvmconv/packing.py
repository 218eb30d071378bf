"""Packed forms of weights: the order in which kernels read them, padded to whole blocks."""

from __future__ import annotations

from tvmconv.kernel import channel_plan
from tvmconv.problem import Problem

Shape = tuple[int, ...]


def packed_shapes(op: str, problem: Problem, in_block: int, block: int) -> dict[str, Shape]:
    """Shapes of the packed weight and bias of an operator.

    Convolutions: ``(slots, channels / step, *kernel, step, block)``; depthwise ones
    ``(slots, *kernel, block)``; a bias ``(slots, block)``.
    """
    slots = -(-problem.co // block)
    weight: Shape = (slots, *problem.kernel, block)
    if op != "depthwise_conv":
        plan = channel_plan(problem.ci, problem.co, problem.groups, in_block, block)
        weight = (slots, plan.length // plan.step, *problem.kernel, plan.step, block)
    return {"weight": weight, "bias": (slots, block)}
