"""Load an artifact and call it with arrays. TVM is not needed."""

from __future__ import annotations

import _ctypes
import ctypes
import os
import shutil
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy.typing as npt

from tvmconv.errors import EnvironmentError_, InputError, TvmconvError
from tvmconv.files import check_output_file, replacing
from tvmconv.runtime.arrays import OutputSets, Port, bind_inputs, bind_outputs, pointers
from tvmconv.runtime.elf import SHARED_LIBRARY, ElfFile, Machine, MalformedFile
from tvmconv.runtime.inspect import DEFAULT_PREFIX, read_metadata

_POINTERS = ctypes.POINTER(ctypes.c_void_p)
_NO_MEMORY, _NO_DEVICE = 2, 5  # TVMCONV_NO_MEMORY, TVMCONV_NO_DEVICE


def load(path: str | Path, threads: int | None = None, name: str | None = None) -> Module:
    """Load an artifact.

    Parameters
    ----------
    path : str or Path
        A shared library that was made for this machine.
    threads : int, optional
        Threads that a run uses, the calling one included. Left out: as many as the model was
        compiled for, or one a physical core; never more than the CPUs of this process.
    name : str, optional
        What messages call it. Left out: its path.

    Returns
    -------
    Module

    Raises
    ------
    InputError
        The file is missing, is no artifact, is truncated, or is for another machine; or
        ``threads`` is not positive.
    EnvironmentError_
        Memory or threads for it cannot be had, or the GPU that it needs.
    """
    return Module(path, threads, name)


class Module:
    """A loaded model: ``outputs = module(x)``, or ``module({"name": array})``.

    Calls from several threads take turns; several modules run concurrently. The file may be
    replaced or removed while it is loaded.

    Attributes
    ----------
    metadata : dict
        Names, shapes, dtypes, target, versions, memory.
    inputs, outputs : tuple of Port
        In order; a port has ``name``, ``shape`` and ``dtype``.
    """

    metadata: dict[str, Any]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def __init__(
        self, path: str | Path, threads: int | None = None, name: str | None = None
    ) -> None:
        if threads is not None and threads < 1:
            raise InputError(f"threads: {threads} is not positive")
        self._name = name or str(path)
        place = Path(path)
        self._lock = threading.Lock()
        try:
            self._file = place.open("rb")
        except OSError as error:
            raise InputError(f"{self._name}: cannot be read: {error.strerror}") from None
        try:
            elf, self.metadata = read_metadata(self._file)
            _check_machine(elf)
            self.inputs = tuple(map(Port.of, self.metadata["inputs"]))
            self.outputs = tuple(map(Port.of, self.metadata["outputs"]))
            self._free = OutputSets(self.outputs)
            prefix = self.metadata.get("prefix", DEFAULT_PREFIX)
            self._library = _Library(self._file, prefix)
            self._model = self._create(threads or 0)
        except MalformedFile as error:
            self._file.close()
            raise InputError(f"{self._name}: {error}") from None
        except BaseException:
            self._file.close()
            raise
        self._end = weakref.finalize(self, _end, self._library, self._model, self._file)

    def _create(self, threads: int) -> ctypes.c_void_p:
        model = ctypes.c_void_p()
        code = self._library.create(ctypes.byref(model), threads)
        if code:
            reason = self._library.error()
            self._library.close()
            kind = EnvironmentError_ if code in (_NO_MEMORY, _NO_DEVICE) else InputError
            raise kind(f"{self._name}: cannot be started: {reason}")
        return model

    def __call__(
        self, *inputs: Any, out: Sequence[npt.NDArray[Any]] | None = None
    ) -> list[npt.NDArray[Any]]:
        """Run the model.

        Parameters
        ----------
        *inputs : array, or one mapping of str to array
            NumPy or DLPack arrays in CPU memory of the right shapes and dtypes. Contiguous ones
            are not copied.
        out : sequence of ndarray, optional
            Where to write the outputs: contiguous, writable, not overlapping each other or an
            input.

        Returns
        -------
        list of ndarray
            Those of ``out``, or new arrays; memory of earlier results is used again once nothing
            refers to them, views included.

        Raises
        ------
        InputError
            The number of arrays, or a name, shape or dtype is wrong, or the module is closed.
        TvmconvError
            A kernel of the model failed.
        """
        return self._run(inputs, out, self._library.run)

    def profile(
        self, *inputs: Any, out: Sequence[npt.NDArray[Any]] | None = None
    ) -> list[tuple[str, float]]:
        """Run the model and time its steps.

        Takes and raises what a call does.

        Returns
        -------
        list of (str, float)
            Name and wall-clock seconds of each step, in execution order.
        """
        names = [step["name"] for step in self.metadata["steps"]]
        times = (ctypes.c_double * max(len(names), 1))()
        function = self._library.profile
        self._run(inputs, out, lambda *arguments: int(function(*arguments, times)))
        return list(zip(names, times, strict=False))

    def replay(self, runs: int) -> float:
        """Seconds of one of so many runs in a row on a GPU, by its own clock.

        The inputs are those of the latest call; neither they nor the outputs are copied.

        Raises
        ------
        InputError
            The model is for a CPU, or the module is closed.
        TvmconvError
            A kernel failed.
        """
        seconds = ctypes.c_double()
        with self._lock:
            if not self._end.alive:
                raise InputError(f"{self._name}: the module is closed")
            if self._library.replay is None:
                raise InputError(f"{self._name}: only models for GPUs are replayed")
            code = self._library.replay(self._model, runs, ctypes.byref(seconds))
            reason = self._library.error() if code else ""
        if code:
            raise TvmconvError(f"{self._name}: cannot run: {reason}")
        return seconds.value

    def _run(
        self,
        arrays: tuple[Any, ...],
        out: Sequence[npt.NDArray[Any]] | None,
        function: Callable[..., int],
    ) -> list[npt.NDArray[Any]]:
        given = bind_inputs(self.inputs, arrays)
        results = [] if out is None else bind_outputs(self.outputs, out, given)
        with self._lock:
            if not self._end.alive:
                raise InputError(f"{self._name}: the module is closed")
            if out is None:
                free = self._free.take()
                results, places = [*free.arrays], free.pointers
            else:
                places = pointers(results)
            code = function(self._model, pointers(given), places)
            reason = self._library.error() if code else ""
        if code:
            raise TvmconvError(f"{self._name}: cannot run: {reason}")
        return results

    def save(self, path: str | Path) -> None:
        """Copy the artifact to a file, which appears whole or not at all.

        Raises
        ------
        InputError
            The module is closed, or the file cannot be written there.
        EnvironmentError_
            The system refuses to write, or the disk is full.
        """
        path = Path(path)
        check_output_file(path)
        with self._lock:
            if not self._end.alive:
                raise InputError(f"{self._name}: the module is closed")
            with replacing(path) as unfinished:
                with unfinished.open("wb") as file:
                    self._file.seek(0)
                    shutil.copyfileobj(self._file, file, 1 << 24)
                    file.flush()
                    os.fsync(file.fileno())
                mode = unfinished.stat().st_mode
                unfinished.chmod(mode | (mode & 0o444) >> 2)  # who may read it may run it

    def close(self) -> None:
        """End the model's threads and release its memory; a second time does nothing."""
        with self._lock:
            self._end()

    def __enter__(self) -> Module:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        def ports(values: Sequence[Port]) -> str:
            return ", ".join(f"{p.name}: {p.dtype}{list(p.shape)}" for p in values)

        return f"Module({self._name!r}: {ports(self.inputs)} -> {ports(self.outputs)})"


def _end(library: _Library, model: ctypes.c_void_p, file: BinaryIO) -> None:
    library.destroy(model)
    library.close()
    file.close()


def _check_machine(elf: ElfFile) -> None:
    if elf.kind != SHARED_LIBRARY:
        raise MalformedFile("is a static library, which can be linked but not loaded")
    with Path(sys.executable).open("rb") as file:
        here = Machine.of(file.read(64))
    if (here.number, here.bits, here.order) != (
        elf.machine.number,
        elf.machine.bits,
        elf.machine.order,
    ):
        told = f"is for {elf.machine.name}, and this machine is {here.name}"
        raise MalformedFile(f"{told}; --runner runs it elsewhere")


class _Library:
    """A loaded library and the functions of its interface.

    The system would take a path that it has loaded before for the same library, even if the file
    was replaced since; so each load goes through a link of a new name.
    """

    def __init__(self, file: BinaryIO, prefix: str) -> None:
        try:
            with tempfile.TemporaryDirectory(prefix="tvmconv-") as folder:
                link = Path(folder) / "model.so"
                link.symlink_to(f"/proc/self/fd/{file.fileno()}")
                self._library = ctypes.CDLL(str(link))
        except OSError as error:
            reason = str(error).rpartition("model.so: ")[2]
            raise MalformedFile(f"cannot be loaded: {reason}") from None
        doubles = ctypes.POINTER(ctypes.c_double)
        ports = [ctypes.c_void_p, _POINTERS, _POINTERS]
        try:
            self.create = self._function(f"{prefix}_create", [_POINTERS, ctypes.c_int])
            self.run = self._function(f"{prefix}_run", ports)
            self.profile = self._function(f"{prefix}_profile", [*ports, doubles])
            self.destroy = self._function(f"{prefix}_destroy", [ctypes.c_void_p])
            self._error = self._function(f"{prefix}_error", [])
        except AttributeError as error:
            self.close()
            told = str(error).replace(str(link), "it")
            raise MalformedFile(f"is not a compiled model: {told}") from None
        try:
            types = [ctypes.c_void_p, ctypes.c_int, doubles]
            self.replay = self._function(f"{prefix}_replay", types)
        except AttributeError:  # of a model for a CPU
            self.replay = None
        self.destroy.restype = None
        self._error.restype = ctypes.c_char_p

    def _function(self, name: str, types: list[Any]) -> Any:
        function = self._library[name]
        function.argtypes = types
        return function

    def error(self) -> str:
        """What the calling thread's latest failed call says."""
        text: bytes = self._error()
        return text.decode("utf-8", "replace")

    def close(self) -> None:
        """Unload it."""
        _ctypes.dlclose(self._library._handle)
