"""Design space for CUDA: NVIDIA GPUs, described by the target's device."""

from __future__ import annotations

import math

from tvmconv._tvm import TVMObject, s_tir
from tvmconv.autoschedule.space import Candidate, DesignSpace, register
from tvmconv.layout import itemsize
from tvmconv.target import Target

from . import (
    cuda_contraction,
    cuda_mma,
    cuda_mma_tiles,
    cuda_product,
    cuda_threads,
    cuda_tiles,
    cuda_windows,
)

_CONTRACTIONS = ("contraction", "grouped")


def candidates(func: TVMObject, target: Target) -> list[Candidate]:
    """Every schedule of a kernel, fastest first by the model.

    Parameters
    ----------
    func : PrimFunc
        With the kinds of its blocks as annotations.
    target : Target
        A GPU.
    """
    sch = s_tir.Schedule(func)
    blocks = _blocks(sch)
    work = _contraction(sch, blocks)
    found: list[Candidate] = []
    if work is not None:
        product = _product(sch, func, blocks, work)
        element = cuda_mma.element_of(sch, work, target)
        if element is not None:
            found = cuda_mma_tiles.candidates(product, element, target)
        else:
            found = cuda_tiles.candidates(product, target)
    elif cuda_windows.fits(sch, blocks, target):
        sizes = cuda_windows.sizes(sch, blocks, _data_bytes(func))
        found = cuda_windows.candidates(sizes, target)
    return sorted(found, key=lambda candidate: candidate.cycles) or _simple(
        sch, func, blocks, target
    )


def schedule(func: TVMObject, target: Target, candidate: Candidate) -> TVMObject:
    """Schedule a kernel as one of its :func:`candidates` says."""
    sch = s_tir.Schedule(func)
    blocks = _blocks(sch)
    if not candidate.knobs:
        for block in _guarded(sch):
            sch.compute_inline(block)
        cuda_threads.compute_stages(sch, blocks, target)
    elif cuda_windows.fits(sch, blocks, target):
        tile = cuda_windows.WindowTile.of(candidate.knobs)
        cuda_windows.schedule(sch, blocks, tile, target)
    else:
        work = _contraction(sch, blocks)
        element = cuda_mma.element_of(sch, work, target)
        if element is not None:
            warps = cuda_mma.WarpTile.of(candidate.knobs)
            cuda_mma.schedule(sch, blocks, work, element, warps, target)
        else:
            threads = cuda_contraction.Tile.of(candidate.knobs)
            cuda_contraction.schedule_contraction(sch, blocks, work, threads, target)
    return sch


def _blocks(sch: TVMObject) -> list[TVMObject]:
    """All blocks but those that stand between a contraction and its input: they are inlined."""
    blocks = sch.get_child_blocks(sch.get_sblock("root"))
    return [block for block in blocks if cuda_threads.kind(sch, block) != "guarded"]


def _guarded(sch: TVMObject) -> list[TVMObject]:
    """The blocks that stand between a contraction and its input."""
    blocks = sch.get_child_blocks(sch.get_sblock("root"))
    return [block for block in blocks if cuda_threads.kind(sch, block) == "guarded"]


def _contraction(sch: TVMObject, blocks: list[TVMObject]) -> TVMObject | None:
    """The block that is a product of matrices, if there is one."""
    return next((b for b in blocks if cuda_threads.kind(sch, b) in _CONTRACTIONS), None)


def _product(
    sch: TVMObject, func: TVMObject, blocks: list[TVMObject], work: TVMObject
) -> cuda_tiles.Product:
    """The sizes of a contraction."""
    axes = cuda_product.axes_of(sch, work)
    batch, rows, columns, terms = axes.sizes
    return cuda_tiles.Product(
        batch,
        rows,
        columns,
        terms,
        trips=axes.extents[axes.sums[0]],
        side_by_side=cuda_product.side_by_side(sch, work),
        partial=not cuda_product.finished_in_place(sch, blocks, work),
        data_bytes=_data_bytes(func),
        lanes=axes.extents[axes.columns[-1]],
    )


def _data_bytes(func: TVMObject) -> int:
    """Bytes of all buffers that a kernel is given."""
    return sum(
        math.prod(int(extent) for extent in param.ty.shape) * itemsize(str(param.ty.dtype))
        for param in func.params
    )


def _simple(
    sch: TVMObject, func: TVMObject, blocks: list[TVMObject], target: Target
) -> list[Candidate]:
    """The one schedule of a kernel without tiles."""
    return [Candidate((), cuda_threads.cycles(sch, blocks, _data_bytes(func), target))]


register(DesignSpace("cuda", candidates, schedule))
