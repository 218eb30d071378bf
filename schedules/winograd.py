"""Schedules of products on transformed tiles: what the CPU families share.

The output's tiles are divided into groups. Of each group the input is transformed, the products
are computed, for one transformed element after the other, as a register-tiled matrix product, and
the sums are transformed back: what lies between stays in the second cache level. Where there are
few tiles and many weights, the input is transformed for all groups first, so that the threads can
share the output channels instead. If the kernel transforms the weights, each thread does it for
some slots and one part of the sum at a time, so that they stay in a near cache until their use.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvmconv._tvm import TVMObject
from tvmconv.kernel import KIND, TILES

from .primitives import reductions, sum_at, unroll_tile


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
        Axes along which tiles are transformed.
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
    online : bool
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
    online: bool


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
        online=bool(stages.weights),
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


#: Knobs that are true or false.
_FLAGS = ("shared_data", "by_rows")


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
    by_rows : bool, optional
        Transform the weights of one row of elements at a time, which take less space, but are read
        once a row; None if the kernel does not transform them.
    steps : int, optional
        Steps of the innermost sum that are unrolled; None is none.
    """

    group: int
    slots: int
    pixels: int
    register_slots: int
    shared_data: bool
    by_rows: bool | None = None
    steps: int | None = None

    def knobs(self) -> tuple[tuple[str, int], ...]:
        """The schedule as a point of a design space; :meth:`of` makes it again."""
        known = ((name, value) for name, value in vars(self).items() if value is not None)
        return tuple((name, int(value)) for name, value in known)

    @classmethod
    def of(cls, knobs: Sequence[tuple[str, int]]) -> Grouping:
        """The schedule with these knobs."""
        fields: dict[str, Any] = {name: bool(v) if name in _FLAGS else v for name, v in knobs}
        return cls(**fields)


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
    sum_at(sch, stages.product, stages.total, tile_tiles, order, steps=grouping.steps or 1)
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
    sum_at(sch, stages.product, None, tile_tiles, order, steps=grouping.steps or 1)
    _weight_transforms(sch, stages, elements[0] if grouping.by_rows else slot_tiles, rank)
    if grouping.by_rows:
        sch.unroll(elements[0])


def _weight_transforms(sch: TVMObject, stages: Stages, place: TVMObject, rank: int) -> None:
    """The weight's transforms at a loop, one input channel of one slot at a time."""
    *before, last = stages.weights
    sch.compute_at(last, place, preserve_unit_loops=True)
    *_, channel = sch.get_loops(last)[: -rank - 1]
    for block in reversed(before):
        sch.compute_at(block, channel, preserve_unit_loops=True)
        sch.set_scope(block, 0, "local")
        unroll_tile(sch, sch.get_loops(block)[-rank - 1 :])
    unroll_tile(sch, sch.get_loops(last)[-rank - 1 :])


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
