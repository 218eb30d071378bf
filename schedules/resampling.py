"""Separable resampling on CPUs: rows of the input are combined for one row of the output at a time.

The combined row stays in the first cache level, and so do the results of the last axis where they
are not made pixel by pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tvmconv._tvm import TVMObject
from tvmconv.autoschedule.space import Candidate
from tvmconv.kernel import KIND
from tvmconv.target import Target

from . import costs
from .primitives import Blocks, balance, reductions

#: Kinds of stages by what they combine: rows, then columns; on blocks, and on planes.
_ROWS = ("lines", "plane_lines")
_COLUMNS = ("columns", "gathered", "interleaved")
_ON_BLOCKS = ("lines", "columns")
#: Columns that are gathered at a time: their sums stay in the first cache level.
_RUN = 64
#: Taps of a reduction up to which its loop is unrolled.
_UNROLLED_TAPS = 16
#: Vectors of a row up to which all of them are unrolled: where its ends are repeated, is then known
#: beforehand.
_UNROLLED_VECTORS = 32
#: Cycles of one gathered element, and of a vector of results that are interleaved.
_GATHER_CYCLES, _INTERLEAVE_CYCLES = 1.5, 3.0
#: Cycles of a row besides its elements.
_ROW_CYCLES = 40.0


@dataclass(frozen=True)
class Stages:
    """The stages of a resampling kernel.

    Attributes
    ----------
    lines, columns : SBlockRV or None
        What combines rows, and what combines columns.
    kind : str
        Of ``columns``; empty if there is none.
    blocked : bool
        Whether it works on channel blocks.
    """

    lines: TVMObject | None
    columns: TVMObject | None
    kind: str
    blocked: bool


def stages_of(sch: TVMObject, blocks: Blocks) -> Stages | None:
    """The stages of a resampling kernel; None if it is another."""
    found = {str(sch.get(block).annotations.get(KIND, "")): block for block in blocks.stages}
    lines = next((found[kind] for kind in _ROWS if kind in found), None)
    kind = next((kind for kind in _COLUMNS if kind in found), "")
    if lines is None and not kind:
        return None
    return Stages(lines, found.get(kind), kind, any(name in _ON_BLOCKS for name in found))


def candidates(sch: TVMObject, blocks: Blocks, stages: Stages, target: Target) -> list[Candidate]:
    """Rows of the output in one thread, or shared."""
    extents = [int(sch.get(loop).extent) for loop in sch.get_loops(blocks.output)]
    rows = math.prod(extents[: -1 - stages.blocked])
    vectors = math.prod(extents) / target.vector.f32_lanes
    cycles = rows * _ROW_CYCLES + 2 * vectors
    if stages.lines is not None:
        cycles += _vector_cycles(sch, stages.lines, target)
    if stages.kind == "gathered":
        taps = math.prod(reductions(sch, stages.columns))
        cycles += math.prod(extents) * taps * _GATHER_CYCLES
    elif stages.columns is not None:
        cycles += _vector_cycles(sch, stages.columns, target)
        cycles += vectors * _INTERLEAVE_CYCLES * (stages.kind == "interleaved")
    written = math.prod(extents) * costs.BYTES
    cycles = costs.overlapped(cycles, written / target.caches.bytes_per_cycle(written))
    threads = max(1, target.cores)
    launch = costs.LAUNCH_CYCLES if threads > 1 else 0.0
    shared = cycles / threads * balance(rows, threads) + launch
    return [Candidate((("fused", 0),), cycles), Candidate((("fused", 1),), shared)]


def _vector_cycles(sch: TVMObject, block: TVMObject, target: Target) -> float:
    """Cycles of a stage whose every step is a load and a multiply-add of a vector."""
    steps = math.prod(int(sch.get(loop).extent) for loop in sch.get_loops(block))
    results = steps / math.prod(reductions(sch, block))
    core = target.vector
    return (steps / core.loads_per_cycle + results) / core.f32_lanes


def schedule(sch: TVMObject, blocks: Blocks, stages: Stages, target: Target, fused: int) -> None:
    """Compute row by row of the output; what its stages need of a row is made before it."""
    *outer, column = sch.get_loops(blocks.output)
    lane = None
    if stages.blocked:
        lane, column = column, outer.pop()
        sch.vectorize(lane)
    place = sch.fuse(*outer)
    if fused:
        sch.parallel(place)
    if stages.kind == "columns":
        _reduce_at(sch, stages.columns, column, target, "local")
    elif stages.kind == "gathered":
        _gather_at(sch, stages.columns, place)
    elif stages.kind == "interleaved":
        *_, phases, _ = sch.get_loops(stages.columns)[: -_sums(sch, stages.columns) or None]
        _, phase = sch.split(column, [None, int(sch.get(phases).extent)])
        sch.unroll(phase)
        _reduce_at(sch, stages.columns, place, target)
    if stages.lines is not None:
        _reduce_at(sch, stages.lines, place, target)


def _sums(sch: TVMObject, block: TVMObject) -> int:
    return len(reductions(sch, block))


def _reduce_at(
    sch: TVMObject, block: TVMObject, place: TVMObject, target: Target, scope: str = ""
) -> None:
    """Compute a stage at a loop, a vector along its last axis at a time."""
    sums = _sums(sch, block)
    sch.compute_at(block, place, preserve_unit_loops=True)
    if scope:
        sch.set_scope(block, 0, scope)
    loops = sch.get_loops(block)
    own = loops[len(loops) - len(sch.get(block).iter_vars) :]
    spatial, reduce = own[: len(own) - sums], own[len(own) - sums :]
    extent = int(sch.get(spatial[-1]).extent)
    lanes = min(target.vector.f32_lanes, 1 << (extent.bit_length() - 1))
    vectors, lane = sch.split(spatial[-1], [None, lanes])
    sch.reorder(vectors, *reduce, lane)
    sch.vectorize(lane)
    count = int(sch.get(vectors).extent)
    if count <= _UNROLLED_VECTORS:
        sch.unroll(vectors)
    if not sums:
        return
    if math.prod(reductions(sch, block)) <= _UNROLLED_TAPS:
        for loop in reduce:
            sch.unroll(loop)
    init = sch.decompose_reduction(block, reduce[0])
    sch.vectorize(sch.get_loops(init)[-1])


def _gather_at(sch: TVMObject, block: TVMObject, place: TVMObject) -> None:
    """Compute a stage at a loop, a run of columns at a time, for LLVM to vectorise."""
    sch.compute_at(block, place, preserve_unit_loops=True)
    *_, column, tap = sch.get_loops(block)
    runs, run = sch.split(column, [None, min(_RUN, int(sch.get(column).extent))])
    sch.reorder(runs, tap, run)
    sch.decompose_reduction(block, tap)
