"""The machine code in a file for GPUs as text, by NVIDIA's ``nvdisasm``."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tvmconv.codegen.cuda import nvrtc
from tvmconv.codegen.cuda.build import IMAGE_ALIGNMENT, IMAGES_SECTION
from tvmconv.errors import EnvironmentError_, InputError
from tvmconv.runtime.elf import MalformedFile, read_section
from tvmconv.runtime.inspect import read_metadata

_INSTALL = "pip install nvidia-cuda-nvdisasm"
_LIMIT_BYTES = 1 << 30


def cubins(path: Path) -> Iterator[tuple[int, bytes]]:
    """Capability and code of each cubin in a compiled model.

    Raises
    ------
    InputError
        It is none, or has no machine code for GPUs.
    """
    try:
        with path.open("rb") as file:
            elf, metadata = read_metadata(file)
            code = read_section(file, elf, IMAGES_SECTION, _LIMIT_BYTES)
    except (MalformedFile, OSError) as error:
        reason = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else error
        raise InputError(f"{path}: {reason}") from None
    images = metadata.get("images", [])
    if code is None or not any(image["kind"] == "cubin" for image in images):
        raise InputError(f"{path}: has no machine code for GPUs")
    start = 0
    for image in images:
        start += -start % IMAGE_ALIGNMENT
        end = start + image["bytes"]
        if image["kind"] == "cubin":
            yield image["sm"], code[start:end]
        start = end


def disassembled(path: Path) -> Iterator[str]:
    """The instructions of each cubin in a compiled model, kernel by kernel.

    Raises
    ------
    InputError
        As :func:`cubins`.
    EnvironmentError_
        There is no ``nvdisasm``, or it cannot read the code.
    """
    found, tool = list(cubins(path)), _nvdisasm()
    with tempfile.TemporaryDirectory(prefix="tvmconv-") as folder:
        cubin = Path(folder) / "kernels.cubin"
        for sm, code in found:
            cubin.write_bytes(code)
            result = subprocess.run(
                [tool, "--print-code", str(cubin)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
            if result.returncode:
                told = (result.stderr or result.stdout).strip().splitlines()[-1:]
                raise EnvironmentError_(f"{tool}: sm_{sm}: {' '.join(told) or 'failed'}")
            yield result.stdout


def _nvdisasm() -> str:
    """The program, of the package from PyPI or of a toolkit on the path."""
    packaged = [folder / "bin/nvdisasm" for folder in nvrtc.package_folders()]
    found = next((str(tool) for tool in packaged if tool.exists()), shutil.which("nvdisasm"))
    if found is None:
        raise EnvironmentError_(f"cannot disassemble: nvdisasm is missing: {_INSTALL}")
    return found
