"""Contractions on CUDA cores as products of matrices that no memory holds.

A block of threads computes a tile of rows by columns. It brings one slice of the sum's input and
weight to shared memory after the other, and each thread adds up a tile of its own in registers. The
input's elements are gathered on the way (implicit GEMM).

What follows on the sums is done in registers, unless there are partial sums: these go to memory,
and a launch of its own adds them up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvmconv._tvm import TVMObject
from tvmconv.target import Target

from . import cuda_threads
from .cuda_product import prepare, side_by_side
from .cuda_threads import LOAD_LANES
from .cuda_tile import BlockTile

#: The first capability with asynchronous copies to shared memory.
ASYNC_SM = 80
#: Floats by which rows in shared memory are longer, so that neighbours lie in different banks.
SUM_PAD, COLUMN_PAD = 4, 16


@dataclass(frozen=True)
class Tile(BlockTile):
    """A schedule of a contraction.

    Attributes
    ----------
    thread_rows, thread_columns : int
        Of the tile of one thread.
    """

    thread_rows: int
    thread_columns: int

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.rows * self.columns // (self.thread_rows * self.thread_columns)


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
    if tile.slices > 1:
        pipeline(sch, ko, tile.slices, target)


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
