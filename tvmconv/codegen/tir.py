"""Two rewrites of a TensorIR function that schedule primitives cannot express.

:func:`retarget_output` makes a function write into part of a larger buffer: a slice of a
concatenation, or the inside of a halo. :func:`overlap_tails` turns the guarded last tile of a
ragged axis into one that starts earlier and overlaps its neighbour, so that the inner loops carry
no guard and every tile has the full, unrolled shape.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence

from tvmconv._tvm import TVMObject, s_tir_stmt, sym, tirx, tvm
from tvmconv.kernel import TILES

_SPATIAL = 0


def _rebuild(stmt: TVMObject, visit: Callable[[TVMObject], TVMObject | None]) -> TVMObject:
    """Copy a statement; where ``visit`` returns a statement, that one stands instead."""
    replaced = visit(stmt)
    if replaced is not None:
        return replaced
    if isinstance(stmt, s_tir_stmt.SBlockRealize):
        block = _rebuild(stmt.block, visit)
        return s_tir_stmt.SBlockRealize(stmt.iter_values, stmt.predicate, block)
    if isinstance(stmt, s_tir_stmt.SBlock):
        init = None if stmt.init is None else _rebuild(stmt.init, visit)
        return _block_with(stmt, _rebuild(stmt.body, visit), init, stmt.writes)
    if isinstance(stmt, tirx.For):
        body = _rebuild(stmt.body, visit)
        return tirx.For(
            stmt.loop_var,
            stmt.min,
            stmt.extent,
            stmt.kind,
            body,
            stmt.thread_binding,
            stmt.annotations,
        )
    if isinstance(stmt, tirx.SeqStmt):
        return tirx.SeqStmt([_rebuild(part, visit) for part in stmt.seq])
    return stmt


def _block_with(
    block: TVMObject, body: TVMObject, init: TVMObject | None, writes: TVMObject
) -> TVMObject:
    """Copy a block with another body, init and write regions."""
    return s_tir_stmt.SBlock(
        block.iter_vars,
        block.reads,
        writes,
        block.name_hint,
        body,
        init,
        block.alloc_buffers,
        block.match_buffers,
        block.annotations,
    )


def retarget_output(func: TVMObject, shape: Sequence[int], offsets: Sequence[int]) -> TVMObject:
    """Let a function write its last parameter into part of a larger buffer.

    Where the output stage computes tile by tile (it has the attribute ``TILES``), its elements go
    to their places in the output, and those past the output's end nowhere.

    Parameters
    ----------
    func : PrimFunc
        As ``te.create_prim_func`` makes it; only its last block writes the last parameter.
    shape : sequence of int
        Shape of the larger buffer.
    offsets : sequence of int
        Where element (0, ..., 0) goes in it.

    Returns
    -------
    PrimFunc
        The same function over the larger buffer; ``func`` itself if nothing moves.
    """
    old = func.params[-1]
    if list(shape) == [int(extent) for extent in old.ty.shape]:
        return func
    new = tirx.decl_buffer(list(shape), str(old.ty.dtype), name=old.name)
    tiles: list[int] = []

    def place(indices: Sequence[TVMObject]) -> tuple[list[TVMObject], list[TVMObject]]:
        """Indices in the larger buffer, and the conditions under which there is such an element."""
        conditions: list[TVMObject] = []
        if tiles:
            indices, conditions = _untiled(indices, tiles)
        return [i + o for i, o in zip(indices, offsets, strict=True)], conditions

    def visit(stmt: TVMObject) -> TVMObject | None:
        if isinstance(stmt, tirx.BufferStore) and stmt.buffer.same_as(old):
            indices, conditions = place(stmt.indices)
            store = tirx.BufferStore(new, stmt.value, indices)
            return tirx.IfThenElse(tirx.all(*conditions), store, None) if conditions else store
        if isinstance(stmt, s_tir_stmt.SBlock) and any(w.source.same_as(old) for w in stmt.writes):
            tiles[:] = [int(extent) for extent in stmt.annotations.get(TILES, ())]
            indices, _ = place([r.min for r in stmt.writes[0].region])
            ranges = [tvm.ir.Range.from_min_extent(i, 1) for i in indices]
            writes = [tirx.BufferRegion(new, ranges)]
            init = None if stmt.init is None else _rebuild(stmt.init, visit)
            return _block_with(stmt, _rebuild(stmt.body, visit), init, writes)
        return None

    body = _rebuild(func.body, visit)
    params = [*func.params[:-1], new]
    return tirx.PrimFunc(params, body, func.ret_type, func.attrs)


def _untiled(
    indices: Sequence[TVMObject], tiles: Sequence[int]
) -> tuple[list[TVMObject], list[TVMObject]]:
    """(batch, slot, *position, lane) of (tile, slot, *position in the tile, lane), and its guards.

    Tiles are numbered along the last axis first, batch after batch.
    """
    tile, slot, *inner, lane = indices
    size, *extents = tiles
    position, conditions = [], []
    for extent, offset in zip(reversed(extents), reversed(inner), strict=True):
        count = -(-extent // size)
        place = tile % count * size + offset
        tile = tile // count
        position.append(place)
        if extent % size:
            conditions.append(place < extent)
    return [tile, slot, *reversed(position), lane], conditions


def overlap_tails(func: TVMObject) -> TVMObject:
    """Replace guarded tail tiles by tiles that overlap the one before.

    A split of an axis of extent E by T, T not dividing E, binds ``v = q*T + r`` under the guard
    ``v < E``. The binding becomes ``v = min(q*T, E - T) + r`` and the guard goes: the last tile
    computes up to T - 1 elements for a second time, with the same values. Right for blocks whose
    iterations are independent of one another along their spatial axes, which holds for everything
    that ``te.compute`` makes, if a sum starts anew for every tile.

    Raises
    ------
    ValueError
        If a guard is not of this form, or a sum would count terms twice; such a schedule must not
        be used.
    """
    loops: list[TVMObject] = []
    started: dict[TVMObject, list[TVMObject]] = {}

    def visit(stmt: TVMObject) -> TVMObject | None:
        if isinstance(stmt, tirx.For):
            loops.append(stmt)
            body = _rebuild(stmt.body, visit)
            loops.pop()
            return tirx.For(
                stmt.loop_var,
                stmt.min,
                stmt.extent,
                stmt.kind,
                body,
                stmt.thread_binding,
                stmt.annotations,
            )
        if isinstance(stmt, s_tir_stmt.SBlockRealize) and len(stmt.iter_values):
            guards = _conjuncts(stmt.predicate)
            values, moved, tiles = _overlapped(stmt, loops)
            _check_sums(stmt, tiles, loops, started)
            if moved != len(guards):
                raise ValueError(f"cannot remove the guard {stmt.predicate} of {stmt.block}")
            return s_tir_stmt.SBlockRealize(values, True, _rebuild(stmt.block, visit))
        return None

    return func.with_body(_rebuild(func.body, visit))


def _conjuncts(predicate: TVMObject) -> list[TVMObject]:
    """Split ``a and b and c``; an empty list for True."""
    if isinstance(predicate, tirx.And):
        return _conjuncts(predicate.a) + _conjuncts(predicate.b)
    if isinstance(predicate, tirx.IntImm) and int(predicate):
        return []
    return [predicate]


def _check_sums(
    realize: TVMObject,
    tiles: Sequence[TVMObject],
    loops: Sequence[TVMObject],
    started: dict[TVMObject, list[TVMObject]],
) -> None:
    """Refuse a sum whose overlapped elements would be added to twice.

    The loops over tiles have to stand outside those of the sum, and around its start.

    Parameters
    ----------
    realize : SBlockRealize
    tiles : sequence of Var
        The loops over overlapped tiles.
    loops : sequence of For
        All loops around the block.
    started : dict
        By buffer, the loops around the block that starts its sums; this block's are added.
    """
    block, around = realize.block, [loop.loop_var for loop in loops]
    pairs = zip(block.iter_vars, realize.iter_values, strict=True)
    sums = [value for iter_var, value in pairs if iter_var.iter_type != _SPATIAL]
    buffer = block.writes[0].source if len(block.writes) else None
    if not sums:
        started[buffer] = around
        return
    reduced = [k for k, var in enumerate(around) for value in sums if _uses(value, var)]
    outside = all(k < min(reduced, default=len(around)) for k in _places(tiles, around))
    begins = block.init is not None or all(
        any(var.same_as(other) for other in started.get(buffer, [])) for var in tiles
    )
    if not outside or not begins:
        raise ValueError(f"cannot overlap the tails of the sum {block.name_hint}")


def _places(variables: Sequence[TVMObject], among: Sequence[TVMObject]) -> list[int]:
    """Positions of variables in a sequence."""
    return [k for k, other in enumerate(among) if any(v.same_as(other) for v in variables)]


def _uses(value: TVMObject, variable: TVMObject) -> bool:
    """Whether a variable occurs in an expression."""
    return any(variable.same_as(v) for v in tirx.analysis.undefined_vars(value, []))


def _overlapped(
    realize: TVMObject, loops: Sequence[TVMObject]
) -> tuple[list[TVMObject], int, list[TVMObject]]:
    """Bindings of a block with their tails overlapped, how many changed, the loops over tiles."""
    analyzer = sym.Analyzer()
    for loop in loops:
        analyzer.bind(loop.loop_var, tvm.ir.Range.from_min_extent(loop.min, loop.extent))
    values: list[TVMObject] = []
    tiles: list[TVMObject] = []
    moved = 0
    for iter_var, value in zip(realize.block.iter_vars, realize.iter_values, strict=True):
        extent = int(iter_var.dom.extent)
        if iter_var.iter_type == _SPATIAL and _max_value(analyzer, value) >= extent:
            outer, rest = _tile(analyzer, value, extent)
            value = tirx.min(outer, extent - int(outer.b)) + rest
            tiles += [loop.loop_var for loop in loops if _uses(outer, loop.loop_var)]
            moved += 1
        values.append(value)
    return values, moved, tiles


def _tile(analyzer: TVMObject, value: TVMObject, extent: int) -> tuple[TVMObject, TVMObject]:
    """``q*T`` and ``r`` of their sum; ``r`` may be a sum itself."""
    terms = _terms(value)
    scaled = [t for t in terms if isinstance(t, tirx.Mul)]
    if not scaled or len(terms) < 2:
        raise ValueError(f"cannot overlap the tail of {value}")
    outer = max(scaled, key=lambda term: int(term.b))
    tile = int(outer.b)
    rest = functools.reduce(operator.add, [t for t in terms if not t.same_as(outer)])
    if tile > extent or _max_value(analyzer, rest) >= tile:
        raise ValueError(f"{value} is no tile of {tile} of an axis of {extent}")
    return outer, rest


def _terms(value: TVMObject) -> list[TVMObject]:
    """Split a sum into its terms."""
    if isinstance(value, tirx.Add):
        return _terms(value.a) + _terms(value.b)
    return [value]


def _max_value(analyzer: TVMObject, value: TVMObject) -> int:
    """Upper bound of an index expression."""
    return int(analyzer.const_int_bound(value).max_value)
