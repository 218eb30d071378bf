"""Contractions of halves or TF32 on tensor cores, with sums in float32.

As :mod:`schedules.cuda_contraction`, with warps in place of threads: each adds up a tile of its own
in registers, 16 by 16 elements at a time. Slices come to shared memory by asynchronous
copies, several of them under way, and from there to registers by ``ldmatrix``; rows in shared
memory are an odd number of 16 bytes long, so that eight of them lie in different banks. The sums go
through shared memory, so that what follows reads and writes whole vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvmconv._tvm import TVMObject, tvm
from tvmconv.kernel import TF32, WARP_TILES
from tvmconv.target import Target

from . import cuda_intrinsics as intrinsics
from . import cuda_threads
from .cuda_contraction import pipeline
from .cuda_intrinsics import SLICES, SUMS, Element
from .cuda_product import axes_of, prepare, side_by_side
from .cuda_statements import TILE, WARP
from .cuda_threads import LOAD_LANES
from .cuda_tile import BlockTile

#: Elements by which rows of the weight in shared memory are longer than a multiple of a tile's. Of
#: halves that is an odd number of loads; of floats, four rows lie in different banks.
COLUMN_PAD = 8
#: The first capability whose instructions add 16 products of halves to a sum; earlier ones add 8.
_LONG_SM = 80
_FLOAT16 = {terms: Element("float16", "fp16", terms) for terms in (8, 16)}
_BFLOAT16 = Element("bfloat16", "bf16", 16)
_TF32 = Element("float32", "tf32", 8)


@dataclass(frozen=True)
class WarpTile(BlockTile):
    """A schedule of a contraction on tensor cores.

    Attributes
    ----------
    warp_rows, warp_columns : int
        Of the tile of one warp.
    """

    warp_rows: int
    warp_columns: int

    @property
    def warps(self) -> int:
        """Warps of a block."""
        return self.rows * self.columns // (self.warp_rows * self.warp_columns)


def element_of(sch: TVMObject, work: TVMObject, target: Target) -> Element | None:
    """What a device's tensor cores can make of a contraction's operands; None if nothing.

    They have to be of one type, with whole loads of the input side by side. Of float32 the operands
    are rounded, if the kernel says that they may be. One row, as of a dense layer at batch 1, is
    not worth a tile, and TVM could not lay it out.
    """
    found = sch.get(work)
    dtypes = {str(region.source.ty.dtype) for region in found.reads}
    device = target.gpu
    element = None
    if dtypes == {"float16"} and device.f16_tflops:
        element = _FLOAT16[16 if device.sm >= _LONG_SM else 8]
    elif dtypes == {"bfloat16"} and device.bf16_tflops:
        element = _BFLOAT16
    elif dtypes == {"float32"} and TF32 in found.annotations and device.tf32_tflops:
        element = _TF32
    if element is None or axes_of(sch, work).sizes[1] == 1:
        return None
    return element if side_by_side(sch, work) % element.load == 0 else None


def schedule(
    sch: TVMObject,
    blocks: Sequence[TVMObject],
    work: TVMObject,
    element: Element,
    tile: WarpTile,
    target: Target,
) -> None:
    """Schedule a kernel whose main part is a contraction for tensor cores."""
    sch.annotate(sch.get_sblock("root"), WARP_TILES, 1)
    product = prepare(sch, blocks, work, (tile.rows, tile.columns, tile.depth), tile.splits)
    if product.others:
        # First, for TVM cannot copy a schedule that has tensorized blocks.
        cuda_threads.compute_stages(sch, product.others, target)
    work = product.work
    *matrix, m, n, k = sch.get_loops(work)
    mo, wm, mi, m16 = sch.split(
        m, [None, tile.rows // tile.warp_rows, tile.warp_rows // TILE, TILE]
    )
    no, wn, ni, n16 = sch.split(
        n, [None, tile.columns // tile.warp_columns, tile.warp_columns // TILE, TILE]
    )
    ko, ki, k16 = sch.split(k, [None, tile.depth // TILE, TILE])
    sch.reorder(*matrix, no, mo, wm, wn, ko, ki, mi, ni, m16, n16, k16)
    grid = sch.fuse(*matrix, no, mo)
    warp = sch.fuse(wm, wn)
    sch.bind(grid, "blockIdx.x")
    sch.bind(warp, "threadIdx.y")
    outer = sch.blockize(m16)
    finish = sch.cache_write(outer, 0, SUMS)
    stored = sch.cache_write(outer, 0, "warp")
    if product.output is not None:
        sch.compute_inline(finish)
        finish = product.output
    sch.reverse_compute_at(stored, warp, preserve_unit_loops=True)
    sch.reverse_compute_at(finish, grid, preserve_unit_loops=True)
    _finish(sch, finish, tile, target)
    loads = (_share_rows, intrinsics.load_rows), (_share_columns, intrinsics.load_columns)
    for operand, (share, load) in enumerate(loads):
        shared = sch.cache_read(outer, operand, SLICES)
        for copy in sch.get_producers(shared):
            sch.compute_inline(copy)
        local = sch.cache_read(outer, operand, "warp")
        sch.compute_at(local, ki, preserve_unit_loops=True)
        sch.compute_at(shared, ko, preserve_unit_loops=True)
        share(sch, shared, element, tile)
        _as_fragments(sch, local, "write")
        _tensorize_tiles(sch, local, load(element))
    _as_fragments(sch, stored, "read")
    init = sch.decompose_reduction(outer, ko)
    (start,) = sch.get_child_blocks(init)
    for loop in sch.get_loops(start)[-4:-2]:
        sch.unroll(loop)
    sch.tensorize(sch.get_loops(start)[-2], intrinsics.fill())
    sch.tensorize(sch.get_loops(work)[-3], intrinsics.multiply(element))
    _tensorize_tiles(sch, stored, intrinsics.store())
    for loop in (ki, mi, ni):
        sch.unroll(loop)
    if tile.slices > 1:
        pipeline(sch, ko, tile.slices, target)


def _as_fragments(sch: TVMObject, block: TVMObject, side: str) -> None:
    """Keep tiles of a block's buffer in the registers of a warp."""

    def place(*index: TVMObject) -> list[TVMObject]:
        *matrix, i, j = index
        tiles = [i // TILE, j // TILE]
        return [*matrix, *tiles, *intrinsics.fragment(i % TILE, j % TILE)]

    found = sch.get(block)
    region = (found.writes if side == "write" else found.reads)[0]
    rank = len(region.region)
    index_map = tvm.tirx.IndexMap.from_func(place, ndim=rank, index_dtype="int32")
    sch.transform_layout(block, (side, 0), index_map)


def _tensorize_tiles(sch: TVMObject, block: TVMObject, name: str) -> None:
    """Copy tiles by an intrinsic."""
    i, j = sch.get_loops(block)[-2:]
    i0, i1 = sch.split(i, [None, TILE])
    j0, j1 = sch.split(j, [None, TILE])
    sch.reorder(i0, j0, i1, j1)
    sch.unroll(i0)
    sch.unroll(j0)
    sch.tensorize(i1, name)


def _share_rows(sch: TVMObject, shared: TVMObject, element: Element, tile: WarpTile) -> None:
    """Bring a slice of the input to shared memory, all threads together."""
    m, k = sch.get_loops(shared)[-2:]
    group, lane = sch.split(k, [None, element.load])
    _share(sch, [m, group], lane, tile)
    sch.storage_align(shared, 0, -2, 2 * element.load, element.load)


def _share_columns(sch: TVMObject, shared: TVMObject, element: Element, tile: WarpTile) -> None:
    """Bring a slice of the weight to shared memory, in the order in which it lies in memory."""
    k, n = sch.get_loops(shared)[-2:]
    slot, group, lane = sch.split(n, [None, TILE // element.load, element.load])
    sch.reorder(slot, k, group, lane)
    _share(sch, [slot, k, group], lane, tile)
    sch.storage_align(shared, 0, -2, TILE, COLUMN_PAD)


def _finish(sch: TVMObject, block: TVMObject, tile: WarpTile, target: Target) -> None:
    """Read the sums of a block from shared memory, neighbouring pixels by neighbouring threads."""
    m, n = sch.get_loops(block)[-2:]
    block_lanes = target.layout.channel_block
    slot, group, lane = sch.split(n, [None, block_lanes // LOAD_LANES, LOAD_LANES])
    sch.reorder(slot, m, group, lane)
    _share(sch, [slot, m, group], lane, tile)


def _share(sch: TVMObject, loops: Sequence[TVMObject], lane: TVMObject, tile: WarpTile) -> None:
    """Share loops among the threads of a block, a vector each."""
    turns, warp, thread = sch.split(sch.fuse(*loops), [None, tile.warps, WARP])
    sch.bind(warp, "threadIdx.y")
    sch.bind(thread, "threadIdx.x")
    sch.unroll(turns)
    sch.vectorize(lane)
