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

from tvmconv._tvm import TVMObject, tirx, tvm_ffi
from tvmconv.codegen.cuda.parallel import has_parallel_loops
from tvmconv.kernel import DOTS, KIND
from tvmconv.target import Target

from . import cuda_costs as costs

_REDUCE = 2
#: Threads of a block of a map: four warps, of which every multiprocessor holds several blocks.
_WARPS = 4
#: Floats of the longest load of one thread.
LOAD_LANES = 4
#: Elements of a stage that a thread may compute for itself.
_OWN_ELEMENTS = 16
#: Threads that keep a multiprocessor busy.
_BUSY_THREADS = 256
#: Terms that a thread adds up by itself, at least, and threads that add up one sum, at most.
_OWN_TERMS, _MOST_THREADS_OF_SUM = 4, 256
_COMPARISONS = (tirx.LT, tirx.LE, tirx.GT, tirx.GE, tirx.EQ, tirx.NE)
#: Loops of the grid and of the threads.
_BOUND_LOOPS = 2
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

    Only what is float32 as a whole is vectorised: TVM has no vectors of booleans on a device, but
    for those that compare vectors.
    """
    found = sch.get(block)
    dtypes = {str(region.source.ty.dtype) for region in (*found.reads, *found.writes)}
    loops = spatial_loops(sch, block)
    guarded = isinstance(found.body, tirx.IfThenElse) or _selects_by_place(found.body)
    wide = len(loops) > 2 and extent(sch, loops[-1]) == target.layout.channel_block
    return LOAD_LANES if wide and dtypes == {"float32"} and not guarded else 1


def _selects_by_place(body: TVMObject) -> bool:
    """Whether a float is chosen by something else than the comparison of two floats."""
    selects: list[TVMObject] = []
    tvm_ffi.structural_walk(body, (tirx.Select, selects.append))
    return any(
        str(select.ty.dtype) == "float32"
        and not (
            isinstance(select.condition, _COMPARISONS)
            and str(select.condition.a.ty.dtype) == "float32"
        )
        for select in selects
    )


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
        block = pending.pop()
        if has_parallel_loops(sch.get(block).body):
            continue  # they are shared among threads when the function is finished
        placed: list[Placed] = []
        threads = threads_of_sum(sch, block, pending, target)
        joined = _joined_sum(sch, block, pending, target)
        if threads > 1:
            _reduce_together(sch, block, None, threads, target)
            continue
        if joined is not None:
            pending.remove(joined)
            threads = threads_of_sum(sch, joined, pending, target)
            _reduce_together(sch, joined, block, threads, target)
            continue
        if is_sum(sch, block):
            copy = sch.cache_write(block, 0, "local")
            loop = fuse_map(sch, copy, target)
            place_sum(sch, block, loop, pending, placed, target)
        else:
            loop = fuse_map(sch, block, target)
            place_readers(sch, block, loop, pending, placed, target)
        bind(sch, loop, target)
        start_sums(sch, placed)


def elements(sch: TVMObject, block: TVMObject) -> int:
    """Elements that a block writes."""
    return math.prod(int(v.dom.extent) for v in sch.get(block).iter_vars if v.iter_type != _REDUCE)


def _terms(sch: TVMObject, block: TVMObject) -> int:
    """Terms of each sum of a block; 1 if it reduces nothing."""
    return math.prod(int(v.dom.extent) for v in sch.get(block).iter_vars if v.iter_type == _REDUCE)


def threads_of_sum(
    sch: TVMObject, block: TVMObject, pending: Sequence[TVMObject], target: Target
) -> int:
    """How many threads add up one sum together: more than one for few and long sums."""
    device = target.gpu
    terms = _terms(sch, block)
    nested = any(
        is_among(sch, other, pending) and elements(sch, other) > elements(sch, block)
        for other in sch.get_producers(block)
    )
    if nested or terms < device.warp_threads or not _is_simple(sch, block):
        return 1
    idle = _BUSY_THREADS * device.multiprocessors // elements(sch, block)
    most = min(idle, terms // _OWN_TERMS, _MOST_THREADS_OF_SUM)
    return 1 << (most.bit_length() - 1) if most > 1 else 1


def _is_simple(sch: TVMObject, block: TVMObject) -> bool:
    """Whether TVM knows how to combine the results of several threads."""
    found = sch.get(block)
    # Sums of products of bytes become one operation, of which TVM knows nothing.
    if not isinstance(found.body, tirx.BufferStore) or DOTS in found.annotations:
        return False
    if isinstance(found.body.value, (tirx.Add, tirx.Mul)):
        return True
    # Of the largest and smallest it knows those that begin with a number.
    start = found.init.value
    finite = isinstance(start, tirx.FloatImm) and math.isfinite(start.value)
    return finite and isinstance(found.body.value, (tirx.Max, tirx.Min))


def is_among(sch: TVMObject, block: TVMObject, others: Sequence[TVMObject]) -> bool:
    """Whether a block is one of some others."""
    return any(sch.get(other).same_as(sch.get(block)) for other in others)


def _joined_sum(
    sch: TVMObject, block: TVMObject, pending: Sequence[TVMObject], target: Target
) -> TVMObject | None:
    """The sum that a map finishes element by element, if many threads add up each of them."""
    if is_sum(sch, block):
        return None
    for other in pending:
        if (
            _only_reader(sch, other, block)
            and elements(sch, other) == elements(sch, block)
            and threads_of_sum(sch, other, pending, target) > 1
        ):
            return other
    return None


def _reduce_together(
    sch: TVMObject, block: TVMObject, reader: TVMObject | None, threads: int, target: Target
) -> None:
    """Let the threads of a block add up a sum together, or one sum for each lane of a block.

    Terms that lie side by side belong to neighbouring threads.
    """
    place = block if reader is None else reader
    loops = spatial_loops(sch, place) or [sch.add_unit_loop(place)]
    lanes = extent(sch, loops[-1]) if len(loops) > 2 else 1
    lanes = lanes if lanes == target.layout.channel_block else 1
    threads = min(threads, target.gpu.threads_per_block // lanes)
    # Not fused yet: TVM would not recognise the indices of what is computed there.
    last, lane = sch.split(loops[-1], [None, lanes])
    loops = [*loops[:-1], last]
    count = sum(v.iter_type == _REDUCE for v in sch.get(block).iter_vars)
    if reader is not None:
        sch.compute_at(block, last, preserve_unit_loops=True)
        sch.set_scope(block, 0, "shared")
        # One thread an element: there are more of them.
        _, thread, lane = sch.split(lane, [None, threads, lanes])
        _bind_lanes(sch, lane, thread, lanes)
        own = sch.get_loops(block)[len(loops) : -count]
        lane = sch.fuse(*own) if len(own) > 1 else next(iter(own), lane)
    reduce = sch.get_loops(block)[-count:]
    terms = sch.fuse(*reduce) if count > 1 else reduce[0]
    _, thread = sch.split(terms, [None, threads])
    sch.bind(sch.fuse(*loops) if len(loops) > 1 else loops[0], "blockIdx.x")
    _bind_lanes(sch, lane, thread, lanes)


def _bind_lanes(sch: TVMObject, lane: TVMObject, thread: TVMObject, lanes: int) -> None:
    """Give each lane threads of its own; of a single one they are all of a block's."""
    if lanes > 1:
        sch.bind(lane, "threadIdx.x")
    sch.bind(thread, "threadIdx.y" if lanes > 1 else "threadIdx.x")


def place_readers(
    sch: TVMObject,
    reader: TVMObject,
    loop: TVMObject,
    pending: list[TVMObject],
    placed: list[Placed],
    target: Target,
) -> None:
    """Compute at a loop, in registers, those of the pending sums that only it needs, and once."""
    for block in list(reversed(pending)):
        if (
            is_sum(sch, block)
            and _only_reader(sch, block, reader)
            and elements(sch, block) >= elements(sch, reader)
            and threads_of_sum(sch, block, pending, target) == 1
            and _own_elements(sch, block, loop) <= _OWN_ELEMENTS
        ):
            pending.remove(block)
            place_sum(sch, block, loop, pending, placed, target)


def _only_reader(sch: TVMObject, block: TVMObject, reader: TVMObject) -> bool:
    """Whether a block's result is read by one other alone."""
    readers = sch.get_consumers(block)
    return len(readers) == 1 and bool(sch.get(readers[0]).same_as(sch.get(reader)))


def _own_elements(sch: TVMObject, block: TVMObject, loop: TVMObject) -> int:
    """How many elements of a stage one iteration of a loop needs."""
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
    target: Target,
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
    place_readers(sch, block, reduce[0], pending, placed, target)
    placed.append((block, reduce[0], wide))


def start_sums(sch: TVMObject, placed: Sequence[Placed]) -> None:
    """Set sums to zero before their loops; once threads are bound, for TVM binds no other sums."""
    for block, loop, wide in placed:
        init = sch.decompose_reduction(block, loop)
        own = sch.get_loops(init)[_BOUND_LOOPS:]
        if wide:
            sch.vectorize(own.pop())
        for outer in own:
            sch.unroll(outer)


def cycles(sch: TVMObject, blocks: Sequence[TVMObject], data: int, target: Target) -> float:
    """Predicted time of a kernel whose blocks are unscheduled, in cycles of the device."""
    elements = math.prod(extent(sch, loop) for loop in sch.get_loops(blocks[-1]))
    terms = sum(
        math.prod(int(v.dom.extent) for v in sch.get(block).iter_vars)
        for block in blocks
        if is_sum(sch, block)
    )
    return costs.map_cycles(target.gpu, elements, data, max(1.0, terms / max(1, elements)))
