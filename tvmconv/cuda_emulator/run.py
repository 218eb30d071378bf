"""Launch emulated kernels on NumPy arrays, through the emulated driver."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tvmconv.cuda_emulator.build import driver
from tvmconv.errors import VerificationError
from tvmconv.runtime.cuda import Driver, Handle

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel.

    Attributes
    ----------
    kernel : str
    grid, block : tuple of int
        Up to three extents each.
    arguments : sequence of arrays and NumPy scalars
        Arrays are copied to the device before the first launch and back after the last one; the
        same array is the same buffer.
    shared_bytes : int
        Dynamic shared memory.
    """

    kernel: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    arguments: Sequence[Any]
    shared_bytes: int = 0


def configure(*, sm: int = 0, order: int = -1) -> None:
    """Choose the emulated device and the order of threads, for this process.

    Parameters
    ----------
    sm : int
        Compute capability, 10·major + minor; 0: ``TVMCONV_EMULATOR_SM`` of the environment, or 80.
    order : int
        0: blocks and the threads of a block run forwards; 1: backwards; more: shuffled by this
        seed; −1: ``TVMCONV_EMULATOR_ORDER`` of the environment, or forwards.
    """
    _library().tvmconv_emulator_configure(sm, order)


def run(image: bytes, launches: Sequence[Launch]) -> None:
    """Run kernels of an image one after the other; arrays among the arguments change in place.

    Parameters
    ----------
    image : bytes
        Of :func:`tvmconv.cuda_emulator.host_image`.
    launches : sequence of Launch

    Raises
    ------
    VerificationError
        What the driver refuses or a kernel does wrong: the code, the kernel, block and thread.
    """
    library = _library()
    library.call("cuInit", 0)
    with library.context():
        module = library.made("cuModuleLoadData", image)
        try:
            _run_all(library, module, launches)
        finally:
            library.cuModuleUnload(module)


def run_both_ways(image: bytes, launches: Sequence[Launch]) -> None:
    """Run with threads and blocks forwards, then backwards, and compare all arrays.

    A race between two threads is seen by the checks in one of the two orders; where an image has
    no checks, its outputs differ.

    Raises
    ------
    VerificationError
        As :func:`run`, or the outputs differ.
    """
    arrays = _arrays(launches)
    before = [array.copy() for array in arrays]
    configure(order=1)
    try:
        run(image, launches)
        backwards = [array.copy() for array in arrays]
        for array, values in zip(arrays, before, strict=True):
            array[...] = values
        configure(order=0)
        run(image, launches)
    finally:
        configure()
    for i, (array, other) in enumerate(zip(arrays, backwards, strict=True)):
        if array.tobytes() != other.tobytes():
            count = int(np.count_nonzero(array != other))
            raise VerificationError(
                f"kernel {launches[-1].kernel}: {count} elements of array {i} depend on the order "
                "of threads"
            )


def _arrays(launches: Sequence[Launch]) -> list[Array]:
    """Each array among the arguments once."""
    found = {
        id(a): a for one in launches for a in one.arguments if isinstance(a, np.ndarray) and a.ndim
    }
    return list(found.values())


def _run_all(library: _Driver, module: Handle, launches: Sequence[Launch]) -> None:
    buffers: dict[int, int] = {}
    try:
        for array in _arrays(launches):
            if not array.flags.c_contiguous:
                raise ValueError("an argument is not contiguous")
            buffers[id(array)] = library.allocate(array.nbytes)
            library.copy(buffers[id(array)], array.ctypes.data, array.nbytes)
        for launch in launches:
            _launch(library, module, launch, buffers)
        library.call("cuStreamSynchronize", None)
        for array in _arrays(launches):
            library.copy(array.ctypes.data, buffers[id(array)], array.nbytes)
    finally:
        for address in buffers.values():
            library.free(address)


def _launch(library: _Driver, module: Handle, launch: Launch, buffers: dict[int, int]) -> None:
    function = library.function(module, launch.kernel, launch.shared_bytes)
    values = [
        ctypes.c_uint64(buffers[id(a)])
        if id(a) in buffers
        else ctypes.create_string_buffer(a.tobytes())
        for a in launch.arguments
    ]
    library.launch(function, launch.grid, launch.block, launch.shared_bytes, values)


class _Driver(Driver):
    """The emulated driver, whose failures are the kernels'."""

    failure = VerificationError


@functools.cache
def _library() -> _Driver:
    return _Driver(str(driver()))
