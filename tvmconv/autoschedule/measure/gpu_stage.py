"""Where candidates run on a GPU: its memory and stream, the buffers of one workload, graphs."""

from __future__ import annotations

import ctypes
import json
import math
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tvmconv.autoschedule.measure import buffers, check
from tvmconv.autoschedule.measure.check import Verdict
from tvmconv.autoschedule.measure.stage import Block, Key, copies
from tvmconv.runtime.cuda import Driver

Array = npt.NDArray[Any]

#: A block of timed launches takes at least this long; the device is kept busy as long before it,
#: so that its clock has risen.
_BLOCK_S, _BUSY_S = 0.004, 0.01
#: Launches in one graph.
_MOST_LAUNCHES = 2048
#: Of launches longer than this one is timed.
_LONG_S = 0.02
#: Bytes before and after each buffer that nobody may write, and what they and outputs hold: NaN.
_GUARD, _UNWRITTEN = 256, 0xFF
_MOST_COPIES = 2048


class Gpu:
    """The device of this process: its memory, one stream, two events.

    Everything that it is given to do follows in order; a failure ends the process, whose context
    would be of no more use.
    """

    def __init__(self, driver: Driver) -> None:
        self.driver, self.stream = driver, driver.stream()
        self._begin, self._end = (driver.made("cuEventCreate", 0) for _ in range(2))

    def wait(self) -> None:
        """Wait until everything is done."""
        self.driver.call("cuStreamSynchronize", self.stream)

    def timed(self, work: Callable[[], None]) -> float:
        """Seconds between the events before and after what a function gives the device to do."""
        self.driver.call("cuEventRecord", self._begin, self.stream)
        work()
        self.driver.call("cuEventRecord", self._end, self.stream)
        self.wait()
        milliseconds = ctypes.c_float()
        events = (self._begin, self._end)
        self.driver.call("cuEventElapsedTime", ctypes.byref(milliseconds), *events)
        return 1e-3 * milliseconds.value


class Buffer:
    """Device memory between guards, given back with the object."""

    def __init__(self, gpu: Gpu, nbytes: int) -> None:
        self._gpu, self._nbytes = gpu, nbytes
        self._base = gpu.driver.allocate(nbytes + 2 * _GUARD)
        self.address = self._base + _GUARD
        weakref.finalize(self, gpu.driver.free, self._base)
        self.clear()

    @classmethod
    def holding(cls, gpu: Gpu, array: Array) -> Buffer:
        """A copy of an array."""
        made, data = cls(gpu, array.nbytes), np.ascontiguousarray(array)
        gpu.driver.copy(made.address, data.ctypes.data, data.nbytes, gpu.stream)
        gpu.wait()
        return made

    def clear(self) -> None:
        """Fill all of it, and the guards."""
        size = self._nbytes + 2 * _GUARD
        self._gpu.driver.fill(self._base, _UNWRITTEN, size, self._gpu.stream)

    def read(self) -> tuple[Array, bool]:
        """Its bytes, and whether the guards are as they were."""
        data = np.empty(self._nbytes + 2 * _GUARD, np.uint8)
        self._gpu.driver.copy(data.ctypes.data, self._base, data.nbytes, self._gpu.stream)
        self._gpu.wait()
        guards = np.concatenate([data[:_GUARD], data[-_GUARD:]])
        return data[_GUARD:-_GUARD], bool((guards == _UNWRITTEN).all())


class Program:
    """A candidate: its code, loaded, and its launches."""

    def __init__(self, gpu: Gpu, path: Path) -> None:
        head, _, code = path.read_bytes().partition(b"\n")
        plan = json.loads(head)
        self._gpu, driver = gpu, gpu.driver
        self._module = driver.made("cuModuleLoadData", code)
        self._scratch = driver.allocate(plan["scratch_bytes"])
        self._launches = [
            (driver.function(self._module, one["function"], one["dynamic_bytes"]), one)
            for one in plan["launches"]
        ]

    def launch(self, addresses: Sequence[int]) -> None:
        """Launch its kernels on the buffers of the arguments."""
        for function, one in self._launches:
            values = [
                ctypes.c_uint64(
                    self._scratch + operand["offset"]
                    if operand["parameter"] < 0
                    else addresses[operand["parameter"]]
                )
                for operand in one["operands"]
            ]
            extents = (one["grid"], one["block"], one["dynamic_bytes"])
            self._gpu.driver.launch(function, *extents, values, self._gpu.stream)

    def close(self) -> None:
        """Unload it."""
        self._gpu.driver.free(self._scratch)
        self._gpu.driver.call("cuModuleUnload", self._module)


class GpuLibrary:
    """Candidates that are listed in a file; each is loaded when it is used first."""

    def __init__(self, path: str, gpu: Gpu) -> None:
        self._gpu = gpu
        self._paths = {Path(name).stem: Path(name) for name in json.loads(Path(path).read_text())}
        self._programs: dict[str, Program] = {}

    def call(self, symbol: str) -> Program:
        """A candidate."""
        if symbol not in self._programs:
            self._programs[symbol] = Program(self._gpu, self._paths[symbol])
        return self._programs[symbol]

    def close(self) -> None:
        """Unload all."""
        for program in self._programs.values():
            program.close()


class GpuStage:
    """The buffers of one workload: as :class:`~tvmconv.autoschedule.measure.stage.Stage`.

    Parameters
    ----------
    folder : Path
        What :func:`tvmconv.autoschedule.measure.check.save` wrote.
    gpu : Gpu
    cold_bytes : int
        Bytes of weights that lie between two uses of the same ones when timing.
    """

    def __init__(self, folder: Path, gpu: Gpu, cold_bytes: int) -> None:
        self._gpu, self._workload = gpu, check.load(folder)
        self._layout = self._workload.output
        self._dtype = np.dtype(self._layout.dtype)
        size = math.prod(self._layout.buffer_shape) * self._dtype.itemsize
        self._output = Buffer(gpu, size)
        self._inputs = [
            [Buffer.holding(gpu, array) for array in one.arguments] for one in self._workload.checks
        ]
        self._copies = self._make_copies(cold_bytes)
        self._sets = self._argument_sets()
        outside = np.ones(self._layout.buffer_shape, bool)
        buffers.own_region(outside, self._layout)[...] = False
        self._outside = outside
        self._expected: dict[Key, bytes] = {}

    def _make_copies(self, cold_bytes: int) -> list[list[Buffer]]:
        """More copies of the weights, so that each is out of the caches until it is used again."""
        arguments = self._workload.checks[-1].arguments
        constants = [arguments[k] for k in self._workload.constants]
        count = copies(constants, cold_bytes, _MOST_COPIES) - 1
        return [[Buffer.holding(self._gpu, array) for array in constants] for _ in range(count)]

    def _argument_sets(self) -> list[list[int]]:
        """The addresses of the arguments on which candidates are timed, with each copy."""
        own = [buffer.address for buffer in self._inputs[-1]] + [self._output.address]
        sets = [own]
        for copy in self._copies:
            other = [*own]
            for k, buffer in zip(self._workload.constants, copy, strict=True):
                other[k] = buffer.address
            sets.append(other)
        return sets

    def verify(self, key: Key, call: Program) -> Verdict:
        """Run a candidate on every check, and keep its last output; the worst verdict."""
        worst = Verdict(0.0)
        for inputs, wanted in zip(self._inputs, self._workload.checks, strict=True):
            self._output.clear()
            call.launch([*(buffer.address for buffer in inputs), self._output.address])
            data, untouched = self._output.read()
            verdict = self._judge(data, wanted)
            if not verdict.message and not untouched:
                verdict = Verdict(math.inf, "it wrote outside its output")
            if verdict.message:
                return verdict
            worst = max(worst, verdict, key=lambda v: v.ratio)
        self._expected[key] = data.tobytes()
        return worst

    def _judge(self, data: Array, wanted: check.Check) -> Verdict:
        output = data.view(self._dtype).reshape(self._layout.buffer_shape)
        width = self._dtype.itemsize
        written = (data.reshape(-1, width) != _UNWRITTEN).any(1).reshape(output.shape)
        if written[self._outside].any():
            return Verdict(math.inf, "it wrote outside its output")
        return check.judge(buffers.own_region(output, self._layout), wanted)

    def block(self, key: Key, call: Program) -> Block:
        """Time one block of launches of a verified candidate, replayed as a graph."""
        self._output.clear()
        seconds = self._seconds(call)
        data, _ = self._output.read()
        if data.tobytes() == self._expected[key]:
            return Block(seconds, 0.0, Verdict(0.0))
        return Block(seconds, 0.0, self._judge(data, self._workload.checks[-1]))

    def _seconds(self, call: Program) -> float:
        """Of one launch among many."""
        own = self._sets[0]
        for _ in range(2):  # the first one finds nothing in the caches
            seconds = self._gpu.timed(lambda: call.launch(own))
        if seconds > _LONG_S:
            return seconds
        count = max(math.ceil(_BLOCK_S / max(seconds, 1e-6)), len(self._sets))
        count = min(count, _MOST_LAUNCHES)

        def launches() -> None:
            for k in range(count):
                call.launch(self._sets[k % len(self._sets)])

        driver = self._gpu.driver
        graph = driver.recorded(self._gpu.stream, launches)
        try:
            replay = lambda: driver.call("cuGraphLaunch", graph, self._gpu.stream)  # noqa: E731
            begin = time.monotonic()
            while time.monotonic() - begin < _BUSY_S:
                self._gpu.timed(replay)
            return self._gpu.timed(replay) / count
        finally:
            driver.call("cuGraphExecDestroy", graph)

    def forget(self, library: str) -> None:
        """Free the outputs of a library's candidates."""
        self._expected = {k: v for k, v in self._expected.items() if k[0] != library}
