"""Design space for CUDA: NVIDIA GPUs, described by the target's device."""

from __future__ import annotations

import math

from tvmconv._tvm import TVMObject, s_tir
from tvmconv.autoschedule.space import Candidate, DesignSpace, register
from tvmconv.kernel import PHASES
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
        tiles = cuda_mma_tiles if _on_tensor_cores(sch, work, target) else cuda_tiles
        found = tiles.candidates(product, target)
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
        cuda_threads.compute_stages(sch, blocks, target)
    elif cuda_windows.fits(sch, blocks, target):
        tile = cuda_windows.WindowTile.of(candidate.knobs)
        cuda_windows.schedule(sch, blocks, tile, target)
    else:
        work = _contraction(sch, blocks)
        if _on_tensor_cores(sch, work, target):
            warps = cuda_mma.WarpTile.of(candidate.knobs)
            cuda_mma.schedule(sch, blocks, work, warps, target)
        else:
            threads = cuda_contraction.Tile.of(candidate.knobs)
            cuda_contraction.schedule_contraction(sch, blocks, work, threads, target)
    return sch


def _blocks(sch: TVMObject) -> list[TVMObject]:
    return list(sch.get_child_blocks(sch.get_sblock("root")))


def _contraction(sch: TVMObject, blocks: list[TVMObject]) -> TVMObject | None:
    """The block that is a product of matrices, if there is one.

    Sums over the taps of phases are none: which elements exist depends on the phase.
    """
    for block in blocks:
        phased = PHASES in sch.get(block).annotations
        if cuda_threads.kind(sch, block) in _CONTRACTIONS and not phased:
            return block
    return None


def _on_tensor_cores(sch: TVMObject, work: TVMObject, target: Target) -> bool:
    """Whether a contraction is of float16, whole vectors of it side by side, and the device new.

    One row, as of a dense layer at batch 1, is not worth a tile, and TVM could not lay it out.
    """
    reads = sch.get(work).reads
    halves = all(str(region.source.ty.dtype) == "float16" for region in reads)
    if not halves or target.gpu.sm < cuda_contraction.ASYNC_SM:
        return False
    rows = cuda_product.axes_of(sch, work).sizes[1]
    return rows > 1 and cuda_product.side_by_side(sch, work) % cuda_mma.LOAD_HALVES == 0


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
