"""Maxima and minima as NumPy has them: NaN wins, and of nothing but -∞ the maximum is -∞.

A reduction to a maximum is described and scheduled as TVM knows it: it starts at the lowest finite
number, and its comparison drops NaN or keeps it by the order of the operands. In the scheduled
function the start becomes -∞, and the comparison LLVM's maximum: one instruction on ARM, a maximum
and a few that look for NaN on x86. Written with selections, unrolled maxima take LLVM 20 s.

ONNX Runtime and ONNX's evaluator keep NaN only where a window begins with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tvmconv import ops, te_math
from tvmconv._tvm import TVMObject, te, tirx, tvm_ffi
from tvmconv.kernel import KernelSpec
from tvmconv.target import Target

#: Attribute of a function that reduces to extremes.
EXTREMES = "tvmconv.extremes"
_REDUCTIONS = ("reduce_max", "reduce_min")


def marked(func: TVMObject, spec: KernelSpec) -> TVMObject:
    """The function of a kernel, with the attribute if it reduces to extremes of floats."""
    family = ops.get(spec.op).family
    reduces = spec.op in _REDUCTIONS or (family is not None and family.arithmetic == "maximum")
    return func.with_attr(EXTREMES, True) if reduces else func


def numpy_extremes(func: TVMObject, target: Target) -> TVMObject:
    """The scheduled function with NumPy's maxima and minima, if it is marked.

    On RISC-V, whose vectors have no fixed length, TVM takes no operation that it does not know:
    there NaN is no more than a number. Kernels for GPUs do not come here: theirs are TVM's.
    """
    if EXTREMES not in func.attrs:
        return func
    lowest = float(te.min_value("float32").value)

    def extreme(node: TVMObject) -> TVMObject:
        if str(node.ty.dtype) != "float32":
            return node
        return te_math.propagating(isinstance(node, tirx.Max), node.a, node.b)

    def started(store: TVMObject) -> TVMObject:
        value = store.value
        if isinstance(value, tirx.FloatImm) and value.value == lowest:
            start = tirx.const(-math.inf, "float32")
            return tirx.BufferStore(store.buffer, start, store.indices)
        return store

    rules: list[tuple[Any, Callable[[TVMObject], TVMObject]]] = [(tirx.BufferStore, started)]
    if target.arch != "riscv64":
        rules += [(tirx.Max, extreme), (tirx.Min, extreme)]
    return func.with_body(tvm_ffi.structural_map(func.body, rules))
