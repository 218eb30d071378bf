"""Loops that an operator writes itself and says are parallel, shared among a GPU's threads."""

from __future__ import annotations

from tvmconv._tvm import TVMObject, tirx, tvm, tvm_ffi
from tvmconv.codegen.tir import rebuild
from tvmconv.target import Target

_THREAD_INDEX = 1


def has_parallel_loops(stmt: TVMObject) -> bool:
    """Whether a statement has loops of its own that are parallel."""
    loops: list[TVMObject] = []
    tvm_ffi.structural_walk(stmt, (tirx.For, loops.append))
    return any(loop.kind == tirx.ForKind.PARALLEL for loop in loops)


def share_parallel_loops(func: TVMObject, target: Target) -> TVMObject:
    """Give each iteration of a function's parallel loops a thread, in blocks of one warp.

    Each loop is a launch of its own: what stands behind it sees all that it has written.
    """
    threads = target.gpu.warp_threads

    def visit(stmt: TVMObject) -> TVMObject | None:
        if not isinstance(stmt, tirx.For) or stmt.kind != tirx.ForKind.PARALLEL:
            return None
        block, thread = tirx.Var("block", "int32"), tirx.Var("thread", "int32")
        number = block * threads + thread

        def replaced(var: TVMObject) -> TVMObject:
            return number if var.same_as(stmt.loop_var) else var

        body = tvm_ffi.structural_map(stmt.body, (tirx.Var, replaced))
        if int(stmt.extent) % threads:
            body = tirx.IfThenElse(number < stmt.extent, body, None)
        inner = _bound(thread, threads, "threadIdx.x", body)
        return _bound(block, -(-int(stmt.extent) // threads), "blockIdx.x", inner)

    return func.with_body(rebuild(func.body, visit))


def _bound(var: TVMObject, extent: int, tag: str, body: TVMObject) -> TVMObject:
    """A loop that is an index of the grid or of a block's threads."""
    extents = tvm.ir.Range.from_min_extent(0, extent)
    binding = tirx.IterVar(extents, tirx.Var(tag, "int32"), _THREAD_INDEX, tag)
    return tirx.For(var, 0, extent, tirx.ForKind.THREAD_BINDING, body, binding)
