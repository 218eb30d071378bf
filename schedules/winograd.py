"""Schedules of products on transformed tiles, and their cost: what the CPU families share.

The output's tiles are divided into groups. Of each group the input is transformed, the products
are computed, for one transformed element after the other, as a register-tiled matrix product, and
the sums are transformed back: what lies between stays in the second cache level. Where there are
few tiles and many weights, the input is transformed for all groups first, so that the threads can
share the output channels instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tvmconv._tvm import TVMObject
from tvmconv.autoschedule.space import Candidate
from tvmconv.kernel import KIND, TILES
from tvmconv.target import Target

from . import costs
from .primitives import balance, reductions, sum_at, unroll_tile

_MAX_SLOTS = 8
#: Cycles for one vector of a transform along one axis: loads, additions, a store.
_TRANSFORM_CYCLES = 2.5


@dataclass(frozen=True)
class Stages:
    """The blocks of a kernel on transformed tiles.

    Attributes
    ----------
    data : list of SBlockRV
        Transforms of the input, in order.
    product : SBlockRV
        Of a whole sum, or of parts of one.
    total : SBlockRV or None
        The sum of the parts.
    sums : SBlockRV
        What is transformed back: a copy of the total, or the total itself.
    weights : list of SBlockRV
        Transforms of the weight, in order; none if it has been transformed before.
    back : list of SBlockRV
        Transforms back, without the last, which is the output's.
    output : SBlockRV
    """

    data: list[TVMObject]
    product: TVMObject
    total: TVMObject | None
    sums: TVMObject
    weights: list[TVMObject]
    back: list[TVMObject]
    output: TVMObject


def find_stages(sch: TVMObject) -> Stages:
    """Tell the blocks by their kinds."""
    *blocks, output = sch.get_child_blocks(sch.get_sblock("root"))
    kinds: dict[str, list[TVMObject]] = {}
    for block in blocks:
        kinds.setdefault(str(sch.get(block).annotations[KIND]), []).append(block)
    (product,), (total,) = kinds["product"], kinds.get("total", [None])
    (sums,) = kinds.get("sums", [total])
    weights, back = kinds.get("weight_tile", []), kinds.get("output_tile", [])
    return Stages(kinds["data_tile"], product, total, sums, weights, back, output)


@dataclass(frozen=True)
class Sizes:
    """Extents of a kernel on transformed tiles.

    Attributes
    ----------
    elements : int
        Transformed elements of a tile.
    rank : int
        Spatial axes.
    tiles, slots, lanes : int
        Tiles of the output, its channel slots, channels in a slot.
    data_tiles : int
        Tiles of the input: those of the output, or more if its tiles share them.
    unit : int
        Neighbouring tiles that share tiles of the input with one another only.
    parts : int
        Chains of additions of one sum.
    channels : int
        Terms in one sum.
    inner : int
        Of those, how many the innermost reduction axis has.
    taps : int
        Of those, how many belong to one channel.
    outputs : int
        Elements of a tile of the output.
    in_kernel : bool
        Whether the kernel transforms the weights.
    """

    elements: int
    rank: int
    tiles: int
    data_tiles: int
    unit: int
    slots: int
    lanes: int
    parts: int
    channels: int
    inner: int
    taps: int
    outputs: int
    in_kernel: bool


def sizes(sch: TVMObject, stages: Stages) -> Sizes:
    """Read the extents off a kernel that has not been scheduled."""
    _, _, *position, _ = (int(sch.get(loop).extent) for loop in sch.get_loops(stages.output))
    *elements, slots, tiles, lanes = (
        int(sch.get(loop).extent) for loop in sch.get_loops(stages.sums)[: len(position) + 3]
    )
    *trips, inner = reductions(sch, stages.total, stages.product)
    _, *taps = trips[1:] if stages.total is not None else trips
    data_tiles = int(sch.get(sch.get_loops(stages.data[-1])[-2]).extent)
    return Sizes(
        elements=math.prod(elements),
        rank=len(elements),
        tiles=tiles,
        data_tiles=data_tiles,
        unit=1 if data_tiles == tiles else _unit(sch, stages),
        slots=slots,
        lanes=lanes,
        parts=trips[0] if stages.total is not None else 1,
        channels=math.prod(trips) * inner,
        inner=inner,
        taps=math.prod(taps),
        outputs=math.prod(position),
        in_kernel=bool(stages.weights),
    )


def _unit(sch: TVMObject, stages: Stages) -> int:
    """Tiles along the axes, numbered first, that are not transformed."""
    form = [int(number) for number in sch.get(stages.output).annotations[TILES]]
    unit = 1
    for start in range(len(form) - 4, -1, -4):
        _, outputs, _, extent = form[start : start + 4]
        if outputs > 1:
            break
        unit *= extent
    return unit


@dataclass(frozen=True)
class Grouping:
    """One schedule.

    Attributes
    ----------
    group : int
        Tiles in a group.
    slots : int
        Channel slots of the output that are computed together.
    pixels, register_slots : int
        Tiles and slots whose sums are in registers at once; they divide ``group`` and ``slots``.
    shared_data : bool
        Transform the input of all groups first, and share groups and slots among the threads;
        otherwise each thread transforms the input of its own groups.
    """

    group: int
    slots: int
    pixels: int
    register_slots: int
    shared_data: bool

    def knobs(self) -> tuple[tuple[str, int], ...]:
        """The schedule as a point of a design space; :meth:`of` makes it again."""
        return tuple((name, int(value)) for name, value in vars(self).items())

    @classmethod
    def of(cls, knobs: Sequence[tuple[str, int]]) -> Grouping:
        """The schedule with these knobs."""
        group, slots, pixels, register_slots, shared = (value for _, value in knobs)
        return cls(group, slots, pixels, register_slots, bool(shared))


def schedule_winograd(sch: TVMObject, stages: Stages, grouping: Grouping) -> None:
    """Schedule a kernel on transformed tiles."""
    tile, slot, *position, lane = sch.get_loops(stages.output)
    rank = len(position)
    groups, in_group = sch.split(tile, [None, grouping.group])
    bands, in_band = sch.split(slot, [None, grouping.slots])
    if grouping.shared_data:
        sch.reorder(bands, groups, in_band, in_group, *position, lane)
        place = sch.fuse(bands, groups)
        sch.parallel(place)
    else:
        sch.reorder(groups, bands, in_band, in_group, *position, lane)
        sch.parallel(groups)
        place = bands
    for block in reversed(stages.back):
        sch.compute_at(block, in_group, preserve_unit_loops=True)
        sch.set_scope(block, 0, "local")
        unroll_tile(sch, sch.get_loops(block)[-rank - 3 :])
    if stages.weights:
        _products_by_parts(sch, stages, place, grouping, rank)
    else:
        _products(sch, stages, place, grouping, rank)
    _transforms(sch, stages, None if grouping.shared_data else groups, rank)
    unroll_tile(sch, [*position, lane])


def _products(
    sch: TVMObject, stages: Stages, place: TVMObject, grouping: Grouping, rank: int
) -> None:
    """One matrix product after the other, in register tiles."""
    sch.compute_at(stages.sums, place, preserve_unit_loops=True)
    *elements, slot, tile, lane = sch.get_loops(stages.sums)[-rank - 3 :]
    slot_tiles, slots = sch.split(slot, [None, grouping.register_slots])
    tile_tiles, tiles = sch.split(tile, [None, grouping.pixels])
    sch.reorder(*elements, slot_tiles, tile_tiles, tiles, slots, lane)
    order = [*range(rank), rank + 1, rank, rank + 2]
    sum_at(sch, stages.product, stages.total, tile_tiles, order)
    unroll_tile(sch, sch.get_loops(stages.sums)[-3:])


def _products_by_parts(
    sch: TVMObject, stages: Stages, place: TVMObject, grouping: Grouping, rank: int
) -> None:
    """Products with the weights of some slots and one part of the sum, which are transformed first.

    The parts are added to sums that lie in memory.
    """
    sch.compute_at(stages.sums, place, preserve_unit_loops=True)
    count = len(sch.get(stages.sums).iter_vars)
    *elements, slot, tile, lane = sch.get_loops(stages.sums)[-count:][: rank + 3]
    parts = sch.get_loops(stages.sums)[-count:][rank + 3 :]
    slot_tiles, slots = sch.split(slot, [None, grouping.register_slots])
    tile_tiles, tiles = sch.split(tile, [None, grouping.pixels])
    sch.reorder(*parts, slot_tiles, *elements, tile_tiles, tiles, slots, lane)
    unroll_tile(sch, [tiles, slots, lane])
    for part in parts:
        init = sch.decompose_reduction(stages.sums, part)
        sch.vectorize(sch.get_loops(init)[-1])
    order = [*range(rank), rank + 1, rank, rank + 2]
    sum_at(sch, stages.product, None, tile_tiles, order)
    _weight_transforms(sch, stages, slot_tiles, rank)


def _weight_transforms(sch: TVMObject, stages: Stages, place: TVMObject, rank: int) -> None:
    """The weight's transforms at a loop, one input channel of one slot at a time."""
    *before, last = stages.weights
    sch.compute_at(last, place, preserve_unit_loops=True)
    own = len(sch.get(last).iter_vars)
    loops = sch.get_loops(last)[-own:]
    elements, outer, lane = loops[:rank], loops[rank:-1], loops[-1]
    sch.reorder(*outer, *elements, lane)
    for block in reversed(before):
        sch.compute_at(block, outer[-1], preserve_unit_loops=True)
        sch.set_scope(block, 0, "local")
        unroll_tile(sch, sch.get_loops(block)[-own:])
    unroll_tile(sch, [*elements, lane])


def _transforms(sch: TVMObject, stages: Stages, place: TVMObject | None, rank: int) -> None:
    """The input's transforms, one tile and slot at a time: where they are needed, or before all."""
    *before, last = stages.data
    if place is not None:
        sch.compute_at(last, place, preserve_unit_loops=True)
    *elements, slot, tile, lane = sch.get_loops(last)[-rank - 3 :]
    sch.reorder(slot, tile, *elements, lane)
    for block in reversed(before):
        sch.compute_at(block, tile, preserve_unit_loops=True)
        sch.set_scope(block, 0, "local")
        unroll_tile(sch, sch.get_loops(block)[-rank - 3 :])
    unroll_tile(sch, [*elements, lane])
    if place is None:
        sch.parallel(sch.fuse(slot, tile))


def candidates(size: Sizes, target: Target) -> list[Candidate]:
    """Every schedule of the space."""
    return [
        Candidate(grouping.knobs(), cycles(size, grouping, target))
        for grouping in dict.fromkeys(_groupings(size, target))
    ]


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
                    if _has_own_data(size, group) and not size.in_kernel:
                        yield Grouping(group, slots, pixels, register_slots, False)
                    yield Grouping(group, slots, pixels, register_slots, True)


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
    products = _product_cycles(size, grouping, near, weight_bytes, target)
    band = products + grouping.group * back
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
    size: Sizes, grouping: Grouping, near_bytes: float, weight_bytes: float, target: Target
) -> float:
    """Cycles of all products of one group of tiles and one band of slots."""
    vectors = costs.vectors(size.lanes, target)
    sums = grouping.pixels * grouping.register_slots * vectors
    loads = grouping.pixels + grouping.register_slots * vectors
    step = costs.step_cycles(sums, loads, target)
    trips = size.channels / size.inner
    compute = size.channels * step + trips * costs.TRIP_CYCLES
    compute += sums * costs.SUM_CYCLES * (size.parts + 1) / 2
    repeats = grouping.group // grouping.pixels
    count = size.elements * repeats * (grouping.slots // grouping.register_slots)
    weights = size.channels * grouping.register_slots * size.lanes * costs.BYTES
    data = size.channels * grouping.pixels * costs.BYTES
    far = _weight_speed(grouping, near_bytes, weight_bytes, target)
    close = target.caches.bytes_per_cycle(weights + data)
    memory = weights * (1 / far + (repeats - 1) / close) / repeats
    memory += data / target.caches.bytes_per_cycle(near_bytes)
    return count * costs.overlapped(compute + costs.TILE_CYCLES, memory)


def _weight_speed(
    grouping: Grouping, near_bytes: float, weight_bytes: float, target: Target
) -> float:
    """Bytes a cycle at which the weights come: a thread's own may be close, all share the rest."""
    own = near_bytes + weight_bytes / (target.cores if grouping.shared_data else 1)
    close = target.caches.bytes_per_cycle(own)
    shared = target.caches.bytes_per_cycle(near_bytes + weight_bytes)
    return close if close >= target.caches.l2_bytes_per_cycle else shared
