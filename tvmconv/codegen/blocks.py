"""What rewrites of a function's blocks share, before it is scheduled."""

from __future__ import annotations

from collections.abc import Sequence

from tvmconv._tvm import TVMObject, s_tir_stmt, tirx, tvm, tvm_ffi


def indices_read(block: TVMObject, operand: int) -> list[TVMObject]:
    """At which indices a block reads an operand, once; its region can be larger than an element."""
    source = block.reads[operand].source
    loads: list[TVMObject] = []
    tvm_ffi.structural_walk(block.body, (tvm.ir.TensorLoad, loads.append))
    return list(next(load.indices for load in loads if load.source.same_as(source)))


def point(buffer: TVMObject, place: Sequence[TVMObject]) -> TVMObject:
    """One element as a region."""
    return tirx.BufferRegion(buffer, [tvm.ir.Range.from_min_extent(i, 1) for i in place])


def with_statements(
    func: TVMObject, body: TVMObject, buffers: Sequence[TVMObject] = ()
) -> TVMObject:
    """The function with other statements, between which more buffers are."""
    root = func.body.block
    block = s_tir_stmt.SBlock(
        root.iter_vars, root.reads, root.writes, root.name_hint, body, root.init,
        [*root.alloc_buffers, *buffers], root.match_buffers, root.annotations,
    )  # fmt: skip
    return func.with_body(s_tir_stmt.SBlockRealize([], True, block))
