"""Detection of the machine that this process runs on, from Linux's ``/proc`` and ``/sys``.

The instruction set is what the kernel lists, never what the model's name promises: hypervisors hide
features. A known chip gives its own target; any other CPU gives the highest ISA level that it has.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tvmconv.errors import EnvironmentError_, InputError
from tvmconv.runtime.cuda import gpu_for
from tvmconv.target import Match, Target, targets

CPUINFO = Path("/proc/cpuinfo")
SYSFS = Path("/sys")

#: LLVM's names of features whose flag in ``/proc/cpuinfo`` has another name, on x86.
_FLAGS = {
    "avx512bf16": "avx512_bf16",
    "avx512bitalg": "avx512_bitalg",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512vnni": "avx512_vnni",
    "avx512vp2intersect": "avx512_vp2intersect",
    "avx512vpopcntdq": "avx512_vpopcntdq",
    "avxvnni": "avx_vnni",
    "bmi": "bmi1",
    "ermsb": "erms",
    "lzcnt": "abm",
    "pclmul": "pclmulqdq",
    "prfchw": "3dnowprefetch",
    "rdrnd": "rdrand",
    "sahf": "lahf_lm",
    "sha": "sha_ni",
    "shstk": "user_shstk",
    "sse3": "pni",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
}
#: The same on Arm, by ``Target.arch``: Linux's arm64 and 32-bit Arm name theirs differently.
_ARM_FLAGS = {
    "aarch64": {
        "crc": "crc32",
        "dotprod": "asimddp",
        "fp-armv8": "fp",
        "fullfp16": "asimdhp",
        "lse": "atomics",
        "neon": "asimd",
        "rcpc": "lrcpc",
        "rdm": "asimdrdm",
    },
    "arm": {"vfp4": "vfpv4"},
}
_SIZE_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_CACHE_FIELDS = {"1": "l1_bytes", "2": "l2_bytes", "3": "l3_bytes"}


@dataclass(frozen=True)
class CpuInfo:
    """What ``/proc/cpuinfo`` says of an x86 or Arm CPU.

    Attributes
    ----------
    vendor, family, model, name
        Of the first processor; of an Arm CPU only the name.
    flags : frozenset of str
        Those that every processor has.
    arch : str
        As in ``Target.arch``.
    implementer, part : int
        Of the last processor: where there are cores of two kinds, the large ones come last.
    """

    vendor: str
    family: int
    model: int
    name: str
    flags: frozenset[str]
    arch: str = "x86_64"
    implementer: int = 0
    part: int = 0

    def lacking(self, features: Iterable[str]) -> list[str]:
        """List those of some features, in LLVM's names, that the CPU does not have."""
        names = _ARM_FLAGS.get(self.arch, _FLAGS)
        return [feature for feature in features if names.get(feature, feature) not in self.flags]


def parse_cpuinfo(text: str) -> CpuInfo:
    """Read the text of ``/proc/cpuinfo``.

    Raises
    ------
    EnvironmentError_
        If it is not that of an x86 or Arm CPU.
    """
    processors = []
    for block in text.strip().split("\n\n"):
        pairs = (line.partition(":") for line in block.splitlines())
        processors.append({key.strip(): value.strip() for key, _, value in pairs})
    first = processors[0]
    if any("CPU implementer" in processor for processor in processors):
        return _arm_cpu(processors)
    if "flags" not in first or "vendor_id" not in first:
        raise EnvironmentError_(
            f"no target file matches this CPU ({platform.machine()}); name one with --target"
        )
    return CpuInfo(
        vendor=first["vendor_id"],
        family=_integer(first.get("cpu family", "")),
        model=_integer(first.get("model", "")),
        name=first.get("model name", "unknown"),
        flags=frozenset.intersection(
            *(frozenset(p["flags"].split()) for p in processors if "flags" in p)
        ),
    )


def _arm_cpu(processors: Sequence[Mapping[str, str]]) -> CpuInfo:
    """Describe an Arm CPU: 32 bits if its kernel lists NEON by that name."""
    known = [p for p in processors if "CPU implementer" in p]
    flags = frozenset.intersection(*(frozenset(p.get("Features", "").split()) for p in known))
    last = known[-1]
    part = _integer(last.get("CPU part", ""))
    name = last.get("model name") or f"Arm CPU, part {part:#x}"
    implementer = _integer(last["CPU implementer"])
    arch = "aarch64" if "asimd" in flags else "arm"
    return CpuInfo("", -1, -1, name, flags, arch, implementer, part)


def _integer(text: str) -> int:
    """Convert a decimal or hexadecimal number, or give -1, which matches no chip."""
    try:
        return int(text, 0)
    except ValueError:
        return -1


def match_target(cpu: CpuInfo, candidates: Collection[Target] | None = None) -> Target:
    """Choose the target file for a CPU: its chip, or else the highest ISA level that it has.

    A chip counts only if the CPU has its whole level; what it lacks above that is switched off in
    ``llvm.features``. So nothing in the result names an instruction that the CPU does not have.

    Raises
    ------
    EnvironmentError_
        If the CPU lacks something of the lowest level; the message names it.
    """
    known = targets().values() if candidates is None else candidates
    known = [target for target in known if target.arch == cpu.arch]
    levels = [(t, t.match) for t in known if t.match and t.match.flags]
    fitting = {t.name: t for t, match in levels if not cpu.lacking(match.flags)}
    if not fitting:
        lowest, match = min(levels, key=lambda level: len(level[1].flags))
        missing = " ".join(cpu.lacking(match.flags))
        raise EnvironmentError_(f"this CPU ({cpu.name}) lacks {missing}, which {lowest.name} needs")
    for target in known:
        match_ = target.match
        if match_ is not None and match_.level in fitting and _is_chip(cpu, match_):
            off = tuple(f"-{feature}" for feature in cpu.lacking(match_.extra))
            llvm = replace(target.llvm, features=target.llvm.features + off)
            return replace(target, llvm=llvm)
    order = {t.name: len(match.flags) for t, match in levels}
    return max(fitting.values(), key=lambda target: order[target.name])


def _is_chip(cpu: CpuInfo, match: Match) -> bool:
    return (
        cpu.implementer == match.implementer and cpu.part in match.parts
        if match.parts
        else cpu.vendor == match.vendor
        and cpu.family == match.family
        and any(low <= cpu.model <= high for low, high in match.models)
    )


def detect(
    cpuinfo: Path = CPUINFO, sysfs: Path = SYSFS, cpus: Sequence[int] | None = None
) -> Target:
    """Describe the machine: its chip or level, with the real number of cores and sizes of caches.

    Parameters
    ----------
    cpuinfo, sysfs : Path
        Where Linux says it.
    cpus : sequence of int or None
        Logical CPUs to use; None for those this process may run on.

    Raises
    ------
    EnvironmentError_
        If there is no such file, or no target fits.
    """
    try:
        cpu = parse_cpuinfo(cpuinfo.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise EnvironmentError_(
            f"cannot detect the host: {cpuinfo}: {error.strerror}; name a target with --target"
        ) from error
    if cpus is None:
        cpus = sorted(os.sched_getaffinity(0))
    target = match_target(cpu)
    cores = physical_cores(sysfs, cpus)
    return replace(
        target,
        aliases=(),
        description=f"{cpu.name}, detected as {target.description}",
        cores=min(cores, cpu_quota(sysfs) or cores),
        caches=replace(target.caches, **cache_sizes(sysfs, cpus[0])),
        match=None,
    )


def require_runnable(target: Target, cpuinfo: Path = CPUINFO) -> None:
    """Refuse a target whose code this machine cannot run.

    A file that detection does not consider is trusted beyond its ``arch``.

    Raises
    ------
    InputError
        With what the machine lacks.
    EnvironmentError_
        It has no driver, or no GPU that the code fits.
    """
    if target.is_gpu:
        try:
            gpu_for(target)
        except EnvironmentError_ as error:
            hint = "--runner runs it elsewhere, verify --emulate on this CPU"
            raise EnvironmentError_(f"{error}; {hint}") from None
        return
    machine = platform.machine()  # armv7l, for instance
    if not machine.startswith(target.arch):
        raise _not_here(target, f"is for {target.arch}, and this machine is {machine}")
    match = target.match
    if match is None:
        return
    flags = {*match.flags, *match.extra}
    level = targets().get(match.level)
    if level is not None and level.match is not None:
        flags |= {*level.match.flags}
    flags -= {feature[1:] for feature in target.llvm.features if feature.startswith("-")}
    text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    missing = parse_cpuinfo(text).lacking(sorted(flags))
    if missing:
        raise _not_here(target, f"this machine lacks {' '.join(missing)}")


def _not_here(target: Target, why: str) -> InputError:
    others = f"such as qemu-{target.arch}-static"
    return InputError(f"{target.name}: {why}; --runner runs it elsewhere, {others}")


def physical_cores(sysfs: Path, cpus: Sequence[int]) -> int:
    """Count the cores behind some logical CPUs: hyper-threads of one core share its FMA units."""
    cores = set()
    for cpu in cpus:
        siblings = sysfs / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        cores.add(_read(siblings) or str(cpu))
    return len(cores)


def cpu_quota(sysfs: Path) -> int | None:
    """CPUs' worth of time that a container's limit (cgroup v2) allows, rounded up, or None."""
    quota, _, period = _read(sysfs / "fs/cgroup/cpu.max").partition(" ")
    if quota.isdecimal() and period.isdecimal() and int(period) > 0:
        return max(1, math.ceil(int(quota) / int(period)))
    return None


def cache_sizes(sysfs: Path, cpu: int) -> dict[str, int]:
    """Sizes of the data caches of one CPU, as far as the kernel knows them, by field name."""
    found = {}
    for index in sorted((sysfs / f"devices/system/cpu/cpu{cpu}/cache").glob("index*")):
        field = _CACHE_FIELDS.get(_read(index / "level"))
        size = _read(index / "size")
        number, unit = size[:-1], _SIZE_UNITS.get(size[-1:])
        if field and _read(index / "type") != "Instruction" and number.isdecimal() and unit:
            found[field] = int(number) * unit
    return {field: size for field, size in found.items() if size > 0}


def _read(path: Path) -> str:
    """Read a small file of the kernel's, or give an empty text: containers hide many of them."""
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
