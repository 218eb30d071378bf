"""Three rewrites of a TensorIR function that schedule primitives cannot express.

:func:`retarget_output` makes a function write into part of a larger buffer: a slice of a
concatenation, or the inside of a halo. :func:`overlap_tails` turns the guarded last tile of a
ragged axis into one that starts earlier and overlaps its neighbour, so that the inner loops carry
no guard and every tile has the full, unrolled shape. :func:`skip_padding` leaves out the terms of a
sum that are 0 for a whole tile because its windows lie in the padding there.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from tvmconv._tvm import TVMObject, s_tir_stmt, sym, tirx, tvm, tvm_ffi
from tvmconv.kernel import INTERLEAVED, KIND, PHASES, REACH, TILES, WINDOW
from tvmconv.ops import phases

_SPATIAL, _REDUCE = 0, 2


def rebuild(stmt: TVMObject, visit: Callable[[TVMObject], TVMObject | None]) -> TVMObject:
    """Copy a statement; where ``visit`` returns a statement, that one stands instead."""
    replaced = visit(stmt)
    if replaced is not None:
        return replaced
    if isinstance(stmt, s_tir_stmt.SBlockRealize):
        block = rebuild(stmt.block, visit)
        return s_tir_stmt.SBlockRealize(stmt.iter_values, stmt.predicate, block)
    if isinstance(stmt, s_tir_stmt.SBlock):
        init = None if stmt.init is None else rebuild(stmt.init, visit)
        return _block_with(stmt, rebuild(stmt.body, visit), init, stmt.writes)
    if isinstance(stmt, tirx.For):
        return loop_with(stmt, rebuild(stmt.body, visit))
    if isinstance(stmt, tirx.SeqStmt):
        return tirx.SeqStmt([rebuild(part, visit) for part in stmt.seq])
    if isinstance(stmt, tirx.IfThenElse):
        other = None if stmt.else_case is None else rebuild(stmt.else_case, visit)
        return tirx.IfThenElse(stmt.condition, rebuild(stmt.then_case, visit), other)
    return stmt


def loop_with(loop: TVMObject, body: TVMObject) -> TVMObject:
    """Copy a loop with another body."""
    return tirx.For(
        loop.loop_var,
        loop.min,
        loop.extent,
        loop.kind,
        body,
        loop.thread_binding,
        loop.annotations,
    )


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

    Where the output stage computes tile by tile (it has the attribute ``TILES``) or phase by phase
    (``INTERLEAVED``), its elements go to their places in the output, and those past the output's
    end nowhere.

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
    interleaved: list[int] = []

    def place(indices: Sequence[TVMObject]) -> tuple[list[TVMObject], list[TVMObject]]:
        """Indices in the larger buffer, and the conditions under which there is such an element."""
        conditions: list[TVMObject] = []
        if tiles:
            indices, conditions = _untiled(indices, tiles)
        elif interleaved:
            indices, conditions = _in_phases(indices, interleaved)
        return [i + o for i, o in zip(indices, offsets, strict=True)], conditions

    def visit(stmt: TVMObject) -> TVMObject | None:
        if isinstance(stmt, tirx.BufferStore) and stmt.buffer.same_as(old):
            indices, conditions = place(stmt.indices)
            store = tirx.BufferStore(new, stmt.value, indices)
            return tirx.IfThenElse(tirx.all(*conditions), store, None) if conditions else store
        if isinstance(stmt, s_tir_stmt.SBlock) and any(w.source.same_as(old) for w in stmt.writes):
            tiles[:] = [int(extent) for extent in stmt.annotations.get(TILES, ())]
            interleaved[:] = [int(extent) for extent in stmt.annotations.get(INTERLEAVED, ())]
            indices, _ = place([r.min for r in stmt.writes[0].region])
            ranges = [tvm.ir.Range.from_min_extent(i, 1) for i in indices]
            writes = [tirx.BufferRegion(new, ranges)]
            init = None if stmt.init is None else rebuild(stmt.init, visit)
            return _block_with(stmt, rebuild(stmt.body, visit), init, writes)
        return None

    body = rebuild(func.body, visit)
    params = [*func.params[:-1], new]
    return tirx.PrimFunc(params, body, func.ret_type, func.attrs)


def at_any_address(func: TVMObject, places: Sequence[int]) -> TVMObject:
    """Let a function take some of its parameters at any address that suits their elements.

    Other buffers begin at a multiple of 64 bytes, and vectors are loaded accordingly.

    Parameters
    ----------
    func : PrimFunc
    places : sequence of int
        Which parameters.
    """
    moved = {}
    for old in (func.params[k] for k in places):
        shape, dtype = list(old.ty.shape), str(old.ty.dtype)
        moved[old] = tirx.decl_buffer(shape, dtype, name=old.name, data_alignment=1)

    def replace(variable: TVMObject) -> TVMObject:
        return moved.get(variable, variable)

    return tvm_ffi.structural_map(func, (tirx.Var, replace)) if moved else func


def _untiled(
    indices: Sequence[TVMObject], tiles: Sequence[int]
) -> tuple[list[TVMObject], list[TVMObject]]:
    """(batch, slot, *position, lane) of (tile, slot, *position in the tile, lane), and its guards.

    Tiles are numbered along the last axis of the attribute first, batch after batch.
    """
    tile, slot, *inner, lane = indices
    position: list[TVMObject] = [None] * (len(tiles) // 4)
    conditions = []
    for start in range(len(tiles) - 4, -1, -4):
        axis, outputs, step, extent = tiles[start : start + 4]
        count = step * -(-extent // (step * outputs))
        place = tile % count
        tile = tile // count
        if outputs > 1:
            place = place // step * (step * outputs) + place % step + inner.pop() * step
        position[axis] = place
        if extent % (step * outputs):
            conditions.append(place < extent)
    return [tile, slot, *position, lane], conditions


def _in_phases(
    indices: Sequence[TVMObject], form: Sequence[int]
) -> tuple[list[TVMObject], list[TVMObject]]:
    """Index in the output of (batch, slot, phase, *position, lane), and its guards."""
    batch, slot, phase, *inner, last = indices
    axes = [form[start : start + 3] for start in range(0, len(form), 3)]
    parts = phases.split(phase, [count for _, count, _ in axes if count])
    on_planes = len(parts) < len(axes)
    parts += [last] * on_planes
    position, conditions = [], []
    for (stride, _, extent), part, place in zip(axes, parts, inner, strict=True):
        position.append(place * stride + part)
        if extent > stride and extent % stride:
            conditions.append(position[-1] < extent)
    return [batch, slot, *position, *([] if on_planes else [last])], conditions


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
        If a guard is not of this form, a sum would count terms twice, or a block would read other
        elements of a tile than another one makes there; such a schedule must not be used.
    """
    loops: list[TVMObject] = []
    started: dict[TVMObject, list[TVMObject]] = {}
    made: dict[TVMObject, list[_Made]] = {}

    def visit(stmt: TVMObject) -> TVMObject | None:
        if isinstance(stmt, tirx.For):
            loops.append(stmt)
            body = rebuild(stmt.body, visit)
            loops.pop()
            return loop_with(stmt, body)
        if isinstance(stmt, s_tir_stmt.SBlockRealize) and len(stmt.iter_values):
            guards = _conjuncts(stmt.predicate)
            values, firsts, tiles = _overlapped(stmt, loops)
            _check_sums(stmt, tiles, loops, started)
            _check_tiles(stmt, firsts, loops, made)
            if len(firsts) != len(guards):
                raise ValueError(f"cannot remove the guard {stmt.predicate} of {stmt.block}")
            return s_tir_stmt.SBlockRealize(values, True, rebuild(stmt.block, visit))
        return None

    return func.with_body(rebuild(func.body, visit))


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
    reduced = [k for k, var in enumerate(around) for value in sums if uses(value, var)]
    outside = all(k < min(reduced, default=len(around)) for k in _places(tiles, around))
    begins = block.init is not None or all(
        any(var.same_as(other) for other in started.get(buffer, [])) for var in tiles
    )
    if not outside or not begins:
        raise ValueError(f"cannot overlap the tails of the sum {block.name_hint}")


#: By axis of a buffer: what a block's iterator there is bound to, and the tile's start if a tail
#: has moved it; None where the place is no iterator.
_Places: TypeAlias = list[tuple[TVMObject, TVMObject | None] | None]
#: The loops around a block, and where it writes.
_Made: TypeAlias = tuple[list[TVMObject], _Places]


def _check_tiles(
    realize: TVMObject,
    firsts: dict[TVMObject, TVMObject],
    loops: Sequence[TVMObject],
    made: dict[TVMObject, list[_Made]],
) -> None:
    """Refuse a block that reads other elements than are made in the same steps of the loops.

    What a block makes at a loop is there for the blocks in that loop: their tiles, moved or not,
    begin where its tile does.

    Parameters
    ----------
    realize : SBlockRealize
    firsts : dict
        By iterator, the start of its tile, of those whose tail has moved.
    loops : sequence of For
        All loops around the block.
    made : dict
        By buffer, where the blocks before write it; this block's writes are added.
    """
    block = realize.block
    bound = dict(zip((v.var for v in block.iter_vars), realize.iter_values, strict=True))

    def places(region: TVMObject) -> _Places:
        return [
            (bound[r.min], firsts.get(r.min)) if r.min in bound else None for r in region.region
        ]

    for region in block.reads:
        for around, written in made.get(region.source, []):
            analyzer = _analyzer([*loops, *(one for one in around if one not in loops)])
            for mine, theirs in zip(places(region), written, strict=True):
                if mine and theirs and not _begin_together(mine, theirs, loops, analyzer):
                    raise ValueError(f"{block.name_hint} reads {region}, which its tile has not")
    for region in block.writes:
        made.setdefault(region.source, []).append((list(loops), places(region)))


def _begin_together(
    mine: tuple[TVMObject, TVMObject | None],
    theirs: tuple[TVMObject, TVMObject | None],
    loops: Sequence[TVMObject],
    analyzer: TVMObject,
) -> bool:
    """Whether a tile that is read begins where one does that was made, if loops contain both."""
    around = [loop.loop_var for loop in loops]
    (_, first), (there, start) = mine, theirs
    if first is None and start is None:
        return True
    tile = there if start is None else start
    if not any(uses(tile, variable) for variable in around):
        return True  # all of the axis is made before
    return first is not None and start is not None and bool(analyzer.can_prove_equal(first, start))


def _places(variables: Sequence[TVMObject], among: Sequence[TVMObject]) -> list[int]:
    """Positions of variables in a sequence."""
    return [k for k, other in enumerate(among) if any(v.same_as(other) for v in variables)]


def uses(value: TVMObject, variable: TVMObject) -> bool:
    """Whether a variable occurs in an expression."""
    return any(variable.same_as(v) for v in tirx.analysis.undefined_vars(value, []))


def _overlapped(
    realize: TVMObject, loops: Sequence[TVMObject]
) -> tuple[list[TVMObject], dict[TVMObject, TVMObject], list[TVMObject]]:
    """Bindings of a block with their tails overlapped, starts of tiles, the loops over tiles.

    The starts are those of the iterators whose bindings changed.
    """
    analyzer = _analyzer(loops)
    values: list[TVMObject] = []
    tiles: list[TVMObject] = []
    firsts: dict[TVMObject, TVMObject] = {}
    for iter_var, value in zip(realize.block.iter_vars, realize.iter_values, strict=True):
        extent = int(iter_var.dom.extent)
        if iter_var.iter_type == _SPATIAL and _max_value(analyzer, value) >= extent:
            outer, rest, tile = _tile(analyzer, value, extent)
            firsts[iter_var.var] = tirx.min(outer, extent - tile)
            value = firsts[iter_var.var] + rest
            tiles += [loop.loop_var for loop in loops if uses(outer, loop.loop_var)]
        values.append(value)
    return values, firsts, tiles


def _analyzer(loops: Sequence[TVMObject]) -> TVMObject:
    """What is known inside loops."""
    analyzer = sym.Analyzer()
    for loop in loops:
        analyzer.bind(loop.loop_var, tvm.ir.Range.from_min_extent(loop.min, loop.extent))
    return analyzer


def _tile(analyzer: TVMObject, value: TVMObject, extent: int) -> tuple[TVMObject, TVMObject, int]:
    """``q*T`` and ``r`` of their sum, and T; either may be a sum itself.

    Of tiles within tiles, T is the outermost that the axis can hold. That must not depend on how
    the value is written, because what one block makes in a tile another one reads: primitives
    write ``q*24 + k*3 + r`` as ``(q*8 + k)*3 + r`` too.
    """
    # Loops of one step, which are 0, are no tiles.
    terms = [
        term for term in _terms(value)
        if _min_value(analyzer, term) != 0 or _max_value(analyzer, term) != 0
    ]  # fmt: skip
    factors = [_factor(term) for term in terms]
    fitting = [factor for factor in factors if 1 < factor <= extent]
    tile = max(fitting or factors, default=1)
    outer = [term for term, factor in zip(terms, factors, strict=True) if factor >= tile]
    inner = [term for term, factor in zip(terms, factors, strict=True) if factor < tile]
    if not inner:
        raise ValueError(f"cannot overlap the tail of {value}")
    rest = functools.reduce(operator.add, inner)
    if tile > extent or _max_value(analyzer, rest) >= tile:
        raise ValueError(f"{value} is no tile of {tile} of an axis of {extent}")
    return functools.reduce(operator.add, outer), rest, tile


def _terms(value: TVMObject) -> list[TVMObject]:
    """Split a sum into its terms, and a multiple of a sum into multiples of its terms."""
    if isinstance(value, tirx.Add):
        return _terms(value.a) + _terms(value.b)
    if isinstance(value, tirx.Mul) and isinstance(value.b, tirx.IntImm):
        times = int(value.b)
        return [_multiple(term, times) for term in _terms(value.a)]
    return [value]


def _multiple(term: TVMObject, times: int) -> TVMObject:
    """A term of :func:`_terms` so many times."""
    if isinstance(term, tirx.Mul) and isinstance(term.b, tirx.IntImm):
        return term.a * (int(term.b) * times)
    return term * times


def _factor(term: TVMObject) -> int:
    """By what a term is multiplied."""
    constant = isinstance(term, tirx.Mul) and isinstance(term.b, tirx.IntImm)
    return int(term.b) if constant else 1


def _max_value(analyzer: TVMObject, value: TVMObject) -> int:
    """Upper bound of an index expression."""
    return int(analyzer.const_int_bound(value).max_value)


def skip_padding(func: TVMObject) -> TVMObject:
    """Skip each tap of a window at which a whole tile reads nothing but zero padding.

    The loop over a tap of a sum that has the attribute ``WINDOW`` gets a condition: the last
    element that the tile reads there does not lie before the tensor, nor the first one behind it.
    With the attribute ``PHASES``, the tap is one that the tile's phase has, besides. Where that
    always holds there is none. With ``REACH``, no tile may read farther beyond the tensor.

    Parameters
    ----------
    func : PrimFunc
        Scheduled, with the start of each sum in a block of its own.

    Raises
    ------
    ValueError
        If a tap that not all phases have, or one beyond the halo, cannot be skipped.
    """
    loops: list[TVMObject] = []
    guards: dict[TVMObject, list[TVMObject]] = {}

    def visit(stmt: TVMObject) -> TVMObject | None:
        if isinstance(stmt, tirx.For):
            loops.append(stmt)
            body = rebuild(stmt.body, visit)
            loops.pop()
            conditions = guards.pop(stmt.loop_var, [])
            if conditions:
                body = tirx.IfThenElse(tirx.all(*conditions), body, None)
            return loop_with(stmt, body)
        if isinstance(stmt, s_tir_stmt.SBlockRealize):
            if WINDOW in stmt.block.annotations:
                guards.update(_tap_guards(stmt, loops))
            elif PHASES in stmt.block.annotations:
                guards.update(_phase_guards(stmt, loops))
        return None

    return func.with_body(rebuild(func.body, visit))


def _tap_guards(
    realize: TVMObject, loops: Sequence[TVMObject]
) -> Iterator[tuple[TVMObject, list[TVMObject]]]:
    """The loops over a sum's taps, and when each tap reads something of the tensor.

    The window's taps stand before the last axis of the sum, its positions before the last axis of
    the result.
    """
    block, analyzer = realize.block, _analyzer(loops)
    window = [int(number) for number in block.annotations[WINDOW]]
    rank = len(window) // 4
    pairs = list(zip(block.iter_vars, realize.iter_values, strict=True))
    taps = [value for var, value in pairs if var.iter_type == _REDUCE][-1 - rank : -1]
    positions = [value for var, value in pairs if var.iter_type == _SPATIAL][-1 - rank : -1]
    reach = [int(number) for number in block.annotations.get(REACH, ())]
    if not taps:
        return
    if block.init is not None:
        if reach:
            raise ValueError(f"{block.name_hint} starts its sums where it reads beyond the halo")
        return
    for axis, (tap, position) in enumerate(zip(taps, positions, strict=True)):
        stride, dilation, low, extent = window[4 * axis : 4 * axis + 4]
        place = _nest(realize, loops, tap)
        if place is None:
            if reach and reach[axis] >= 0:
                raise ValueError(f"{tap} has no loop of its own, and its window leaves the halo")
            continue
        inside = [loop.loop_var for loop in loops[place + 1 :]]
        first, span = _first_and_span(analyzer, position, inside)
        if reach and 0 <= reach[axis] < span * stride:
            raise ValueError(f"a tile of {span + 1} reads farther than {reach[axis]} into a halo")
        at = first * stride + tap * dilation - low
        conditions = []
        if _min_value(analyzer, at) + span * stride < 0:
            conditions.append(at + span * stride >= 0)
        if _max_value(analyzer, at) >= extent:
            conditions.append(at < extent)
        yield tap, conditions


def _phase_guards(
    realize: TVMObject, loops: Sequence[TVMObject]
) -> Iterator[tuple[TVMObject, list[TVMObject]]]:
    """The loops over the taps of phases, and when the tile's phase has each tap in the tensor.

    In a contraction on blocks the inner channels stand behind the taps, and the lanes behind the
    phase and the positions; in a window only the lanes, on planes nothing.
    """
    block, analyzer = realize.block, _analyzer(loops)
    windows = list(phases.windows(block.annotations[PHASES]))
    rank, kind = len(windows), str(block.annotations[KIND])
    pairs = list(zip(block.iter_vars, realize.iter_values, strict=True))
    sums = [value for var, value in pairs if var.iter_type == _REDUCE]
    if not sums:  # the start of the sum
        return
    taps = (sums if kind in ("window", "planes") else sums[:-1])[-rank:]
    spatial = [value for var, value in pairs if var.iter_type == _SPATIAL]
    phase, *positions = (spatial if kind == "planes" else spatial[:-1])[-1 - rank :]
    counts = [len(window.firsts) for window in windows]
    for axis, (window, tap, position) in enumerate(zip(windows, taps, positions, strict=True)):
        place = _nest(realize, loops, tap) if block.init is None else None
        inside = [loop.loop_var for loop in loops[place + 1 :]] if place is not None else []
        own, others = _first_and_span(analyzer, phase, inside)
        if place is None or others:
            if min(window.counts) < max(window.counts):
                raise ValueError(f"{tap} has no loop in one phase, and phases have different taps")
            continue
        part = phases.split(own, counts)[axis]
        conditions = []
        if min(window.counts) < max(window.counts):
            conditions.append(tap < phases.lookup(window.counts, part))
        if window.inputs:
            first, span = _first_and_span(analyzer, position, inside)
            at = first + phases.lookup(window.firsts, part) + tap * window.step
            if _min_value(analyzer, at) + span < 0:
                conditions.append(at + span >= 0)
            if _max_value(analyzer, at) >= window.inputs:
                conditions.append(at < window.inputs)
        yield tap, conditions


def _nest(realize: TVMObject, loops: Sequence[TVMObject], tap: TVMObject) -> int | None:
    """Which loop runs over a tap, if there is one that contains nothing but a block's loops."""
    inner = realize
    for place in range(len(loops) - 1, -1, -1):
        if not loops[place].body.same_as(inner):
            return None
        if loops[place].loop_var.same_as(tap):
            return place
        inner = loops[place]
    return None


def _first_and_span(
    analyzer: TVMObject, position: TVMObject, inside: Sequence[TVMObject]
) -> tuple[TVMObject, int]:
    """The first of the positions that loops pass over, and how far the last one is from it."""
    terms = _terms(position)
    moving = [term for term in terms if any(uses(term, var) for var in inside)]
    fixed = [term for term in terms if not any(term.same_as(other) for other in moving)]
    first = functools.reduce(operator.add, fixed, tirx.const(0, "int32"))
    lows = sum(_min_value(analyzer, term) for term in moving)
    return first + lows, sum(_max_value(analyzer, term) for term in moving) - lows


def _min_value(analyzer: TVMObject, value: TVMObject) -> int:
    """Lower bound of an index expression."""
    return int(analyzer.const_int_bound(value).min_value)
