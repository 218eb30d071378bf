"""A convolution as a matrix product: the dense matrix that maps a flat input to a flat output.

One spatial axis gives a Toeplitz matrix (each row the one before, shifted by the stride), two give
a doubly block one. A transposed convolution's matrix is that of a convolution, transposed.
"""

from __future__ import annotations

import itertools
from math import prod

from tvmconv.explain.axes import Axis, is_transposed
from tvmconv.explain.border import elements
from tvmconv.explain.text import Section, sizes
from tvmconv.problem import Problem

#: What fits the screen.
_ROWS, _WIDTH = 40, 100

Entries = dict[tuple[int, int], list[tuple[int, ...]]]


def entries(axes: tuple[Axis, ...]) -> Entries:
    """Which taps stand where: (output, input), both flat, to taps, for one pair of channels.

    There is one tap, unless padding is filled by elements that the window reads besides.
    """
    along = [
        [
            (output, axis.position(output, tap), tap)
            for output in range(axis.outputs)
            for tap in axis.taps_inside(output)
        ]
        for axis in axes
    ]
    found: Entries = {}
    for places in itertools.product(*along):
        outputs, positions, taps = zip(*places, strict=True)
        row = column = 0
        for axis, output, index in zip(axes, outputs, elements(axes, positions), strict=True):
            assert index is not None
            row, column = row * axis.outputs + output, column * axis.size + index
        found.setdefault((row, column), []).append(taps)
    return found


def fits(axes: tuple[Axis, ...]) -> bool:
    """Whether the matrix fits the screen."""
    columns, rows = prod(axis.size for axis in axes), prod(axis.outputs for axis in axes)
    return rows <= _ROWS and columns * (_cell_width(axes) + 1) <= _WIDTH


def _cell_width(axes: tuple[Axis, ...]) -> int:
    return len(_label(tuple(axis.taps - 1 for axis in axes)))


def _label(tap: tuple[int, ...]) -> str:
    """A tap's weight: ``w01``."""
    return "w" + ("," if max(tap) > 9 else "").join(map(str, tap))


def matrix_section(problem: Problem, axes: tuple[Axis, ...] | None) -> Section | None:
    """The matrix, if there is one and it fits the screen."""
    if (
        not axes
        or problem.parts
        or problem.family.gated
        or problem.family.arithmetic != "multiply-add"
        or not fits(axes)
    ):
        return None
    rows, columns = prod(axis.outputs for axis in axes), prod(axis.size for axis in axes)
    at = {place: "+".join(map(_label, taps)) for place, taps in entries(axes).items()}
    width = max([_cell_width(axes), *map(len, at.values())])
    lines = [f"y = A·x with x and y flat; A is {rows}x{columns}, · is 0"]
    if problem.ci > 1 or problem.co > 1:
        lines.append("one such block for each pair of an input and an output channel of a group")
    if is_transposed(axes):
        lines.append("the transpose of the matrix of the convolution with this stride and padding")
    if problem.family.unshared:
        lines.append("each row has weights of its own; a convolution has the same in all")
    for row in range(rows):
        cells = (at.get((row, column), "·").rjust(width) for column in range(columns))
        lines.append("  " + " ".join(cells))
    kind = ("Toeplitz", "doubly block Toeplitz", "triply block Toeplitz")[len(axes) - 1]
    kind = "banded" if problem.family.unshared else kind
    kind += " with strides" * any(axis.stride > 1 for axis in axes)
    kind += " but for the padding" * any(axis.mode != "" for axis in axes)
    return Section(f"as a dense matrix ({kind}, {sizes((rows, columns))})", tuple(lines))
