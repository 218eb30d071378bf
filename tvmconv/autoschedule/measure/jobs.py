"""What the supervisor's children do, besides building candidates; none of it needs TVM."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tvmconv.autoschedule.measure.reference import write_checks
from tvmconv.codegen import link
from tvmconv.codegen.artifact import RUNTIME
from tvmconv.kernel import KernelSpec

#: The runtime's files that run kernels; those of the whole model are not needed.
_SOURCES = ("pool", "backend", "workspace", "error", "cpus")
_HARNESS = Path(__file__).with_name("harness.c")
EXPORTS = tuple(f"tvmconv_measure_{name}" for name in ("open", "close", "error", "calls"))
RUNTIME_OBJECT = "runtime.o"
_DEVICE = Path(__file__).resolve().parent.parent.parent / "device" / "candidates.c"


def compile_runtime(job: Mapping[str, Any], folder: Path) -> None:
    """Compile the thread pool and the harness to one object: ``triple``, ``cpu_flags``."""
    sources = [_HARNESS, *(RUNTIME / f"{name}.c" for name in _SOURCES)]
    objects = link.compile_sources(sources, folder, RUNTIME, job["triple"], job["cpu_flags"])
    link.link_relocatable(objects, folder / RUNTIME_OBJECT)


def compile_device(job: Mapping[str, Any], folder: Path) -> None:
    """Compile the thread pool and the program that runs elsewhere: ``triple``, ``cpu_flags``."""
    sources = [_DEVICE, *(RUNTIME / f"{name}.c" for name in _SOURCES)]
    objects = link.compile_sources(sources, folder, RUNTIME, job["triple"], job["cpu_flags"])
    link.link_relocatable(objects, folder / RUNTIME_OBJECT)


def link_program(job: Mapping[str, Any], folder: Path) -> None:
    """Link objects to a program that runs elsewhere; takes what :func:`link_candidates` does."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        own, symbols = Path(name), job["exports"]
        declared = "".join(f"extern int {s}(void *, const TVMFFIAny *, int32_t, TVMFFIAny *);\n"
                           for s in symbols)  # fmt: skip
        table = own / "table.c"
        table.write_text(
            f'#include "tvm_abi.h"\n{declared}'
            f"const tvmconv_kernel tvmconv_candidates[] = {{{', '.join(symbols)}}};\n"
            f"const int tvmconv_candidate_count = {len(symbols)};\n"
        )
        objects = link.compile_sources([table], own, RUNTIME, job["triple"], [])
        objects += [folder / RUNTIME_OBJECT, *(folder / name for name in job["objects"])]
        link.link_program(objects, folder / job["output"], job["triple"], "candidates")


def link_candidates(job: Mapping[str, Any], folder: Path) -> None:
    """Link objects with the runtime to a library: ``objects``, ``exports``, ``output``, ``triple``.

    The linker's own files are those of this job alone: several may link at the same time.
    """
    with tempfile.TemporaryDirectory(dir=folder) as own:
        runtime = Path(own) / RUNTIME_OBJECT
        runtime.symlink_to(folder / RUNTIME_OBJECT)
        objects = [runtime, *(folder / name for name in job["objects"])]
        exports = [*EXPORTS, *job["exports"]]
        link.link_shared(objects, folder / job["output"], job["triple"], exports, "candidates")


def list_candidates(job: Mapping[str, Any], folder: Path) -> None:
    """List built candidates, which a device's driver loads one by one: ``objects``, ``output``."""
    paths = [str(folder / name) for name in job["objects"]]
    (folder / job["output"]).write_text(json.dumps(paths), encoding="utf-8")


def make_reference(job: Mapping[str, Any], folder: Path) -> None:
    """Write the inputs and references of a ``workload`` to a new ``folder``."""
    target = folder / job["folder"]
    target.mkdir()
    write_checks(KernelSpec.parse(job["workload"]), target)


KINDS: Mapping[str, Callable[[Mapping[str, Any], Path], None]] = {
    "runtime": compile_runtime,
    "link": link_candidates,
    "device": compile_device,
    "program": link_program,
    "list": list_candidates,
    "reference": make_reference,
}
