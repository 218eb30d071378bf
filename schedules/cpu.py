"""The design space of every CPU: which schedules each kind of kernel has, and how they are made.

What differs from one family to another, its module reads off the target or registers.
"""

from __future__ import annotations

import math
from dataclasses import replace

from tvmconv._tvm import TVMObject, s_tir
from tvmconv.autoschedule.space import Arithmetic, Candidate
from tvmconv.target import Target

from . import (
    contraction,
    costs,
    planes,
    resampling,
    rows,
    separable,
    unshared,
    windows,
    winograd,
    winograd_space,
)
from .primitives import Tile, extents, find_blocks, schedule_map, stage_nearby, tile_reduction

#: Bytes a cycle of caches that take no time.
_AT_ONCE = 1e12


def candidates(func: TVMObject, target: Target) -> list[Candidate]:
    """Every schedule of a kernel, fastest first by the model.

    Parameters
    ----------
    func : PrimFunc
        With the kinds of its blocks as annotations.
    target : Target
    """
    sch = s_tir.Schedule(func)
    blocks = find_blocks(sch)
    if blocks.kind == "product":
        size = winograd.sizes(sch, winograd.find_stages(sch))
        found = winograd_space.candidates(size, target)
    elif separable.fits(sch, blocks):
        found = separable.candidates(sch, blocks, target)
    elif blocks.kind in ("contraction", "grouped"):
        found = contraction.candidates(extents(sch, blocks), target)
    elif blocks.kind == "unshared":
        found = unshared.candidates(extents(sch, blocks), target)
    elif blocks.kind == "planes":
        found = planes.candidates(planes.sizes(sch, blocks), target)
    elif rows.kind_of(sch, blocks):
        found = rows.candidates(sch, blocks, target)
    elif (stages := resampling.stages_of(sch, blocks)) is not None:
        found = resampling.candidates(sch, blocks, stages, target)
    elif blocks.kind == "window":
        found = windows.candidates(extents(sch, blocks), target)
    else:
        found = [Candidate((), 0.0)]
    return sorted(found, key=lambda candidate: candidate.cycles)


def with_arithmetic(func: TVMObject, target: Target) -> Arithmetic:
    """The model of a kernel with another's word on what its arithmetic takes.

    What it has for memory is what caches that take no time would save.
    """
    caches = replace(
        target.caches,
        l1_bytes_per_cycle=_AT_ONCE,
        l2_bytes_per_cycle=_AT_ONCE,
        l3_bytes_per_cycle=_AT_ONCE,
        dram_bytes_per_cycle=_AT_ONCE,
    )
    whole = {c.knobs: c.cycles for c in candidates(func, target)}
    alone = {c.knobs: c.cycles for c in candidates(func, replace(target, caches=caches))}

    def cycles(candidate: Candidate, arithmetic: float, launches: int) -> float:
        wake = launches * costs.LAUNCH_CYCLES if target.cores > 1 else 0.0
        total = whole[candidate.knobs]
        memory = costs.memory_in(total - wake, alone.get(candidate.knobs, wake) - wake)
        return costs.overlapped(arithmetic, max(0.0, memory)) + wake

    return cycles


def schedule(func: TVMObject, target: Target, candidate: Candidate) -> TVMObject:
    """Schedule a kernel as one of its :func:`candidates` says."""
    sch = s_tir.Schedule(func)
    blocks = find_blocks(sch)
    if blocks.kind == "product":
        grouping = winograd.Grouping.of(candidate.knobs)
        winograd.schedule_winograd(sch, winograd.find_stages(sch), grouping)
    elif separable.fits(sch, blocks):
        separable.schedule(sch, blocks, candidate)
    elif blocks.kind in ("contraction", "grouped", "unshared"):
        tile_reduction(sch, blocks, Tile.of(candidate.knobs))
    elif blocks.kind == "planes":
        planes.schedule_planes(sch, blocks, planes.PlaneTile.of(candidate.knobs))
    elif rows.kind_of(sch, blocks):
        rows.schedule(sch, blocks, target, candidate)
    elif (stages := resampling.stages_of(sch, blocks)) is not None:
        resampling.schedule(sch, blocks, stages, target, dict(candidate.knobs)["fused"])
    elif blocks.kind == "window":
        windows.schedule(sch, blocks, Tile.of(candidate.knobs))
    elif blocks.kind == "nearby":
        dims = extents(sch, blocks)
        large = math.prod(dims.outer) * dims.lanes >= costs.SERIAL_ELEMENTS
        stage_nearby(sch, blocks, large)
    else:
        for block in (*blocks.stages, blocks.output):
            loops = sch.get_loops(block)
            sizes = [int(sch.get(loop).extent) for loop in loops]
            large = math.prod(sizes) >= costs.SERIAL_ELEMENTS and len(sizes) > 1
            schedule_map(sch, block, large, sizes[-1:] == [target.layout.channel_block])
    return sch
