"""A convolution as a picture: the input with its padding, the window in several places, the output.

In the manner of Dumoulin and Visin, A guide to convolution arithmetic for deep learning, 2016. One
frame an output: the cells that its taps read, with the tap's number, and the output's cell. A
transposed convolution is drawn from the input's side, with the zeros that one could insert.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from tvmconv.errors import InputError
from tvmconv.explain.axes import Axis, is_transposed
from tvmconv.explain.svg import CELL, SIDE, Canvas
from tvmconv.explain.text import sizes
from tvmconv.problem import Problem

#: Cells of an axis that are drawn, unless the window is longer; and the longest window.
_VIEW, _LONGEST = 11, 40
#: Slices of depth that are drawn side by side.
_SLICES = 4
#: Where the first frame begins, and the space between things.
_TOP, _LEFT, _GAP = 104, 40, 56
#: Taps up to which each has its number in its cell.
_NUMBERED = 200


@dataclass(frozen=True)
class View:
    """The part of an axis that is drawn: ``first <= position < stop``."""

    first: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.first

    def __contains__(self, position: object) -> bool:
        return isinstance(position, int) and self.first <= position < self.stop

    @classmethod
    def around(cls, first: int, last: int, span: tuple[int, int]) -> View:
        """All of a span if it is short, or a part with a window in its middle."""
        window = last - first + 1
        size = min(span[1] - span[0], max(_VIEW, window + 2))
        start = min(max(first - (size - window) // 2, span[0]), span[1] - size)
        return cls(start, start + size)


def draw(problem: Problem, axes: tuple[Axis, ...], at: tuple[int, ...]) -> str:
    """Draw a problem as SVG.

    Parameters
    ----------
    at : tuple of int
        Batch, channel and place of the output of the last frame.

    Raises
    ------
    InputError
        If the window is too long to be drawn.
    """
    longest = max(axis.extent for axis in axes)
    if longest > _LONGEST:
        raise InputError(f"{problem}: a window of {longest} along an axis is too large to draw")
    notes = _notes(problem, axes)
    canvas = Canvas(f"Convolution arithmetic: {problem}", " ".join(notes))
    canvas.words(16, 28, str(problem), "title")
    for line, note in enumerate(notes):
        canvas.words(16, 48 + 16 * line, note)
    top: float = _TOP + 16 * (len(notes) - 2)
    _legend(canvas, top - 22, axes)
    before = None
    for place in frames(axes, at[2:]):
        frame = _Frame(canvas, axes, place, top + 26)
        top = frame.draw(before)
        before = place if before is None else before
    return canvas.xml()


def _notes(problem: Problem, axes: tuple[Axis, ...]) -> list[str]:
    """What the picture shows, in two lines or three."""
    facts = [f"input {sizes(axis.size for axis in axes)}", f"kernel {sizes(problem.kernel)}"]
    for name in ("stride", "dilation"):
        values = getattr(problem, name)
        if set(values) != {1}:
            facts.append(f"{name} {sizes(values)}")
    if any(problem.pads_low + problem.pads_high):
        facts.append(f"padding {sizes(problem.pads_low)} before, {sizes(problem.pads_high)} after")
    facts += ["taps in the opposite order"] * problem.flipped
    facts.append(f"output {sizes(axis.outputs for axis in axes)}")
    notes = [", ".join(facts)]
    channels = problem.ci // problem.groups if "CO" in problem.family.filter_form else 1
    kinds = f"one channel is drawn; an output sums over {channels}" if channels > 1 else ""
    if len(axes) > 2:
        kinds += "; " * bool(kinds) + "one slice for each depth that the window reads"
    notes.append(kinds or "each frame is one output")
    if is_transposed(axes):
        notes.append("The zeros between the inputs are only drawn: the compiler inserts none.")
    return notes


def _legend(canvas: Canvas, y: float, axes: tuple[Axis, ...]) -> None:
    x = 16.0
    kinds = [("input", "input"), ("padding", "padding")]
    kinds += [("zero", "inserted zero")] * is_transposed(axes)
    kinds += [("tap", "read, with its tap"), ("before", "the first window")][: 4 - len(axes)]
    kinds += [("now", "output")]
    for kind, text in kinds:
        canvas.cell(x, y, kind)
        canvas.words(x + CELL + 4, y + 16, text)
        x += CELL + 24 + 7 * len(text)


def frames(axes: tuple[Axis, ...], at: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The outputs that are drawn: the first, its next along each axis, and a chosen one."""
    first = (0,) * len(axes)
    found = [first]
    for axis in reversed(range(len(axes))):
        if axes[axis].outputs > 1:
            found.append(tuple(int(k == axis) for k in range(len(axes))))
    return list(dict.fromkeys([*found, at]))


def _signed(number: int) -> str:
    return str(number).replace("-", "−")


class _Frame:
    """One output with its window."""

    def __init__(
        self, canvas: Canvas, axes: tuple[Axis, ...], place: tuple[int, ...], top: float
    ) -> None:
        self.canvas, self.axes, self.place, self.top = canvas, axes, place, top
        windows = [axis.window(output) for axis, output in zip(axes, place, strict=True)]
        self.windows = windows
        spans = zip(axes, windows, strict=True)
        self.views = [View.around(*window, axis.span) for axis, window in spans]
        outputs = zip(axes, place, strict=True)
        self.outs = [View.around(o, o, (0, axis.outputs)) for axis, o in outputs]

    def draw(self, before: tuple[int, ...] | None) -> float:
        """Draw it, with the window of another output as well, and return where it ends."""
        where = ", ".join(map(str, self.place))
        corner = ", ".join(_signed(first) for first, _ in self.windows)
        text = f"output ({where}): the window begins at ({corner})"
        text += " of the spread input" * is_transposed(self.axes)
        self.canvas.words(16, self.top, text, "head")
        top = self.top + 22
        if len(self.axes) == 1:
            return self._row(top, before)
        x, bottom = float(_LEFT), top
        for depth in self._depths():
            bottom = max(bottom, self._input(x, top, depth, before))
            x += len(self.views[-1]) * CELL + (_GAP if depth is None else 30)
        arrow = top + 8 + len(self.views[-2]) * CELL / 2
        self.canvas.words(x - 34, arrow, "→", "title")
        return max(bottom, self._output(x + 16, top))

    def _depths(self) -> list[int | None]:
        """Positions of the slices; of two spatial axes there is one slice."""
        if len(self.axes) == 2:
            return [None]
        axis, output = self.axes[0], self.place[0]
        positions = sorted(read.position for read in axis.reads(output))
        return list(positions[:_SLICES])

    def _taps(self, depth: int | None) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Positions along the drawn axes with the taps that read there."""
        along = [list(a.reads(o)) for a, o in zip(self.axes, self.place, strict=True)]
        if depth is not None:
            along[0] = [read for read in along[0] if read.position == depth]
        for reads in itertools.product(*along):
            yield tuple(r.position for r in reads[-2:]), tuple(r.tap for r in reads)

    def _input(
        self, x: float, y: float, depth: int | None, before: tuple[int, ...] | None
    ) -> float:
        """A slice of the input, with the window on it."""
        rows, columns = self.views[-2:]
        outside = depth is not None and self.axes[0].kind(depth)
        for row, column in itertools.product(range(len(rows)), range(len(columns))):
            place = (rows.first + row, columns.first + column)
            kinds = [a.kind(p) for a, p in zip(self.axes[-2:], place, strict=True)]
            kinds += [outside] if isinstance(outside, str) else []
            worst = next((k for k in ("padding", "zero") if k in kinds), "input")
            self.canvas.cell(x + column * CELL, y + row * CELL, worst)
        self._indices(x, y, rows, columns, self.axes[-2:])
        numbered = prod(axis.taps for axis in self.axes) <= _NUMBERED
        for (row, column), tap in self._taps(depth):
            left, top = x + (column - columns.first) * CELL, y + (row - rows.first) * CELL
            self.canvas.cell(left, top, "tap", "".join(map(str, tap)) if numbered else "")
        self._outline(x, y, self.place, "window")
        if before is not None and depth is None:
            self._outline(x, y, before, "before")
        bottom = y + len(rows) * CELL
        if depth is not None:
            self.canvas.words(
                x, bottom + 14, f"depth {_signed(depth)} ({self.axes[0].kind(depth)})"
            )
            bottom += 18
        return bottom

    def _outline(self, x: float, y: float, place: tuple[int, ...], kind: str) -> None:
        """The outline of an output's window, if all of it is in view."""
        corner, extent = [], []
        for axis, view, output in zip(self.axes[-2:], self.views[-2:], place[-2:], strict=True):
            first, last = axis.window(output)
            if first not in view or last not in view:
                return
            corner.append((first - view.first) * CELL)
            extent.append(axis.extent)
        self.canvas.box(x + corner[1], y + corner[0], extent[1], extent[0], kind)

    def _indices(
        self, x: float, y: float, rows: View, columns: View, axes: tuple[Axis, ...] | None
    ) -> None:
        """The numbers of rows and columns, and dots where the map goes on."""
        spans = [axis.span for axis in axes] if axes else [(0, a.outputs) for a in self.axes[-2:]]
        for view, across, (first, stop), number in zip(
            (rows, columns), (False, True), spans, (0, 1), strict=True
        ):
            for k in range(len(view)):
                place = view.first + k
                index = axes[number].index(place) if axes else place
                if index is None:
                    continue
                middle = k * CELL + SIDE / 2
                at = (x + middle, y - 4) if across else (x - 10, y + middle + 3)
                self.canvas.words(*at, str(index), "index")
            end = len(view) * CELL + 6
            if view.stop < stop:
                at = (x + end, y - 4) if across else (x - 10, y + end)
                self.canvas.words(*at, "…" if across else "⋮", "index")
            if view.first > first:
                at = (x - 8, y - 4) if across else (x - 10, y - 2)
                self.canvas.words(*at, "…" if across else "⋮", "index")

    def _output(self, x: float, y: float) -> float:
        """The output, or its slice, with the cell of this frame."""
        rows, columns = self.outs[-2:]
        for row, column in itertools.product(range(len(rows)), range(len(columns))):
            now = (rows.first + row, columns.first + column) == self.place[-2:]
            self.canvas.cell(x + column * CELL, y + row * CELL, "now" if now else "output")
        self._indices(x, y, rows, columns, None)
        bottom = y + len(rows) * CELL
        if len(self.axes) == 3:
            self.canvas.words(x, bottom + 14, f"output depth {self.place[0]}")
            bottom += 18
        return bottom

    def _row(self, y: float, before: tuple[int, ...] | None) -> float:
        """One spatial axis: the input's row, rays from what is read, the output's row."""
        axis, view, out, x = self.axes[0], self.views[0], self.outs[0], float(_LEFT)
        below = y + 3 * CELL
        shift = x + max(0.0, (len(view) - len(out)) / 2) * CELL
        target = shift + (self.place[0] - out.first) * CELL + SIDE / 2
        for k in range(len(view)):
            self.canvas.cell(x + k * CELL, y, axis.kind(view.first + k))
            index = axis.index(view.first + k)
            if index is not None:
                self.canvas.words(x + k * CELL + SIDE / 2, y - 5, str(index), "index")
        for read in axis.reads(self.place[0]):
            left = x + (read.position - view.first) * CELL
            if read.index is not None:
                self.canvas.line(left + SIDE / 2, y + SIDE, target, below, "ray")
            self.canvas.cell(left, y, "tap", str(read.tap))
        for place, kind in ((self.place, "window"), (before, "before")):
            if place is not None:
                first, last = axis.window(place[0])
                if first in view and last in view:
                    self.canvas.box(x + (first - view.first) * CELL, y, axis.extent, 1, kind)
        for k in range(len(out)):
            number = out.first + k
            kind = "now" if number == self.place[0] else "output"
            self.canvas.cell(shift + k * CELL, below, kind)
            middle = shift + k * CELL + SIDE / 2
            self.canvas.words(middle, below + SIDE + 11, str(number), "index")
        return below + SIDE + 14
