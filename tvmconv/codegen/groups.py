"""Grouped convolutions for devices: which blocks of output channels read the same input."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tvmconv._tvm import TVMObject, s_tir_stmt, sym, tirx, tvm, tvm_ffi
from tvmconv.codegen.blocks import indices_read, with_statements
from tvmconv.codegen.tir import loop_with, rebuild, uses
from tvmconv.kernel import KIND

_SPATIAL = 0


def split_groups(func: TVMObject) -> TVMObject:
    """Cut the axis of slots of a grouped contraction into groups, and slots of a group.

    Then the input's index does not depend on the latter, so that the weights of a group are one
    matrix. A contraction in which no two neighbouring slots read the same channels stays as it is.

    Parameters
    ----------
    func : PrimFunc
        As ``te.create_prim_func`` makes it, so that each iterator of a block has a loop.
    """

    def visit(stmt: TVMObject) -> TVMObject | None:
        nest = _nest(stmt)
        if nest is None:
            return None
        loops, realize = nest
        for place, iterator in enumerate(realize.block.iter_vars):
            length = _slots_of_group(realize.block, iterator)
            if length > 1:
                return _split(loops, realize, place, length)
        return None

    return with_statements(func, rebuild(func.body.block.body, visit))


def _nest(stmt: TVMObject) -> tuple[list[TVMObject], TVMObject] | None:
    """The loops around a grouped contraction and the contraction, if a statement is such a nest."""
    loops = []
    while isinstance(stmt, tirx.For):
        loops.append(stmt)
        stmt = stmt.body
    if not loops or not isinstance(stmt, s_tir_stmt.SBlockRealize):
        return None
    return (loops, stmt) if stmt.block.annotations.get(KIND) == "grouped" else None


def _slots_of_group(block: TVMObject, iterator: TVMObject) -> int:
    """How many neighbours along an iterator of all operands read the same elements of the first.

    1 if it is no iterator of groups.
    """
    reads = [indices_read(block, operand) for operand in (0, 1)]
    extent = int(iterator.dom.extent)
    if iterator.iter_type != _SPATIAL or not all(_use(read, iterator.var) for read in reads):
        return 1
    for length in (d for d in range(extent, 1, -1) if extent % d == 0):
        renamed = _Renamed(block, iterator, length)
        if not _use(map(renamed, reads[0]), renamed.slot):
            return length
    return 1


def _use(indices: Iterable[TVMObject], variable: TVMObject) -> bool:
    """Whether a variable occurs in one of some expressions."""
    return any(uses(index, variable) for index in indices)


class _Renamed:
    """Expressions with an iterator as so many times its group plus a slot, simplified."""

    def __init__(self, block: TVMObject, iterator: TVMObject, length: int) -> None:
        self.group, self.slot = tirx.Var("group", "int32"), tirx.Var("slot", "int32")
        self.length, self.old = length, iterator.var
        self._analyzer = sym.Analyzer()
        groups = int(iterator.dom.extent) // length
        self._analyzer.bind(self.group, tvm.ir.Range.from_min_extent(0, groups))
        self._analyzer.bind(self.slot, tvm.ir.Range.from_min_extent(0, length))
        for other in block.iter_vars:
            if not other.var.same_as(iterator.var):
                self._analyzer.bind(other.var, other.dom)

    def __call__(self, index: TVMObject) -> TVMObject:
        number = self.group * self.length + self.slot
        replaced = (tirx.Var, lambda var: number if var.same_as(self.old) else var)
        return self._analyzer.simplify(tvm_ffi.structural_map(index, replaced))

    def region(self, region: TVMObject) -> TVMObject:
        """A region that is read or written."""
        ranges = [
            tvm.ir.Range.from_min_extent(self(part.min), part.extent) for part in region.region
        ]
        return tirx.BufferRegion(region.source, ranges)

    def statement(self, stmt: TVMObject) -> TVMObject:
        """A statement, of the indices of what it loads and stores."""

        def load(node: TVMObject) -> TVMObject:
            return tirx.BufferLoad(node.source, [self(index) for index in node.indices])

        def store(node: TVMObject) -> TVMObject:
            return tirx.BufferStore(node.buffer, node.value, [self(i) for i in node.indices])

        return tvm_ffi.structural_map(stmt, [(tvm.ir.TensorLoad, load), (tirx.BufferStore, store)])


def _split(loops: Sequence[TVMObject], realize: TVMObject, place: int, length: int) -> TVMObject:
    """The nest with an iterator, and its loop, cut in two."""
    block = realize.block
    iterator = block.iter_vars[place]
    renamed = _Renamed(block, iterator, length)
    inner = [
        (renamed.group, int(iterator.dom.extent) // length),
        (renamed.slot, length),
    ]

    def parts(old: Sequence[TVMObject], new: Sequence[Any]) -> list[Any]:
        return [*old[:place], *new, *old[place + 1 :]]

    iterators = [
        tirx.IterVar(tvm.ir.Range.from_min_extent(0, extent), var, _SPATIAL)
        for var, extent in inner
    ]
    made = s_tir_stmt.SBlock(
        parts(block.iter_vars, iterators),
        [renamed.region(region) for region in block.reads],
        [renamed.region(region) for region in block.writes],
        block.name_hint,
        renamed.statement(block.body),
        renamed.statement(block.init),
        block.alloc_buffers,
        block.match_buffers,
        block.annotations,
    )
    variables = [tirx.Var(name, "int32") for name in ("group", "slot")]
    nest = s_tir_stmt.SBlockRealize(parts(realize.iter_values, variables), True, made)
    for loop in reversed(loops):
        if not loop.loop_var.same_as(realize.iter_values[place]):
            nest = loop_with(loop, nest)
            continue
        for variable, (_, extent) in reversed(list(zip(variables, inner, strict=True))):
            nest = tirx.For(variable, 0, extent, tirx.ForKind.SERIAL, nest)
    return nest
