"""Register-tiled contractions on CPUs: every tile that fits, and what each costs.

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
from dataclasses import replace

from tvmconv.autoschedule.space import Candidate
from tvmconv.target import Target

from . import costs
from .primitives import Extents, Tile, balance, tiles

_MAX_SLOTS, _MAX_PIXELS = 8, 32


def candidates(dims: Extents, target: Target) -> list[Candidate]:
    """Every tile that fits the registers, in every order."""
    return [
        _shared_or_serial(dims, tile, target)
        for sizes in _register_tiles(dims, target)
        for tile in _orders(dims, sizes)
    ]


def _shared_or_serial(dims: Extents, tile: Tile, target: Target) -> Candidate:
    """The tile's loops shared among the threads, unless waking them costs more than it saves."""
    serial = replace(tile, fused=0)
    found = [Candidate(t.knobs(), cycles(dims, t, target)) for t in (serial, tile)]
    return min(found, key=lambda candidate: candidate.cycles)


def _register_tiles(dims: Extents, target: Target) -> Iterator[tuple[int, ...]]:
    """Sizes (batch, slots, *spatial) of the tiles that fit the registers."""
    vectors = costs.vectors(dims.lanes, target)
    for slots in range(1, min(_MAX_SLOTS, dims.outer[1]) + 1):
        most = costs.room(slots * vectors, target)
        for pixels in _pixel_tiles(dims.outer, min(most, _MAX_PIXELS)):
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


def cycles(dims: Extents, tile: Tile, target: Target) -> float:
    """Predicted time of a tiled contraction, in cycles of one core."""
    vectors = costs.vectors(dims.lanes, target)
    slots = tile.sizes[1]
    pixels = math.prod(tile.sizes) // slots
    sums = pixels * slots * vectors
    inputs = pixels if dims.shared else pixels * slots
    counts = tiles(dims.outer, tile.sizes)
    step = costs.step_cycles(sums, inputs + slots * vectors, target)
    trips = dims.taps / dims.reduce[-1]
    compute = dims.taps * step + sums * costs.SUM_CYCLES + trips * costs.TRIP_CYCLES
    memory = _memory_cycles(dims, tile, counts, target)
    total = costs.overlapped(compute + costs.TILE_CYCLES, memory) * math.prod(counts)
    if not tile.fused or math.prod(counts) == 1:
        return total
    units = math.prod(counts[axis] for axis in tile.order[: tile.fused])
    threads = max(1, target.cores)
    launch = costs.LAUNCH_CYCLES if threads > 1 else 0
    return total / threads * balance(units, threads) + launch


def _memory_cycles(dims: Extents, tile: Tile, counts: list[int], target: Target) -> float:
    """Cycles in which one tile's weights and inputs come from where they lie."""
    slots = tile.sizes[1]
    pixels = math.prod(tile.sizes) // slots
    weight_bytes = dims.taps * slots * dims.lanes * costs.BYTES
    input_bytes = dims.channels * pixels * costs.BYTES
    inner = tile.order[tile.order.index(1) + 1 :]
    reuse = math.prod(counts[axis] for axis in inner)
    all_weights = weight_bytes * counts[1]
    whole_input = input_bytes * math.prod(counts) / counts[1]
    # Weights stay close while the tiles inside the slots' loop run; the first of them pays more.
    near = target.caches.bytes_per_cycle(weight_bytes + input_bytes)
    far = target.caches.bytes_per_cycle(all_weights + whole_input)
    weights = weight_bytes * ((reuse - 1) / near + 1 / far) / reuse
    swept = input_bytes * reuse
    inputs = input_bytes / target.caches.bytes_per_cycle(swept + weight_bytes)
    return weights + inputs
