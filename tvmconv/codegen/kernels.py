"""Kernels to object code: tensor expression, schedule, the two rewrites, LLVM."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tvmconv import ops
from tvmconv._tvm import TVMObject, te, tvm
from tvmconv.autoschedule.space import space_for
from tvmconv.codegen.tir import overlap_tails, retarget_output
from tvmconv.kernel import KernelSpec
from tvmconv.target import Target


def prim_func(spec: KernelSpec, symbol: str) -> TVMObject:
    """The unscheduled function of a kernel, writing where the output's layout says."""
    compute = ops.get(spec.op).compute
    if compute is None:
        raise ValueError(f"{spec.op} is no kernel")
    func = te.create_prim_func(compute(spec)).with_attr("global_symbol", symbol)
    return retarget_output(func, spec.output.buffer_shape, spec.output.offsets)


def scheduled(spec: KernelSpec, symbol: str, target: Target, rank: int = 0) -> TVMObject:
    """The function of a kernel, with the schedule at a rank of its design space."""
    sch = space_for(target).schedule(prim_func(spec, symbol), target, rank)
    return overlap_tails(sch.mod["main"])


def build(func: TVMObject, symbol: str, target: Target) -> TVMObject:
    """Compile a scheduled function to a TVM runtime module."""
    return tvm.compile(tvm.IRModule({symbol: func}), tvm.target.Target(target.llvm_target())).mod


def object_code(spec: KernelSpec, symbol: str, target: Target) -> bytes:
    """Compile a kernel to a relocatable object that defines ``__tvm_ffi_<symbol>``."""
    module = build(scheduled(spec, symbol, target), symbol, target)
    with tempfile.TemporaryDirectory(prefix="tvmconv-") as folder:
        path = Path(folder) / "kernel.o"
        module.write_to_file(str(path))
        return path.read_bytes()
