"""Hardware descriptions: what a compiler and a cost model have to know of a machine.

A target is one TOML file whose tables and keys are the dataclasses below; every key is required,
none is unknown, and each number stands with its source. There are two forms. A CPU has the tables
``vector`` and ``caches``; a GPU has ``device`` instead (:mod:`tvmconv.gpu`), and ``llvm`` and
``zig`` are its host's. The files in ``targets/`` ship with the package; ``host`` is made from them
by :mod:`tvmconv.host`. Nothing here imports TVM.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from tvmconv.errors import InputError
from tvmconv.gpu import Device
from tvmconv.names import nearest
from tvmconv.records import from_table, require

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HOST = "host"
#: C libraries that zig has for Linux, as its triples name them.
LIBCS = ("gnu", "musl")
_F32_BITS, _AVX512_BITS = 32, 512
#: Instructions for sums of products of bytes: four products and a sum in one, two products of
#: 16 bits and their sum, or shifts and products, which need none.
BYTE_DOTS = ("vpdpbusd", "pmaddwd", "portable")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_FEATURE = re.compile(r"[+-][a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True)
class Llvm:
    """What LLVM is told.

    Attributes
    ----------
    triple, cpu : str
        As ``-mtriple`` and ``-mcpu`` take them.
    features : tuple of str
        Each with its sign: ``"-prefer-256-bit"``.
    opt_level : int
        0 to 3.
    mca_cpu : str
        The CPU whose scheduling model ``llvm-mca`` is to use, if that of ``cpu`` is another core's.
    """

    triple: str
    cpu: str
    features: tuple[str, ...]
    opt_level: int
    mca_cpu: str = ""

    def __post_init__(self) -> None:
        """Check what a wrong value of would make LLVM fail late."""
        require(0 <= self.opt_level <= 3, "llvm.opt_level", f"{self.opt_level} is not 0 to 3")
        for feature in self.features:
            require(bool(_FEATURE.fullmatch(feature)), "llvm.features", f"{feature!r} needs + or -")


@dataclass(frozen=True)
class Zig:
    """What ``zig cc`` is told, which compiles the C runtime and links.

    Attributes
    ----------
    triple : str
        As zig spells it, with the oldest glibc to run on: ``x86_64-linux-gnu.2.17``.
    cpu : str
        As zig spells it: ``x86_64_v3``.
    """

    triple: str
    cpu: str


@dataclass(frozen=True)
class Vector:
    """The vector unit of one core.

    Attributes
    ----------
    bits, registers : int
        Width and number of the vector registers.
    fma_per_cycle : float
        Multiply-adds of full vectors that one core can start in a cycle (an FMA, or a multiply and
        an add).
    fma_latency : int
        Cycles from one accumulation into a register to the next into the same.
    loads_per_cycle : float
        Loads of full vectors that hit L1.
    embedded_broadcast : bool
        Whether an FMA can take a scalar from memory into all lanes.
    byte_dot : str
        The instruction for sums of products of bytes, one of :data:`BYTE_DOTS`.
    lane_operand : bool
        Whether an FMA can take one lane of a register into all lanes.
    issue_width : float
        Instructions that the core starts in a cycle; 0 where that is never what limits it.
    """

    bits: int
    registers: int
    fma_per_cycle: float
    fma_latency: int
    loads_per_cycle: float
    embedded_broadcast: bool
    byte_dot: str
    lane_operand: bool = False
    issue_width: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        bits = self.bits
        known = ", ".join(BYTE_DOTS)
        require(self.byte_dot in BYTE_DOTS, "vector.byte_dot", f"must be one of {known}")
        require(
            bits >= _F32_BITS and bits & (bits - 1) == 0, "vector.bits", f"{bits} is no power of 2"
        )
        for name in ("registers", "fma_per_cycle", "fma_latency", "loads_per_cycle"):
            require(getattr(self, name) > 0, f"vector.{name}", "must be positive")
        require(self.issue_width >= 0, "vector.issue_width", "must be at least 0")

    @property
    def f32_lanes(self) -> int:
        """Elements of 32 bits in a register."""
        return self.bits // _F32_BITS


@dataclass(frozen=True)
class Caches:
    """The memory that one core sees; sizes in bytes, bandwidths in bytes read per cycle and core.

    ``l3_bytes`` is what the target's cores share; ``dram_bytes_per_cycle`` is what one core reaches
    alone. So many ``prefetch_cycles`` before its use a kernel asks for a line of weights or
    of a tile; 0 leaves that to the hardware.
    """

    line_bytes: int
    l1_bytes: int
    l2_bytes: int
    l3_bytes: int
    l1_bytes_per_cycle: float
    l2_bytes_per_cycle: float
    l3_bytes_per_cycle: float
    dram_bytes_per_cycle: float
    prefetch_cycles: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges; a missing level 3 has size 0."""
        for field in fields(self):
            least = 0 if field.name in ("l3_bytes", "prefetch_cycles") else 1
            require(
                getattr(self, field.name) >= least, f"caches.{field.name}", f"must be >= {least}"
            )

    def bytes_per_cycle(self, working_set: float) -> float:
        """Bandwidth of the level that holds a working set, with room for what else runs."""
        if working_set <= self.l1_bytes:
            return self.l1_bytes_per_cycle
        if working_set <= 0.8 * self.l2_bytes:
            return self.l2_bytes_per_cycle
        if working_set <= 0.8 * self.l3_bytes:
            return self.l3_bytes_per_cycle
        return self.dram_bytes_per_cycle


@dataclass(frozen=True)
class Layout:
    """How tensors lie in memory: ``channel_block`` channels of one pixel stand together."""

    channel_block: int


@dataclass(frozen=True)
class Match:
    """How :mod:`tvmconv.host` recognises the target; features are named as LLVM names them.

    A chip is one of x86, with a vendor, or one of Arm, with an implementer.

    Attributes
    ----------
    flags : tuple of str
        For an ISA level: the features it stands for, all required.
    level : str
        For a chip: the ISA level that it must have in full.
    vendor, family, models
        For a chip of x86: as in ``/proc/cpuinfo``; ``models`` are inclusive ranges.
    implementer, parts
        For a chip of Arm: as in ``/proc/cpuinfo``.
    extra : tuple of str
        For a chip: what LLVM's CPU name implies above the level. A feature that the host lacks is
        switched off.
    """

    flags: tuple[str, ...] = ()
    level: str = ""
    vendor: str = ""
    family: int = 0
    models: tuple[tuple[int, int], ...] = ()
    extra: tuple[str, ...] = ()
    implementer: int = 0
    parts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check that it is a level or a chip."""
        x86, arm = (self.vendor, self.models), (self.implementer, self.parts)
        is_chip = self.level and ((all(x86) and not any(arm)) or (all(arm) and not any(x86)))
        require(
            not any((self.level, *x86, *arm)) if self.flags else bool(is_chip),
            "match",
            "needs either flags, or level, vendor, family and models, or level, implementer and"
            " parts",
        )


@dataclass(frozen=True)
class Target:
    """One machine, or one class of machines, to compile for.

    Attributes
    ----------
    name : str
        Unique; the file's name without ``.toml``.
    aliases : tuple of str
        Other names for it on the command line.
    arch : str
        Family by which design spaces are found: ``cuda``, or a CPU's instruction set, with which
        both triples then begin.
    cores : int
        Physical cores that work is split over if nobody says how many threads.
    frequency_ghz : float
        Sustained clock under vector load.
    llvm, zig
        Of the CPU that runs the kernels, or the host side of a GPU's.
    vector, caches
        Of a GPU these, ``cores`` and ``frequency_ghz`` follow from ``device``: a multiprocessor is
        a core, and a warp of 32-bit values is a vector.
    match : Match or None
        None for a file that detection does not consider.
    device : Device or None
        None for a CPU.
    in_order : bool
        Whether the core starts instructions in the program's order only.
    """

    name: str
    aliases: tuple[str, ...]
    description: str
    arch: str
    cores: int
    frequency_ghz: float
    llvm: Llvm
    zig: Zig
    vector: Vector
    caches: Caches
    layout: Layout
    match: Match | None = None
    device: Device | None = None
    in_order: bool = False

    def __post_init__(self) -> None:
        """Check what concerns several tables."""
        for name in (self.name, *self.aliases):
            require(bool(_NAME.fullmatch(name)), "name", f"{name!r} is not lower-case a-z0-9._-")
            require(name != HOST, "name", f"{HOST!r} is what detection is called")
        require(self.cores > 0, "cores", "must be positive")
        require(self.frequency_ghz > 0, "frequency_ghz", "must be positive")
        host = self.zig.triple.split("-")[0] if self.device else self.arch
        for tool, triple in (("llvm", self.llvm.triple), ("zig", self.zig.triple)):
            begins = triple.split("-")[0]
            require(
                begins == host or (host == "arm" and begins.startswith("armv7")),
                f"{tool}.triple",
                f"{triple!r} does not begin with {'' if self.device else 'arch '}{host!r}",
            )
        block, lanes = self.layout.channel_block, self.lanes_of_a_load
        require(
            block > 0 and block % lanes == 0,
            "layout.channel_block",
            f"{block} is no multiple of the {lanes} lanes of a vector",
        )

    @property
    def is_gpu(self) -> bool:
        """Whether kernels run on a device of their own."""
        return self.device is not None

    @property
    def gpu(self) -> Device:
        """The device of a GPU target.

        Raises
        ------
        InputError
            If the target is a CPU.
        """
        if self.device is None:
            raise InputError(f"{self.name}: is a CPU and has no [device]")
        return self.device

    def require_tf32(self) -> None:
        """Refuse a target whose products cannot be of TF32.

        Raises
        ------
        InputError
            It has no tensor cores for it.
        """
        if self.device is None or not self.device.tf32_tflops:
            raise InputError(f"{self.name}: TF32 is for GPUs with tensor cores for it, from 8.0 on")

    @property
    def lanes_of_a_load(self) -> int:
        """Elements of 32 bits that one instruction of one thread can load."""
        return 4 if self.device else self.vector.f32_lanes

    def llvm_target(self) -> dict[str, Any]:
        """Give what ``tvm.target.Target`` takes for the CPU, or the host of a GPU."""
        return {
            "kind": "llvm",
            "mtriple": self.llvm.triple,
            "mcpu": self.llvm.cpu,
            "mattr": list(self.llvm.features),
            "num-cores": self.cores,
            "opt-level": self.llvm.opt_level,
        }

    @property
    def zig_mcpu(self) -> str:
        """Value of ``zig cc -mcpu=``: zig's CPU name with LLVM's features as zig spells them."""
        features = (re.sub(r"[.-]", "_", feature[1:]) for feature in self.llvm.features)
        signs = (feature[0] for feature in self.llvm.features)
        return self.zig.cpu + "".join(map("".join, zip(signs, features, strict=True)))

    @property
    def byte_dot(self) -> str:
        """The instruction for products of bytes and the width of its vectors: ``pmaddwd.256``.

        One that a feature switched off takes away is replaced by what every x86 has.
        """
        name, bits = self.vector.byte_dot, self.vector.bits
        feature = "avx512vnni" if bits == _AVX512_BITS else "avxvnni"
        if name == "vpdpbusd" and f"-{feature}" in self.llvm.features:
            name = "pmaddwd"
        return name if name == "portable" else f"{name}.{bits}"

    @property
    def converts_float16(self) -> bool:
        """Whether instructions convert float16, as they do on x86 since AVX2 (its F16C)."""
        wide = (
            self.arch == "x86_64" and self.vector.bits > 128 and "-f16c" not in self.llvm.features
        )
        return wide or self.is_gpu or self.arch == "aarch64"

    def with_libc(self, libc: str | None) -> Target:
        """The same machine with another C library, ``gnu`` or ``musl``; itself if None.

        Raises
        ------
        InputError
            If zig has no such library, or only what the file names is known to work.
        """
        if libc is None:
            return self
        kinds = "|".join(LIBCS)
        found = re.fullmatch(rf"(.*-linux-)({kinds})((?:eabihf)?)(\.[0-9.]+)?", self.zig.triple)
        if libc not in LIBCS or found is None:
            raise InputError(f"{self.name}: libc {libc!r} cannot replace that of {self.zig.triple}")
        if libc == found[2]:
            return self
        triple = f"{found[1]}{libc}{found[3]}"
        return replace(self, zig=replace(self.zig, triple=triple))

    def with_threads(self, threads: int | None) -> Target:
        """The same machine with so many cores to use; itself if None, or if it is a GPU."""
        return replace(self, cores=threads) if threads and not self.is_gpu else self

    def to_dict(self) -> dict[str, Any]:
        """Everything but ``match`` as JSON-able data, which :func:`from_dict` reads back."""
        table = dataclasses.asdict(self)
        del table["match"]
        for name in _DERIVED if self.device else ("device",):
            del table[name]
        return table


@dataclass(frozen=True)
class GpuTable:
    """The file of a GPU target; its attributes are those of :class:`Target`."""

    name: str
    aliases: tuple[str, ...]
    description: str
    arch: str
    llvm: Llvm
    zig: Zig
    layout: Layout
    device: Device

    def target(self) -> Target:
        """The target, with the numbers that follow from the device's.

        Raises
        ------
        ValueError
            If they do not fit together.
        """
        device = self.device
        return Target(
            **{field.name: getattr(self, field.name) for field in fields(self)},
            cores=device.multiprocessors,
            frequency_ghz=device.clock_ghz,
            vector=Vector(
                bits=device.warp_threads * _F32_BITS,
                registers=device.registers_per_thread,
                fma_per_cycle=device.f32_lanes / device.warp_threads,
                fma_latency=device.fma_latency,
                loads_per_cycle=device.shared_bytes_per_cycle * 8 / _F32_BITS / device.warp_threads,
                embedded_broadcast=False,
                byte_dot="portable",
            ),
            caches=Caches(
                line_bytes=device.line_bytes,
                l1_bytes=device.shared_bytes_per_sm,
                l2_bytes=device.l2_bytes,
                l3_bytes=0,
                l1_bytes_per_cycle=device.shared_bytes_per_cycle,
                l2_bytes_per_cycle=device.l2_bytes_per_cycle,
                l3_bytes_per_cycle=device.dram_bytes_per_cycle,
                dram_bytes_per_cycle=device.dram_bytes_per_cycle,
            ),
        )


#: What a GPU's file does not have, because it follows from the device.
_DERIVED = ("cores", "frequency_ghz", "vector", "caches", "in_order")


def from_dict(data: dict[str, Any], source: str) -> Target:
    """Make a target from parsed TOML or from :meth:`Target.to_dict`.

    Raises
    ------
    InputError
        If a key is missing, unknown or has a wrong value; the message names ``source`` and the key.
    """
    try:
        if isinstance(data, dict) and "device" in data:
            return from_table(GpuTable, data).target()
        return from_table(Target, data)
    except ValueError as error:
        raise InputError(f"{source}: {error}") from error


def load_file(path: Path) -> Target:
    """Load one TOML file.

    Raises
    ------
    InputError
        If it cannot be read, is no TOML, or describes no target.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a TOML file: {error}") from error
    return from_dict(data, str(path))


def target_files() -> list[Path]:
    """List the files that ship with the package, by name."""
    (folder,) = import_module("tvmconv.targets").__path__
    return sorted(Path(folder).glob("*.toml"))


@cache
def targets() -> dict[str, Target]:
    """Every target that ships with the package, by name."""
    return {path.stem: load_file(path) for path in target_files()}


def load_target(target: str | Path | Target = HOST) -> Target:
    """Find a target.

    Parameters
    ----------
    target : str, Path or Target
        ``"host"`` for the detected machine, a name or an alias, the path of a TOML file (anything
        with a ``/`` or ending in ``.toml``), or a Target, which is returned as it is.

    Raises
    ------
    InputError
        If the name is unknown (the message has the nearest ones), or the file is wrong.
    EnvironmentError_
        If the host cannot be detected.
    """
    if isinstance(target, Target):
        return target
    if target == HOST:
        from tvmconv.host import detect

        return detect()
    if isinstance(target, Path) or "/" in target or target.endswith(".toml"):
        return load_file(Path(target))
    names = {name: known for known in targets().values() for name in (known.name, *known.aliases)}
    if target not in names:
        hint = nearest(target, [*names, HOST]) or "; `tvmconv targets` lists them"
        raise InputError(f"unknown target {target!r}{hint}")
    return names[target]
