"""Kernels to object code: tensor expression, schedule, the rewrites, LLVM."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from tvmconv import ops, te_dot
from tvmconv._tvm import TVMObject, te, tirx, tvm, tvm_ffi
from tvmconv.autoschedule.space import Candidate, space_for
from tvmconv.codegen import halves
from tvmconv.codegen.cuda.parallel import share_parallel_loops
from tvmconv.codegen.extremes import marked, numpy_extremes
from tvmconv.codegen.groups import split_groups
from tvmconv.codegen.guards import guard_phases
from tvmconv.codegen.lanes import load_lanes
from tvmconv.codegen.launch import announced
from tvmconv.codegen.prefetch import PIPELINE, prefetch_tiles, prefetch_weights
from tvmconv.codegen.tir import at_any_address, overlap_tails, retarget_output, skip_padding
from tvmconv.errors import InputError
from tvmconv.kernel import KernelSpec
from tvmconv.target import Target

if TYPE_CHECKING:
    from tvmconv.autoschedule.record import Record
    from tvmconv.codegen.cuda.device import DeviceKernel

#: How to schedule a kernel: a point of its space, a trace from a log, or None: what the model ranks
#: first.
Choice: TypeAlias = Candidate | list[Any] | None


def prim_func(spec: KernelSpec, symbol: str, *, aligned: bool = False) -> TVMObject:
    """The unscheduled function of a kernel, writing where the output's layout says.

    Parameters
    ----------
    spec : KernelSpec
    symbol : str
    aligned : bool
        Whether it is for a device: plain tensors are aligned as all others are, for they are copies
        of the caller's, and what the schedules of devices cannot do has been done before.
    """
    compute = ops.get(spec.op).compute
    if compute is None:
        raise ValueError(f"{spec.op} is no kernel")
    func = te.create_prim_func(compute(halves.in_float32(spec, is_gpu=aligned)))
    func = halves.marked(func.with_attr("global_symbol", symbol), spec)
    func = retarget_output(func, spec.output.buffer_shape, spec.output.offsets)
    if aligned:
        return split_groups(guard_phases(func))
    func = marked(func, spec)
    operands = len(spec.inputs) - 1
    places = (0, *range(len(func.params) - 1 - operands, len(func.params)))
    layouts = (*spec.inputs, spec.output)
    return at_any_address(func, [k for k, v in zip(places, layouts, strict=True) if v.is_plain])


def unscheduled(spec: KernelSpec, symbol: str, target: Target) -> TVMObject:
    """The function of a kernel as a target's design space takes it."""
    return prim_func(spec, symbol, aligned=target.is_gpu)


def candidates(spec: KernelSpec, target: Target) -> list[Candidate]:
    """A kernel's design space, the model's favourite first."""
    return space_for(target).candidates(unscheduled(spec, "kernel", target), target)


def recorded(record: Record, spec: KernelSpec, target: Target) -> Candidate | list[Any]:
    """How a log's record schedules a kernel.

    A GPU's schedules use instructions that no trace may have: see :func:`recorded_point`.

    Raises
    ------
    ValueError
        If the space of a GPU has no such point.
    """
    return recorded_point(record, spec, target) if target.is_gpu else list(record.trace)


def recorded_point(record: Record, spec: KernelSpec, target: Target) -> Candidate:
    """The point of a kernel's design space that a log's record names.

    Raises
    ------
    ValueError
        If the space has no such point.
    """
    found = _points(spec, target).get(record.knobs)
    if found is None:
        raise ValueError(f"no schedule has the knobs {dict(record.knobs)}")
    return found


@lru_cache(maxsize=8)  # records of one kernel follow one another
def _points(spec: KernelSpec, target: Target) -> Mapping[tuple[tuple[str, int], ...], Candidate]:
    return {candidate.knobs: candidate for candidate in candidates(spec, target)}


def schedule(spec: KernelSpec, symbol: str, target: Target, choice: Choice = None) -> TVMObject:
    """The ``Schedule`` of a kernel.

    Raises
    ------
    ValueError
        If a trace does not fit the kernel.
    """
    func = unscheduled(spec, symbol, target)
    if isinstance(choice, list):
        from tvmconv.autoschedule.trace import replay

        return replay(func, choice)
    space = space_for(target)
    return space.schedule(func, target, choice or space.candidates(func, target)[0])


def scheduled(spec: KernelSpec, symbol: str, target: Target, choice: Choice = None) -> TVMObject:
    """The function of a kernel as it is compiled.

    Raises
    ------
    ValueError
        If a trace does not fit the kernel.
    """
    return finish(schedule(spec, symbol, target, choice), target)


def finish(sch: TVMObject, target: Target) -> TVMObject:
    """The scheduled function after the rewrites of ``tir``, ``lanes`` and ``prefetch``.

    Dot products of bytes are those of the target's instruction. The tails of a GPU's tiles are
    threads that do nothing.
    """
    func = sch.mod["main"]
    if target.is_gpu:
        func = share_parallel_loops(func, target)
    else:
        func = load_lanes(skip_padding(overlap_tails(func)))
        func = numpy_extremes(func, target)
    func = halves.stored(te_dot.selected(func, target), target)
    return func if target.is_gpu else prefetch_tiles(prefetch_weights(func, target), target)


def lowering(*funcs: TVMObject) -> TVMObject:
    """The ``PassContext`` in which scheduled functions are compiled.

    TVM 0.27's elimination of common subexpressions does not count those in the body of a ``Let``
    when it chooses the loop in which a variable is computed, but puts the variable there too, even
    outside of that loop. Where there is a ``Let`` it is left to LLVM, whose code is the same.
    """
    found = tvm_ffi.structural_walk(funcs, (tirx.Let, tvm_ffi.VisitInterrupt))
    return tvm.transform.PassContext(config={"tirx.disable_cse_tir": found is not None})


def require_supported(target: Target) -> None:
    """Refuse a target without schedules, or with a processor that LLVM does not know.

    Later it is found out inside of TVM, whose errors are others, or which takes another processor.

    Raises
    ------
    InputError
    """
    space_for(target)
    cpu, triple = target.llvm.cpu, target.llvm.triple
    if not tvm.target.codegen.llvm_is_valid_cpu(cpu, triple):
        raise InputError(f"{target.name}: llvm.cpu: LLVM has no {cpu!r} for {triple!r}")


def build(func: TVMObject, symbol: str, target: Target) -> TVMObject:
    """Compile a scheduled function to a TVM module whose object is linked with ``pool.c``."""
    return compiled({symbol: announced(func)}, target).mod


def compiled(funcs: Mapping[str, TVMObject], target: Target) -> TVMObject:
    """Compile scheduled functions together to a TVM ``Executable``."""
    pipeline = PIPELINE if target.caches.prefetch_cycles else "default"
    with lowering(*funcs.values()):
        llvm = tvm.target.Target(target.llvm_target())
        return tvm.compile(tvm.IRModule(dict(funcs)), llvm, tir_pipeline=pipeline)


def object_code(spec: KernelSpec, symbol: str, target: Target, choice: Choice = None) -> bytes:
    """Compile a kernel to a relocatable object that defines ``__tvm_ffi_<symbol>``.

    Raises
    ------
    ValueError
        If a trace does not fit the kernel.
    """
    module = build(scheduled(spec, symbol, target, choice), symbol, target)
    with tempfile.TemporaryDirectory(prefix="tvmconv-") as folder:
        path = Path(folder) / "kernel.o"
        module.write_to_file(str(path))
        return path.read_bytes()


def device_kernel(
    spec: KernelSpec, symbol: str, target: Target, choice: Choice = None
) -> DeviceKernel:
    """Lower a kernel to functions of a GPU, whose names begin with ``symbol``.

    Raises
    ------
    ValueError
        If a trace does not fit the kernel.
    """
    from tvmconv.codegen.cuda.device import lower_kernel

    return lower_kernel(scheduled(spec, symbol, target, choice), symbol, target)
