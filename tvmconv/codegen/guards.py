"""Guards of single terms of a sum, for devices where loops that skip them do not pay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvmconv._tvm import TVMObject, s_tir_stmt, tirx, tvm, tvm_ffi
from tvmconv.codegen.blocks import indices_read, point, with_statements
from tvmconv.codegen.tir import uses
from tvmconv.kernel import KIND, PHASES
from tvmconv.ops import phases

_SPATIAL, _REDUCE = 0, 2


def guard_phases(func: TVMObject) -> TVMObject:
    """Read nothing at the taps that a phase does not have.

    A sum over the taps of phases (attribute ``PHASES``) runs over as many as the largest phase has.
    At the others the input's element may not exist; 0 stands in its place. What a contraction reads
    then is a stage of its own, of the kind ``guarded``, so that it stays a sum of products.

    Parameters
    ----------
    func : PrimFunc
        As ``te.create_prim_func`` makes it, so that each iterator of a block has a loop.
    """
    stages: list[_Stage] = []

    def guarded(block: TVMObject) -> TVMObject:
        if PHASES not in block.annotations:
            return block
        conditions = _conditions(block)
        if not conditions:
            return block
        condition = tirx.all(*conditions)
        if str(block.annotations[KIND]) not in ("contraction", "grouped"):
            return _with_body(block, _with_condition(block.body, condition), block.reads)
        stages.append(_Stage.of(block, condition))
        return stages[-1].read_by(block)

    func = tvm_ffi.structural_map(func, (s_tir_stmt.SBlock, guarded))
    return _with_stages(func, stages) if stages else func


@dataclass(frozen=True)
class _Stage:
    """What a contraction reads of its input, by those of its iterators on which that depends.

    Attributes
    ----------
    buffer : Buffer
    nest : For
    """

    buffer: TVMObject
    nest: TVMObject
    iterators: tuple[TVMObject, ...]

    @classmethod
    def of(cls, block: TVMObject, condition: TVMObject) -> _Stage:
        """The stage with the elements for which a condition holds, and zeros."""
        read, places = block.reads[0], indices_read(block, 0)
        found = [
            v for v in block.iter_vars if any(uses(e, v.var) for e in (condition, *places))
        ]  # fmt: skip
        renamed = [(v.var, tirx.Var(v.var.name, "int32")) for v in found]

        def new_of(var: TVMObject) -> TVMObject:
            return next((new for old, new in renamed if var.same_as(old)), var)

        def renew(expression: TVMObject) -> TVMObject:
            return tvm_ffi.structural_map(expression, (tirx.Var, new_of))

        dtype = str(read.source.ty.dtype)
        buffer = tirx.decl_buffer([v.dom.extent for v in found], dtype, name="guarded")
        index = [new for _, new in renamed]
        element = tirx.BufferLoad(read.source, [renew(place) for place in places])
        value = tirx.if_then_else(renew(condition), element, tirx.const(0, dtype))
        inner = s_tir_stmt.SBlock(
            [tirx.IterVar(v.dom, new, _SPATIAL) for v, new in zip(found, index, strict=True)],
            [point(read.source, element.indices)],
            [point(buffer, index)],
            "guarded",
            tirx.BufferStore(buffer, value, index),
            None,
            [],
            [],
            {KIND: "guarded"},
        )
        loops = [tirx.Var(f"i{k}", "int32") for k in range(len(found))]
        nest = s_tir_stmt.SBlockRealize(loops, True, inner)
        for loop, v in reversed(list(zip(loops, found, strict=True))):
            nest = tirx.For(loop, 0, v.dom.extent, tirx.ForKind.SERIAL, nest)
        return cls(buffer, nest, tuple(v.var for v in found))

    def read_by(self, block: TVMObject) -> TVMObject:
        """The contraction with the stage in place of its input."""
        source = block.reads[0].source

        def load(node: TVMObject) -> TVMObject:
            mine = node.source.same_as(source)
            return tirx.BufferLoad(self.buffer, list(self.iterators)) if mine else node

        body = tvm_ffi.structural_map(block.body, (tvm.ir.TensorLoad, load))
        return _with_body(block, body, [point(self.buffer, self.iterators), *block.reads[1:]])


def _with_body(block: TVMObject, body: TVMObject, reads: Sequence[TVMObject]) -> TVMObject:
    """A copy of a block with another body, which reads other regions."""
    return s_tir_stmt.SBlock(
        block.iter_vars, reads, block.writes, block.name_hint, body, block.init,
        block.alloc_buffers, block.match_buffers, block.annotations,
    )  # fmt: skip


def _with_stages(func: TVMObject, stages: Sequence[_Stage]) -> TVMObject:
    """The function with stages before everything else."""
    body = tirx.SeqStmt([*(stage.nest for stage in stages), func.body.block.body])
    return with_statements(func, body, [stage.buffer for stage in stages])


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
