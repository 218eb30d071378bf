"""A contraction as a product of matrices, whatever its window.

The axes of a contraction are of four kinds: those of the input and the output alone (pixels, the
rows of a matrix), those of the weight and the output alone (output channels, its columns), those
of both and the output (groups, parts of a sum: a matrix each), and those that are summed over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvmconv._tvm import TVMObject, sym, tirx, tvm, tvm_ffi
from tvmconv.codegen.blocks import indices_read
from tvmconv.codegen.tir import uses

from . import cuda_threads

_REDUCE = 2
#: Neighbouring terms that are looked for: what one load of halves brings.
_LONGEST_RUN = 8


@dataclass(frozen=True)
class Axes:
    """The iterators of a contraction by kind, as positions among all of them, and all extents."""

    extents: tuple[int, ...]
    batch: tuple[int, ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    sums: tuple[int, ...]

    def size(self, places: Sequence[int]) -> int:
        """Product of the extents of some iterators."""
        return math.prod(self.extents[k] for k in places)

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Matrices, rows, columns and terms."""
        return (
            self.size(self.batch),
            self.size(self.rows),
            self.size(self.columns),
            self.size(self.sums),
        )


def axes_of(sch: TVMObject, block: TVMObject) -> Axes:
    """Sort the iterators of a contraction ``y = y + x * w`` by the operands that they index."""
    found = sch.get(block)
    x, w = (indices_read(found, operand) for operand in (0, 1))
    kinds: dict[str, list[int]] = {"batch": [], "rows": [], "columns": [], "sums": []}
    for place, iterator in enumerate(found.iter_vars):
        in_x, in_w = (any(uses(i, iterator.var) for i in indices) for indices in (x, w))
        if iterator.iter_type == _REDUCE:
            kind = "sums"
        elif in_x and in_w:
            kind = "batch"
        else:
            kind = "columns" if in_w else "rows"
        kinds[kind].append(place)
    extents = tuple(int(v.dom.extent) for v in found.iter_vars)
    return Axes(extents, **{name: tuple(places) for name, places in kinds.items()})


def _fused(
    axes: Axes, groups: Sequence[Sequence[int]], present: Sequence[int]
) -> Callable[..., Any]:
    """An index map: from the iterators that are present to one number for each group of them."""

    def number(index: Sequence[Any], places: Sequence[int]) -> Any:
        first, *others = [place for place in places if place in present]
        value = index[present.index(first)]
        for place in others:
            value = value * axes.extents[place] + index[present.index(place)]
        return value

    return lambda *index: [number(index, places) for places in groups if places]


def _indices(sch: TVMObject, block: TVMObject, buffer: tuple[str, int]) -> list[int]:
    """The iterators that are the indices of a block's buffer; TVM leaves out those of extent 1."""
    found = sch.get(block)
    region = (found.reads if buffer[0] == "read" else found.writes)[buffer[1]]
    variables = [iterator.var for iterator in found.iter_vars]
    return [
        next(k for k, var in enumerate(variables) if var.same_as(part.min))
        for part in region.region
    ]


def _index_map(function: Callable[..., Any], rank: int) -> TVMObject:
    return tvm.tirx.IndexMap.from_func(function, ndim=rank, index_dtype="int32")


def _as_product(sch: TVMObject, block: TVMObject, axes: Axes) -> None:
    """Let a contraction be over (matrix, row, column, term), and its operands matrices."""
    everything = range(len(axes.extents))
    forms = [
        (("read", 0), (axes.batch, axes.rows, axes.sums)),
        (("read", 1), (axes.batch, axes.sums, axes.columns)),
        (("write", 0), (axes.batch, axes.rows, axes.columns)),
    ]
    for buffer, groups in forms:
        sch.reindex(block, buffer)
        present = _indices(sch, block, buffer)
        sch.transform_layout(block, buffer, _index_map(_fused(axes, groups, present), len(present)))
    function = _fused(axes, (axes.batch, axes.rows, axes.columns, axes.sums), everything)
    sch.transform_block_layout(block, _index_map(function, len(everything)))


@dataclass(frozen=True)
class Prepared:
    """A contraction as a product of matrices whose extents are multiples of the tile's.

    Attributes
    ----------
    work : SBlockRV
        The product.
    axes : Axes
    output : SBlockRV or None
        The output stage over the same rows and columns, if nothing else follows the product.
    others : tuple of SBlockRV
        Otherwise all blocks before and behind it.
    """

    work: TVMObject
    axes: Axes
    output: TVMObject | None
    others: tuple[TVMObject, ...]


def prepare(
    sch: TVMObject,
    blocks: Sequence[TVMObject],
    work: TVMObject,
    tile: tuple[int, int, int],
    splits: int,
) -> Prepared:
    """Make a product of matrices of a contraction.

    Parameters
    ----------
    sch : Schedule
    blocks : sequence of SBlockRV
        All blocks, the output last.
    work : SBlockRV
        The contraction.
    tile : tuple of int
        Rows, columns and terms of which the extents are to be multiples.
    splits : int
        Parts into which the sum is cut.
    """
    alone = splits == 1 and finished_in_place(sch, blocks, work)
    place = _position(sch, blocks, work)
    others = [*blocks[:place], *blocks[place + 1 :]]
    if splits > 1:
        others.insert(place, work)
        work = _split_sum(sch, work, splits)
    axes = axes_of(sch, work)
    _as_product(sch, work, axes)
    *matrix, _, _, _ = sch.get_loops(work)
    sch.pad_einsum(work, [*(1 for _ in matrix), *tile])
    _inline_copies(sch, work, others)
    if not alone:
        return Prepared(work, axes, None, tuple(others))
    _flatten(sch, others[0], axes)
    return Prepared(work, axes, others[0], ())


def finished_in_place(sch: TVMObject, blocks: Sequence[TVMObject], work: TVMObject) -> bool:
    """Whether a kernel is a contraction and a map of each of its sums, nothing else."""
    if len(blocks) != 2:
        return False
    sums, results = (cuda_threads.elements(sch, block) for block in (work, blocks[-1]))
    return sums == results


def _position(sch: TVMObject, blocks: Sequence[TVMObject], block: TVMObject) -> int:
    """Where a block is among some."""
    return next(k for k, other in enumerate(blocks) if sch.get(other).same_as(sch.get(block)))


def _split_sum(sch: TVMObject, work: TVMObject, splits: int) -> TVMObject:
    """Cut a sum into equal parts along its outermost axis; the block of the parts is returned."""
    first = len(cuda_threads.spatial_loops(sch, work))
    parts, _ = sch.split(sch.get_loops(work)[first], [splits, None])
    part = sch.rfactor(parts, 0)
    # What adds up the parts has them as its first axis; sums come last everywhere else.
    sch.reorder_block_iter_var(work, [*range(1, first + 1), 0])
    elements = sch.get_loops(part)[:first]
    sch.reorder(sch.get_loops(part)[first], *elements)
    _join_groups(sch, work)
    return part


def _join_groups(sch: TVMObject, block: TVMObject) -> None:
    """Let a block be over all slots again, if it is over groups and slots of a group."""
    found = sch.get(block)
    indices = [part.min for part in found.writes[0].region]
    place = next((k for k, index in enumerate(indices) if isinstance(index, tirx.Add)), None)
    if place is None:
        return
    slots, count = int(found.iter_vars[place + 1].dom.extent), len(found.iter_vars)

    def joined(*index: Any) -> list[Any]:
        number = index[place] * slots + index[place + 1]
        return [*index[:place], number, *index[place + 2 :]]

    sch.transform_block_layout(block, _index_map(joined, count))


def _inline_copies(sch: TVMObject, work: TVMObject, others: Sequence[TVMObject]) -> None:
    """Inline the copies by which TVM brings matrices into their form, but the last before use.

    The kernel's other blocks, of which one may be what the contraction reads, are none.
    """
    for block in sch.get_producers(work):
        while before := [
            other
            for other in sch.get_producers(block)
            if not cuda_threads.is_among(sch, other, others)
        ]:
            for other in before:
                sch.compute_inline(other)
    (copy,) = sch.get_consumers(work)
    while _is_copy(sch, copy) and (readers := sch.get_consumers(copy)):
        sch.compute_inline(copy)
        (copy,) = readers


def _is_copy(sch: TVMObject, block: TVMObject) -> bool:
    """Whether a block only moves elements."""
    body = sch.get(block).body
    return isinstance(body, tirx.BufferStore) and isinstance(body.value, tvm.ir.TensorLoad)


def _flatten(sch: TVMObject, output: TVMObject, axes: Axes) -> None:
    """Let the output stage be over (matrix, row, column) as well.

    It has one axis of slots where the contraction has one of groups and one of slots of a group.
    """
    own = [cuda_threads.extent(sch, loop) for loop in sch.get_loops(output)]
    if len(own) < len(axes.extents) - len(axes.sums):
        place = next(k for k, size in enumerate(own) if size != axes.extents[k])
        slots = axes.extents[place + 1]

        def split(*index: Any) -> list[Any]:
            number = index[place]
            return [*index[:place], number // slots, number % slots, *index[place + 1 :]]

        sch.transform_block_layout(output, _index_map(split, len(own)))
    count = len(sch.get_loops(output))
    groups = (axes.batch, axes.rows, axes.columns)
    sch.transform_block_layout(output, _index_map(_fused(axes, groups, range(count)), count))


def side_by_side(sch: TVMObject, work: TVMObject) -> int:
    """How many neighbouring terms of an unscheduled contraction lie side by side in the input.

    A power of 2 up to :data:`_LONGEST_RUN`; each such run begins at a multiple of its length.
    """
    before = [b for b in sch.get_producers(work) if cuda_threads.kind(sch, b) == "guarded"]
    found = sch.get(before[0] if before else work)
    # What is inlined has the contraction's terms as its last axes.
    *_, last = (v for v in found.iter_vars if before or v.iter_type == _REDUCE)
    indices = indices_read(found, 0)
    run = _LONGEST_RUN
    while run > 1 and not _is_run(found.iter_vars, last, indices, run):
        run //= 2
    return run


def _is_run(
    iterators: Sequence[TVMObject], last: TVMObject, indices: Sequence[TVMObject], run: int
) -> bool:
    """Whether so many steps of an iterator are so many neighbours, from a multiple of it on."""
    extent = int(last.dom.extent)
    if extent % run:
        return False
    analyzer = sym.Analyzer()
    group, step = tirx.Var("group", "int32"), tirx.Var("step", "int32")
    analyzer.bind(group, tvm.ir.Range.from_min_extent(0, extent // run))
    analyzer.bind(step, tvm.ir.Range.from_min_extent(0, run))
    for iterator in iterators:
        if not iterator.var.same_as(last.var):
            analyzer.bind(iterator.var, iterator.dom)

    def at(index: TVMObject, offset: Any) -> TVMObject:
        value = group * run + offset
        replaced = (tirx.Var, lambda var: value if var.same_as(last.var) else var)
        return tvm_ffi.structural_map(index, replaced)

    *outer, inner = indices
    same = all(analyzer.can_prove_equal(at(index, step), at(index, 0)) for index in outer)
    return bool(
        same
        and analyzer.can_prove_equal(at(inner, step), at(inner, 0) + step)
        and analyzer.can_prove_equal(tirx.floormod(at(inner, 0), run), 0)
    )
