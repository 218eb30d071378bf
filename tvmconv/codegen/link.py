"""Compile C and link artifacts with zig: one package has every target's compiler, linker, libc."""

from __future__ import annotations

import errno
import importlib.util
import logging
import os
import stat
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tvmconv.errors import EnvironmentError_, InputError
from tvmconv.runtime.inspect import DEFAULT_PREFIX

#: What the functions of the C interface, in every artifact, are called after their prefix.
_ABI_NAMES = ("create", "run", "destroy", "metadata", "error", "profile")
#: What those for a GPU have besides.
GPU_NAMES = ("replay",)
TVM_SYMBOL = "__tvm_ffi_main"

_LOG = logging.getLogger(__name__)
#: Longer than zig takes for what it has done before.
_LONG_S = 5.0

COMPILE_FLAGS = (
    "-std=c11",
    "-O3",
    "-g0",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffunction-sections",
    "-fno-sanitize=undefined",
    "-fno-addrsig",
    "-Wall",
    "-Wextra",
)
# Without -O3 and -fno-sanitize zig would build and link its debugging runtime.
LINK_FLAGS = (
    "-O3",
    "-fno-sanitize=undefined",
    "-shared",
    "-Wl,--gc-sections",
    "-Wl,--strip-debug",
    "-Wl,-z,noexecstack",
    "-Wl,-z,defs",
    "-Wl,-Bsymbolic",
    "-Wl,--version-script=exports.map",
    "-lpthread",
    "-lm",
)


def abi_symbols(prefix: str = DEFAULT_PREFIX, more: Sequence[str] = ()) -> tuple[str, ...]:
    """The symbols of the C interface of an artifact with this prefix, with some functions more."""
    return tuple(f"{prefix}_{name}" for name in (*_ABI_NAMES, *more))


def rename_flags(prefix: str) -> list[str]:
    """Compiler flags under which the runtime's sources define the interface with this prefix."""
    if prefix == DEFAULT_PREFIX:
        return []
    pairs = zip(abi_symbols(more=GPU_NAMES), abi_symbols(prefix, GPU_NAMES), strict=True)
    return [f"-D{plain}={prefixed}" for plain, prefixed in pairs]


def static_triple(triple: str) -> str:
    """The same system with musl instead of glibc, for static programs.

    Raises
    ------
    InputError
        The triple is not one of Linux with glibc or musl.
    """
    arch, system, libc = (*triple.split("-", 2), "", "")[:3]
    family = libc.partition(".")[0]
    if system != "linux" or not family.startswith(("gnu", "musl")):
        raise InputError(f"no static program can be made for {triple}, only for Linux")
    return f"{arch}-linux-{family.replace('gnu', 'musl', 1)}"


def _cache_environment() -> dict[str, str]:
    """The environment for zig: its cache goes elsewhere if its usual place cannot be written."""
    environment = dict(os.environ)
    if "ZIG_GLOBAL_CACHE_DIR" in environment:
        return environment
    base = environment.get("XDG_CACHE_HOME") or str(Path("~").expanduser() / ".cache")
    try:
        (Path(base) / "zig").mkdir(parents=True, exist_ok=True)
        usable = os.access(Path(base) / "zig", os.W_OK)
    except OSError:
        usable = False
    if not usable:
        environment["ZIG_GLOBAL_CACHE_DIR"] = str(_temporary_cache())
    return environment


def _temporary_cache() -> Path:
    """A cache in the folder for temporary files, where others could plant one for this user."""
    path = Path(tempfile.gettempdir()) / f"tvmconv-zig-{os.getuid()}"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        facts = path.lstat()
    except OSError as error:
        raise EnvironmentError_(f"no folder for zig's cache: {path}: {error.strerror}") from None
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_mode & 0o022:
        raise EnvironmentError_(f"no folder for zig's cache: {path} can be written by others")
    return path


def _executable(action: str) -> str:
    """The program in the ziglang package; ``python -m ziglang`` would start Python once more."""
    spec = importlib.util.find_spec("ziglang")
    if spec is None or spec.origin is None:
        raise EnvironmentError_(f"cannot {action}: zig is missing: pip install ziglang")
    return str(Path(spec.origin).with_name("zig"))


@contextmanager
def _told_if_long() -> Iterator[None]:
    """Say why zig may take long, once it does."""
    timer = threading.Timer(_LONG_S, _say_why)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@cache  # once a process
def _say_why() -> None:
    """Warn: where nobody has set up logging, that is a line on standard error."""
    _LOG.warning("zig builds a system's C library when it is first used; this may take a minute")


def zig(arguments: Sequence[str], folder: Path, action: str) -> None:
    """Run one zig command in a folder.

    Parameters
    ----------
    arguments : sequence of str
        What follows ``zig``.
    folder : Path
        Working directory.
    action : str
        What is being done, for the message, such as "link the model".

    Raises
    ------
    EnvironmentError_
        zig is not installed, cannot be started, or fails; the message has its first error line.
    """
    try:
        with _told_if_long():
            result = subprocess.run(
                [_executable(action), *arguments],
                cwd=folder,
                env=_cache_environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
    except OSError as error:
        raise EnvironmentError_(f"cannot {action}: zig cannot be started: {error}") from None
    if result.returncode:
        lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
        told = next((line for line in lines if "error" in line.lower()), " ".join(lines[-1:]))
        if os.strerror(errno.ENOSPC) in result.stderr or "NoSpaceLeft" in result.stderr:
            told = os.strerror(errno.ENOSPC)
        elif result.returncode < 0:  # how the linker ends where its output cannot grow
            told = f"ended by signal {-result.returncode}; is the disk full?"
        raise EnvironmentError_(f"cannot {action}: zig: {told or f'exit {result.returncode}'}")


def compile_sources(
    sources: Sequence[Path], folder: Path, include: Path, triple: str, cpu_flags: Sequence[str]
) -> list[Path]:
    """Compile C files to objects in a folder; zig's cache makes it cheap for unchanged ones.

    Parameters
    ----------
    sources : sequence of Path
    folder : Path
        Where the objects go.
    include : Path
        Folder of the headers.
    triple : str
        zig's name of the system, such as ``x86_64-linux-gnu.2.17``.
    cpu_flags : sequence of str
        Such as ``-mcpu=znver3``.

    Raises
    ------
    EnvironmentError_
        As :func:`zig`.
    """
    flags = ["-target", triple, *cpu_flags, *COMPILE_FLAGS, "-I", str(include)]
    objects = [folder / f"{source.stem}.o" for source in sources]
    for source, output in zip(sources, objects, strict=True):  # zig takes one -c at a time
        # An absolute name cannot be taken for an option.
        command = ["cc", *flags, "-c", str(source.resolve()), "-o", str(output)]
        zig(command, folder, f"compile {source.name} for {triple}")
    return objects


def link_shared(
    objects: Sequence[Path],
    output: Path,
    triple: str,
    exports: Sequence[str],
    label: str,
    libraries: Sequence[str] = (),
    soname: str = "",
) -> None:
    """Link objects to a shared library that exports only the named symbols.

    Parameters
    ----------
    objects : sequence of Path
    output : Path
    triple : str
    exports : sequence of str
    label : str
        What messages call the output.
    libraries : sequence of str
        Of the system, besides those of threads and mathematics.
    soname : str
        The name under which programs that are linked with it look for it; empty for none.

    Raises
    ------
    EnvironmentError_
        As :func:`zig`.
    OSError
        The list of exports cannot be written.
    """
    folder = objects[0].parent
    names = "; ".join(exports)
    (folder / "exports.map").write_text(f"{{ global: {names}; local: *; }};\n")
    files = [*(str(path) for path in objects), *(f"-l{name}" for name in libraries)]
    named = [f"-Wl,-soname,{soname}"] if soname else []
    command = ["cc", "-target", triple, *LINK_FLAGS, *named, *files, "-o", str(output)]
    zig(command, folder, f"link {label}")


def link_relocatable(objects: Sequence[Path], output: Path) -> None:
    """Join objects to one, whose symbols are those of all.

    Raises
    ------
    EnvironmentError_
        As :func:`zig`.
    """
    files = [str(path) for path in objects]
    command = ["ld.lld", "-r", "--strip-debug", *files, "-o", str(output)]
    zig(command, objects[0].parent, "join the objects")


def link_program(
    objects: Sequence[Path], output: Path, triple: str, label: str, *, static: bool = True
) -> None:
    """Link objects and libraries to a program, a static one unless they have shared libraries.

    Raises
    ------
    EnvironmentError_
        As :func:`zig`.
    """
    files = [str(path) for path in objects]
    kind = ["-static"] if static else ["-Wl,-rpath,$ORIGIN"]
    flags = ["-O3", "-fno-sanitize=undefined", "-s", "-Wl,--gc-sections", "-lpthread", "-lm"]
    command = ["cc", "-target", triple, *kind, *files, *flags, "-o", str(output)]
    zig(command, output.parent, f"link {label}")


def archive(member: Path, output: Path, label: str) -> None:
    """Make a static library of one object; messages call it ``label``.

    Raises
    ------
    EnvironmentError_
        As :func:`zig`.
    """
    command = ["ar", "rcsD", str(output), member.name]
    zig(command, member.parent, f"write {label}")
