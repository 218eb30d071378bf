"""Write a model's artifact: plan, kernels, weights and the C runtime in one library.

The runtime's C sources and the plan, as generated tables, are compiled for the target, and linked
with the kernels' objects and the weights.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from tvmconv.codegen import link
from tvmconv.codegen.elf import Blob, write_data_object
from tvmconv.codegen.localise import localise
from tvmconv.codegen.plan import KernelStep, Plan, Port, Step, step_name
from tvmconv.codegen.plan_c import METADATA_SYMBOL, WEIGHTS_SYMBOL, plan_source
from tvmconv.codegen.plan_check import check_plan
from tvmconv.files import check_output_file, replacing
from tvmconv.runtime.elf import Machine
from tvmconv.runtime.inspect import ABI_VERSION, DEFAULT_PREFIX

Format: TypeAlias = Literal["shared", "static", "tvm"]
Weights: TypeAlias = "npt.NDArray[Any] | bytes | bytearray | memoryview | Path"

RUNTIME = Path(__file__).resolve().parent.parent / "runtime"
SOURCES = (
    "model", "interface", "pool", "backend", "workspace", "error", "cpus", "layout", "features",
)  # fmt: skip
#: Those that define or call functions of the interface.
PREFIXED = ("model", "cuda_model", "interface", "tvm_entry")


@dataclass(frozen=True)
class Runtime:
    """What runs a plan: which C sources with which tables and data.

    Attributes
    ----------
    sources : tuple of str
        Names of the C files of the runtime.
    tables : callable
        ``tables(weight_bytes)``: the text of plan.c.
    blobs : tuple of Blob
        Data besides the weights.
    libraries : tuple of str
        Of the system, besides those that every artifact links.
    functions : tuple of str
        Of the C interface, besides those that every artifact has, without their prefix.
    """

    sources: tuple[str, ...]
    tables: Callable[[int], str]
    blobs: tuple[Blob, ...] = ()
    libraries: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()


def describe(
    plan: Plan, weight_bytes: int, target_triple: str, prefix: str = DEFAULT_PREFIX
) -> dict[str, Any]:
    """The metadata of a plan's artifact: what the plan says, under the caller's own entries."""

    def ports(values: Sequence[Port]) -> list[dict[str, Any]]:
        return [{"name": p.name, "shape": list(p.shape), "dtype": p.dtype} for p in values]

    return {
        "abi": ABI_VERSION,
        **plan.metadata,
        "inputs": ports(plan.inputs),
        "outputs": ports(plan.outputs),
        "steps": [_describe_step(step) for step in plan.steps],
        "threads": plan.threads,
        "triple": target_triple,
        "prefix": prefix,
        "arena_bytes": plan.arena_bytes,
        "weights_bytes": weight_bytes,
        "peak_memory_bytes": plan.arena_bytes + weight_bytes,
    }


def _describe_step(step: Step) -> dict[str, Any]:
    if not isinstance(step, KernelStep):
        return {"name": step.name, "kind": type(step).__name__.removesuffix("Step").lower()}
    entry: dict[str, Any] = {"name": step_name(step), "kind": step.kind}
    found = {"macs": step.macs, "algorithm": step.algorithm, "problem": step.problem}
    return {**entry, **{key: value for key, value in found.items() if value}}


def _as_bytes(weights: Weights) -> memoryview | Path:
    if isinstance(weights, Path):
        return weights.resolve()
    if isinstance(weights, np.ndarray):
        return np.ascontiguousarray(weights).reshape(-1).view(np.uint8).data
    return memoryview(weights).cast("B")


def write_artifact(
    plan: Plan,
    objects: Sequence[bytes | Path],
    weights: Weights,
    output: Path,
    *,
    target_triple: str,
    cpu_flags: Sequence[str] = (),
    format: Format = "shared",
    runtime: Runtime | None = None,
    prefix: str = DEFAULT_PREFIX,
    soname: str = "",
) -> None:
    """Link a model and put the finished file in its place, or leave nothing.

    Parameters
    ----------
    plan : Plan
    objects : sequence of bytes or Path
        Relocatable objects that define the plan's kernels, each as ``__tvm_ffi_<kernel>``.
    weights : ndarray, bytes-like or Path
        The weights' bytes, or a file of them; never copied in memory.
    output : Path
    target_triple : str
        zig's name of the system, such as ``x86_64-linux-gnu.2.17`` or ``aarch64-linux-musl``.
    cpu_flags : sequence of str
        For the runtime's own code, such as ``-mcpu=znver3``.
    format : "shared", "static" or "tvm"
        A shared library; an archive of one object; a shared library that TVM can load as well.
    runtime : Runtime, optional
        The CPU's if left out.
    prefix : str
        What the symbols of the interface begin with: archives of several models can be linked into
        one program if they differ in this.
    soname : str
        Of a shared library: the name under which programs linked with it look for it.

    Raises
    ------
    InputError
        The output is a folder, or its folder does not exist.
    EnvironmentError_
        zig is missing or fails, the output may not be written, or the disk is full.
    ValueError
        The plan is inconsistent (:func:`~tvmconv.codegen.plan_check.check_plan`).
    """
    data = _as_bytes(weights)
    blob = Blob(".tvmconv.weights", WEIGHTS_SYMBOL, data, large=True)
    check_plan(plan, blob.nbytes)
    check_output_file(output)
    text = json.dumps(describe(plan, blob.nbytes, target_triple, prefix)).encode() + b"\0"
    if runtime is None:
        runtime = Runtime(SOURCES, lambda _: plan_source(plan))
    blobs = (Blob(".tvmconv.meta", METADATA_SYMBOL, text), blob, *runtime.blobs)
    with replacing(output) as unfinished, tempfile.TemporaryDirectory(prefix="tvmconv-") as name:
        folder = Path(name)
        names = (*runtime.sources, *(("tvm_entry",) if format == "tvm" else ()))
        tables = runtime.tables(blob.nbytes)
        parts = _compile(tables, names, folder, target_triple, cpu_flags, prefix)
        machine = Machine.of(parts[0].read_bytes()[:64])
        write_data_object(folder / "data.o", machine, blobs)
        parts += [folder / "data.o", *_objects(objects, folder)]
        symbols = link.abi_symbols(prefix, runtime.functions)
        linking = _Linking(target_triple, format, str(output), symbols, soname, runtime.libraries)
        _join(parts, unfinished.resolve(), linking)
        _settle(unfinished, 0o644 if format == "static" else 0o755)


def _compile(
    tables: str,
    sources: Sequence[str],
    folder: Path,
    triple: str,
    cpu_flags: Sequence[str],
    prefix: str,
) -> list[Path]:
    (folder / "plan.c").write_text(tables, encoding="utf-8")
    objects = link.compile_sources([folder / "plan.c"], folder, RUNTIME, triple, cpu_flags)
    for name in sources:
        objects.append(folder / f"{name}.o")
        renamed = link.rename_flags(prefix) if name in PREFIXED else []
        objects[-1].write_bytes(_runtime_object(name, triple, (*cpu_flags, *renamed)))
    return objects


@lru_cache(maxsize=64)
def _runtime_object(name: str, triple: str, flags: tuple[str, ...]) -> bytes:
    """An object of the runtime: a process that writes many artifacts compiles it once."""
    with tempfile.TemporaryDirectory(prefix="tvmconv-") as folder:
        source = RUNTIME / f"{name}.c"
        (path,) = link.compile_sources([source], Path(folder), RUNTIME, triple, flags)
        return path.read_bytes()


def _objects(objects: Sequence[bytes | Path], folder: Path) -> Iterator[Path]:
    for number, item in enumerate(objects):
        if isinstance(item, Path):
            yield item.resolve()
        else:
            path = folder / f"kernels_{number}.o"
            path.write_bytes(item)
            yield path


@dataclass(frozen=True)
class _Linking:
    """How objects become an artifact."""

    triple: str
    format: Format
    label: str
    symbols: tuple[str, ...]
    soname: str
    libraries: tuple[str, ...]


def _join(parts: Sequence[Path], output: Path, how: _Linking) -> None:
    symbols = how.symbols
    if how.format == "static":
        joined = parts[0].parent / "tvmconv_model.o"
        link.link_relocatable(parts, joined)
        localise(joined, symbols)
        link.archive(joined, output, how.label)
    else:
        exports = (*symbols, *((link.TVM_SYMBOL,) if how.format == "tvm" else ()))
        link.link_shared(
            parts, output, how.triple, exports, how.label, how.libraries, soname=how.soname
        )


def _settle(path: Path, mode: int) -> None:
    """Give a finished file its permissions and put it on the disk before it gets its name."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(mode & ~umask)
    with path.open("rb") as file:
        os.fsync(file.fileno())
