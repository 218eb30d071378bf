"""The caller's arrays: checked against a model's ports, and copied only where they must be."""

from __future__ import annotations

import ctypes
import math
import mmap
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from tvmconv.errors import InputError
from tvmconv.names import nearest

#: Bytes of a cache line, and from which on an array has pages of its own.
_LINE, _HUGE_PAGE = 64, 2 << 20
_CPU_DEVICES = (1, 3)  # DLPack: CPU, and host memory pinned for CUDA


@dataclass(frozen=True)
class Port:
    """One input or output of a loaded model: its name, shape and element type."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Port:
        """The port that an entry of checked metadata describes."""
        return cls(entry["name"], tuple(entry["shape"]), entry["dtype"])

    @cached_property
    def numpy_dtype(self) -> np.dtype[Any]:
        """NumPy's element type; ``bfloat16`` needs the ``ml_dtypes`` package.

        Raises
        ------
        InputError
            That package is missing.
        """
        if self.dtype != "bfloat16":
            return np.dtype(self.dtype)
        try:
            import ml_dtypes
        except ImportError:
            raise InputError(f"'{self.name}' is bfloat16: pip install ml_dtypes") from None
        dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return dtype

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.numpy_dtype.itemsize


def _from_dlpack(value: Any, what: str) -> npt.NDArray[Any]:
    try:
        device = value.__dlpack_device__()[0]
        if int(device) not in _CPU_DEVICES:
            raise InputError(f"{what}: the array is in the memory of a device, not of the CPU")
        return np.from_dlpack(value)
    except (TypeError, ValueError, RuntimeError, BufferError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{what}: cannot be read as an array: {_line(error)}") from None


def _as_array(value: Any, what: str) -> npt.NDArray[Any]:
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "__dlpack__"):
        return _from_dlpack(value, what)
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{what}: cannot be read as an array: {_line(error)}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _fits(port: Port, array: npt.NDArray[Any]) -> bool:
    return array.dtype == port.numpy_dtype and array.shape == port.shape


def _check(port: Port, array: npt.NDArray[Any], what: str) -> None:
    if array.dtype != port.numpy_dtype:
        raise InputError(f"{what}: expected dtype {port.dtype}, got {array.dtype}")
    if array.shape != port.shape:
        raise InputError(f"{what}: expected shape {_shape(port.shape)}, got {_shape(array.shape)}")


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _by_name(ports: Sequence[Port], given: Mapping[Any, Any]) -> list[Any]:
    names = [port.name for port in ports]
    for name in given:
        if name not in names:
            hint = nearest(str(name), names) or f"; the inputs are {', '.join(names)}"
            raise InputError(f"input '{name}': the model has none of that name{hint}")
    for name in names:
        if name not in given:
            raise InputError(f"input '{name}' is missing")
    return [given[name] for name in names]


def bind_inputs(ports: Sequence[Port], given: Sequence[Any]) -> list[npt.NDArray[Any]]:
    """Bring a call's arguments into the order of the inputs, as contiguous arrays.

    Parameters
    ----------
    ports : sequence of Port
    given : sequence
        An array for each input, or one mapping from names to arrays.

    Returns
    -------
    list of ndarray
        The given memory, except where an array was not contiguous.

    Raises
    ------
    InputError
        The number of arrays, or a name, shape, dtype or device is wrong.
    """
    if len(given) == 1 and isinstance(given[0], Mapping):
        given = _by_name(ports, given[0])
    if len(given) != len(ports):
        names = ", ".join(port.name for port in ports)
        raise InputError(f"expected {len(ports)} inputs ({names}), got {len(given)}")
    arrays = []
    for port, array in zip(ports, given, strict=True):
        if not (type(array) is np.ndarray and _fits(port, array)):
            what = f"input '{port.name}'"
            array = _as_array(array, what)
            _check(port, array, what)
        arrays.append(array if array.flags.carray else np.require(array, None, ["C", "A"]))
    return arrays


def bind_outputs(
    ports: Sequence[Port], out: Sequence[npt.NDArray[Any]], inputs: Sequence[npt.NDArray[Any]]
) -> list[npt.NDArray[Any]]:
    """Check the arrays that the caller gave for the outputs.

    Raises
    ------
    InputError
        A given array is of the wrong shape or dtype, not contiguous, not writable, or overlaps
        an input or another output.
    """
    if isinstance(out, np.ndarray) or len(out) != len(ports):
        raise InputError(f"out: expected a sequence of {len(ports)} arrays")
    for port, array in zip(ports, out, strict=True):
        what = f"output '{port.name}'"
        if not isinstance(array, np.ndarray):
            raise InputError(f"{what}: expected a NumPy array, got {type(array).__name__}")
        _check(port, array, what)
        if not (array.flags.c_contiguous and array.flags.writeable):
            raise InputError(f"{what}: the array is not contiguous and writable")
        if any(np.may_share_memory(array, source) for source in inputs):
            raise InputError(f"{what}: the array overlaps an input")
    if any(np.may_share_memory(a, b) for a, b in combinations(out, 2)):
        raise InputError("out: two of the arrays overlap")
    return list(out)


def pointers(arrays: Sequence[npt.NDArray[Any]]) -> ctypes.Array[ctypes.c_void_p]:
    """Addresses of arrays, as C takes them."""
    return _addresses(len(arrays))(*[a.ctypes.data for a in arrays])


@cache
def _addresses(count: int) -> type[ctypes.Array[ctypes.c_void_p]]:
    return ctypes.c_void_p * max(count, 1)


class OutputSet:
    """Arrays for all outputs of a model, and their addresses.

    They begin at cache lines; large ones are in huge pages, if the system gives any.
    """

    def __init__(self, ports: Sequence[Port]) -> None:
        self.arrays = [_aligned(port) for port in ports]
        self.pointers = pointers(self.arrays)
        self._alone = self._references()

    def _references(self) -> list[int]:
        return [sys.getrefcount(array) for array in self.arrays]

    @property
    def is_free(self) -> bool:
        """Whether nobody else refers to any of the arrays, directly or by a view."""
        return self._references() == self._alone


def poisoned(ports: Sequence[Port]) -> list[npt.NDArray[Any]]:
    """Arrays whose bits are all ones: no number as floats, and -1 or the largest as integers."""
    arrays = [_aligned(port) for port in ports]
    for array in arrays:
        array.reshape(-1).view(np.uint8)[:] = 0xFF
    return arrays


class OutputSets:
    """What a model writes its outputs to: new arrays, or such as nobody refers to any more.

    Two sets are kept, because a caller usually has the last results while it asks for the next.
    """

    _KEPT = 2

    def __init__(self, ports: Sequence[Port]) -> None:
        self._ports = ports
        self._sets: list[OutputSet] = []
        # Without the lock of the interpreter the number of references says nothing.
        self._reuses = getattr(sys, "_is_gil_enabled", lambda: True)()

    def take(self) -> OutputSet:
        """A set that nobody uses; one caller at a time."""
        for known in self._sets:
            if self._reuses and known.is_free:
                return known
        made = OutputSet(self._ports)
        self._sets = [made, *self._sets][: self._KEPT]
        return made


def _aligned(port: Port) -> npt.NDArray[Any]:
    """An array at a multiple of 64 bytes; every view of it refers to it, not to its memory."""
    nbytes = max(1, math.prod(port.shape) * port.numpy_dtype.itemsize)
    if nbytes < _HUGE_PAGE:
        memory: bytearray | mmap.mmap = bytearray(nbytes + _LINE)
        offset = -ctypes.addressof(ctypes.c_char.from_buffer(memory)) % _LINE
    else:
        memory, offset = mmap.mmap(-1, nbytes), 0
        if hasattr(mmap, "MADV_HUGEPAGE"):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.ndarray(port.shape, port.numpy_dtype, memory, offset)
