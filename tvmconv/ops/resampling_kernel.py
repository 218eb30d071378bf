"""The kernels of separable resampling, on channel blocks and on planes.

All axes but the last are combined first, for whole rows of the input, then the last one. On channel
blocks every place is a vector. On planes neighbouring columns are: rows are combined in vectors;
and where the outputs are a whole number of times as many as the inputs, and their weights repeat,
so are the outputs of each phase, which are interleaved at the end. Otherwise the columns are
gathered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tvmconv.kernel import KIND, KernelSpec
from tvmconv.layout import Layout
from tvmconv.ops import expressions, rows
from tvmconv.ops.resampling import Axis, tables


@dataclass(frozen=True, eq=False)
class _Tables:
    """The placeholders of one axis's tables, None where it has none."""

    axis: Axis
    indices: Any
    weights: Any
    beyond: Any

    def place(self, output: Any, tap: Any) -> Any:
        """The input of a tap."""
        return output if self.indices is None else self.indices[tap, output]

    def weighted(self, value: Any, output: Any, tap: Any) -> Any:
        """The value times the weight of its tap."""
        return value if self.weights is None else value * self.weights[tap, output]


def compute(
    spec: KernelSpec,
    axes: Sequence[Axis],
    combine: Literal["sum", "max"] = "sum",
    value: float = 0.0,
) -> list[Any]:
    """The tensor expression of a resampling kernel.

    Parameters
    ----------
    spec : KernelSpec
        On blocks or on planes; without a halo that is read.
    axes : sequence of Axis
        Of the spatial axes.
    combine : {"sum", "max"}
    value : float
        Of the outputs beyond.

    Returns
    -------
    list of te.Tensor
        ``x``, then :func:`tables`, the program's operands and the output.
    """
    planes = spec.output.block == 1
    x = expressions.placeholder(spec.inputs[0], "x")
    known = _placeholders(axes, planes)
    maker = _Maker(spec, x, known, combine)
    last = known[-1]
    if planes and last.axis.phases:
        result = maker.interleaved(maker.lines(last.axis.reach))
    else:
        result = maker.columns(maker.lines((0, 0)), planes)

    def chosen(*index: Any) -> Any:
        from tvmconv._tvm import tirx

        found = result(*index)
        flags = [
            table.beyond[o] != 0
            for table, o in zip(known, index[2 : 2 + len(axes)], strict=True)
            if table.beyond is not None
        ]
        if not flags:
            return found
        return tirx.Select(tirx.any(*flags), tirx.const(value, spec.output.dtype), found)

    operands, output = expressions.finish(spec, chosen)
    arguments = [t for k in known for t in (k.indices, k.weights, k.beyond) if t is not None]
    return [x, *arguments, *operands, output]


def _placeholders(axes: Sequence[Axis], planes: bool) -> list[_Tables]:
    from tvmconv._tvm import te

    arrays = iter(tables(axes, planes))

    def named(wanted: bool, name: str) -> Any:
        if not wanted:
            return None
        array = next(arrays)
        return te.placeholder(array.shape, str(array.dtype), name=name)

    found = []
    for number, axis in enumerate(axes):
        phased = planes and number == len(axes) - 1 and axis.phases > 0
        indexed = not (axis.is_identity or phased)
        found.append(
            _Tables(
                axis,
                named(indexed, f"places{number}"),
                named(axis.weights is not None, f"weights{number}"),
                named(axis.beyond is not None, f"beyond{number}"),
            )
        )
    return found


@dataclass(frozen=True, eq=False)
class _Maker:
    """Makes the stages of a kernel."""

    spec: KernelSpec
    x: Any
    tables: Sequence[_Tables]
    combine: Literal["sum", "max"]

    @property
    def layout(self) -> Layout:
        """Of the input."""
        return self.spec.inputs[0]

    def reduce(self, value: Any, axes: Sequence[Any]) -> Any:
        """The sum or the maximum over reduction axes."""
        from tvmconv._tvm import te

        if not axes:
            return value
        return (te.sum if self.combine == "sum" else te.max)(value, axis=list(axes))

    def lines(self, reach: tuple[int, int]) -> Callable[..., Any]:
        """Rows with all axes but the last combined: ``at(n, slot, outer outputs, column, lane)``.

        With a reach the row's first and last element are repeated so many times.
        """
        from tvmconv._tvm import te

        outer = self.tables[:-1]
        taps = [te.reduce_axis((0, t.axis.taps), f"rk{k}") for k, t in enumerate(outer)]
        if not any(reach) and all(t.axis.taps == 1 and t.weights is None for t in outer):

            def read(n: Any, slot: Any, place: Sequence[Any], column: Any, lane: Any) -> Any:
                inner = [t.place(o, 0) for t, o in zip(outer, place, strict=True)]
                return self.layout.at_slot(self.x, n, slot, [*inner, column], lane)

            return read
        axes = [axis for axis in taps if int(axis.dom.extent) > 1]
        steps = [axis if axis in axes else 0 for axis in taps]

        def body(*index: Any) -> Any:
            n, slot, *place = index
            lane = (place.pop(),) if self.layout.block > 1 else ()
            column = place.pop()
            triples = list(zip(outer, place, steps, strict=True))
            inner = [t.place(o, k) for t, o, k in triples]
            found = self._element(n, slot, [*inner, column - reach[0]], lane, reach)
            for table, output, tap in triples:
                found = table.weighted(found, output, tap)
            return self.reduce(found, axes)

        width = reach[0] + self.tables[-1].axis.size + reach[1]
        spatial = (*(t.axis.outputs for t in outer), width)
        shape = self._shape(self.layout, spatial)
        kind = "lines" if self.layout.block > 1 else "plane_lines"
        stage = te.compute(shape, body, name="lines", attrs={KIND: kind})
        return lambda n, slot, place, column, lane: stage[(n, slot, *place, column, *lane)]

    def _element(
        self, n: Any, slot: Any, place: Sequence[Any], lane: Any, reach: tuple[int, int]
    ) -> Any:
        """An element of the input, the nearest one where the column is outside."""
        from tvmconv._tvm import tirx

        if not any(reach):
            return self.layout.at_slot(self.x, n, slot, place, lane)
        *outer, column = place
        width = self.layout.shape[-1]
        ends = [self.layout.at_slot(self.x, n, slot, [*outer, c], lane) for c in (0, width - 1)]
        span = [(0, size - 1) for size in self.layout.shape[2:-1]]
        span.append((-reach[0], width - 1 + reach[1]))
        fill = tirx.Select(column < 0, *ends)
        return rows.element(self.layout, self.x, [n, slot, *place], span, fill)

    @staticmethod
    def _shape(layout: Layout, spatial: Sequence[int]) -> tuple[int, ...]:
        batch, slots = layout.iteration_shape[:2]
        return (batch, slots, *spatial, *([layout.block] if layout.block > 1 else []))

    def columns(self, lines: Callable[..., Any], planes: bool) -> Callable[..., Any]:
        """The last axis combined: the result at an index of the output."""
        from tvmconv._tvm import te

        table = self.tables[-1]

        def split(index: Sequence[Any]) -> tuple[Any, Any, list[Any], Any, tuple[Any, ...]]:
            n, slot, *place = index
            lane = () if planes else (place.pop(),)
            column = place.pop()
            return n, slot, place, column, lane

        def term(index: Sequence[Any], tap: Any) -> Any:
            n, slot, place, column, lane = split(index)
            found = lines(n, slot, place, table.place(column, tap), lane)
            return table.weighted(found, column, tap)

        if table.axis.taps == 1:
            return lambda *index: term(index, 0)
        tap = te.reduce_axis((0, table.axis.taps), "rk")
        kind = "gathered" if planes else "columns"
        stage = te.compute(
            self.spec.output.iteration_shape,
            lambda *index: self.reduce(term(index, tap), [tap]),
            name="columns",
            attrs={KIND: kind},
        )
        return lambda *index: stage[index]

    def interleaved(self, lines: Callable[..., Any]) -> Callable[..., Any]:
        """The last axis of planes combined phase by phase: the result at an index."""
        from tvmconv._tvm import te

        table = self.tables[-1]
        axis, count = table.axis, table.axis.phases
        start, turn = axis.first_phases
        tap = te.reduce_axis((0, axis.taps), "rk")

        def body(*index: Any) -> Any:
            n, channel, *place, phase, step = index
            offset = 0 if axis.taps == 1 else tap
            first = start + axis.reach[0] + (phase + count - turn) // count
            found = lines(n, channel, place, step + first + offset, ())
            found = table.weighted(found, phase, offset)
            return self.reduce(found, [tap] if axis.taps > 1 else [])

        shape = (*self.spec.output.shape[:-1], count, axis.size)
        stage = te.compute(shape, body, name="interleaved", attrs={KIND: "interleaved"})
        return lambda *index: stage[(*index[:-1], index[-1] % count, index[-1] // count)]
