"""What the kernels on planes share: rows of plain tensors, whose neighbouring pixels are lanes.

A plain tensor has no halo. What a window needs of it goes through a small buffer of rows with the
padding around them, so that the arithmetic itself has no edges.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from tvmconv.kernel import KIND, KernelSpec
from tvmconv.layout import Layout
from tvmconv.ops import expressions
from tvmconv.problem import Problem

#: Lanes of the longest vectors, and terms that the lanes of a whole plane's sum add at a time.
_VECTOR, _LANES = 16, 64


def reaches(problem: Problem) -> list[tuple[int, int]]:
    """The first and last input position of the windows along each axis, in the padding or not."""
    axes = zip(
        problem.out_spatial, problem.stride, problem.kernel_extent, problem.pads_low, strict=True
    )
    return [(-low, (count - 1) * s + extent - 1 - low) for count, s, extent, low in axes]


def inside(problem: Problem, reach: Sequence[tuple[int, int]]) -> bool:
    """Whether positions of such reaches are all in the input."""
    return all(
        low >= 0 and high < size
        for (low, high), size in zip(reach, problem.in_spatial, strict=True)
    )


def element(
    layout: Layout,
    x: Any,
    index: Sequence[Any],
    reach: Sequence[tuple[int, int]],
    fill: Any,
    nearest: bool = False,
    rows: Sequence[Sequence[Any]] = (),
) -> Any:
    """An element of a plain tensor, or ``fill`` where the position is outside of it.

    Neighbouring columns are neighbours in memory beyond the row's ends too: a vector that sticks
    out of the row is loaded as it is, and the lanes outside are replaced. Only rows so close to an
    end of the buffer that such a vector would leave it are read lane by lane.

    Parameters
    ----------
    layout : Layout
        Plain, without a halo.
    x : te.Tensor
    index : sequence of expression
        Batch, channel, position.
    reach : sequence of (int, int)
        The first and last value of each part of the position.
    fill : expression
    nearest : bool
        Along all axes but the last, take the nearest element instead of ``fill``.
    rows : sequence of (sequence of expression)
        Positions without the column of the first and the last row that are read together, if this
        is not the only one: whether one of them is close to an end of the buffer is asked once.
    """
    from tvmconv._tvm import te, tirx

    n, channel, *outer, column = index
    *sizes, width = layout.shape[2:]
    place, conditions = [], []
    for q, size, (low, high) in zip(outer, sizes, reach[:-1], strict=True):
        loose = low < 0 or high >= size
        place.append(te.max(te.min(q, size - 1), 0) if loose else q)
        if loose and not nearest:
            conditions += [q >= 0, q < size]
    low, high = reach[-1]
    ragged = low < 0 or high >= width
    if ragged:
        conditions += [column >= 0, column < width]

    def at(column: Any) -> Any:
        value = layout.at_slot(x, n, channel, [*place, column], ())
        # A bare condition would tell TVM that the nearest place is the place itself, but what
        # is not selected is read too.
        return tirx.Select(tirx.likely(tirx.all(*conditions)), value, fill) if conditions else value

    if not ragged:
        return at(column)
    ends = [
        [te.max(te.min(q, size - 1), 0) for q, size in zip(row, sizes, strict=True)]
        for row in rows or (outer, outer)
    ]
    first, last = (_row_start(layout, n, channel, end) for end in ends)
    there = tirx.all(first + low >= 0, last + high < prod(layout.buffer_shape))
    return tirx.if_then_else(there, at(column), at(te.max(te.min(column, width - 1), 0)))


def _row_start(layout: Layout, n: Any, channel: Any, place: Sequence[Any]) -> Any:
    """Number of elements in the buffer before a row."""
    start: Any = n
    position = (channel + layout.first, *place, 0)
    for part, extent in zip(position, layout.buffer_shape[1:], strict=True):
        start = start * extent + part
    return start


def pooled(
    spec: KernelSpec,
    reduce: Callable[..., Any],
    fill: Any,
    nearest: bool,
    term: Callable[[Any], Any] = lambda element: element,
) -> list[Any]:
    """The input, and its reduction (``te.sum``, ``te.max``) over the taps ``rk0`` …, on planes.

    The windows' rows are reduced first, for whole rows of the input with ``fill`` around them;
    then their columns. What is reduced is ``term(element)``.
    """
    from tvmconv._tvm import te

    p = Problem.parse(spec.attrs["problem"])
    layout = spec.inputs[0]
    x = expressions.placeholder(layout, "x")
    *taps, tap = expressions.tap_axes(p)
    reach = reaches(p)
    run = _whole_phases(p, reach)
    attrs = {KIND: "rows"}

    def row(*index: Any) -> Any:
        n, c, *position, column = index
        place = expressions.window(p, [*position, 0], [*taps, 0])
        where = [n, c, *place[:-1], column + reach[-1][0]]
        ends = ([0] * p.rank, [taps - 1 for taps in p.kernel])
        together = [expressions.window(p, [*position, 0], end)[:-1] for end in ends]
        found = term(element(layout, x, where, reach, fill, nearest, together))
        return reduce(found, axis=taps) if taps else found

    shape = (*spec.output.shape[:-1], reach[-1][1] - reach[-1][0] + 1)
    at = _by_phase(te.compute(shape, row, name="rows", attrs=attrs), p, run)

    def columns(*index: Any) -> Any:
        return reduce(at(index[:-1], index[-1], tap), axis=[tap])

    return [x, te.compute(spec.output.shape, columns, name="pool", attrs=attrs)]


def whole_vectors(width: int) -> int:
    """The width of rows shorter than the longest vectors, as the next power of 2."""
    return 1 << (width - 1).bit_length() if width <= _VECTOR else width


def cropped(spec: KernelSpec, wide: Any) -> Any:
    """The output of a kernel from rows that are wider than those of the output."""
    from tvmconv._tvm import tirx

    width = spec.output.shape[-1]

    def body(*index: Any) -> Any:
        # The element not chosen makes a schedule compute whole rows.
        last = wide[(*index[:-1], wide.shape[-1] - 1)]
        return tirx.Select(tirx.likely(index[-1] < width), wide[index], last)

    return expressions.elements(spec.output.shape, body)


def neighbourhood(layout: Layout, x: Any, problem: Problem, width: int) -> Callable[..., Any]:
    """The input of a window's taps at a position: ``at(n, channel, position, taps)``.

    It comes from a copy with zeros around it, in which a stride along the rows is split off: what
    one tap reads for neighbouring outputs lies side by side. Without padding and such a stride the
    input is read where it lies. Rows are as if the output had this width.
    """
    reach = reaches(problem)
    low, high = reach[-1]
    reach[-1] = (low, high + (width - problem.out_spatial[-1]) * problem.stride[-1])
    if problem.stride[-1] == 1 and inside(problem, reach):
        return lambda n, channel, position, taps: layout.at_slot(
            x, n, channel, expressions.window(problem, position, taps), ()
        )
    from tvmconv._tvm import te

    run = _whole_phases(problem, reach)

    def padded(*index: Any) -> Any:
        n, channel, *place = index
        where = [n, channel, *(q + low for q, (low, _) in zip(place, reach, strict=True))]
        return element(layout, x, where, reach, 0.0)

    shape = (*layout.shape[:2], *(high - low + 1 for low, high in reach))
    copy = te.compute(shape, padded, name="rows", attrs={KIND: "rows"})
    at_phase = _by_phase(copy, problem, run)

    def at(n: Any, channel: Any, position: Sequence[Any], taps: Sequence[Any]) -> Any:
        axes = zip(position, problem.stride, taps, problem.dilation, strict=True)
        *outer, _ = [o * s + k * d for o, s, k, d in axes]
        return at_phase((n, channel, *outer), position[-1], taps[-1])

    return at


def _phases(problem: Problem) -> int:
    """How many phases of the columns the windows read."""
    return min(problem.stride[-1], problem.kernel_extent[-1])


def _whole_phases(problem: Problem, reach: list[tuple[int, int]]) -> int:
    """Widen the reach along the rows to as many columns of each phase, and return how many."""
    low, high = reach[-1]
    stride = problem.stride[-1]
    run = -(-(high - low + 1) // stride)
    reach[-1] = (low, low + (run - 1) * stride + _phases(problem) - 1)
    return run


def _by_phase(rows: Any, problem: Problem, run: int) -> Callable[..., Any]:
    """Read a buffer of rows by tap: ``at(row, column of the output, tap)``.

    With a stride, the columns that are read together go side by side first.
    """
    from tvmconv._tvm import te

    stride, dilation = problem.stride[-1], problem.dilation[-1]
    if stride == 1:
        return lambda row, column, tap: rows[(*row, column + tap * dilation)]
    batch, channels, *outer, _ = rows.shape
    phases = te.compute(
        (batch, channels, _phases(problem), *outer, run),
        lambda n, c, phase, *place: rows[(n, c, *place[:-1], place[-1] * stride + phase)],
        name="phases",
        attrs={KIND: "phases"},
    )

    def at(row: Sequence[Any], column: Any, tap: Any) -> Any:
        n, c, *place = row
        return phases[(n, c, tap * dilation % stride, *place, column + tap * dilation // stride)]

    return at


def whole_plane(
    spec: KernelSpec, reduce: Callable[..., Any], fill: Any
) -> tuple[Any, Callable[..., Any]]:
    """The input, and the reduction of each of its planes at an index of the output.

    A plane is one run of memory. Lanes are reduced on their own, and then in halves.
    """
    from tvmconv._tvm import te

    layout = spec.inputs[0]
    x = expressions.placeholder(layout, "x")
    size = prod(layout.shape[2:])
    lanes = _LANES
    while lanes > _VECTOR and lanes > size:
        lanes //= 2
    found = _lanes(layout, x, lanes, reduce, fill)
    combine = te.max if reduce is te.max else operator.add
    while lanes > 1:
        lanes //= 2
        found = _halved(found, lanes, combine)
    return x, lambda *index: found[index[0], index[1], 0]


def _lanes(layout: Layout, x: Any, lanes: int, reduce: Callable[..., Any], fill: Any) -> Any:
    """Each plane as so many lanes: element ``k`` of it belongs to lane ``k % lanes``."""
    from tvmconv._tvm import te, tirx

    size, first_row = prod(layout.shape[2:]), (0,) * (len(layout.shape) - 3)
    trips, rest = divmod(size, lanes)
    shape = (*layout.shape[:2], lanes)

    def at(n: Any, c: Any, place: Any) -> Any:
        return layout.at_slot(x, n, c, [*first_row, place], ())

    def tail(n: Any, c: Any, lane: Any) -> Any:
        place = trips * lanes + lane
        loose = tirx.Select(lane < rest, at(n, c, place), fill)
        near = at(n, c, te.min(place, size - 1))
        end = _row_start(layout, n, c, first_row) + (trips + 1) * lanes
        safe = tirx.Select(tirx.likely(lane < rest), near, fill)
        return tirx.if_then_else(end <= prod(layout.buffer_shape), loose, safe)

    if not trips:
        return te.compute(shape, tail, name="lanes", attrs={KIND: "lanes"})
    trip = te.reduce_axis((0, trips), "trip")

    def body(n: Any, c: Any, lane: Any) -> Any:
        return reduce(at(n, c, trip * lanes + lane), axis=[trip])

    whole = te.compute(shape, body, name="lanes", attrs={KIND: "lanes"})
    if not rest:
        return whole
    combine = te.max if reduce is te.max else operator.add
    return te.compute(
        shape,
        lambda *index: combine(whole(*index), tail(*index)),
        name="tail",
        attrs={KIND: "lanes"},
    )


def _halved(lanes: Any, count: int, combine: Callable[[Any, Any], Any]) -> Any:
    """The first half of some lanes combined with the second."""
    from tvmconv._tvm import te

    return te.compute(
        (*lanes.shape[:2], count),
        lambda n, c, lane: combine(lanes[n, c, lane], lanes[n, c, lane + count]),
        name="half",
        attrs={KIND: "lanes"},
    )
