"""Weights and tiles that are asked for some time before they are used.

A sum reads its weights as one long stream, once or a few times; where they come from memory, each
new line would hold up all the sums of a tile. :func:`prefetch_weights` has each step of a reduction
ask for the lines that a later one reads: the weights lie in the order of the steps. A transform
reads tiles of few lines from many rows, which the hardware does not foresee either:
:func:`prefetch_tiles` helps where the input is larger than the second cache.

An instruction that asks for memory might, for all that LLVM knows, ask for that of the sums. The
pipeline :data:`PIPELINE` therefore keeps them on the stack, from where LLVM takes them into
registers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tvmconv._tvm import TVMObject, sym, tirx, tvm, tvm_ffi
from tvmconv.codegen.lanes import loads_of, nest_to_vector, replaced
from tvmconv.codegen.tir import loop_with, rebuild, uses
from tvmconv.kernel import KIND
from tvmconv.target import Target

#: Name of the pipeline of passes that lowers functions with such instructions.
PIPELINE = "tvmconv-prefetch"

#: Bytes of a tile's sums, at most: twice the largest register files'.
_STACK_BYTES = 4096
#: What LLVM's ``prefetch`` is told: to read, for all levels of the cache, data.
_TO_READ, _ALL_LEVELS, _DATA = 0, 3, 1


def prefetch_weights(func: TVMObject, target: Target) -> TVMObject:
    """Ask for each vector of weights ``prefetch_cycles`` before the step that reads it.

    Parameters
    ----------
    func : PrimFunc
        Scheduled. It is returned as it is if the target leaves this to the hardware.
    target : Target
    """
    if not target.caches.prefetch_cycles:
        return func

    def visit(stmt: TVMObject) -> TVMObject | None:
        is_loop = isinstance(stmt, tirx.For)
        nest = nest_to_vector(stmt, tirx.ForKind.SERIAL) if is_loop else None
        if nest is None:
            return None
        asked = [_prefetch(nest, load, target) for load in _weights(*nest)]
        return loop_with(stmt, tirx.SeqStmt([*asked, stmt.body])) if asked else None

    return func.with_body(rebuild(func.body, visit))


def _weights(loops: Sequence[TVMObject], realize: TVMObject) -> list[TVMObject]:
    """The vectors of parameters that a step reads, with their places in terms of the loops.

    The next step reads the next vector: the last index but one grows by 1, and no other does.
    """
    step, lane = loops[0].loop_var, loops[-1].loop_var
    block, analyzer = realize.block, sym.Analyzer()
    values = dict(zip((v.var for v in block.iter_vars), realize.iter_values, strict=True))
    found: list[TVMObject] = []
    loads, store = loads_of(block.body), block.body
    if not isinstance(store, tirx.BufferStore):
        return found
    if not any(load.source.same_as(store.buffer) for load in loads):  # no sum
        return found
    for load in loads:
        source = load.source
        places = [replaced(index, values) for index in load.indices]
        if str(source.scope()) == "local" or str(source.dtype) != "float32" or len(places) < 2:
            continue
        *outer, row, last = places
        next_row = replaced(row, {step: step + 1})
        follows = bool(analyzer.can_prove_equal(next_row - row, 1))
        if uses(last, lane) and follows and not any(uses(p, step) for p in (*outer, last)):
            found.append(tirx.BufferLoad(source, places))
    return found


def prefetch_tiles(func: TVMObject, target: Target) -> TVMObject:
    """Ask for each line of a tile that is transformed ``prefetch_cycles`` before it is read.

    Parameters
    ----------
    func : PrimFunc
        Scheduled. It is returned as it is if the target leaves this to the hardware.
    target : Target
    """
    if not target.caches.prefetch_cycles:
        return func

    def visit(stmt: TVMObject) -> TVMObject | None:
        if not isinstance(stmt, tirx.For) or int(stmt.kind) == tirx.ForKind.UNROLLED:
            return None
        first = stmt.body.seq[0] if isinstance(stmt.body, tirx.SeqStmt) else stmt.body
        is_loop = isinstance(first, tirx.For)
        nest = nest_to_vector(first, tirx.ForKind.UNROLLED) if is_loop else None
        asked = [] if nest is None else _tile(stmt.loop_var, *nest, target)
        return loop_with(stmt, tirx.SeqStmt([*asked, stmt.body])) if asked else None

    return func.with_body(rebuild(func.body, visit))


def _tile(
    number: TVMObject, loops: Sequence[TVMObject], realize: TVMObject, target: Target
) -> list[TVMObject]:
    """Ask for what a transform reads so many tiles later; nothing if it is no transform."""
    block = realize.block
    if str(block.annotations.get(KIND, "")) != "data_tile":
        return []
    loads = [load for load in loads_of(block.body) if str(load.source.scope()) != "local"]
    values = dict(zip((v.var for v in block.iter_vars), realize.iter_values, strict=True))
    *tile, lane = loops
    found: list[tuple[TVMObject, list[TVMObject]]] = []
    for load in loads:
        places = [
            replaced(replaced(index, values), {lane.loop_var: tirx.const(0, "int32")})
            for index in load.indices
        ]
        if not any(load.source.same_as(b) and _equal(places, known) for b, known in found):
            found.append((load.source, places))
    moving = [[one for one in tile if _moves(one, places)] for _, places in found]
    lines = sum(math.prod(int(one.extent) for one in some) for some in moving)
    # Every line is loaded once, and an element is stored for each.
    ahead = math.ceil(target.caches.prefetch_cycles / (2 * max(lines, 1)))
    later = {number: number + ahead}
    return [
        _ask(source, [replaced(place, later) for place in places], some)
        for (source, places), some in zip(found, moving, strict=True)
    ]


def _equal(places: Sequence[TVMObject], others: Sequence[TVMObject]) -> bool:
    return all(tvm_ffi.structural_equal(a, b) for a, b in zip(places, others, strict=True))


def _moves(loop: TVMObject, places: Sequence[TVMObject]) -> bool:
    return any(uses(place, loop.loop_var) for place in places)


def _prefetch(
    nest: tuple[Sequence[TVMObject], TVMObject], load: TVMObject, target: Target
) -> TVMObject:
    """Ask for what a load reads so many steps later, for each element of the tile that differs."""
    (_, *tile, lane), _ = nest
    products = math.prod(int(one.extent) for one in tile) * -(
        -int(lane.extent) // target.vector.f32_lanes
    )
    cycles = max(products / target.vector.fma_per_cycle, target.vector.fma_latency)
    ahead = math.ceil(target.caches.prefetch_cycles / cycles)
    moving = [one for one in tile if _moves(one, load.indices)]
    first = {lane.loop_var: tirx.const(0, "int32")}
    *outer, row, last = (replaced(place, first) for place in load.indices)
    return _ask(load.source, [*outer, row + ahead, last], moving)


def _ask(source: TVMObject, places: Sequence[TVMObject], moving: Sequence[TVMObject]) -> TVMObject:
    """Ask for the lines at some places of a buffer, over these loops of a tile."""
    fresh = {one.loop_var: tirx.Var(one.loop_var.name, "int32") for one in moving}
    address = tirx.address_of(tirx.BufferLoad(source, [replaced(place, fresh) for place in places]))
    told = [tirx.const(number, "int32") for number in (_TO_READ, _ALL_LEVELS, _DATA)]
    body = tirx.Evaluate(tirx.call_intrin("void", "tirx.prefetch", address, *told))
    for one in reversed(moving):
        body = tirx.For(fresh[one.loop_var], 0, one.extent, tirx.ForKind.UNROLLED, body)
    return body


def _on_stack(func: TVMObject) -> TVMObject:
    """Keep small local buffers on the stack, where TVM would take them from the heap."""

    def keep(stmt: TVMObject) -> TVMObject:
        shape = list(stmt.buffer.shape)
        if str(stmt.buffer.scope()) != "local" or not all(
            isinstance(extent, tirx.IntImm) for extent in shape
        ):
            return stmt
        if math.prod(map(int, shape)) * 4 > _STACK_BYTES:
            return stmt
        kept = {"disable_lower_builtin": tirx.const(1, "int32")}
        return tirx.AllocBuffer(stmt.buffer, {**dict(stmt.annotations), **kept})

    return tvm_ffi.structural_map(func, (tirx.AllocBuffer, keep))


@tvm.transform.module_pass(opt_level=0, name="SumsOnStack")  # type: ignore[untyped-decorator]
def _sums_on_stack(module: TVMObject, context: TVMObject) -> TVMObject:
    """:func:`_on_stack` of every function."""
    kept = {
        name: _on_stack(func) if isinstance(func, tirx.PrimFunc) else func
        for name, func in module.functions.items()
    }
    return tvm.IRModule(kept, attrs=module.attrs)


def _pipeline() -> tuple[TVMObject, Callable[[], TVMObject], Callable[[], TVMObject]]:
    """TVM's passes for a CPU, with small buffers on the stack."""
    lower, finalize_host, finalize_device = tvm.tirx.get_tir_pipeline("default")
    passes = tvm.transform.Sequential([_sums_on_stack, finalize_host()])
    return lower, lambda: passes, finalize_device


tvm.tirx.register_tir_pipeline(PIPELINE, _pipeline)
