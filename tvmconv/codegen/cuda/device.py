"""Scheduled kernels to device functions: what is launched, on which buffers, with which threads.

TVM lowers a scheduled function and splits it into device functions and a host function that calls
them. The device functions become CUDA source. Of the host function only the calls are kept, as
data: the artifact's own runtime launches.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from tvmconv._tvm import TVMObject, sym, tirx, tvm, tvm_ffi
from tvmconv.kernel import WARP_TILES
from tvmconv.layout import itemsize
from tvmconv.target import Target

#: Where a kernel's scratch buffers begin: what cuMemAlloc aligns to.
SCRATCH_ALIGNMENT = 256

_GRID = ("blockIdx.x", "blockIdx.y", "blockIdx.z")
_BLOCK = ("threadIdx.x", "threadIdx.y", "threadIdx.z")
_SHARED = "tirx.use_dyn_shared_memory"
_SPLIT = "tirx.SplitHostDevice"
#: Copies to shared memory that a schedule marks are asynchronous. TVM cannot make them so once it
#: has given the buffers a vector as their type, nor do scratch buffers have such types then.
_CONFIG = {"tirx.use_async_copy": True, "tirx.disable_storage_rewrite": True}
#: Buffers of tiles in the registers of warps that a function has: both operands and the sums.
_WARP_BUFFERS = 3
#: For functions with such tiles: TVM has to move these, and to see their indices.
_WARP_CONFIG = {"tirx.use_async_copy": True, "tirx.disable_cse_tir": True}


@dataclass(frozen=True)
class Operand:
    """A buffer that a launch gets.

    Attributes
    ----------
    parameter : int
        Which parameter of the kernel; -1 for scratch.
    offset, nbytes : int
        Of scratch: bytes from the start of the kernel's, and the buffer's size.
    """

    parameter: int = -1
    offset: int = 0
    nbytes: int = 0


@dataclass(frozen=True)
class Launch:
    """One launch of a device function.

    Attributes
    ----------
    function : str
    grid, block : tuple of int
        Extents along x, y and z.
    dynamic_bytes : int
        Shared memory besides what the function declares.
    operands : tuple of Operand
    """

    function: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    dynamic_bytes: int
    operands: tuple[Operand, ...]

    @property
    def threads(self) -> int:
        """Threads in a block."""
        return math.prod(self.block)


@dataclass(frozen=True)
class DeviceKernel:
    """What a kernel is on the device.

    Attributes
    ----------
    launches : tuple of Launch
        In order.
    scratch_bytes : int
        Memory for what passes from one launch to the next.
    functions : dict of GlobalVar to PrimFunc
        Lowered device functions.
    """

    launches: tuple[Launch, ...]
    scratch_bytes: int
    functions: dict[Any, TVMObject]


@cache
def tvm_target(target: Target) -> TVMObject:
    """TVM's target: the device with its limits, and the host."""
    device = target.gpu
    return tvm.target.Target(
        {
            "kind": "cuda",
            "arch": f"sm_{device.sm}",
            "max_threads_per_block": device.threads_per_block,
            "max_shared_memory_per_block": device.shared_bytes_per_block,
            "thread_warp_size": device.warp_threads,
            "host": target.llvm_target(),
        }
    )


def lower_kernel(func: TVMObject, symbol: str, target: Target) -> DeviceKernel:
    """Lower a scheduled function.

    Parameters
    ----------
    func : PrimFunc
        All of whose loops are inside bindings to ``blockIdx`` and ``threadIdx``.
    symbol : str
        With which the device functions' names begin.
    target : Target
        A GPU.

    Raises
    ------
    ValueError
        If something is left for the host to compute.
    """
    bind = tvm.tirx.transform.BindTarget(tvm_target(target))
    module = bind(tvm.IRModule({symbol: func.with_attr("global_symbol", symbol)}))
    passes, _, finish = tvm.tirx.get_tir_pipeline("s_tir")
    spy = _Spy()
    config = _WARP_CONFIG if WARP_TILES in func.body.block.annotations else _CONFIG
    with tvm.transform.PassContext(instruments=[spy], config=config):
        module = passes(module)
    host = next(f for f in spy.module.functions.values() if not _on_device(f))
    on_device = tvm.tirx.transform.Filter(_on_device)(module)
    if WARP_TILES in func.body.block.annotations:
        on_device = _lower_warp_tiles(on_device)
    functions = dict(finish()(on_device).functions.items())
    launches, scratch_bytes = _launches(host)
    return DeviceKernel(launches, scratch_bytes, functions)


def _lower_warp_tiles(module: TVMObject) -> TVMObject:
    """Make registers of each thread of what the threads of a warp have together.

    TVM's pass takes one buffer at a time, and leaves quotients of which it does not see that they
    are constants: then the registers would be memory.
    """
    for _ in range(_WARP_BUFFERS):
        module = tvm.tirx.transform.LowerWarpMemory()(module)
    functions = {name: _constant_quotients(func) for name, func in module.functions.items()}
    return tvm.IRModule(functions)


def _constant_quotients(func: TVMObject) -> TVMObject:
    """Compute quotients that are the same for all threads."""
    analyzer = sym.Analyzer()

    def bind(stmt: TVMObject) -> TVMObject:
        if stmt.attr_key == "thread_extent":
            extent = tvm.ir.Range.from_min_extent(0, stmt.value)
            analyzer.bind(stmt.node.var, extent)
        return stmt

    def constant(quotient: TVMObject) -> TVMObject:
        if not isinstance(quotient.b, tirx.IntImm):
            return quotient
        bound, divisor = analyzer.const_int_bound(quotient.a), int(quotient.b)
        low, high = (int(value) // divisor for value in (bound.min_value, bound.max_value))
        return tirx.const(low, str(quotient.ty.dtype)) if low == high else quotient

    tvm_ffi.structural_map(func, (tirx.AttrStmt, bind))
    return tvm_ffi.structural_map(func, ((tirx.Div, tirx.FloorDiv), constant))


@tvm.ir.instrument.pass_instrument
class _Spy:
    """Keeps the module as it is when host and device have just been split."""

    def __init__(self) -> None:
        self.module: Any = None

    def run_after_pass(self, module: TVMObject, info: TVMObject) -> None:
        """Take the module after the one pass."""
        if info.name == _SPLIT:
            self.module = module


def _on_device(func: TVMObject) -> bool:
    return bool(func.attrs.get("tirx.is_global_func", False))


def _launches(host: TVMObject) -> tuple[tuple[Launch, ...], int]:
    """The calls in a host function, and the bytes of the buffers that it allocates."""
    places = [(var, Operand(k)) for k, var in enumerate(host.params)]
    launches: list[Launch] = []
    used = 0
    for stmt in _statements(host.body):
        if isinstance(stmt, tirx.AllocBuffer):
            shape = [int(extent) for extent in stmt.buffer.ty.shape]
            # TVM makes a buffer of vectors of one that is accessed by vectors alone.
            dtype, _, lanes = str(stmt.buffer.ty.dtype).partition("x")
            nbytes = math.prod(shape) * itemsize(dtype) * int(lanes or 1)
            places.append((stmt.buffer, Operand(offset=used, nbytes=nbytes)))
            used += -(-nbytes // SCRATCH_ALIGNMENT) * SCRATCH_ALIGNMENT
        elif isinstance(stmt, tirx.Evaluate) and isinstance(stmt.value, tvm.ir.Call):
            launches.append(_launch(stmt.value, places))
        elif isinstance(stmt, tirx.DeclBuffer):
            places.append((stmt.buffer, _operand(stmt.data, places)))
        else:
            raise ValueError(f"{host.attrs['global_symbol']}: not bound to threads: {stmt}")
    return tuple(launches), used


def _statements(stmt: TVMObject) -> Iterator[TVMObject]:
    if isinstance(stmt, tirx.SeqStmt):
        for part in stmt.seq:
            yield from _statements(part)
    else:
        yield stmt


def _launch(call: TVMObject, places: Sequence[tuple[TVMObject, Operand]]) -> Launch:
    """One call of a device function: name, buffers, then extents in the order of the attribute."""
    name, *arguments = call.args
    tags = [str(tag) for tag in call.attrs.launch_params]
    buffers, numbers = arguments[: -len(tags)], arguments[len(arguments) - len(tags) :]
    extents = {tag: int(number) for tag, number in zip(tags, numbers, strict=True)}
    dynamic_bytes = extents.pop(_SHARED, 0)
    grid = tuple(extents.pop(tag, 1) for tag in _GRID)
    block = tuple(extents.pop(tag, 1) for tag in _BLOCK)
    if extents:
        raise ValueError(f"{name.value}: launch parameters {sorted(extents)} are not supported")
    operands = tuple(_operand(buffer, places) for buffer in buffers)
    return Launch(str(name.value), grid, block, dynamic_bytes, operands)  # type: ignore[arg-type]


def _operand(pointer: TVMObject, places: Sequence[tuple[TVMObject, Operand]]) -> Operand:
    (buffer,) = pointer.args
    return next(operand for var, operand in places if var.same_as(buffer))


def cuda_source(kernels: Sequence[DeviceKernel]) -> str:
    """CUDA C++ of all functions of some kernels, which have different symbols."""
    functions = {name: func for kernel in kernels for name, func in kernel.functions.items()}
    if not functions:
        return ""
    device = next(iter(functions.values())).attrs["target"]
    with _source_only():
        module = tvm.get_global_func("target.build.cuda")(tvm.IRModule(functions), device)
    # Fragments are loaded and multiplied by PTX: nothing needs the header of nvcuda::wmma.
    return str(module.inspect_source()).replace("#include <mma.h>\n", "")


@contextmanager
def _source_only() -> Iterator[None]:
    """Keep TVM from compiling the source itself, which it would where there is a GPU."""
    name = "TVM_COMPILE_FORCE_FALLBACK"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
