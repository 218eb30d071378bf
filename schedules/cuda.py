"""Design space for CUDA."""

from __future__ import annotations

from tvmconv._tvm import TVMObject, s_tir
from tvmconv.autoschedule.space import Candidate, DesignSpace, register
from tvmconv.target import Target

_REDUCE = 2
#: Threads in a block.
_WARPS = 4


def candidates(func: TVMObject, target: Target) -> list[Candidate]:
    """Every schedule of a kernel: one."""
    return [Candidate((), 0.0)]


def schedule(func: TVMObject, target: Target, candidate: Candidate) -> TVMObject:
    """Give every element of every stage a thread of its own."""
    sch = s_tir.Schedule(func)
    for block in sch.get_child_blocks(sch.get_sblock("root")):
        _one_thread_an_element(sch, block, _WARPS * target.gpu.warp_threads)
    return sch


def _one_thread_an_element(sch: TVMObject, block: TVMObject, threads: int) -> None:
    loops = sch.get_loops(block) or [sch.add_unit_loop(block)]
    kinds = [int(iter_var.iter_type) for iter_var in sch.get(block).iter_vars]
    sums = [loop for loop, kind in zip(loops, kinds, strict=False) if kind == _REDUCE]
    rest = [loop for loop in loops if not any(loop.same_as(other) for other in sums)]
    if not rest:
        rest = [sch.add_unit_loop(loops[0])]
    blocks, thread = sch.split(sch.fuse(*rest), [None, threads])
    sch.bind(blocks, "blockIdx.x")
    sch.bind(thread, "threadIdx.x")
    if sums:
        sch.decompose_reduction(block, sch.get_loops(block)[2])


register(DesignSpace("cuda", candidates, schedule))
