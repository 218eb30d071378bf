"""Design space and cost model for x86: SSE, AVX2 and AVX-512.

A contraction keeps ``pixels x slots`` vectors of sums in registers. With V vectors to a slot,
the tile needs ``pixels * slots * V`` registers for sums, ``slots * V`` for weights and one for the
broadcast input element. One step of the reduction issues as many fused multiply-adds as there are
sums, and loads ``pixels + slots * V`` operands; the model takes the larger of the two times, and
the latency of the chain of sums if the tile is too small to hide it. To this come the bytes that
each tile reads from the cache level in which they lie, and the balance among the threads.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tvmconv._tvm import TVMObject, s_tir
from tvmconv.autoschedule.space import DesignSpace, register
from tvmconv.target import Target

from .primitives import (
    Extents,
    Tile,
    balance,
    extents,
    find_blocks,
    schedule_map,
    stage_nearby,
    tile_reduction,
    tiles,
)

#: Cycles to start a parallel loop and to wait for its last thread. A judgement between two cases:
#: little if the threads still spin from the loop before, far more if one has gone to sleep.
_LAUNCH_CYCLES = 10000.0
#: Cycles by which a chain of sums that just hides its latency falls short of it.
_CHAIN_CYCLES = 0.5
#: Cycles of a tile besides its multiply-adds: loop control, addresses, the first loads.
_TILE_CYCLES = 30.0
#: Cycles for each register of sums: set to zero, bias, activation, store.
_SUM_CYCLES = 3.0
#: Cycles of loop control for one trip of the loop over the inner input channels.
_TRIP_CYCLES = 2.0
#: Elements of a map below which one thread is faster than two.
_SERIAL_ELEMENTS = 16384
_MAX_SLOTS, _MAX_PIXELS = 8, 32
_BYTES = 4
_CONTRACTIONS = ("contraction", "grouped")


@dataclass(frozen=True)
class Candidate:
    """A tile with the time that the model predicts for it, in cycles."""

    tile: Tile
    cycles: float


def schedule(func: TVMObject, target: Target, rank: int = 0) -> TVMObject:
    """Schedule a kernel.

    Parameters
    ----------
    func : PrimFunc
        With the kinds of its blocks as annotations.
    target : Target
    rank : int
        Which candidate to take: 0 is the one that the model expects to be fastest.

    Returns
    -------
    Schedule
    """
    sch = s_tir.Schedule(func)
    blocks = find_blocks(sch)
    dims = extents(sch, blocks)
    if blocks.kind in _CONTRACTIONS:
        tile_reduction(sch, blocks, contraction_tiles(dims, target)[rank].tile, False)
    elif blocks.kind == "window":
        tile_reduction(sch, blocks, window_tile(dims, target), math.prod(dims.reduce) <= 49)
    elif blocks.kind == "nearby":
        stage_nearby(sch, blocks, math.prod(dims.outer) * dims.lanes >= _SERIAL_ELEMENTS)
    else:
        for block in (*blocks.stages, blocks.output):
            loops = sch.get_loops(block)
            sizes = [int(sch.get(loop).extent) for loop in loops]
            large = math.prod(sizes) >= _SERIAL_ELEMENTS and len(sizes) > 1
            schedule_map(sch, block, large, sizes[-1:] == [target.layout.channel_block])
    return sch


def candidates(func: TVMObject, target: Target) -> int:
    """How many schedules the space holds for a kernel."""
    sch = s_tir.Schedule(func)
    blocks = find_blocks(sch)
    if blocks.kind not in _CONTRACTIONS:
        return 1
    return len(contraction_tiles(extents(sch, blocks), target))


def contraction_tiles(dims: Extents, target: Target) -> list[Candidate]:
    """Every tile that fits the registers, fastest first by the model."""
    found = [
        _shared_or_serial(dims, tile, target)
        for sizes in _register_tiles(dims, target)
        for tile in _orders(dims, sizes)
    ]
    return sorted(found, key=lambda c: c.cycles)


def _shared_or_serial(dims: Extents, tile: Tile, target: Target) -> Candidate:
    """The tile's loops shared among the threads, unless waking them costs more than it saves."""
    serial = replace(tile, fused=0)
    candidates = [Candidate(t, contraction_cycles(dims, t, target)) for t in (serial, tile)]
    return min(candidates, key=lambda c: c.cycles)


def _vectors(dims: Extents, target: Target) -> int:
    """Vector registers that hold one slot's lanes."""
    return max(1, dims.lanes * _BYTES * 8 // target.vector.bits)


def _register_tiles(dims: Extents, target: Target) -> Iterator[tuple[int, ...]]:
    """Sizes (batch, slots, *spatial) of the tiles that fit the registers."""
    vectors = _vectors(dims, target)
    for slots in range(1, min(_MAX_SLOTS, dims.outer[1]) + 1):
        weights = slots * vectors
        room = (target.vector.registers - weights - 1) // weights
        if target.vector.embedded_broadcast and weights == 1:
            room += 1
        for pixels in _pixel_tiles(dims.outer, min(room, _MAX_PIXELS)):
            yield (pixels[0], slots, *pixels[1:])


def _pixel_tiles(outer: tuple[int, ...], room: int) -> Iterator[tuple[int, ...]]:
    """Tiles of at most ``room`` pixels over batch and space: runs of the last axes first."""
    axes = (outer[0], *outer[2:])
    sizes = [range(1, min(extent, room) + 1) for extent in axes]
    for pixels in itertools.product(*sizes):
        if math.prod(pixels) <= room and _compact(pixels, axes):
            yield pixels


def _compact(pixels: tuple[int, ...], axes: tuple[int, ...]) -> bool:
    """Whether a tile extends along an outer axis only if it covers a good part of the last."""
    last = len(axes) - 1
    return all(
        size == 1 or axis == last or pixels[last] * 4 >= min(axes[last], 16)
        for axis, size in enumerate(pixels)
    )


def _orders(dims: Extents, sizes: tuple[int, ...]) -> Iterator[Tile]:
    """Orders of the tile loops: weights outside (each read once) or space outside."""
    rank = len(dims.outer)
    space = tuple(range(2, rank))
    for order in dict.fromkeys([(1, 0, *space), (0, 1, *space), (0, *space[:-1], 1, *space[-1:])]):
        yield Tile(sizes, order, rank - 1 if rank > 2 else rank)


def contraction_cycles(dims: Extents, tile: Tile, target: Target) -> float:
    """Predicted time of a tiled contraction, in cycles of one core."""
    vectors = _vectors(dims, target)
    slots = tile.sizes[1]
    pixels = math.prod(tile.sizes) // slots
    sums = pixels * slots * vectors
    inputs = pixels if dims.shared else pixels * slots
    core = target.vector
    step = max(
        sums / core.fma_per_cycle,
        (inputs + slots * vectors) / core.loads_per_cycle,
        core.fma_latency + _CHAIN_CYCLES,
    )
    counts = tiles(dims.outer, tile.sizes)
    trips = dims.taps / dims.reduce[-1]
    compute = dims.taps * step + sums * _SUM_CYCLES + trips * _TRIP_CYCLES + _TILE_CYCLES
    memory = _tile_memory_cycles(dims, tile, counts, target)
    per_tile = max(compute, memory) + 0.1 * min(compute, memory)
    total = per_tile * math.prod(counts)
    if not tile.fused or math.prod(counts) == 1:
        return total
    units = math.prod(counts[axis] for axis in tile.order[: tile.fused])
    threads = max(1, target.cores)
    return total / threads * balance(units, threads) + (_LAUNCH_CYCLES if threads > 1 else 0)


def _tile_memory_cycles(dims: Extents, tile: Tile, counts: list[int], target: Target) -> float:
    """Cycles in which one tile's weights and inputs come from where they lie."""
    slots = tile.sizes[1]
    pixels = math.prod(tile.sizes) // slots
    weight_bytes = dims.taps * slots * dims.lanes * _BYTES
    input_bytes = dims.channels * pixels * _BYTES
    inner = tile.order[tile.order.index(1) + 1 :]
    reuse = math.prod(counts[axis] for axis in inner)
    all_weights = weight_bytes * counts[1]
    whole_input = input_bytes * math.prod(counts) / counts[1]
    # Weights stay close while the tiles inside the slots' loop run; the first of them pays more.
    near = _bandwidth(weight_bytes + input_bytes, target)
    far = _bandwidth(all_weights + whole_input, target)
    weights = weight_bytes * ((reuse - 1) / near + 1 / far) / reuse
    swept = input_bytes * reuse
    inputs = input_bytes / _bandwidth(swept + weight_bytes, target)
    return weights + inputs


def _bandwidth(working_set: float, target: Target) -> float:
    """Bytes per cycle and core from the cache level that holds a working set."""
    caches = target.caches
    if working_set <= caches.l1_bytes:
        return caches.l1_bytes_per_cycle
    if working_set <= 0.8 * caches.l2_bytes:
        return caches.l2_bytes_per_cycle
    if working_set <= 0.8 * caches.l3_bytes:
        return caches.l3_bytes_per_cycle
    return caches.dram_bytes_per_cycle


def window_tile(dims: Extents, target: Target) -> Tile:
    """Tile of a reduction lane by lane: a run of the last axis that leaves room for operands."""
    vectors = _vectors(dims, target)
    room = max(1, (target.vector.registers - 4) // (2 * vectors))
    sizes = [1] * len(dims.outer)
    if len(sizes) > 2:
        extent = dims.outer[-1]
        count = -(-extent // min(room, extent))
        sizes[-1] = -(-extent // count)
    order = tuple(range(len(sizes)))
    work = math.prod(dims.outer) * dims.taps * dims.lanes
    fused = max(1, len(order) - 1) if work >= _SERIAL_ELEMENTS * 4 else 0
    return Tile(tuple(sizes), order, fused)


register(DesignSpace("x86_64", candidates, schedule))
