"""The machine code in a file for GPUs as text, by NVIDIA's ``nvdisasm``."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tvmconv.codegen.cuda import nvrtc
from tvmconv.codegen.cuda.build import IMAGE_ALIGNMENT, IMAGES_SECTION
from tvmconv.errors import EnvironmentError_, InputError
from tvmconv.runtime.elf import MalformedFile, read_section
from tvmconv.runtime.inspect import read_metadata

_INSTALL = "pip install nvidia-cuda-nvdisasm"
_LIMIT_BYTES = 1 << 30
_LIMIT_S = 300.0


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
    if not isinstance(images, list) or not all(map(_is_image, images)):
        raise InputError(f"{path}: has malformed metadata: images")
    if code is None or not any(image["kind"] == "cubin" for image in images):
        raise InputError(f"{path}: has no machine code for GPUs")
    start = 0
    for image in images:
        start += -start % IMAGE_ALIGNMENT
        end = start + image["bytes"]
        if end > len(code):
            raise InputError(f"{path}: has malformed metadata: images")
        if image["kind"] == "cubin":
            yield image["sm"], code[start:end]
        start = end


def _is_image(image: Any) -> bool:
    """Whether metadata describes the code for one capability."""
    return (
        isinstance(image, dict)
        and isinstance(image.get("kind"), str)
        and all(type(image.get(key)) is int and image[key] >= 0 for key in ("sm", "bytes"))
    )


def disassembled(path: Path) -> Iterator[str]:
    """The instructions of each cubin in a compiled model, kernel by kernel.

    Raises
    ------
    InputError
        As :func:`cubins`.
    EnvironmentError_
        There is no ``nvdisasm``, or it cannot read the code, or not in a reasonable time.
    """
    found, tool = list(cubins(path)), _nvdisasm()
    with tempfile.TemporaryDirectory(prefix="tvmconv-") as folder:
        cubin = Path(folder) / "kernels.cubin"
        for sm, code in found:
            cubin.write_bytes(code)
            try:
                result = subprocess.run(
                    [tool, "--print-code", str(cubin)],
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    errors="replace",
                    check=False,
                    timeout=_LIMIT_S,
                )
            except subprocess.TimeoutExpired:
                late = f"took more than {_LIMIT_S:g} seconds"
                raise EnvironmentError_(f"{tool}: sm_{sm}: {late}") from None
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
