"""Compile CUDA C++ to machine code with NVRTC from PyPI, or with an nvcc that is named.

Neither a GPU nor a driver nor a CUDA toolkit is needed. The two headers of libcu++ that TVM's
preamble includes come from :data:`_HEADERS`, which spares a package of 10 MB and most of the time.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

from tvmconv.errors import EnvironmentError_

_INSTALL = "pip install 'tvmconv[cuda]'"
_FLAGS = ("--std=c++17",)
#: The name by which messages of the compiler call the source.
FILE = "kernels.cu"

_HEADERS = {
    "cuda/std/cstdint": """#pragma once
namespace cuda { namespace std {
typedef signed char int8_t; typedef unsigned char uint8_t;
typedef short int16_t; typedef unsigned short uint16_t;
typedef int int32_t; typedef unsigned int uint32_t;
typedef long long int64_t; typedef unsigned long long uint64_t;
} }
""",
    "cuda/std/type_traits": """#pragma once
namespace cuda { namespace std {
template <bool V> struct bool_constant { static constexpr bool value = V; };
template <class A, class B> struct is_same : bool_constant<false> {};
template <class A> struct is_same<A, A> : bool_constant<true> {};
template <class A, class B> inline constexpr bool is_same_v = is_same<A, B>::value;
template <class T> struct is_integral;
template <class T> struct is_floating_point;
template <class T> struct is_signed : bool_constant<(T(-1) < T(0))> {};
template <class T> struct is_unsigned : bool_constant<(T(0) < T(-1))> {};
template <bool C, class T = void> struct enable_if {};
template <class T> struct enable_if<true, T> { typedef T type; };
template <bool C, class T, class F> struct conditional { typedef T type; };
template <class T, class F> struct conditional<false, T, F> { typedef F type; };
} }
""",
}


class CompileError(Exception):
    """The compiler refuses the source; the text is its log."""


@dataclass(frozen=True)
class Compiled:
    """What a compiler made of a source.

    Attributes
    ----------
    code : bytes
        A cubin, or the text of PTX without a final zero.
    log : str
        With the assembler's report of what each kernel uses.
    """

    code: bytes
    log: str


class Compiler(Protocol):
    """Compiles CUDA C++."""

    #: For metadata: which compiler and version.
    name: str

    def capabilities(self) -> list[int]:
        """Compute capabilities that it knows, in order."""

    def cubin(self, source: str, sm: int) -> Compiled:
        """Machine code for a compute capability."""

    def ptx(self, source: str, sm: int) -> Compiled:
        """PTX for a compute capability and all later ones."""


def compiler(nvcc: Path | None = None) -> Compiler:
    """The compiler to use.

    Parameters
    ----------
    nvcc : Path, optional
        A system's compiler; NVRTC if left out.

    Raises
    ------
    EnvironmentError_
        There is none.
    """
    return Nvcc(nvcc) if nvcc else Nvrtc.find()


class Nvrtc:
    """NVIDIA's compiler as a library."""

    def __init__(self, library: ctypes.CDLL, include: Path | None) -> None:
        self._library = library
        self._include = include
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        major, minor = ctypes.c_int(), ctypes.c_int()
        library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        self.name = f"NVRTC {major.value}.{minor.value}"

    @staticmethod
    @cache
    def find() -> Nvrtc:
        """The newest library in NVIDIA's packages, those for CUDA 12 first: older drivers load it.

        Raises
        ------
        EnvironmentError_
            There is none, or it cannot be loaded.
        """
        action = "cannot compile for CUDA"
        found = [path for folder in package_folders() for path in folder.glob("lib/libnvrtc.so.*")]
        if not found:
            raise EnvironmentError_(f"{action}: NVRTC is missing: {_INSTALL}")
        path = max(found, key=lambda path: (path.suffix == ".12", _version(path)))
        try:
            library = ctypes.CDLL(str(path))
        except OSError as error:
            raise EnvironmentError_(f"{action}: {error}; {_INSTALL}") from None
        headers = [f / "include" for f in package_folders() if (f / "include/cuda_fp16.h").exists()]
        own = [folder for folder in headers if folder.parent == path.parent.parent]
        return Nvrtc(library, next(iter([*own, *headers]), None))

    def capabilities(self) -> list[int]:
        """Compute capabilities; see :class:`Compiler`."""
        count = ctypes.c_int()
        self._library.nvrtcGetNumSupportedArchs(ctypes.byref(count))
        numbers = (ctypes.c_int * count.value)()
        self._library.nvrtcGetSupportedArchs(numbers)
        return sorted(numbers)

    def cubin(self, source: str, sm: int) -> Compiled:
        """Machine code; see :class:`Compiler`."""
        return self._compile(source, f"sm_{sm}", "CUBIN")

    def ptx(self, source: str, sm: int) -> Compiled:
        """PTX; see :class:`Compiler`."""
        made = self._compile(source, f"compute_{sm}", "PTX")
        return Compiled(made.code.rstrip(b"\0"), made.log)

    def _compile(self, source: str, arch: str, kind: str) -> Compiled:
        library, program = self._library, ctypes.c_void_p()
        strings = ctypes.c_char_p * len(_HEADERS)
        texts = strings(*(text.encode() for text in _HEADERS.values()))
        names = strings(*(name.encode() for name in _HEADERS))
        library.nvrtcCreateProgram(
            ctypes.byref(program), source.encode(), FILE.encode(), len(names), texts, names
        )
        options = [f"--gpu-architecture={arch}", *_FLAGS, "--ptxas-options=-v"]
        options += [f"--include-path={self._include}"] if self._include else []
        encoded = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        try:
            code = library.nvrtcCompileProgram(program, len(options), encoded)
            log = self._text(program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
            if code:
                raise CompileError(log or library.nvrtcGetErrorString(code).decode())
            return Compiled(self._text(program, kind), log)
        finally:
            library.nvrtcDestroyProgram(ctypes.byref(program))

    def _text(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        getattr(self._library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        getattr(self._library, f"nvrtcGet{what}")(program, buffer)
        return buffer.raw


class Nvcc:
    """The compiler of an installed CUDA toolkit."""

    def __init__(self, path: Path) -> None:
        self._path = path
        version = re.search(r"release ([0-9.]+)", self._run(["--version"]).stdout)
        if version is None:
            raise EnvironmentError_(f"{path}: is no nvcc")
        self.name = f"nvcc {version[1]}"

    def capabilities(self) -> list[int]:
        """Compute capabilities; see :class:`Compiler`."""
        listed = re.findall(r"\bsm_(\d+)\s", self._run(["--list-gpu-code"]).stdout + "\n")
        return sorted(map(int, listed))

    def cubin(self, source: str, sm: int) -> Compiled:
        """Machine code; see :class:`Compiler`."""
        return self._compile(source, ["-cubin", f"-arch=sm_{sm}", "-Xptxas", "-v"])

    def ptx(self, source: str, sm: int) -> Compiled:
        """PTX; see :class:`Compiler`."""
        return self._compile(source, ["-ptx", f"-arch=compute_{sm}"])

    def _compile(self, source: str, options: Sequence[str]) -> Compiled:
        with tempfile.TemporaryDirectory(prefix="tvmconv-") as folder:
            path, output = Path(folder) / FILE, Path(folder) / "kernels.out"
            path.write_text(source, encoding="utf-8")
            result = self._run([*options, *_FLAGS, str(path), "-o", str(output)])
            if result.returncode:
                raise CompileError(result.stderr)
            return Compiled(output.read_bytes(), result.stderr)

    def _run(self, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                [str(self._path), *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
        except OSError as error:
            raise EnvironmentError_(f"{self._path}: cannot be started: {error.strerror}") from None


def _version(library: Path) -> tuple[int, ...]:
    """Version of a library NVRTC: its name has the major one, that of what it loads all of it."""
    names = [library.name, *(p.name for p in library.parent.glob("libnvrtc-builtins.so.*"))]
    return max(tuple(map(int, re.findall(r"\d+", name.partition(".so")[2]))) for name in names)


def package_folders() -> list[Path]:
    """The folders of NVIDIA's packages, wherever Python finds them."""
    spec = importlib.util.find_spec("nvidia")
    roots = spec.submodule_search_locations if spec else None
    return [path for root in roots or () for path in sorted(Path(root).glob("*")) if path.is_dir()]
