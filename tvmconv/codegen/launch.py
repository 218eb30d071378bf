"""Parallel loops that tell the thread pool how long they are.

TVM's code hands the pool a function and no number: called with ``(task, tasks)``, it runs its share
of the iterations. Only a pool that knows how many there are can cut a loop into tasks that end
together, and small enough for threads to take from each other.
"""

from __future__ import annotations

from tvmconv._tvm import TVMObject, tirx
from tvmconv.codegen.tir import rebuild

_EXPECT = "tvmconv_expect_iterations"


def announced(func: TVMObject) -> TVMObject:
    """Have a function call ``tvmconv_expect_iterations`` before each of its parallel loops."""

    def visit(stmt: TVMObject) -> TVMObject | None:
        if not isinstance(stmt, tirx.For) or stmt.kind != tirx.ForKind.PARALLEL:
            return None
        call = tirx.call_extern("int32", _EXPECT, tirx.Cast("int32", stmt.extent))
        return tirx.SeqStmt([tirx.Evaluate(call), stmt])

    return func.with_body(rebuild(func.body, visit))
