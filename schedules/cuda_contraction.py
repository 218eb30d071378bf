"""Contractions on CUDA cores as products of matrices that no memory holds.

The axes of a contraction are of four kinds: those of the input and the output alone (pixels, the
rows of a matrix), those of the weight and the output alone (output channels, its columns), those
of both and the output (groups, parts of a sum: a matrix each), and those that are summed over. A
block of threads computes a tile of rows by columns. It brings a slice of the sum's input and weight
to shared memory after the other, and each thread adds up a tile of its own in registers. The
input's elements are gathered on the way (implicit GEMM), whatever the window.

What follows on the sums is done in registers, unless there are partial sums: these go to memory,
and a launch of its own adds them up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

from tvmconv._tvm import TVMObject, sym, tirx, tvm, tvm_ffi
from tvmconv.target import Target

from . import cuda_threads
from .cuda_threads import LOAD_LANES

_REDUCE = 2
#: Neighbouring terms that are looked for: what one load of halves brings.
_LONGEST_RUN = 8
#: The first capability with asynchronous copies to shared memory.
ASYNC_SM = 80
#: Floats by which rows in shared memory are longer, so that neighbours lie in different banks.
SUM_PAD, COLUMN_PAD = 4, 16


@dataclass(frozen=True)
class Tile:
    """A schedule of a contraction.

    Attributes
    ----------
    rows, columns, depth : int
        Of the tile of one block of threads: pixels, output channels, terms at a time.
    thread_rows, thread_columns : int
        Of the tile of one thread.
    splits : int
        Parts into which the sum is cut, for blocks of threads of their own.
    stages : int
        Slices of the input and weight that shared memory holds.
    """

    rows: int
    columns: int
    depth: int
    thread_rows: int
    thread_columns: int
    splits: int
    stages: int

    def knobs(self) -> tuple[tuple[str, int], ...]:
        """The tile as a point of a design space; :meth:`of` makes it again."""
        names = (field.name for field in fields(self))
        return tuple(zip(names, astuple(self), strict=True))

    @classmethod
    def of(cls, knobs: Sequence[tuple[str, int]]) -> Tile:
        """The tile with these knobs."""
        return cls(**dict(knobs))

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.rows * self.columns // (self.thread_rows * self.thread_columns)


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
    x, w = found.reads
    kinds: dict[str, list[int]] = {"batch": [], "rows": [], "columns": [], "sums": []}
    for place, iterator in enumerate(found.iter_vars):
        in_x, in_w = (_uses(region, iterator.var) for region in (x, w))
        if iterator.iter_type == _REDUCE:
            kind = "sums"
        elif in_x and in_w:
            kind = "batch"
        else:
            kind = "columns" if in_w else "rows"
        kinds[kind].append(place)
    extents = tuple(int(v.dom.extent) for v in found.iter_vars)
    return Axes(extents, **{name: tuple(places) for name, places in kinds.items()})


def _uses(region: TVMObject, var: TVMObject) -> bool:
    """Whether a variable occurs in the indices of a region."""
    return any(
        var.same_as(other)
        for part in region.region
        for other in tirx.analysis.undefined_vars(part.min, [])
    )


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
        Otherwise all blocks that follow.
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
    place = _position(sch, blocks, work)
    others = [*blocks[:place], *blocks[place + 1 :]]
    if splits > 1:
        others.insert(place, work)
        work = _split_sum(sch, work, splits)
    axes = axes_of(sch, work)
    _as_product(sch, work, axes)
    *matrix, _, _, _ = sch.get_loops(work)
    sch.pad_einsum(work, [*(1 for _ in matrix), *tile])
    _inline_copies(sch, work)
    if len(others) > 1:
        return Prepared(work, axes, None, tuple(others))
    _flatten(sch, others[0], axes)
    return Prepared(work, axes, others[0], ())


def schedule_contraction(
    sch: TVMObject, blocks: Sequence[TVMObject], work: TVMObject, tile: Tile, target: Target
) -> None:
    """Schedule a kernel whose main part is a contraction; arguments as of :func:`prepare`."""
    vectors = side_by_side(sch, work) % LOAD_LANES == 0
    product = prepare(sch, blocks, work, (tile.rows, tile.columns, tile.depth), tile.splits)
    finish = product.output
    if finish is None:
        finish = sch.cache_write(product.work, 0, "local")
    else:
        sch.set_scope(product.work, 0, "local")
    _tile_product(sch, product.work, finish, tile, vectors, target)
    if product.others:
        cuda_threads.compute_stages(sch, product.others, target)


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
    return part


def _inline_copies(sch: TVMObject, work: TVMObject) -> None:
    """Inline the copies by which TVM brings matrices into their form, but the last before use."""
    for block in sch.get_producers(work):
        for before in sch.get_producers(block):
            sch.compute_inline(before)
    (copy,) = sch.get_consumers(work)
    while _is_copy(sch, copy) and (readers := sch.get_consumers(copy)):
        sch.compute_inline(copy)
        (copy,) = readers


def _is_copy(sch: TVMObject, block: TVMObject) -> bool:
    """Whether a block only moves elements."""
    body = sch.get(block).body
    return isinstance(body, tirx.BufferStore) and isinstance(body.value, tvm.ir.TensorLoad)


def _flatten(sch: TVMObject, output: TVMObject, axes: Axes) -> None:
    """Let the output stage be over (matrix, row, column) as well."""
    count = len(sch.get_loops(output))
    groups = (axes.batch, axes.rows, axes.columns)
    sch.transform_block_layout(output, _index_map(_fused(axes, groups, range(count)), count))


def _tile_product(
    sch: TVMObject,
    work: TVMObject,
    finish: TVMObject,
    tile: Tile,
    vectors: bool,
    target: Target,
) -> None:
    """Tile a product of matrices; ``finish`` takes the sums from the registers."""
    *matrix, m, n, k = sch.get_loops(work)
    lanes = min(LOAD_LANES, tile.thread_columns)
    threads_n = tile.columns // tile.thread_columns
    threads_m = tile.rows // tile.thread_rows
    mo, row, ty = sch.split(m, [None, tile.thread_rows, threads_m])
    no, column, tx, lane = sch.split(n, [None, tile.thread_columns // lanes, threads_n, lanes])
    steps = LOAD_LANES if vectors else 1
    ko, k4, kv = sch.split(k, [None, tile.depth // steps, steps])
    sch.reorder(*matrix, no, mo, row, column, ty, tx, ko, k4, kv, lane)
    grid = sch.fuse(*matrix, no, mo)
    thread = sch.fuse(ty, tx)
    sch.bind(grid, "blockIdx.x")
    sch.bind(row, "vthread.y")
    sch.bind(column, "vthread.x")
    sch.bind(thread, "threadIdx.x")
    sch.reverse_compute_at(finish, thread, preserve_unit_loops=True)
    sch.vectorize(sch.get_loops(finish)[-1])
    for operand, load in enumerate((_load_rows, _load_columns)):
        shared = sch.cache_read(work, operand, "shared")
        for copy in sch.get_producers(shared):
            sch.compute_inline(copy)
        local = sch.cache_read(work, operand, "local")
        sch.compute_at(local, (k4, kv)[operand], preserve_unit_loops=True)
        sch.vectorize(sch.get_loops(local)[-1])
        sch.compute_at(shared, ko, preserve_unit_loops=True)
        load(sch, shared, tile, vectors)
    sch.annotate(k4, "pragma_unroll_explicit", 0)
    for loop in (k4, kv, lane):
        sch.unroll(loop)
    init = sch.decompose_reduction(work, ko)
    sch.unroll(sch.get_loops(init)[-1])
    if tile.stages > 1:
        pipeline(sch, ko, tile.stages, target)


def pipeline(sch: TVMObject, loop: TVMObject, stages: int, target: Target) -> None:
    """Copy later slices to shared memory while the threads compute with earlier ones."""
    sch.annotate(loop, "software_pipeline_stage", [0, 0, stages - 1])
    sch.annotate(loop, "software_pipeline_order", [0, 1, 2])
    if target.gpu.sm >= ASYNC_SM:
        sch.annotate(loop, "software_pipeline_async_stages", [0])


def _load_rows(sch: TVMObject, shared: TVMObject, tile: Tile, vectors: bool) -> None:
    """Bring a slice of the input to shared memory, all threads together."""
    m, k = sch.get_loops(shared)[-2:]
    if vectors:
        sch.storage_align(shared, 0, -2, 2 * SUM_PAD, SUM_PAD)
        k, lane = sch.split(k, [None, LOAD_LANES])
        _share(sch, [m, k], tile)
        sch.vectorize(lane)
    else:
        # Neighbouring pixels lie side by side in a plain tensor.
        sch.reorder(k, m)
        _share(sch, [k, m], tile)


def _load_columns(sch: TVMObject, shared: TVMObject, tile: Tile, vectors: bool) -> None:
    """Bring a slice of the weight to shared memory, in the order in which it lies in memory."""
    k, n = sch.get_loops(shared)[-2:]
    sch.storage_align(shared, 0, -2, 2 * COLUMN_PAD, COLUMN_PAD)
    slot, group, lane = sch.split(n, [None, 4, LOAD_LANES])
    sch.reorder(slot, k, group, lane)
    _share(sch, [slot, k, group], tile)
    sch.vectorize(lane)


def _share(sch: TVMObject, loops: Sequence[TVMObject], tile: Tile) -> None:
    """Share loops among the threads of a block, neighbours taking neighbouring iterations."""
    turns, thread = sch.split(sch.fuse(*loops), [None, tile.threads])
    sch.bind(thread, "threadIdx.x")
    sch.unroll(turns)


def side_by_side(sch: TVMObject, work: TVMObject) -> int:
    """How many neighbouring terms of an unscheduled contraction lie side by side in the input.

    A power of 2 up to :data:`_LONGEST_RUN`; each such run begins at a multiple of its length.
    """
    found = sch.get(work)
    *_, last = (v for v in found.iter_vars if v.iter_type == _REDUCE)
    indices = [part.min for part in found.reads[0].region]
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
