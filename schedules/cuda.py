"""Design space for CUDA: NVIDIA GPUs, described by the target's device."""

from __future__ import annotations

from tvmconv._tvm import TVMObject, s_tir
from tvmconv.autoschedule.space import Candidate, DesignSpace, register
from tvmconv.target import Target

from . import cuda_threads


def candidates(func: TVMObject, target: Target) -> list[Candidate]:
    """Every schedule of a kernel, fastest first by the model."""
    return [Candidate((), 0.0)]


def schedule(func: TVMObject, target: Target, candidate: Candidate) -> TVMObject:
    """Schedule a kernel as one of its :func:`candidates` says."""
    sch = s_tir.Schedule(func)
    blocks = list(sch.get_child_blocks(sch.get_sblock("root")))
    cuda_threads.compute_stages(sch, blocks, target)
    return sch


register(DesignSpace("cuda", candidates, schedule))
