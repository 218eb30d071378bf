"""Register-tiled contractions on CPUs: every tile that fits, and what each costs.

A contraction keeps ``pixels x slots`` vectors of sums in registers. With V vectors to a slot,
the tile needs ``pixels * slots * V`` registers for sums, ``slots * V`` for weights and one for the
broadcast input element. One step of the reduction issues as many fused multiply-adds as there are
sums, and loads ``pixels + slots * V`` operands; the model takes the larger of the two times, and
the latency of the chain of sums if the tile is too small to hide it.

Where a multiply-add takes a lane of a register, several steps may be unrolled: the elements of a
pixel that they read come by one load, and stay in registers until the last step. That leaves room
for fewer sums, and takes fewer instructions.

To this come the bytes that
each tile reads from the cache level in which they lie, and the balance among the threads.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from tvmconv.autoschedule.space import Candidate
from tvmconv.ops.phases import Window
from tvmconv.target import Target

from . import costs
from .primitives import Extents, Tile, balance, tiles

_MAX_SLOTS, _MAX_PIXELS = 8, 32
#: Cycles for each register of sums to add a part of a sum to the others.
_PART_CYCLES = 1.5
#: Trips of an inner loop that LLVM unrolls.
_FEW_TRIPS = 6


def candidates(dims: Extents, target: Target) -> list[Candidate]:
    """Every tile that fits the registers, in every order."""
    return [
        _shared_or_serial(dims, replace(tile, steps=steps), target)
        for sizes in _register_tiles(dims, target)
        for steps in _steps(dims, sizes, target)
        for tile in _orders(dims, sizes)
    ]


def _shared_or_serial(dims: Extents, tile: Tile, target: Target) -> Candidate:
    """The tile's loops shared among the threads, unless waking them costs more than it saves."""
    serial = replace(tile, fused=0)
    found = [Candidate(t.knobs(), cycles(dims, t, target)) for t in (serial, tile)]
    return min(found, key=lambda candidate: candidate.cycles)


def _register_tiles(dims: Extents, target: Target) -> Iterator[tuple[int, ...]]:
    """Sizes (batch, slots, *spatial) of the tiles that fit the registers, or of the smallest."""
    vectors = costs.vectors(dims.lanes, target)
    for slots in range(1, min(_MAX_SLOTS, dims.outer[1]) + 1):
        most = costs.room(slots * vectors, target, dims.dots)
        if slots == 1:  # lanes of more vectors than there are registers need a tile as well
            most = max(1, most)
        for pixels in _pixel_tiles(_pixel_axes(dims), min(most, _MAX_PIXELS), _longest(dims)):
            phase = (1,) * (dims.first_axis - 2)
            yield (pixels[0], slots, *phase, *pixels[1:])


def _steps(dims: Extents, sizes: tuple[int, ...], target: Target) -> Iterator[int]:
    """Steps of the reduction that may be unrolled for a tile; 1 is none."""
    yield 1
    steps = costs.lane_steps(dims.reduce[-1], target)
    weights = sizes[1] * costs.vectors(dims.lanes, target)
    if dims.shared and costs.fits(math.prod(sizes) // sizes[1], weights, steps, target):
        yield steps


def _pixel_axes(dims: Extents) -> tuple[int, ...]:
    """Batch and space: the axes along which the pixels of a tile lie. They are of one phase."""
    return (dims.outer[0], *dims.outer[dims.first_axis :])


def _longest(dims: Extents) -> tuple[int, ...]:
    """Extent of the longest tile along each axis of :func:`_pixel_axes`."""
    axes = _pixel_axes(dims)
    if not dims.reach:
        return axes
    limits = zip(axes[1:], dims.reach, dims.window[::4], strict=True)
    spans = (axis if r < 0 else min(axis, 1 + r // stride) for axis, r, stride in limits)
    return (axes[0], *spans)


def _pixel_tiles(
    axes: tuple[int, ...], room: int, longest: tuple[int, ...]
) -> Iterator[tuple[int, ...]]:
    """Tiles of at most ``room`` pixels over batch and space: runs of the last axes first."""
    sizes = [range(1, min(extent, room) + 1) for extent in longest]
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
    if dims.phases:
        yield from _phase_orders(dims, sizes)
        return
    rank = len(dims.outer)
    space = tuple(range(2, rank))
    for order in dict.fromkeys([(1, 0, *space), (0, 1, *space), (0, *space[:-1], 1, *space[-1:])]):
        yield Tile(sizes, order, rank - 1 if rank > 2 else rank)
    whole = all(dims.outer[axis] % sizes[axis] == 0 for axis in space)
    if dims.parts > 1 and whole and space:
        yield Tile(sizes, (1, 0, *space), 2, len(space))


def _phase_orders(dims: Extents, sizes: tuple[int, ...]) -> Iterator[Tile]:
    """Orders in which one phase after the other is computed, or the phases of a row, or of a tile.

    Where phases have different numbers of taps, they are shared among the threads only together.
    """
    rank = len(dims.outer)
    space = tuple(range(3, rank))
    uneven = any(min(axis.counts) < max(axis.counts) for axis in dims.phases)
    for place in range(uneven, len(space) + 1):
        inner = (*space[:place], 2, *space[place:])
        fused = 2 + place if uneven else rank - 1
        for order in ((1, 0, *inner), (0, 1, *inner)):
            yield Tile(sizes, order, fused)


def cycles(dims: Extents, tile: Tile, target: Target) -> float:
    """Predicted time of a tiled contraction, in cycles of one core."""
    vectors = costs.vectors(dims.lanes, target)
    slots = tile.sizes[1]
    pixels = math.prod(tile.sizes) // slots
    sums = pixels * slots * vectors
    inputs = (pixels if dims.shared else pixels * slots) / costs.elements_a_load(tile.steps, target)
    counts = tiles(dims.outer, tile.sizes)
    single = pixels if tile.steps == 1 else 0
    step = costs.step_cycles(sums, inputs + slots * vectors, target, dims.dots, single)
    step += _spilled(dims, tile, slots * vectors, target)
    useful = useful_taps(dims, tile)
    trips = dims.taps / dims.reduce[-1]
    compute = useful * (dims.taps * step + trips * costs.TRIP_CYCLES)
    compute += sums * (costs.SUM_CYCLES + (dims.parts - 1) * _PART_CYCLES)
    memory = (_swept_cycles if tile.swept else _memory_cycles)(dims, tile, counts, target)
    total = costs.overlapped(compute + costs.TILE_CYCLES, memory) * math.prod(counts)
    if not tile.fused or math.prod(counts) == 1:
        return total
    units = math.prod(counts[axis] for axis in tile.order[: tile.fused])
    threads = max(1, target.cores)
    launch = costs.LAUNCH_CYCLES if threads > 1 else 0
    return total / threads * balance(units, threads) + launch


def _spilled(dims: Extents, tile: Tile, weights: int, target: Target) -> int:
    """Registers that a step lacks: LLVM unrolls a loop of few trips, and loads its elements first.

    Instructions that read memory need no registers for them.
    """
    trips = next((extent for extent in reversed(dims.reduce) if extent > 1), 1)
    if costs.reads_memory(target) or tile.steps > 1 or not 1 < trips <= _FEW_TRIPS:
        return 0
    pixels = math.prod(tile.sizes) // tile.sizes[1]
    elements = pixels if dims.shared else pixels * tile.sizes[1]
    return max(0, pixels * weights + elements + weights - target.vector.registers)


def useful_taps(dims: Extents, tile: Tile) -> float:
    """Share of the taps at which a tile reads more than padding, over all tiles."""
    share, rank = 1.0, len(dims.window) // 4
    for axis, window in enumerate(dims.phases):
        place = dims.first_axis + axis
        most = dims.reduce[axis - 1 - len(dims.phases)]
        share *= _share_of_phases(dims.outer[place], tile.sizes[place], most, window)
    for axis in range(rank):
        stride, dilation, low, size = dims.window[4 * axis : 4 * axis + 4]
        taps = dims.reduce[axis - 1 - rank]
        share *= _useful_share(
            dims.outer[2 + axis], tile.sizes[2 + axis], taps, stride, dilation, low, size
        )
    return share


@cache
def _share_of_phases(extent: int, tile: int, most: int, window: Window) -> float:
    """Share of the triples of a phase, a tile and one of ``most`` taps that are computed."""
    size = window.inputs or 2**31
    pairs = zip(window.firsts, window.counts, strict=True)
    shares = [
        count * _useful_share(extent, tile, count, 1, window.step, -first, size)
        for first, count in pairs
        if count
    ]
    return sum(shares) / (most * len(window.counts))


@cache
def _useful_share(
    extent: int, tile: int, taps: int, stride: int, dilation: int, low: int, size: int
) -> float:
    """Share of the pairs of a tile and a tap along one axis that do not lie in the padding."""
    starts = [min(start, extent - tile) for start in range(0, extent, tile)]
    firsts = [start * stride + tap * dilation - low for start in starts for tap in range(taps)]
    useful = sum(-(tile - 1) * stride <= first < size for first in firsts)
    return useful / len(firsts)


def _memory_cycles(dims: Extents, tile: Tile, counts: list[int], target: Target) -> float:
    """Cycles in which one tile's weights and inputs come from where they lie."""
    slots = tile.sizes[1]
    pixels = math.prod(tile.sizes) // slots
    weight_bytes = useful_taps(dims, tile) * dims.taps * slots * dims.lanes * costs.BYTES
    input_bytes = dims.channels * pixels * costs.BYTES
    inner = tile.order[tile.order.index(1) + 1 :]
    reuse = math.prod(counts[axis] for axis in inner)
    all_weights = weight_bytes * counts[1]
    if dims.phases:  # each has its weights; those of the inner ones are read in turn
        reuse //= counts[2] if 2 in inner else 1
        all_weights *= counts[2]
    whole_input = input_bytes * math.prod(counts) / counts[1]
    # Weights stay close while the tiles inside the slots' loop run; the first of them pays more.
    near = target.caches.bytes_per_cycle(weight_bytes + input_bytes)
    far = target.caches.bytes_per_cycle(all_weights + whole_input)
    weights = weight_bytes * ((reuse - 1) / near + 1 / far) / reuse
    swept = input_bytes * reuse
    inputs = input_bytes / target.caches.bytes_per_cycle(swept + weight_bytes)
    return weights + inputs


def _swept_cycles(dims: Extents, tile: Tile, counts: list[int], target: Target) -> float:
    """As :func:`_memory_cycles`, where all tiles of the space use one part of the weights in turn.

    The part's weights, its share of the input and the sums so far stay close.
    """
    slots = tile.sizes[1]
    pixels = math.prod(tile.sizes) // slots
    swept = math.prod(counts[axis] for axis in tile.order[-tile.swept :])
    weight_bytes = dims.taps * slots * dims.lanes * costs.BYTES
    input_bytes = dims.channels * pixels * costs.BYTES
    sum_bytes = pixels * slots * dims.lanes * costs.BYTES
    part = (weight_bytes + input_bytes * swept) / dims.parts + sum_bytes * swept
    near = target.caches.bytes_per_cycle(part)
    far = target.caches.bytes_per_cycle(weight_bytes * counts[1] + input_bytes * swept * counts[0])
    used = useful_taps(dims, tile) * weight_bytes + input_bytes + 2 * dims.parts * sum_bytes
    return used / near + (weight_bytes / swept + input_bytes) / far
