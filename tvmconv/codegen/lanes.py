"""A rewrite for cores whose multiply-add takes one operand from a lane of a vector register.

Where a tile's steps of a reduction are unrolled several at a time, each step multiplies a vector of
weights by one element of the input, and the elements of consecutive steps stand side by side.
:func:`load_lanes` loads them together: one vector load where there were as many loads of an
element. LLVM then keeps the vector and multiplies by its lanes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvmconv._tvm import TVMObject, s_tir_stmt, sym, tirx, tvm, tvm_ffi
from tvmconv.codegen.tir import loop_with, rebuild, uses
from tvmconv.kernel import KIND

_REDUCE = 2
#: Kinds of sums whose terms are an element times a vector.
_KINDS = ("contraction", "product")


@dataclass(frozen=True)
class _Operand:
    """An element of the input that an unrolled loop nest reads.

    Attributes
    ----------
    load : BufferLoad
        As it stands in the block.
    indices : list of expressions
        Its place, in terms of the loops' variables.
    loops : list of For
        Those of the tile on which the place depends.
    """

    load: TVMObject
    indices: list[TVMObject]
    loops: list[TVMObject]


def load_lanes(func: TVMObject) -> TVMObject:
    """Load the elements that the unrolled steps of a sum read side by side as one vector.

    Parameters
    ----------
    func : PrimFunc
        Scheduled. It is returned as it is where no step is unrolled outside a tile, or the
        elements of neighbouring steps are no neighbours.
    """
    analyzer = sym.Analyzer()

    def visit(stmt: TVMObject) -> TVMObject | None:
        if not isinstance(stmt, tirx.For):
            return None
        analyzer.bind(stmt.loop_var, tvm.ir.Range.from_min_extent(stmt.min, stmt.extent))
        nest = nest_to_vector(stmt, tirx.ForKind.UNROLLED)
        if nest is not None and (operand := _operand(nest[0], nest[1], analyzer)) is not None:
            return _with_vectors(stmt, operand)
        return loop_with(stmt, rebuild(stmt.body, visit))

    return func.with_body(rebuild(func.body, visit))


def nest_to_vector(loop: TVMObject, kind: int) -> tuple[list[TVMObject], TVMObject] | None:
    """The loops from one of a kind over unrolled ones to a vector, and the block inside, if so."""
    kinds, loops = tirx.ForKind, [loop]
    while isinstance(loops[-1].body, tirx.For):
        loops.append(loops[-1].body)
    realize = loops[-1].body
    if not isinstance(realize, s_tir_stmt.SBlockRealize) or len(loops) < 2:
        return None
    wanted = [kind, *[kinds.UNROLLED] * (len(loops) - 2), kinds.VECTORIZED]
    same = all(int(one.kind) == want for one, want in zip(loops, wanted, strict=True))
    return (loops, realize) if same else None


def _operand(
    loops: Sequence[TVMObject], realize: TVMObject, analyzer: TVMObject
) -> _Operand | None:
    """What a nest over steps reads side by side from one step to the next."""
    block, (step, *tile, lane) = realize.block, loops
    if str(block.annotations.get(KIND, "")) not in _KINDS or block.init is not None:
        return None
    pairs = list(zip(block.iter_vars, realize.iter_values, strict=True))
    reduced = [value for var, value in pairs if var.iter_type == _REDUCE]
    if not reduced or not uses(reduced[-1], step.loop_var) or int(step.extent) == 1:
        return None
    for one in loops:
        analyzer.bind(one.loop_var, tvm.ir.Range.from_min_extent(one.min, one.extent))
    values = {var.var: value for var, value in pairs}
    for load in loads_of(block.body):
        places = [analyzer.simplify(replaced(index, values)) for index in load.indices]
        if any(uses(place, lane.loop_var) for place in places):
            continue
        if _side_by_side(places, step, analyzer):
            inside = [one for one in tile if any(uses(p, one.loop_var) for p in places)]
            return _Operand(load, places, inside)
    return None


def _side_by_side(places: Sequence[TVMObject], step: TVMObject, analyzer: TVMObject) -> bool:
    """Whether the last index, alone, grows with the step, by 1, from a multiple of its extent."""
    *outer, last = places
    first = analyzer.simplify(replaced(last, {step.loop_var: tirx.const(0, "int32")}))
    return (
        not any(uses(place, step.loop_var) for place in outer)
        and _is_zero(analyzer.simplify(last - first - step.loop_var))
        and _is_zero(analyzer.simplify(first % step.extent))
    )


def _with_vectors(loop: TVMObject, operand: _Operand) -> TVMObject:
    """The nest with the operand read from vectors that are loaded before it."""
    source, lanes = operand.load.source, loop.extent
    shape = [one.extent for one in operand.loops] + [lanes]
    vectors = tirx.decl_buffer(shape, str(source.dtype), name="lanes")
    fresh = {one.loop_var: tirx.Var(one.loop_var.name, "int32") for one in operand.loops}
    lane = tirx.Var("lane", "int32")
    places = [replaced(place, {**fresh, loop.loop_var: lane}) for place in operand.indices]
    element = tirx.BufferLoad(source, places)
    fill = tirx.BufferStore(vectors, element, [*fresh.values(), lane])
    fill = tirx.For(lane, 0, lanes, tirx.ForKind.VECTORIZED, fill)
    for one in reversed(operand.loops):
        fill = tirx.For(fresh[one.loop_var], 0, one.extent, tirx.ForKind.UNROLLED, fill)
    read = tirx.BufferLoad(vectors, [one.loop_var for one in operand.loops] + [loop.loop_var])

    def replace(load: TVMObject) -> TVMObject:
        return read if load.same_as(operand.load) else load

    nest = tvm_ffi.structural_map(loop, (tvm.ir.TensorLoad, replace))
    body = tirx.SeqStmt([fill, nest])
    block = s_tir_stmt.SBlock([], [], [], "lanes", body, None, [vectors])
    return s_tir_stmt.SBlockRealize([], True, block)


def loads_of(stmt: TVMObject) -> list[TVMObject]:
    """Every read of a buffer in a statement."""
    found: list[TVMObject] = []

    def note(load: TVMObject) -> None:
        found.append(load)

    tvm_ffi.structural_walk(stmt, (tvm.ir.TensorLoad, note))
    return found


def replaced(expression: TVMObject, values: dict[TVMObject, TVMObject]) -> TVMObject:
    """An expression with other values for some variables."""

    def change(variable: TVMObject) -> TVMObject:
        return values.get(variable, variable)

    return tvm_ffi.structural_map(expression, (tirx.Var, change))


def _is_zero(value: TVMObject) -> bool:
    return isinstance(value, tirx.IntImm) and int(value) == 0
