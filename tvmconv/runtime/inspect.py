"""Read an artifact's metadata without running it, so also one for another architecture."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, BinaryIO

from tvmconv.errors import InputError
from tvmconv.runtime.elf import ElfFile, MalformedFile, read_elf, read_section

SECTION = ".tvmconv.meta"
_LIMIT_BYTES = 64 << 20

#: Version of the C interface and of the metadata's schema.
ABI_VERSION = 1

#: What the symbols of an artifact begin with if nobody chooses, and what may be chosen.
DEFAULT_PREFIX = "tvmconv"
PREFIX = re.compile(r"[a-z][a-z0-9_]{0,62}")

#: What tensors can be made of: NumPy's name of an element type → DLPack's code and bits.
DTYPES: dict[str, tuple[int, int]] = {
    "bool": (6, 8),
    "int8": (0, 8),
    "int16": (0, 16),
    "int32": (0, 32),
    "int64": (0, 64),
    "uint8": (1, 8),
    "uint16": (1, 16),
    "uint32": (1, 32),
    "uint64": (1, 64),
    "float16": (2, 16),
    "float32": (2, 32),
    "float64": (2, 64),
    "bfloat16": (4, 16),
}


def inspect_artifact(path: str | Path) -> dict[str, Any]:
    """Read the metadata of a shared library or archive that was made by this package.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    dict
        The metadata; ``inputs`` and ``outputs`` are lists of ``{"name", "shape", "dtype"}``,
        ``steps`` of ``{"name", "kind"}``. ``machine`` (such as ``aarch64``) and ``file_bytes``
        are added.

    Raises
    ------
    InputError
        The file is missing, is no artifact, is truncated, or was made for another version of the
        interface.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            elf, metadata = read_metadata(file)
            size = path.stat().st_size
    except (MalformedFile, OSError) as error:
        reason = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else error
        raise InputError(f"{path}: {reason}") from None
    return {**metadata, "machine": elf.machine.name, "file_bytes": size}


def read_metadata(file: BinaryIO) -> tuple[ElfFile, dict[str, Any]]:
    """Find and check the metadata in an open file.

    Raises
    ------
    MalformedFile
        There is none, or it is not valid.
    OSError
        The file cannot be read.
    """
    for elf in read_elf(file):
        text = read_section(file, elf, SECTION, _LIMIT_BYTES)
        if text is not None:
            return elf, _check(_parse_json(text.rstrip(b"\0")))
    raise MalformedFile("is not a compiled model: it has no metadata")


def _parse_json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        raise MalformedFile("has malformed metadata") from None


def _check(metadata: Any) -> dict[str, Any]:
    if not isinstance(metadata, dict) or not isinstance(metadata.get("abi"), int):
        raise MalformedFile("has malformed metadata")
    if metadata["abi"] != ABI_VERSION:
        made = f"was made for version {metadata['abi']} of the interface"
        raise MalformedFile(f"{made}; this package reads version {ABI_VERSION}")
    prefix = metadata.get("prefix", DEFAULT_PREFIX)
    if not isinstance(prefix, str) or not PREFIX.fullmatch(prefix):
        raise MalformedFile("has malformed metadata: prefix")
    for key in ("inputs", "outputs"):
        ports = metadata.get(key)
        if not isinstance(ports, list) or not all(map(_is_port, ports)):
            raise MalformedFile(f"has malformed metadata: {key}")
    steps = metadata.get("steps")
    if not isinstance(steps, list) or not all(
        isinstance(step, dict) and isinstance(step.get("name"), str) for step in steps
    ):
        raise MalformedFile("has malformed metadata: steps")
    return metadata


def _is_port(port: Any) -> bool:
    if not isinstance(port, dict) or not isinstance(port.get("name"), str):
        return False
    shape = port.get("shape")
    if not isinstance(shape, list) or str(port.get("dtype")) not in DTYPES:
        return False
    if len(shape) > 64 or not all(type(n) is int and 0 < n < 1 << 48 for n in shape):
        return False
    return math.prod(shape) < 1 << 48
