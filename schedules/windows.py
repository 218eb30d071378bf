"""Reductions lane by lane on CPUs (depthwise convolutions, pools): tiles of neighbouring pixels.

A tile's sums stay in registers. The windows of neighbours overlap: with the window's loops
unrolled, an element that several of them read is loaded once.
"""

from __future__ import annotations

import itertools
import math

from tvmconv.autoschedule.space import Candidate
from tvmconv.target import Target

from . import costs
from .primitives import Extents, Tile, balance, tiles

#: Rows of a tile, at most.
_MAX_ROWS = 4


def candidates(dims: Extents, target: Target) -> list[Candidate]:
    """Tiles along the last axis, or the last two, that leave registers for the operands."""
    vectors = costs.vectors(dims.lanes, target)
    room = max(1, (target.vector.registers - 4) // vectors)
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
            tile = Tile(tuple(sizes), tuple(range(rank)), fused)
            found.append(Candidate(tile.knobs(), cycles(dims, tile, target)))
    return found


def cycles(dims: Extents, tile: Tile, target: Target) -> float:
    """Predicted time of a tiled window, in cycles of one core."""
    vectors = costs.vectors(dims.lanes, target)
    sums = math.prod(tile.sizes) * vectors
    counts = tiles(dims.outer, tile.sizes)
    step = costs.step_cycles(sums, sums + vectors, target)
    spilled = max(0, sums + 4 - target.vector.registers)
    compute = dims.taps * (step + spilled) + sums * costs.SUM_CYCLES + costs.TILE_CYCLES
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
