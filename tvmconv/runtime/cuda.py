"""The CUDA driver from Python, found as the runtime of a model finds it; nothing else of CUDA."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from tvmconv.errors import EnvironmentError_, TvmconvError

if TYPE_CHECKING:
    from tvmconv.target import Target

#: As in cuda_driver.c.
_LIBRARY, _VARIABLE = "libcuda.so.1", "TVMCONV_CUDA_DRIVER"
_MAJOR, _MINOR, _DYNAMIC_SHARED = 75, 76, 8
_NO_DEVICE, _NAME_BYTES = 100, 96
_NON_BLOCKING, _THREAD_LOCAL = 1, 1
#: Capabilities of Jetson's devices, which run only what was made for them.
_EMBEDDED = (72, 87, 101)

Handle = ctypes.c_void_p


class DriverError(TvmconvError):
    """A call of the driver that fails; after most of them its context is of no more use."""


class Driver(ctypes.CDLL):
    """The driver's functions, and what a program does with them; ints are 32 bits."""

    #: What a failure is raised as.
    failure: type[TvmconvError] = DriverError

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function and raise what it returns."""
        code = getattr(self, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self.cuGetErrorName(code, ctypes.byref(text))
            raise self.failure((text.value or b"error %d" % code).decode(errors="replace"))

    def made(self, name: str, *arguments: Any) -> Handle:
        """The handle that a function makes."""
        handle = Handle()
        self.call(name, ctypes.byref(handle), *arguments)
        return handle

    def number(self, name: str, *arguments: Any) -> int:
        """The int that a function finds."""
        value = ctypes.c_int()
        self.call(name, ctypes.byref(value), *arguments)
        return value.value

    @contextmanager
    def context(self, device: int = 0) -> Iterator[None]:
        """A device's primary context, current in this thread."""
        context = self.made("cuDevicePrimaryCtxRetain", device)
        try:
            self.call("cuCtxPushCurrent_v2", context)
            try:
                yield
            finally:
                self.cuCtxPopCurrent_v2(ctypes.byref(Handle()))
        finally:
            self.cuDevicePrimaryCtxRelease_v2(device)

    def stream(self) -> Handle:
        """A new stream that waits for no other."""
        return self.made("cuStreamCreate", _NON_BLOCKING)

    def allocate(self, nbytes: int) -> int:
        """The address of new device memory."""
        address = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(nbytes, 1)))
        return address.value

    def free(self, address: int) -> None:
        """Give device memory back."""
        self.cuMemFree_v2(ctypes.c_uint64(address))

    def copy(self, to: int, source: int, nbytes: int, stream: Handle | None = None) -> None:
        """Copy between addresses of this machine's memory or the device's."""
        addresses = (ctypes.c_uint64(to), ctypes.c_uint64(source))
        self.call("cuMemcpyAsync", *addresses, ctypes.c_size_t(nbytes), stream)

    def fill(self, address: int, byte: int, nbytes: int, stream: Handle | None = None) -> None:
        """Set bytes of device memory."""
        size = ctypes.c_size_t(nbytes)
        self.call("cuMemsetD8Async", ctypes.c_uint64(address), byte, size, stream)

    def function(self, module: Handle, name: str, shared_bytes: int) -> Handle:
        """A kernel of a module, which may be given so much dynamic shared memory."""
        function = self.made("cuModuleGetFunction", module, name.encode())
        if shared_bytes:
            self.call("cuFuncSetAttribute", function, _DYNAMIC_SHARED, shared_bytes)
        return function

    def launch(
        self,
        function: Handle,
        grid: Sequence[int],
        block: Sequence[int],
        shared_bytes: int,
        values: Sequence[Any],
        stream: Handle | None = None,
    ) -> None:
        """Launch a kernel with arguments that are ctypes' objects."""
        pointers = [ctypes.addressof(value) for value in values]
        parameters = (Handle * (len(values) + 1))(*pointers)
        extents = [*grid, 1, 1][:3] + [*block, 1, 1][:3]
        self.call("cuLaunchKernel", function, *extents, shared_bytes, stream, parameters, None)

    def recorded(self, stream: Handle, launches: Callable[[], None]) -> Handle:
        """A graph of what a function gives to a stream, ready to be launched."""
        self.call("cuStreamBeginCapture_v2", stream, _THREAD_LOCAL)
        graph = Handle()
        try:
            launches()
        finally:
            ended = self.cuStreamEndCapture(stream, ctypes.byref(graph))
        if ended:
            raise self.failure("the launches cannot be recorded")
        try:
            return self.made("cuGraphInstantiateWithFlags", graph, ctypes.c_ulonglong(0))
        finally:
            self.cuGraphDestroy(graph)


@dataclass(frozen=True)
class Gpu:
    """A device of this machine.

    Attributes
    ----------
    ordinal : int
    name : str
    sm : int
        Compute capability, 90 for 9.0.
    driver : str
        The newest version of CUDA that the driver knows.
    """

    ordinal: int
    name: str
    sm: int
    driver: str

    def __str__(self) -> str:
        return f"{self.name} (sm_{self.sm})"

    def takes(self, sm: int) -> bool:
        """Whether it runs machine code of a compute capability, as cuda_images.c has it."""
        same_generation = sm // 10 == self.sm // 10 and sm < self.sm
        return sm == self.sm or (same_generation and self.sm not in _EMBEDDED)

    def only(self, target: Target) -> Target | None:
        """The target with nothing but the code that this device would load; None if it has none."""
        device = target.gpu
        fitting = [sm for sm in device.cubins if self.takes(sm)]
        if not fitting and not (device.ptx and device.sm <= self.sm):
            return None
        code = replace(device, cubins=tuple(fitting[-1:]), ptx=not fitting)
        return replace(target, device=code)


def open_driver() -> Driver:
    """The driver, started.

    Raises
    ------
    EnvironmentError_
        There is none, or no device.
    """
    return _opened(os.environ.get(_VARIABLE) or _LIBRARY)


@cache
def _opened(path: str) -> Driver:
    try:
        driver = Driver(path)
        code = driver.cuInit(0)
    except (OSError, AttributeError):
        raise EnvironmentError_(f"no CUDA driver ({path})") from None
    if code == _NO_DEVICE:
        raise EnvironmentError_("no CUDA device")
    if code:
        raise EnvironmentError_(f"a CUDA driver that cannot be started: error {code}")
    return driver


def gpus() -> list[Gpu]:
    """The devices of this machine.

    Raises
    ------
    EnvironmentError_
        There is no driver, or no device.
    """
    driver = open_driver()
    version = driver.number("cuDriverGetVersion")
    known = f"{version // 1000}.{version % 1000 // 10}"
    found = []
    for ordinal in range(driver.number("cuDeviceGetCount")):
        name = ctypes.create_string_buffer(_NAME_BYTES)
        driver.call("cuDeviceGetName", name, _NAME_BYTES, ordinal)
        major, minor = (driver.number("cuDeviceGetAttribute", k, ordinal) for k in (_MAJOR, _MINOR))
        found.append(Gpu(ordinal, name.value.decode(errors="replace"), 10 * major + minor, known))
    if not found:
        raise EnvironmentError_("no CUDA device")
    return found


def gpu_for(target: Target) -> tuple[Gpu, Target]:
    """The first device that takes code of a target, and the target with nothing but that code.

    Raises
    ------
    EnvironmentError_
        There is none; says what there is.
    """
    try:
        there = gpus()
    except EnvironmentError_ as error:
        raise EnvironmentError_(f"{target.name}: this machine has {error}") from None
    for gpu in there:
        own = gpu.only(target)
        if own is not None:
            return gpu, own
    names = ", ".join(map(str, there))
    raise EnvironmentError_(f"{target.name}: this machine has {names}, for which it has no code")
