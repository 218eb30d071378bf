"""Contractions on CPUs whose weights are used once: as fast as memory delivers these.

A tile keeps ``batch x slots x pixels`` vectors of sums in registers. Each slot and pixel has its
weights in one run of memory, so that a tile reads as many streams side by side: enough sums to hide
the latency of the multiply-adds, few enough streams for the prefetcher. The images of a batch share
the weights; where they do not fit one tile, the tiles of a position follow each other.
"""

from __future__ import annotations

import itertools
import math

from tvmconv.autoschedule.space import Candidate
from tvmconv.target import Target

from . import contraction, costs
from .primitives import Extents, Tile, balance, tiles

#: Runs of weights that a tile reads side by side, at most.
_MAX_STREAMS = 8


def candidates(dims: Extents, target: Target) -> list[Candidate]:
    """Every tile that fits the registers, shared among the threads or not."""
    vectors = costs.vectors(dims.lanes, target)
    room = max(1, (target.vector.registers - 2) // vectors)
    batch, slots, *space = dims.outer
    axes = [range(1, extent + 1) for extent in (batch, slots, space[-1])]
    found = []
    for images, blocks, pixels in itertools.product(*(axis[:room] for axis in axes)):
        if images * blocks * pixels > room or blocks * pixels > _MAX_STREAMS:
            continue
        sizes = (images, blocks, *(1,) * (len(space) - 1), pixels)
        order = (1, *range(2, len(sizes)), 0)
        for fused in (0, len(sizes) - 1):
            tile = Tile(sizes, order, fused)
            found.append(Candidate(tile.knobs(), cycles(dims, tile, target)))
    return found


def cycles(dims: Extents, tile: Tile, target: Target) -> float:
    """Predicted time of a tiled sum, in cycles of one core."""
    vectors = costs.vectors(dims.lanes, target)
    images, streams = tile.sizes[0], math.prod(tile.sizes[1:])
    sums = images * streams * vectors
    counts = tiles(dims.outer, tile.sizes)
    loads = streams * vectors + images * tile.sizes[-1]
    useful = contraction.useful_taps(dims, tile)
    trips = dims.taps / dims.reduce[-1]
    step = costs.step_cycles(sums, loads, target)
    compute = useful * (dims.taps * step + trips * costs.TRIP_CYCLES) + sums * costs.SUM_CYCLES
    each = useful * dims.taps * streams * dims.lanes * costs.BYTES
    whole = dims.taps * math.prod(dims.outer[1:]) * dims.lanes * costs.BYTES
    # The first images' tile brings the weights, the others find them.
    far, near = (target.caches.bytes_per_cycle(size) for size in (whole, each))
    memory = (each / far + (counts[0] - 1) * each / near) / counts[0]
    total = (costs.overlapped(compute, memory) + costs.TILE_CYCLES) * math.prod(counts)
    if not tile.fused:
        return total
    threads = max(1, target.cores)
    units = math.prod(counts[1:])
    launch = costs.LAUNCH_CYCLES if threads > 1 else 0
    return total / threads * balance(units, threads) + launch
