"""Guards of single terms of a sum, for devices where loops that skip them do not pay."""

from __future__ import annotations

from tvmconv._tvm import TVMObject, s_tir_stmt, tirx, tvm_ffi
from tvmconv.kernel import KIND, PHASES
from tvmconv.ops import phases

_SPATIAL, _REDUCE = 0, 2


def guard_phases(func: TVMObject) -> TVMObject:
    """Read nothing at the taps that a phase does not have.

    A sum over the taps of phases (attribute ``PHASES``) runs over as many as the largest phase has.
    At the others the input's element may not exist; 0 stands in its place.

    Parameters
    ----------
    func : PrimFunc
        As ``te.create_prim_func`` makes it, so that each iterator of a block has a loop.
    """

    def guarded(block: TVMObject) -> TVMObject:
        if PHASES not in block.annotations:
            return block
        conditions = _conditions(block)
        if not conditions:
            return block
        body = _with_condition(block.body, tirx.all(*conditions))
        return s_tir_stmt.SBlock(
            block.iter_vars,
            block.reads,
            block.writes,
            block.name_hint,
            body,
            block.init,
            block.alloc_buffers,
            block.match_buffers,
            block.annotations,
        )

    return tvm_ffi.structural_map(func, (s_tir_stmt.SBlock, guarded))


def _conditions(block: TVMObject) -> list[TVMObject]:
    """When the phase of an element has the tap of a term, axis by axis."""
    axes = list(phases.windows(block.annotations[PHASES]))
    rank, kind = len(axes), str(block.annotations[KIND])
    sums = [v.var for v in block.iter_vars if v.iter_type == _REDUCE]
    taps = (sums if kind in ("window", "planes") else sums[:-1])[-rank:]
    spatial = [v.var for v in block.iter_vars if v.iter_type == _SPATIAL]
    phase = (spatial if kind == "planes" else spatial[:-1])[-1 - rank]
    parts = phases.split(phase, [len(axis.firsts) for axis in axes])
    return [
        tap < phases.lookup(axis.counts, part)
        for axis, tap, part in zip(axes, taps, parts, strict=True)
        if min(axis.counts) < max(axis.counts)
    ]


def _with_condition(store: TVMObject, condition: TVMObject) -> TVMObject:
    """``y = y + x * w`` with 0 in place of ``x`` unless a condition holds."""
    total = store.value
    product = total.b
    element = tirx.if_then_else(condition, product.a, tirx.const(0, str(product.a.ty.dtype)))
    return tirx.BufferStore(store.buffer, total.a + element * product.b, store.indices)
