"""Reductions lane by lane on CUDA (depthwise convolutions, pools): tiles of neighbouring pixels.

A thread computes four lanes of some neighbouring pixels in registers. With the loops over the
window unrolled, an element that several of its windows share is loaded once.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from tvmconv._tvm import TVMObject
from tvmconv.autoschedule.space import Candidate
from tvmconv.target import Target

from . import cuda_costs as costs
from . import cuda_threads
from .cuda_threads import LOAD_LANES, extent
from .cuda_tile import Point

#: Pixels of a tile along its two axes, at most.
_MAX_ROWS, _MAX_COLUMNS = 4, 8
#: Terms of a window up to which its loops are unrolled.
_UNROLLED_TAPS = 49
#: Sums of a thread times taps, up to which both are unrolled.
_UNROLLED_STEPS = 256
#: Loads that a thread has under way.
_LOADS_AT_ONCE = 16


@dataclass(frozen=True)
class WindowTile(Point):
    """A schedule of windows: the pixels of one thread, along the last two axes."""

    tile_rows: int
    tile_columns: int


@dataclass(frozen=True)
class Sizes:
    """Extents of a kernel: of the output without its lanes, the window, and all of its data."""

    outer: tuple[int, ...]
    lanes: int
    taps: tuple[int, ...]
    data_bytes: int


def fits(sch: TVMObject, blocks: list[TVMObject], target: Target) -> bool:
    """Whether a kernel is a window on channel blocks and what is made of each result."""
    if len(blocks) != 2 or cuda_threads.kind(sch, blocks[0]) != "window":
        return False
    if cuda_threads.threads_of_sum(sch, blocks[0], (), target) > 1:
        return False
    wide = all(cuda_threads.vector_lanes(sch, block, target) == LOAD_LANES for block in blocks)
    return wide and len(sch.get_loops(blocks[1])) > 3


def sizes(sch: TVMObject, blocks: list[TVMObject], data_bytes: int) -> Sizes:
    """Read the sizes off a kernel that has not been scheduled."""
    *outer, lanes = (extent(sch, loop) for loop in sch.get_loops(blocks[1]))
    loops = [extent(sch, loop) for loop in sch.get_loops(blocks[0])]
    return Sizes(tuple(outer), lanes, tuple(loops[len(outer) + 1 :]), data_bytes)


def candidates(dims: Sizes, target: Target) -> list[Candidate]:
    """Tiles that divide the output, and few enough to be unrolled."""
    rank = len(dims.outer)
    heights = _divisors(dims.outer[-2], _MAX_ROWS) if rank > 3 else [1]
    found = []
    for rows, columns in itertools.product(heights, _divisors(dims.outer[-1], _MAX_COLUMNS)):
        tile = WindowTile(rows, columns)
        if rows * columns == 1 or rows * columns * math.prod(dims.taps) <= _UNROLLED_STEPS:
            found.append(Candidate(tile.knobs(), cycles(dims, tile, target)))
    return found


def _divisors(size: int, most: int) -> list[int]:
    return [d for d in range(1, most + 1) if size % d == 0]


def cycles(dims: Sizes, tile: WindowTile, target: Target) -> float:
    """Predicted time of a kernel of windows, in cycles of the device."""
    device = target.gpu
    pixels = tile.tile_rows * tile.tile_columns
    threads = math.prod(dims.outer) * dims.lanes / LOAD_LANES / pixels
    taps = math.prod(dims.taps)
    # Of windows below and beside each other, the overlap is loaded once.
    reach = (1, 1, *dims.taps)[-2:]
    heights = (reach[0] + tile.tile_rows - 1) / (reach[0] * tile.tile_rows)
    widths = (reach[1] + tile.tile_columns - 1) / (reach[1] * tile.tile_columns)
    loads = pixels * taps * heights * widths + taps
    rate = device.f32_lanes / device.warp_threads * device.multiprocessors
    issued = threads / device.warp_threads * (pixels * taps * LOAD_LANES + loads) / rate
    l1_bytes = threads * loads * LOAD_LANES * costs.BYTES
    l1 = l1_bytes / (device.shared_bytes_per_cycle * device.multiprocessors)
    room = device.multiprocessors * device.threads_per_sm / 2
    waits = costs.LATENCY_CYCLES * math.ceil(loads / _LOADS_AT_ONCE) * math.ceil(threads / room)
    memory = costs.traffic_cycles(device, dims.data_bytes)
    return costs.LAUNCH_CYCLES + max(costs.overlapped(issued, l1, memory), waits)


def schedule(sch: TVMObject, blocks: list[TVMObject], tile: WindowTile, target: Target) -> None:
    """Give each thread four lanes of a tile of pixels."""
    work, output = blocks
    taps = math.prod(
        extent(sch, loop) for loop in sch.get_loops(work)[len(sch.get_loops(output)) :]
    )
    *outer, lane = sch.get_loops(output)
    groups, lane = sch.split(lane, [None, LOAD_LANES])
    inner = []
    shape = (tile.tile_rows, tile.tile_columns)
    for place, size in zip((-2, -1), shape, strict=True):
        if size > 1:
            outer[place], own = sch.split(outer[place], [None, size])
            inner.append(own)
    sch.reorder(*outer, groups, *inner, lane)
    loop = sch.fuse(*outer, groups)
    for own in inner:
        sch.unroll(own)
    sch.vectorize(lane)
    placed: list[cuda_threads.Placed] = []
    cuda_threads.place_sum(sch, work, loop, [], placed, target)
    cuda_threads.bind(sch, loop, target)
    if taps <= _UNROLLED_TAPS:
        # Behind those of the grid and the thread come the window's, the tile's and the lanes.
        for own in sch.get_loops(work)[2:-1]:
            sch.unroll(own)
    cuda_threads.start_sums(sch, placed)
