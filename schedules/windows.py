"""Reductions lane by lane on CPUs (depthwise convolutions, pools): tiles of neighbouring pixels.

A tile's sums stay in registers. The windows of neighbours overlap: with the window's loops
unrolled, an element that several of them read is loaded once.
"""

from __future__ import annotations

import itertools
import math

from tvmconv._tvm import TVMObject
from tvmconv.autoschedule.space import Candidate
from tvmconv.target import Target

from . import costs
from .primitives import Blocks, Extents, Tile, balance, extents, tile_reduction, tiles

#: Rows of a tile, at most.
_MAX_ROWS = 4
#: Taps of a window up to which its loops are unrolled: of whole slots, and of parts of them.
_UNROLLED_TAPS, _UNROLLED_IN_PARTS = 49, 7


def candidates(dims: Extents, target: Target) -> list[Candidate]:
    """Tiles along the last axis, or the last two, that leave registers for the operands.

    Of whole slots, or of one vector of each at a time, if a slot has several.
    """
    lanes = target.vector.f32_lanes
    parts = (0, lanes) if dims.lanes > lanes and dims.lanes % lanes == 0 else (0,)
    return [found for part in parts for found in _tiles(dims, part, target)]


def _tiles(dims: Extents, lanes: int, target: Target) -> list[Candidate]:
    """Those that compute so many lanes of a slot together; 0 is all."""
    room = max(1, (target.vector.registers - 4) // costs.vectors(lanes or dims.lanes, target))
    rank = len(dims.outer)
    first = dims.first_axis
    columns = range(1, min(room, dims.outer[-1]) + 1) if rank > first else (1,)
    rows = range(1, min(_MAX_ROWS, dims.outer[-2]) + 1) if rank > first + 1 else (1,)
    found = []
    for row, column in itertools.product(rows, columns):
        if row * column > room:
            continue
        sizes = [1] * rank
        if rank > first:
            sizes[-1] = column
        if rank > first + 1:
            sizes[-2] = row
        for fused in (0, max(1, rank - 1)):
            tile = Tile(tuple(sizes), tuple(range(rank)), fused, lanes=lanes)
            found.append(Candidate(tile.knobs(), cycles(dims, tile, target)))
    return found


def _live(dims: Extents, tile: Tile, target: Target) -> int:
    """Registers that a tile takes: sums, and what multiply-adds cannot read from memory.

    Where they read registers only, LLVM keeps the elements of each row that neighbours share.
    """
    together, pixels = costs.vectors(tile.lanes or dims.lanes, target), math.prod(tile.sizes)
    if costs.reads_memory(target):
        return pixels * together + 4
    columns = tile.sizes[-1]
    return together * (pixels + pixels // columns * (columns + dims.reduce[-1] - 1) + 1)


def schedule(sch: TVMObject, blocks: Blocks, tile: Tile) -> None:
    """Schedule a kernel as one of its tiles.

    The window's loops are unrolled; of one vector at a time, only so many taps that the elements
    they share fit the registers.
    """
    reduce = extents(sch, blocks).reduce
    most = _UNROLLED_IN_PARTS if tile.lanes else _UNROLLED_TAPS
    unrolled = len(reduce)
    while unrolled and math.prod(reduce[len(reduce) - unrolled :]) > most:
        unrolled -= 1
    tile_reduction(sch, blocks, tile, unrolled if tile.lanes or unrolled == len(reduce) else 0)


def cycles(dims: Extents, tile: Tile, target: Target) -> float:
    """Predicted time of a tiled window, in cycles of one core."""
    vectors = costs.vectors(dims.lanes, target)
    together = costs.vectors(tile.lanes or dims.lanes, target)
    sums = math.prod(tile.sizes) * together
    counts = tiles(dims.outer, tile.sizes)
    step = costs.step_cycles(sums, sums + together, target)
    spilled = max(0, _live(dims, tile, target) - target.vector.registers)
    compute = dims.taps * (step + spilled) + sums * costs.SUM_CYCLES
    compute = compute * (vectors / together) + costs.TILE_CYCLES
    data = math.prod(tile.sizes) * dims.lanes * costs.BYTES * 2
    whole = math.prod(dims.outer) * dims.lanes * costs.BYTES * 2
    memory = data / target.caches.bytes_per_cycle(whole)
    total = costs.overlapped(compute, memory) * math.prod(counts)
    if not tile.fused:
        return total
    threads = max(1, target.cores)
    units = math.prod(counts[axis] for axis in tile.order[: tile.fused])
    launch = costs.LAUNCH_CYCLES if threads > 1 else 0
    return total / threads * balance(units, threads) + launch
