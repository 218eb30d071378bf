"""What padding holds in modes other than zeros: which element of the input stands at a place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tvmconv.explain.axes import Axis
    from tvmconv.problem import Problem

#: The mode of a sphere's rows: they come back beyond a pole, half a turn away.
POLES = "poles"


def mode_of(problem: Problem, axis: int) -> str:
    """How the padding along an axis is filled; empty where it is zeros."""
    mode = problem.option("padding_mode")
    if mode == "sphere":
        return (POLES, "wrap")[axis]
    return "" if mode in (None, "zeros") else str(mode)


def source(position: int, size: int, mode: str) -> int:
    """The element of an axis at a position that may be before or behind it."""
    if mode == "wrap":
        return position % size
    if mode == "reflect":
        return size - 1 - abs(size - 1 - abs(position))
    if mode == POLES:
        return min(max(position, -1 - position), 2 * size - 1 - position)
    return min(max(position, 0), size - 1)


def elements(axes: Sequence[Axis], positions: Sequence[int]) -> tuple[int | None, ...]:
    """The element of the input at a place; None along an axis on which there is none."""
    found = [axis.index(position) for axis, position in zip(axes, positions, strict=True)]
    if axes[0].mode == POLES and axes[0].kind(positions[0]) == "padding":
        found[1] = axes[1].index(positions[1] + axes[1].size // 2)
    return tuple(found)
