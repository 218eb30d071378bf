"""What the CPU families share: finding the blocks of a kernel, and the schedule of each kind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tvmconv._tvm import TVMObject
from tvmconv.kernel import DOTS, KIND, PHASES, REACH, WINDOW
from tvmconv.ops.phases import Window, windows

_REDUCE = 2
#: Kinds of reductions whose sums a tile keeps in registers.
_TILED = ("product", "contraction", "grouped", "unshared", "planes", "window")


@dataclass(frozen=True)
class Blocks:
    """The blocks of a kernel.

    Attributes
    ----------
    output : SBlockRV
        The last block: it writes the result.
    work : SBlockRV or None
        The reduction that the output stage finishes.
    total : SBlockRV or None
        The sum of the reduction's partial sums, if it is done in parts.
    kind : str
        ``contraction``, ``grouped``, ``unshared`` or ``window``; without such a reduction
        ``nearby``, if a stage gathers what one run of the output needs, or ``map``.
    stages : tuple of SBlockRV
        Other blocks before the output, in order.
    """

    output: TVMObject
    work: TVMObject | None
    total: TVMObject | None
    kind: str
    stages: tuple[TVMObject, ...]


def find_blocks(sch: TVMObject) -> Blocks:
    """Recognise a kernel's blocks by the kind that its tensor expression gave them."""
    blocks = list(sch.get_child_blocks(sch.get_sblock("root")))
    by_kind: dict[str, TVMObject] = {}
    stages = []
    for block in blocks[:-1]:
        kind = str(sch.get(block).annotations.get(KIND, "map"))
        if kind in (*_TILED, "nearby", "total"):
            by_kind[kind] = block
        else:
            stages.append(block)
    kind = next((k for k in (*_TILED, "nearby") if k in by_kind), "map")
    return Blocks(blocks[-1], by_kind.get(kind), by_kind.get("total"), kind, tuple(stages))


@dataclass(frozen=True)
class Extents:
    """Loop extents of a tiled reduction.

    Attributes
    ----------
    outer : tuple of int
        Output axes without the lane: batch, channel slots, spatial axes.
    lanes : int
        Extent of the innermost axis, which is vectorised.
    reduce : tuple of int
        Reduction axes, outermost first.
    shared : bool
        Whether one input element serves every slot of a tile.
    parts : int
        Chains of additions of one sum.
    window : tuple of int
        The attribute ``WINDOW`` of the reduction; empty if it reads no padding.
    reach : tuple of int
        The attribute ``REACH`` of the reduction; empty if tiles may read any of their padding.
    phases : tuple of Window
        The spatial axes of a reduction over the taps of phases; empty for any other.
    dots : bool
        Whether a product is a dot product of four bytes.
    """

    outer: tuple[int, ...]
    lanes: int
    reduce: tuple[int, ...]
    shared: bool
    parts: int = 1
    window: tuple[int, ...] = ()
    phases: tuple[Window, ...] = ()
    dots: bool = False
    reach: tuple[int, ...] = ()

    @property
    def first_axis(self) -> int:
        """The first spatial axis among the outer ones; before it may be one of phases."""
        return 3 if self.phases else 2

    @property
    def taps(self) -> int:
        """Terms in one sum."""
        return math.prod(self.reduce)

    @property
    def channels(self) -> int:
        """Input channels in one sum: its terms without the axes of the window.

        A window's axes, as many as the output has spatial ones, stand before the inner channels.
        """
        rank = len(self.outer) - self.first_axis
        return self.taps // math.prod(self.reduce[-1 - rank : -1])


def extents(sch: TVMObject, blocks: Blocks) -> Extents:
    """Read the extents off a kernel that has not been scheduled."""
    out = [int(sch.get(loop).extent) for loop in sch.get_loops(blocks.output)] or [1]
    reduce = reductions(sch, blocks.total, blocks.work)
    parts = reduce[0] if blocks.total is not None else 1
    work = sch.get(blocks.work)
    annotations, lanes = work.annotations, out[-1]
    if blocks.kind == "contraction":  # a gated one has twice the lanes of its output
        lanes = [int(v.dom.extent) for v in work.iter_vars if v.iter_type != _REDUCE][-1]
    return Extents(
        tuple(out[:-1]),
        lanes,
        tuple(reduce),
        blocks.kind != "grouped",
        parts,
        tuple(int(number) for number in annotations.get(WINDOW, ())),
        tuple(windows(annotations.get(PHASES, ()))),
        DOTS in annotations,
        tuple(int(number) for number in annotations.get(REACH, ())),
    )


def reductions(sch: TVMObject, *blocks: TVMObject | None) -> list[int]:
    """Extents of the reduction axes of a sum and its parts, outermost first."""
    return [
        int(v.dom.extent)
        for block in blocks
        if block is not None
        for v in sch.get(block).iter_vars
        if v.iter_type == _REDUCE
    ]


@dataclass(frozen=True)
class Tile:
    """A schedule of a reduction on blocked tensors.

    Attributes
    ----------
    sizes : tuple of int
        Elements of each output axis (batch, slots, spatial axes) that one tile keeps in registers.
    order : tuple of int
        Output axes from the outermost tile loop to the innermost.
    fused : int
        How many of the outer tile loops are fused and shared among the threads; 0 is serial.
    swept : int
        How many of the inner tile loops stand inside the loop over the parts of a sum, so that they
        sweep over the output with each part's weights; the tiles divide their axes.
    steps : int
        Steps of the innermost reduction that are unrolled, so that a vector load brings the
        elements of all; 1 is none.
    lanes : int
        Lanes of a slot that are computed together, one part of the slot after the other; 0 is all.
    """

    sizes: tuple[int, ...]
    order: tuple[int, ...]
    fused: int
    swept: int = 0
    steps: int = 1
    lanes: int = 0

    def knobs(self) -> tuple[tuple[str, int], ...]:
        """The tile as a point of a design space; :meth:`of` makes it again."""
        sizes = [(f"size{axis}", size) for axis, size in enumerate(self.sizes)]
        order = [(f"order{place}", axis) for place, axis in enumerate(self.order)]
        rest = [("steps", self.steps)] if self.steps > 1 else []
        rest += [("lanes", self.lanes)] if self.lanes else []
        return (*sizes, *order, ("fused", self.fused), ("swept", self.swept), *rest)

    @classmethod
    def of(cls, knobs: Sequence[tuple[str, int]]) -> Tile:
        """The tile with these knobs."""
        named = dict(knobs)
        rank = sum(name.startswith("size") for name in named)
        sizes = tuple(named[f"size{axis}"] for axis in range(rank))
        order = tuple(named[f"order{place}"] for place in range(rank))
        rest = (named.get("steps", 1), named.get("lanes", 0))
        return cls(sizes, order, named["fused"], named["swept"], *rest)


def tile_reduction(sch: TVMObject, blocks: Blocks, tile: Tile, unrolled: int = 0) -> None:
    """Keep a tile of sums in registers over the whole reduction.

    The output stage is tiled and ordered; the reduction is computed where its tile is needed, into
    a local buffer, reduction loops outside and the tile's loops, unrolled, inside.

    Parameters
    ----------
    sch : Schedule
    blocks : Blocks
        With a reduction.
    tile : Tile
    unrolled : int
        How many of the reduction's loops are unrolled as well, the innermost.
    """
    *axes, lane = sch.get_loops(blocks.output)
    pairs = [sch.split(axis, [None, size]) for axis, size in zip(axes, tile.sizes, strict=True)]
    outer = [pairs[k][0] for k in tile.order]
    inner = [pair[1] for pair in pairs]
    # Slots innermost: one broadcast input element then feeds every slot of the tile.
    inner = [inner[0], *inner[2:], inner[1]]
    if tile.lanes:
        part, lane = sch.split(lane, [None, tile.lanes])
        outer.append(part)
    sch.reorder(*outer, *inner, lane)
    if tile.fused:
        shared = sch.fuse(*outer[: tile.fused])
        sch.parallel(shared)
        outer = [shared, *outer[tile.fused :]]
    order = [0, *range(2, len(axes)), 1, len(axes)]
    if tile.swept:
        _sweep(sch, blocks, outer[-1 - tile.swept], tile, order)
    else:
        sum_at(sch, blocks.work, blocks.total, outer[-1], order, unrolled, tile.steps)
    unroll_tile(sch, sch.get_loops(blocks.output)[-len(order) :])


def _sweep(
    sch: TVMObject, blocks: Blocks, place: TVMObject, tile: Tile, order: Sequence[int]
) -> None:
    """Add one part of all sums after the other, at a loop outside those that are swept."""
    sch.compute_at(blocks.total, place, preserve_unit_loops=True)
    *axes, lane, part = sch.get_loops(blocks.total)[-len(order) - 1 :]
    pairs = [sch.split(axis, [None, size]) for axis, size in zip(axes, tile.sizes, strict=True)]
    inner = [*(pair[1] for pair in pairs), lane]
    ordered = [inner[k] for k in order]
    sch.reorder(part, *(pairs[k][0] for k in tile.order), *ordered)
    innermost = pairs[tile.order[-1]][0]
    unroll_tile(sch, ordered)
    init = sch.decompose_reduction(blocks.total, part)
    sch.vectorize(sch.get_loops(init)[-1])
    _sum_at(sch, blocks.work, innermost, order, 0, tile.steps)


def sum_at(
    sch: TVMObject,
    block: TVMObject,
    total: TVMObject | None,
    place: TVMObject,
    order: Sequence[int],
    unrolled: int = 0,
    steps: int = 1,
) -> None:
    """Compute a sum, or the parts of one and their total, at a loop, in registers.

    Parameters
    ----------
    sch : Schedule
    block, total : SBlockRV
    place : LoopRV
    order : sequence of int
        Output axes from the outermost loop of the tile to the innermost, its vector.
    unrolled : int
        How many of the reduction's loops are unrolled as well, the innermost.
    steps : int
        Unroll so many steps of the innermost of them; they divide it.
    """
    if total is not None:
        place = _sum_at(sch, total, place, order, 0)
    _sum_at(sch, block, place, order, unrolled, steps)


def _sum_at(
    sch: TVMObject,
    block: TVMObject,
    place: TVMObject,
    order: Sequence[int],
    unrolled: int,
    steps: int = 1,
) -> TVMObject:
    """Compute a reduction at a loop, its own loops outside and the tile's, unrolled, inside.

    Returns the outermost loop of the reduction, at which its summands may be computed.
    """
    sch.compute_at(block, place, preserve_unit_loops=True)
    sch.set_scope(block, 0, "local")
    kinds = [v.iter_type for v in sch.get(block).iter_vars]
    reduces = sum(kind == _REDUCE for kind in kinds)
    loops = sch.get_loops(block)[-len(kinds) :]
    spatial, reduce = loops[: len(kinds) - reduces], loops[len(kinds) - reduces :]
    # Of partial sums, the first axis is the number of the part: one of them at a time.
    part, tile = spatial[: -len(order)], spatial[-len(order) :]
    ordered = [tile[k] for k in order]
    if steps > 1:
        reduce = [*reduce[:-1], *sch.split(reduce[-1], [None, steps])]
    sch.reorder(*part, *reduce, *ordered)
    if steps > 1:
        sch.unroll(reduce[-1])
    for loop in reduce[len(reduce) - unrolled :]:
        sch.unroll(loop)
    unroll_tile(sch, ordered)
    init = sch.decompose_reduction(block, reduce[0])
    unroll_tile(sch, sch.get_loops(init)[-len(order) :])
    return reduce[0]


def unroll_tile(sch: TVMObject, loops: Sequence[TVMObject]) -> None:
    """Unroll the loops of a tile, and make its lanes a vector."""
    *tile, lanes = loops
    for loop in tile:
        sch.unroll(loop)
    sch.vectorize(lanes)


def stage_nearby(sch: TVMObject, blocks: Blocks, parallel: bool) -> None:
    """Gather what a run of the last spatial axis needs in a local buffer, then compute it."""
    *outer, lane = sch.get_loops(blocks.output)
    run = outer.pop() if len(outer) > 2 else None
    place = sch.fuse(*outer)
    if parallel:
        sch.parallel(place)
    if run is not None:
        pieces = -(-int(sch.get(run).extent) // _RUN)
        place, run = sch.split(run, [pieces, None])
    sch.vectorize(lane)
    sch.compute_at(blocks.work, place, preserve_unit_loops=True)
    sch.set_scope(blocks.work, 0, "local")
    *_, position, part, lanes = sch.get_loops(blocks.work)
    sch.reorder(part, position)
    sch.vectorize(lanes)


#: Elements of a run along the last axis: its neighbours' blocks stay in the first cache level.
_RUN = 64
#: Results of a reduction that are combined together: they stay in the first cache level too.
_ROW = 1024


def schedule_map(sch: TVMObject, block: TVMObject, parallel: bool, blocked: bool) -> None:
    """Share an elementwise loop nest among the threads, and vectorise the lanes if blocked.

    A reduction runs along the innermost axis that is not reduced, a row of results at a time, so
    that neighbours are read, and combined, together.
    """
    loops = list(sch.get_loops(block))
    sums = sum(v.iter_type == _REDUCE for v in sch.get(block).iter_vars)
    reduce, loops = loops[len(loops) - sums :], loops[: len(loops) - sums]
    if sums and loops:
        rows, row = _rows(sch, loops.pop())
        loops += rows
        sch.reorder(*reduce, row)
    elif blocked and len(loops) > 1:
        sch.vectorize(loops[-1])
        loops = loops[:-1]
    if parallel and loops:
        # The innermost loop stays whole: consecutive elements belong to one thread.
        outer = loops if sums else loops[:-1] or loops
        sch.parallel(sch.fuse(*outer) if len(outer) > 1 else outer[0])
    if reduce:
        sch.decompose_reduction(block, reduce[0])


def _rows(sch: TVMObject, loop: TVMObject) -> tuple[list[TVMObject], TVMObject]:
    """A loop as rows of equal length, if it has a divisor that makes good ones, and a row."""
    extent = int(sch.get(loop).extent)
    if extent <= _ROW:
        return [], loop
    length = max(d for d in range(1, _ROW + 1) if extent % d == 0)
    if length < _RUN:
        return [], loop
    rows, row = sch.split(loop, [None, length])
    return [rows], row


def balance(units: int, threads: int) -> float:
    """Time of a statically shared loop relative to a perfect division of its work."""
    return math.ceil(units / threads) * threads / units


def tiles(outer: Sequence[int], sizes: Sequence[int]) -> list[int]:
    """Number of tiles along each axis."""
    return [-(-extent // size) for extent, size in zip(outer, sizes, strict=True)]
