"""Compile the emulator and images of kernels, by zig, for this machine."""

from __future__ import annotations

import atexit
import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from tvmconv.codegen.link import zig
from tvmconv.cuda_emulator.translate import translate
from tvmconv.files import replacing
from tvmconv.host import CPUINFO

_HERE = Path(__file__).parent
_RUNTIME = _HERE.parent / "runtime"
_CORE = ("core", "fibres", "memory", "spaces", "copies", "warp")
_DRIVER = ("driver", "driver_module", "driver_memory", "driver_stream")
_C = (
    "-mcpu=native", "-g0", "-fPIC", "-fvisibility=hidden", "-fno-sanitize=undefined",
    "-ffp-contract=on", "-fno-strict-aliasing",
)  # fmt: skip
#: Neighbouring scalars do not become vectors, whose addresses would be checked as such.
_CPLUSPLUS = (
    *_C, "-std=c++17", "-nostdinc++", "-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics",
    "-fno-math-errno", "-fno-vectorize", "-fno-slp-vectorize", "-Wno-everything",
    "-D__CUDACC_VER_MAJOR__=12", "-D__CUDACC_VER_MINOR__=8",
)  # fmt: skip
#: How the lines of ``/proc/cpuinfo`` begin that list instructions: on x86, Arm and RISC-V.
_FEATURES = ("flags", "Features", "isa")
#: Makes the compiler call the core before every access to memory; no other part of it is used.
_CHECKED = ("-fsanitize=thread", "-mllvm", "-tsan-instrument-func-entry-exit=0",
            "-fno-slp-vectorize", "-fno-vectorize")  # fmt: skip
_LINK = (
    "-mcpu=native", "-O3", "-fno-sanitize=undefined", "-shared", "-Wl,-z,noexecstack",
    "-Wl,-z,defs", "-Wl,-Bsymbolic", "-Wl,--strip-debug",
)  # fmt: skip


def host_image(
    source: str,
    *,
    extents: Mapping[str, Sequence[int]] | None = None,
    sm: int = 80,
    checked: bool = True,
) -> bytes:
    """Compile CUDA C++ for this machine: what the emulated driver loads in place of a cubin.

    Parameters
    ----------
    source : str
        A translation unit with kernels, as NVRTC takes it.
    extents : mapping, optional
        For a kernel, the bytes of the buffer of each parameter, in order; 0 if it is no pointer.
        Accesses outside are errors. Without, those outside of the allocation are.
    sm : int
        The compute capability that the source sees, 10·major + minor.
    checked : bool
        Check every access to memory for its bounds and for races. Without, kernels run several
        times faster, and only what leaves an allocation by pages is noticed.

    Raises
    ------
    InputError
        The source has something that the emulator does not have.
    EnvironmentError_
        It does not compile, or zig is missing.
    """
    text = translate(source, extents)
    core = _build_folder() / "core.o"
    with tempfile.TemporaryDirectory(prefix="tvmconv-emulator-") as name:
        folder = Path(name)
        (folder / "kernels.cpp").write_text(text, encoding="utf-8")
        flags = [*_CPLUSPLUS, *(_CHECKED if checked else ()), f"-D__CUDA_ARCH__={10 * sm}"]
        include = ["-I", str(_HERE / "include"), "-I", str(_HERE)]
        command = ["cc", *flags, "-O2", *include, "-c", "kernels.cpp", "-o", "kernels.o"]
        zig(command, folder, "compile the kernels for the emulator")
        command = ["cc", *_LINK, "kernels.o", str(core), "-lm", "-o", "kernels.so"]
        zig(command, folder, "link the kernels for the emulator")
        return (folder / "kernels.so").read_bytes()


def driver() -> Path:
    """The emulated ``libcuda.so.1``, compiled at the first call and kept in the user's cache.

    Raises
    ------
    EnvironmentError_
        zig is missing, or the disk is full.
    """
    return _build_folder() / "libcuda.so.1"


@functools.cache
def _build_folder() -> Path:
    """The folder with the driver and the core, compiled from the sources as they are.

    For this CPU: a cache can be shared with machines that lack some of its instructions.
    """
    sources = [*_HERE.glob("*.[ch]"), _RUNTIME / "cuda_driver.h"]
    digest = hashlib.sha256(version("ziglang").encode())
    digest.update(_cpu_features(CPUINFO.read_text(encoding="utf-8", errors="replace")).encode())
    for path in sorted(sources):
        digest.update(path.read_bytes())
    folder = _cache_folder() / f"emulator-{digest.hexdigest()[:16]}"
    folder.mkdir(exist_ok=True, mode=0o700)
    if not (folder / "core.o").exists():
        _build_core(folder)
    if not (folder / "libcuda.so.1").exists():
        _build_driver(folder)
    return folder


def _cpu_features(cpuinfo: str) -> str:
    """What ``/proc/cpuinfo`` says of the instructions of the CPUs, in whatever order."""
    lines = {line for line in cpuinfo.splitlines() if line.startswith(_FEATURES)}
    return " ".join(sorted({word for line in lines for word in line.partition(":")[2].split()}))


def _cache_folder() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path("~").expanduser() / ".cache")
    folder = base / "tvmconv"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        usable = os.access(folder, os.W_OK)
    except OSError:
        usable = False
    if usable:
        return folder
    temporary = Path(tempfile.mkdtemp(prefix="tvmconv-"))
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return temporary


def _build_core(folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="tvmconv-emulator-") as name:
        objects = _objects(_CORE, Path(name), ["-O3", "-fomit-frame-pointer"])
        with replacing(folder / "core.o") as output:
            zig(["ld.lld", "-r", *objects, "-o", str(output)], Path(name), "link the emulator")


def _build_driver(folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="tvmconv-emulator-") as name:
        objects = _objects(_DRIVER, Path(name), ["-O2", "-I", str(_RUNTIME)])
        with replacing(folder / "libcuda.so.1") as output:
            command = ["cc", *_LINK, *objects, "-lpthread", "-ldl", "-o", str(output)]
            zig(command, Path(name), "link the emulated driver")


def _objects(sources: Sequence[str], folder: Path, flags: Sequence[str]) -> list[str]:
    """Compile sources of this folder to objects in another."""
    warnings = ("-Wall", "-Wextra")
    for source in sources:
        file = str(_HERE / f"{source}.c")
        command = ["cc", *_C, "-std=gnu11", *warnings, *flags, "-I", str(_HERE), "-c", file]
        zig([*command, "-o", f"{source}.o"], folder, "compile the emulator")
    return [f"{source}.o" for source in sources]
