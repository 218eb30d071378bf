"""Functions of statements that describe and implement an instruction of a warp on tiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvmconv._tvm import TVMObject, s_tir_stmt, tirx, tvm
from tvmconv.codegen.blocks import point

#: Rows and columns of a tile, and threads of a warp.
TILE, WARP = 16, 32
SPATIAL, REDUCE = 0, 2


def _range(extent: int) -> TVMObject:
    return tvm.ir.Range.from_min_extent(0, extent)


def _whole(buffer: TVMObject) -> TVMObject:
    return tirx.BufferRegion(buffer, [_range(int(extent)) for extent in buffer.ty.shape])


def described(
    parameters: Sequence[TVMObject],
    kinds: Sequence[int],
    body: Callable[..., TVMObject],
    reads: Sequence[tuple[TVMObject, Callable[..., list[Any]]]],
    writes: Sequence[tuple[TVMObject, Callable[..., list[Any]]]],
) -> TVMObject:
    """What an intrinsic computes: a block in a loop for each of its axes."""
    loops = [tirx.Var(f"l{k}", "int32") for k in range(len(kinds))]
    index = [tirx.Var(f"v{k}", "int32") for k in range(len(kinds))]
    iterators = [
        tirx.IterVar(_range(TILE), var, kind) for var, kind in zip(index, kinds, strict=True)
    ]
    inner = _block(
        iterators,
        [point(buffer, at(*index)) for buffer, at in reads],
        [point(buffer, at(*index)) for buffer, at in writes],
        body(*index),
    )
    nest = s_tir_stmt.SBlockRealize(loops, True, inner)
    for loop in reversed(loops):
        nest = tirx.For(loop, 0, TILE, tirx.ForKind.SERIAL, nest)
    return implemented(
        parameters, nest, [buffer for buffer, _ in reads], [buffer for buffer, _ in writes]
    )


def by_threads(body: Callable[[TVMObject], list[TVMObject]]) -> TVMObject:
    """Statements of every thread of a warp."""
    thread = tirx.Var("thread", "int32")
    binding = tirx.IterVar(_range(WARP), tirx.Var("tx", "int32"), 1, "threadIdx.x")
    statements = body(thread)
    inner = statements[0] if len(statements) == 1 else tirx.SeqStmt(statements)
    return tirx.For(thread, 0, WARP, tirx.ForKind.THREAD_BINDING, inner, binding)


def implemented(
    parameters: Sequence[TVMObject],
    body: TVMObject,
    reads: Sequence[TVMObject],
    writes: Sequence[TVMObject],
) -> TVMObject:
    """A function with a block around its statements."""
    block = _block([], [_whole(b) for b in reads], [_whole(b) for b in writes], body)
    return tirx.PrimFunc(list(parameters), s_tir_stmt.SBlockRealize([], True, block))


def _block(
    iterators: Sequence[TVMObject],
    reads: Sequence[TVMObject],
    writes: Sequence[TVMObject],
    body: TVMObject,
) -> TVMObject:
    return s_tir_stmt.SBlock(iterators, reads, writes, "tile", body, None, [], [], {})
