"""What machine a benchmark ran on, so that somebody else can judge its numbers."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

CPUINFO = Path("/proc/cpuinfo")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_SUFFIX = {"K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True)
class Machine:
    """A description of the machine and of the software that was measured.

    Attributes
    ----------
    cpu : str
        The processor's name as the system gives it.
    arch : str
        Instruction set, ``x86_64`` or ``aarch64``.
    cores : int
        Logical cores that this process may use.
    threads : int
        Threads that every contender was given.
    system : str
        Operating system and release.
    gpu : str
        The GPU that ran everything and its driver; empty where the processor did.
    versions : dict
        Distribution name to version, of all that took part.
    """

    cpu: str
    arch: str
    cores: int
    threads: int
    system: str
    versions: dict[str, str] = field(default_factory=dict)
    gpu: str = ""

    def to_json(self) -> dict[str, Any]:
        """Give the description as JSON-able data."""
        return asdict(self)


def usable_cores() -> int:
    """Count the logical cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name(cpuinfo: Path = CPUINFO) -> str:
    """Name the processor, from ``/proc/cpuinfo`` where there is one."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    entries = [line.partition(":") for line in lines]
    for wanted in ("model name", "Model", "Hardware"):
        for key, _, value in entries:
            if key.strip() == wanted and value.strip():
                return value.strip()
    return platform.processor() or platform.machine() or "unknown"


def last_cache_bytes(caches: Path = CACHES, default: int = 32 * 2**20) -> int:
    """Size of the largest cache of core 0, in bytes; `default` where the system does not say."""
    sizes = []
    for file in caches.glob("index*/size"):
        try:
            text = file.read_text(encoding="ascii").strip()
        except OSError:
            continue
        digits = text.rstrip("KMG")
        if digits.isdigit():
            sizes.append(int(digits) * _SUFFIX.get(text[len(digits) :], 1))
    return max(sizes, default=default)


def version_of(distribution: str) -> str:
    """Version of an installed distribution, or ``"not installed"``."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def describe_machine(threads: int, distributions: Iterable[str] = (), gpu: str = "") -> Machine:
    """Describe this machine and the versions of the `distributions` that take part."""
    ours = ("tvmconv", "apache-tvm", "numpy")
    return Machine(
        cpu=cpu_name(),
        arch=platform.machine(),
        cores=usable_cores(),
        threads=threads,
        system=f"{platform.system()} {platform.release()}",
        versions={name: version_of(name) for name in dict.fromkeys((*ours, *distributions))},
        gpu=gpu,
    )
