"""Kernels and models for other processors, run by QEMU's user mode."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.kernels import Kernel
from tvmconv.autoschedule.measure.buffers import own_region, unpack
from tvmconv.autoschedule.space import Candidate
from tvmconv.codegen import link
from tvmconv.codegen.artifact import RUNTIME
from tvmconv.kernel import KernelSpec
from tvmconv.target import Target

Array = npt.NDArray[Any]

HERE = Path(__file__).parent
_SECONDS = 300
#: QEMU's CPUs with everything that a target may use.
_CPUS = {"aarch64": "max", "arm": "max", "riscv64": "rv64,v=true,vext_spec=v1.0"}
_FLAGS = ("-static", "-O2", "-fno-sanitize=undefined", "-lpthread", "-lm")
#: What the kernels' program needs of the runtime.
_RUNTIME = ("pool", "backend", "workspace", "error", "cpus")


def emulator(target: Target) -> str:
    """The program that runs a target's code; the test is skipped where it is not installed."""
    name = f"qemu-{target.arch}-static"
    if shutil.which(name) is None:
        pytest.skip(f"{name} is missing: apt-get install qemu-user-static")
    return name


def run(target: Target, program: Path, *arguments: object) -> None:
    """Run a program for another processor, and fail with what it says if it fails."""
    command = [emulator(target), "-cpu", _CPUS[target.arch], str(program), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    assert result.returncode == 0, f"{program.name}: exit {result.returncode}: {result.stderr}"


def link_program(target: Target, parts: Sequence[Path], program: Path) -> None:
    """Link a static program of C files, objects and archives."""
    files = [str(part) for part in parts]
    command = ["cc", "-target", target.zig.triple, *files]  # zig builds a C library for each -mcpu
    include = ["-I", str(RUNTIME)]
    link.zig([*command, *include, *_FLAGS, "-o", str(program)], program.parent, "link a test")


class EmulatedKernels:
    """Kernels for a target in one program; :meth:`run` is that of ``tests.kernels.Compiled``."""

    def __init__(
        self,
        specs: Sequence[KernelSpec],
        target: Target,
        folder: Path,
        choices: Sequence[Candidate | None] | None = None,
    ) -> None:
        from tvmconv.codegen.kernels import object_code

        emulator(target)
        self.target = target.with_libc("musl")
        self.folder = folder
        names = [f"k{number}" for number in range(len(specs))]
        parts = [HERE / "kernels.c", *(RUNTIME / f"{name}.c" for name in _RUNTIME)]
        chosen = choices or [None] * len(specs)
        for name, spec, choice in zip(names, specs, chosen, strict=True):
            parts.append(folder / f"{name}.o")
            parts[-1].write_bytes(object_code(spec, name, target, choice))
        table = folder / "table.c"
        declared = "".join(f"extern int __tvm_ffi_{name}();\n" for name in names)
        listed = ", ".join(f"(tvmconv_kernel)__tvm_ffi_{name}" for name in names)
        table.write_text(
            f'#include "tvm_abi.h"\n{declared}'
            f"extern const tvmconv_kernel kernels[];\n"
            f"const tvmconv_kernel kernels[] = {{{listed}}};\n"
        )
        self.program = folder / "kernels"
        link_program(self.target, [*parts, table], self.program)

    def run(self, number: int, kernel: Kernel) -> Array:
        """Run a kernel, and return its logical output; fails if it wrote outside that."""
        arguments = [np.asarray(array, order="C") for array in kernel.arguments()]
        file = self.folder / f"buffers{number}"
        _write(file, arguments)
        run(self.target, self.program, file, number)
        layout = kernel.spec.output
        raw = file.read_bytes()[-arguments[-1].nbytes :]
        buffer = np.frombuffer(raw, np.float32).reshape(layout.buffer_shape).copy()
        got = unpack(buffer, layout).copy()
        own_region(buffer, layout)[...] = np.nan
        assert np.isnan(buffer).all(), f"{kernel.spec.op} wrote outside its output"
        return got


def _write(file: Path, arrays: Sequence[Array]) -> None:
    """Write buffers as ``kernels.c`` reads them."""
    words = [len(arrays)]
    for array in arrays:
        assert array.dtype == np.float32
        words += [array.nbytes, array.ndim, *array.shape]
    data = np.array(words, np.int64).tobytes()
    for array in arrays:
        data += b"\0" * (-len(data) % 64) + array.tobytes()
    file.write_bytes(data)


def run_model(
    archive: Path,
    target: Target,
    folder: Path,
    inputs: Mapping[str, Array],
    shape: Sequence[int],
    threads: int = 2,
) -> Array:
    """Run a model that was compiled to an archive for the target's C library musl."""
    program = folder / "model"
    link_program(target.with_libc("musl"), [HERE / "model.c", archive], program)
    files = [folder / f"{name}.raw" for name in (*inputs, "output")]
    output = np.full(shape, np.nan, np.float32)
    for file, array in zip(files, (*inputs.values(), output), strict=True):
        file.write_bytes(np.ascontiguousarray(array).tobytes())
    run(target, program, threads, len(inputs), *files)
    return np.fromfile(files[-1], np.float32).reshape(shape)
