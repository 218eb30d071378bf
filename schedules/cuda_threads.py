"""What every schedule for CUDA shares: blocks bound to the device's grid, stages put where used.

A block that stands alone becomes one kernel launch: its elements, four neighbouring lanes of a
channel block at a time, are shared among all threads in the order in which they lie in memory, so
that a warp's accesses are coalesced. A reduction whose result one thread needs is computed by that
thread, in registers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

from tvmconv._tvm import TVMObject
from tvmconv.kernel import KIND
from tvmconv.target import Target

from . import cuda_costs as costs

_REDUCE = 2
#: Threads of a block of a map: four warps, of which every multiprocessor holds several blocks.
_WARPS = 4
#: Floats of the longest load of one thread.
LOAD_LANES = 4
#: Elements of a stage that a thread may compute for itself.
_OWN_ELEMENTS = 16
#: Kinds of stages without a reduction that are as cheap to compute twice as to store.
_RECOMPUTED = ("nearby", "stage")

#: A sum in a thread's registers, the outermost loop of its reduction, and whether it is a vector.
Placed: TypeAlias = tuple[TVMObject, TVMObject, bool]


def is_sum(sch: TVMObject, block: TVMObject) -> bool:
    """Whether a block reduces."""
    return any(v.iter_type == _REDUCE for v in sch.get(block).iter_vars)


def spatial_loops(sch: TVMObject, block: TVMObject) -> list[TVMObject]:
    """The loops of an unscheduled block over its elements, without those of its reduction."""
    loops = list(sch.get_loops(block))
    reduced = sum(v.iter_type == _REDUCE for v in sch.get(block).iter_vars)
    return loops[: len(loops) - reduced]


def extent(sch: TVMObject, loop: TVMObject) -> int:
    """Extent of a loop."""
    return int(sch.get(loop).extent)


def kind(sch: TVMObject, block: TVMObject) -> str:
    """What a block is, as its tensor expression says."""
    return str(sch.get(block).annotations.get(KIND, "map"))


def vector_lanes(sch: TVMObject, block: TVMObject, target: Target) -> int:
    """Neighbouring elements that one thread loads and stores at once: 1 if not on blocks.

    Only what is float32 as a whole is vectorised: TVM has no vectors of booleans on a device.
    """
    found = sch.get(block)
    dtypes = {str(region.source.ty.dtype) for region in (*found.reads, *found.writes)}
    loops = spatial_loops(sch, block)
    lanes = LOAD_LANES
    wide = len(loops) > 2 and extent(sch, loops[-1]) == target.layout.channel_block
    return lanes if wide and dtypes == {"float32"} and not has_guard(found.body) else 1


def has_guard(body: TVMObject) -> bool:
    """Whether a block stores its element under a condition."""
    return type(body).__name__ == "IfThenElse"


def bind(sch: TVMObject, loop: TVMObject, target: Target) -> None:
    """Share a loop among all threads of the grid.

    What is computed at the loop has to stand there already: at a split one, TVM would no longer
    recognise its indices.
    """
    threads = _threads(extent(sch, loop), target)
    blocks, thread = sch.split(loop, [None, threads])
    sch.bind(blocks, "blockIdx.x")
    sch.bind(thread, "threadIdx.x")


def _threads(elements: int, target: Target) -> int:
    """Threads of a block: fewer where that gives work to more multiprocessors."""
    warp = target.gpu.warp_threads
    warps = elements // (warp * target.gpu.multiprocessors)
    return warp * min(_WARPS, max(1, 1 << max(0, warps.bit_length() - 1)))


def fuse_map(sch: TVMObject, block: TVMObject, target: Target) -> TVMObject:
    """One loop over what the threads of a map compute each: an element, or a vector of lanes."""
    lanes = vector_lanes(sch, block, target)
    loops = list(sch.get_loops(block)) or [sch.add_unit_loop(block)]
    if lanes > 1:
        groups, lane = sch.split(loops[-1], [None, lanes])
        sch.vectorize(lane)
        loops = [*loops[:-1], groups]
    return sch.fuse(*loops) if len(loops) > 1 else loops[0]


def compute_stages(sch: TVMObject, blocks: Sequence[TVMObject], target: Target) -> None:
    """Schedule a kernel's blocks, the output last: each as a launch, or in its reader's threads."""
    pending = list(blocks)
    for block in blocks[:-1]:
        if not is_sum(sch, block) and kind(sch, block) in _RECOMPUTED:
            sch.compute_inline(block)
            pending.remove(block)
    while pending:
        block, placed = pending.pop(), []
        if is_sum(sch, block):
            copy = sch.cache_write(block, 0, "local")
            loop = fuse_map(sch, copy, target)
            place_sum(sch, block, loop, pending, placed)
        else:
            loop = fuse_map(sch, block, target)
            place_readers(sch, block, loop, pending, placed)
        bind(sch, loop, target)
        start_sums(sch, placed)


def place_readers(
    sch: TVMObject,
    reader: TVMObject,
    loop: TVMObject,
    pending: list[TVMObject],
    placed: list[Placed],
) -> None:
    """Compute at a loop, in registers, those of the pending sums that only it needs."""
    for block in list(reversed(pending)):
        if is_sum(sch, block) and _own_elements(sch, block, reader, loop) <= _OWN_ELEMENTS:
            pending.remove(block)
            place_sum(sch, block, loop, pending, placed)


def _own_elements(sch: TVMObject, block: TVMObject, reader: TVMObject, loop: TVMObject) -> float:
    """How many elements of a stage one iteration of a loop needs; infinity if others need it."""
    readers = sch.get_consumers(block)
    if len(readers) != 1 or not sch.get(readers[0]).same_as(sch.get(reader)):
        return math.inf
    trial = sch.copy()
    trial.compute_at(block, loop, preserve_unit_loops=True)
    count = len(sch.get(block).iter_vars)
    reduced = sum(v.iter_type == _REDUCE for v in sch.get(block).iter_vars)
    own = trial.get_loops(block)[-count : len(trial.get_loops(block)) - reduced]
    return math.prod(extent(trial, loop) for loop in own)


def place_sum(
    sch: TVMObject,
    block: TVMObject,
    loop: TVMObject,
    pending: list[TVMObject],
    placed: list[Placed],
) -> None:
    """Compute a sum at a loop of a thread, in registers: the reduction outside, lanes inside."""
    kinds = [v.iter_type for v in sch.get(block).iter_vars]
    reduced = sum(kind == _REDUCE for kind in kinds)
    sch.compute_at(block, loop, preserve_unit_loops=True)
    sch.set_scope(block, 0, "local")
    own = sch.get_loops(block)[-len(kinds) :]
    spatial, reduce = own[: len(kinds) - reduced], own[len(kinds) - reduced :]
    sch.reorder(*reduce, *spatial)
    wide = bool(spatial) and extent(sch, spatial[-1]) == LOAD_LANES
    if wide:
        sch.vectorize(spatial[-1])
    place_readers(sch, block, reduce[0], pending, placed)
    placed.append((block, reduce[0], wide))


def start_sums(sch: TVMObject, placed: Sequence[Placed]) -> None:
    """Set sums to zero before their loops; once threads are bound, for TVM binds no other sums."""
    for block, loop, wide in placed:
        init = sch.decompose_reduction(block, loop)
        if wide:
            sch.vectorize(sch.get_loops(init)[-1])


def cycles(sch: TVMObject, blocks: Sequence[TVMObject], data: int, target: Target) -> float:
    """Predicted time of a kernel whose blocks are unscheduled, in cycles of the device."""
    elements = math.prod(extent(sch, loop) for loop in sch.get_loops(blocks[-1]))
    terms = sum(
        math.prod(int(v.dom.extent) for v in sch.get(block).iter_vars)
        for block in blocks
        if is_sum(sch, block)
    )
    return costs.map_cycles(target.gpu, elements, data, max(1.0, terms / max(1, elements)))
