"""What the supervisor's children do, besides building candidates; none of it needs TVM."""

from __future__ import annotations

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


def compile_runtime(job: Mapping[str, Any], folder: Path) -> None:
    """Compile the thread pool and the harness to one object: ``triple``, ``cpu_flags``."""
    sources = [_HARNESS, *(RUNTIME / f"{name}.c" for name in _SOURCES)]
    objects = link.compile_sources(sources, folder, RUNTIME, job["triple"], job["cpu_flags"])
    link.link_relocatable(objects, folder / RUNTIME_OBJECT)


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


def make_reference(job: Mapping[str, Any], folder: Path) -> None:
    """Write the inputs and references of a ``workload`` to a new ``folder``."""
    target = folder / job["folder"]
    target.mkdir()
    write_checks(KernelSpec.parse(job["workload"]), target)


KINDS: Mapping[str, Callable[[Mapping[str, Any], Path], None]] = {
    "runtime": compile_runtime,
    "link": link_candidates,
    "reference": make_reference,
}
