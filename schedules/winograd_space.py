"""The space of schedules on transformed tiles, and their cost: what the CPU families share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from tvmconv.autoschedule.space import Candidate
from tvmconv.ops.winograd import TAPS
from tvmconv.target import Target

from . import costs
from .primitives import balance
from .winograd import Grouping, Sizes

_MAX_SLOTS = 8
#: Cycles for one vector of a transform along one axis: loads, additions, a store.
_TRANSFORM_CYCLES = 2.5
#: The same for a transform of the weights, which lie in a row.
_WEIGHT_TRANSFORM_CYCLES = 2.0


def candidates(size: Sizes, target: Target) -> list[Candidate]:
    """Every schedule of the space."""
    return [
        Candidate(choice.knobs(), cycles(size, choice, target))
        for grouping in dict.fromkeys(_groupings(size, target))
        for choice in _with_steps(size, grouping, target)
    ]


def _with_steps(size: Sizes, grouping: Grouping, target: Target) -> Iterator[Grouping]:
    """A schedule, and the same with several steps of the sum unrolled, if that fits."""
    yield grouping
    steps = costs.lane_steps(size.inner, target)
    weights = grouping.register_slots * costs.vectors(size.lanes, target)
    if costs.fits(grouping.pixels, weights, steps, target):
        yield replace(grouping, steps=steps)


def _groupings(size: Sizes, target: Target) -> Iterator[Grouping]:
    """Schedules whose sums fit the registers, with whole register tiles in every group."""
    vectors = costs.vectors(size.lanes, target)
    for register_slots in range(1, min(_MAX_SLOTS, size.slots) + 1):
        most = min(costs.room(register_slots * vectors, target), size.tiles)
        if most < 1:
            return
        for pixels in _pixels(most, size.unit):
            for group in _multiples(pixels, size.tiles, size.unit):
                for slots in _multiples(register_slots, size.slots):
                    shared = Grouping(group, slots, pixels, register_slots, True)
                    if size.online:
                        yield replace(shared, by_rows=False)
                        if size.rank > 1:
                            yield replace(shared, by_rows=True)
                        continue
                    if _has_own_data(size, group):
                        yield replace(shared, shared_data=False)
                    yield shared


def _has_own_data(size: Sizes, group: int) -> bool:
    """Whether every group of tiles reads tiles of the input that no other one needs."""
    if size.data_tiles == size.tiles:
        return True
    return group % size.unit == size.tiles % group == 0


def _pixels(most: int, unit: int) -> list[int]:
    """Sizes of register tiles; whole units or parts of one: their data lie in a row."""
    if unit > 1:
        return [p for p in range(1, most + 1) if p % unit == 0 or unit % p == 0][-3:]
    return sorted({most, max(1, most - 1), max(1, most - 2), max(1, most // 2)})


def _multiples(tile: int, extent: int, unit: int = 1) -> list[int]:
    """Some multiples of a register tile's extent, and of whole units, up to the whole axis."""
    few = (1, 2, 3, 4, 6, 8, 12, 16, 32)
    found = {tile * k for k in (*few, extent // tile)} | {math.lcm(tile, unit) * k for k in few}
    return [size for size in sorted(found) if size <= extent]


def cycles(size: Sizes, grouping: Grouping, target: Target) -> float:
    """Predicted time of a kernel on transformed tiles, in cycles of one core."""
    vectors = costs.vectors(size.lanes, target)
    groups, bands = (
        -(-size.tiles // grouping.group),
        -(-size.slots // grouping.slots),
    )
    channels = size.channels // size.taps
    data_bytes = size.elements * channels * costs.BYTES
    in_slots = -(-channels // size.lanes)
    weight_bytes = size.elements * size.channels * size.slots * size.lanes * costs.BYTES
    # A transform loads, adds and stores every element once an axis.
    transform = size.elements * size.rank * _TRANSFORM_CYCLES * vectors
    shared_tiles = size.data_tiles / size.tiles
    data = in_slots * (transform + 2 * size.elements * vectors)
    back = grouping.slots * (transform + size.outputs * vectors * costs.SUM_CYCLES)
    sum_bytes = grouping.slots * size.elements * size.lanes * costs.BYTES
    near = grouping.group * (data_bytes * shared_tiles + sum_bytes)
    speed = _weight_speed(size, grouping, near, weight_bytes, target)
    band = _product_cycles(size, grouping, near, speed, target) + grouping.group * back
    if size.online:
        band += _weight_cycles(size, grouping, target)
        band += 2 * size.parts * grouping.group * sum_bytes / target.caches.bytes_per_cycle(near)
    if grouping.shared_data:
        far = target.caches.bytes_per_cycle(size.data_tiles * data_bytes)
        total_data = size.data_tiles * (data + data_bytes / far)
        units, launches = groups * bands, 2
        band += grouping.group * data_bytes / far
        shared = band * units
    else:
        total_data, launches, units = 0.0, 1, groups
        shared = (band * bands + grouping.group * shared_tiles * data) * groups
    threads = max(1, target.cores)
    if threads == 1:
        return total_data + shared
    wake = launches * costs.LAUNCH_CYCLES
    return total_data / threads + shared / threads * balance(units, threads) + wake


def _product_cycles(
    size: Sizes, grouping: Grouping, near_bytes: float, weight_speed: float, target: Target
) -> float:
    """Cycles of all products of one group of tiles and one band of slots."""
    vectors = costs.vectors(size.lanes, target)
    sums = grouping.pixels * grouping.register_slots * vectors
    loads = grouping.pixels / costs.elements_a_load(grouping.steps or 1, target)
    loads += grouping.register_slots * vectors
    single = 0 if grouping.steps else grouping.pixels
    step = costs.step_cycles(sums, loads, target, elements=single)
    trips = size.channels / size.inner
    compute = size.channels * step + trips * costs.TRIP_CYCLES
    compute += sums * costs.SUM_CYCLES * (size.parts + 1) / 2
    repeats = grouping.group // grouping.pixels
    count = size.elements * repeats * (grouping.slots // grouping.register_slots)
    weights = size.channels * grouping.register_slots * size.lanes * costs.BYTES
    data = size.channels * grouping.pixels * costs.BYTES
    close = target.caches.bytes_per_cycle(weights + data)
    memory = weights * (1 / weight_speed + (repeats - 1) / close) / repeats
    # The products are computed one after the other. The data of one, once read, stay close for the
    # other slots of the band, unless the band's sums drive them out.
    near, second = target.caches.bytes_per_cycle(near_bytes), target.caches.l2_bytes_per_cycle
    sum_bytes = size.elements * grouping.group * grouping.slots * size.lanes * costs.BYTES
    stay = not size.online and target.caches.bytes_per_cycle(sum_bytes) >= second
    uses = grouping.slots // grouping.register_slots if stay else 1
    again = target.caches.bytes_per_cycle(near_bytes / size.elements + weights)
    again = max(near, min(second, again))
    memory += data * (1 / near + (uses - 1) / again) / uses
    return count * costs.overlapped(compute + costs.TILE_CYCLES, memory)


def _weight_speed(
    size: Sizes, grouping: Grouping, near_bytes: float, weight_bytes: float, target: Target
) -> float:
    """Bytes a cycle at which transformed weights come.

    A thread's own may be close, all share the rest; what the kernel transforms it has just written.
    """
    if size.online:
        return target.caches.bytes_per_cycle(_online_bytes(size, grouping))
    own = near_bytes + weight_bytes / (target.cores if grouping.shared_data else 1)
    close = target.caches.bytes_per_cycle(own)
    shared = target.caches.bytes_per_cycle(near_bytes + weight_bytes)
    return close if close >= target.caches.l2_bytes_per_cycle else shared


def _online_bytes(size: Sizes, grouping: Grouping) -> float:
    """Size of the weights that the kernel transforms before it uses them."""
    elements = size.elements / (_side(size) if grouping.by_rows else 1)
    terms = size.channels / size.parts
    return elements * terms * grouping.register_slots * size.lanes * costs.BYTES


def _side(size: Sizes) -> int:
    """Elements of a transformed tile along one axis."""
    return math.isqrt(size.elements) if size.rank == 2 else size.elements


def _weight_cycles(size: Sizes, grouping: Grouping, target: Target) -> float:
    """Cycles of reading and transforming the weights of one band of slots, and of writing them."""
    side, vectors = _side(size), costs.vectors(size.lanes, target)
    stages = [side ** (k + 1) * TAPS ** (size.rank - k - 1) for k in range(size.rank)]
    arithmetic = size.channels * sum(stages) * vectors * _WEIGHT_TRANSFORM_CYCLES
    element = size.channels * size.lanes * costs.BYTES
    read = TAPS**size.rank * element
    memory = read / target.caches.bytes_per_cycle(read * size.slots)
    if grouping.by_rows:
        again = target.caches.bytes_per_cycle(read / size.parts * grouping.register_slots)
        memory += (side - 1) * read / again
    written = target.caches.bytes_per_cycle(_online_bytes(size, grouping))
    memory += size.elements * element / written
    return grouping.slots * costs.overlapped(arithmetic, memory)
