"""Where candidates of one workload run: buffers for the checks, others for the timing."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tvmconv.autoschedule.measure import buffers, check, memory
from tvmconv.autoschedule.measure.check import Verdict
from tvmconv.autoschedule.measure.memory import ALIGNMENT, Bytes, Copies, Guarded

Array = npt.NDArray[Any]
#: ``call(sets, first, calls)`` runs a kernel with one set of arguments after the other and gives
#: the seconds of each call.
Call = Callable[["ArgumentSets", int, int], list[float]]

#: A library and a symbol in it.
Key = tuple[str, str]

#: A block of timed calls takes at least this long, and as many calls.
BLOCK_S, _LEAST_CALLS = 0.004, 3
_MOST_CALLS = 1 << 16
#: Of calls longer than this, fewer will do.
_LONG_S = 0.02
#: Pauses after which a disturbed block is timed again, and how much of them there is in a row.
_PAUSES_S, _PATIENCE_S = (0.002, 0.01, 0.05), 0.1
#: Copies of the weights, at most; of small weights so many do not fill the caches.
_MOST_COPIES = 4096
_TENSOR = np.dtype([("data", "u8"), ("device", "i4", 2), ("ndim", "i4"), ("code", "u1"),
                    ("bits", "u1"), ("lanes", "u2"), ("shape", "u8"), ("strides", "u8"),
                    ("offset", "u8")])  # fmt: skip
_ANY = np.dtype([("index", "i4"), ("length", "u4"), ("value", "u8")])
_FFI_DLTENSOR, _CPU, _FLOAT = 7, 1, 2
#: What an output holds before the kernel runs: a NaN that no arithmetic makes.
_UNWRITTEN = np.uint32(0x7FC0A5A5)


class ArgumentSets:
    """The arguments of a kernel as TVM's functions take them, in several sets.

    Parameters
    ----------
    shapes : sequence of tuple
        Of the arguments, all of them float32.
    addresses : sequence of sequence of int
        For each set, where the arguments lie.
    """

    def __init__(
        self, shapes: Sequence[tuple[int, ...]], addresses: Sequence[Sequence[int]]
    ) -> None:
        count = len(shapes)
        self.count, self.arguments = len(addresses), count
        self._shapes = [np.array(shape or (1,), np.int64) for shape in shapes]
        self._tensors = np.zeros((self.count, count), _TENSOR)
        self._tensors["data"] = np.array(addresses, np.uint64)
        self._tensors["device"][..., 0] = _CPU
        self._tensors["ndim"] = [len(shape) for shape in shapes]
        self._tensors["code"], self._tensors["bits"], self._tensors["lanes"] = _FLOAT, 32, 1
        self._tensors["shape"] = [shape.ctypes.data for shape in self._shapes]
        self._values = np.zeros((self.count, count), _ANY)
        self._values["index"] = _FFI_DLTENSOR
        places = np.arange(self.count * count, dtype=np.uint64).reshape(self.count, count)
        self._values["value"] = self._tensors.ctypes.data + places * np.uint64(_TENSOR.itemsize)
        rows = np.arange(self.count, dtype=np.uint64) * np.uint64(count * _ANY.itemsize)
        self._sets = self._values.ctypes.data + rows

    @property
    def pointer(self) -> int:
        """Address of the array of pointers to the sets."""
        return self._sets.ctypes.data


@dataclass(frozen=True)
class Block:
    """Some calls in a row.

    Attributes
    ----------
    seconds : float
        Median of the calls.
    waited : float
        Seconds that threads have waited for a CPU, over the duration.
    verdict : Verdict
        Of the last call's output.
    """

    seconds: float
    waited: float
    verdict: Verdict


class Stage:
    """The buffers of one workload.

    A check runs in :class:`~tvmconv.autoschedule.measure.memory.Guarded` buffers, of which only the
    output can be written, with the guards after the buffers at first and before them the second
    time. Timing runs in one piece of memory, as in an artifact, on the inputs of the last check.

    Parameters
    ----------
    folder : Path
        What :func:`tvmconv.autoschedule.measure.check.save` wrote.
    cold_bytes : int
        Bytes of weights that lie between two uses of the same ones when timing; 0 uses the same
        ones each time.
    disturbed : float
        Share of a block that threads wait for a CPU, above which it is timed again.
    """

    def __init__(self, folder: Path, cold_bytes: int, disturbed: float) -> None:
        self._disturbed = disturbed
        self._workload = check.load(folder)
        self._shape = self._workload.output.buffer_shape
        checks = self._workload.checks
        self._runs = [_Run(checks[min(k, len(checks) - 1)], self._shape, k == 0) for k in (0, 1)]
        self._outside = self._mask_outside()
        self._expected: dict[Key, Array] = {}
        self._place(cold_bytes)
        self._first, self._patience_s = 0, _PATIENCE_S

    def _mask_outside(self) -> Array | None:
        """Which of the output's buffer is not the output's; None if all is."""
        outside = np.ones(self._shape, bool)
        buffers.own_region(outside, self._workload.output)[...] = False
        return outside if outside.any() else None

    def _place(self, cold_bytes: int) -> None:
        """Lay out the memory for timing."""
        arguments = self._workload.checks[-1].arguments
        shapes = [a.shape for a in arguments] + [self._shape]
        data = [k for k in range(len(shapes)) if k not in self._workload.constants]
        offsets, total = [], 0
        for k in data:
            offsets.append(total)
            total += -(-4 * math.prod(shapes[k]) // ALIGNMENT) * ALIGNMENT
        self._arena = memory.arena(total)
        views = {
            k: self._arena[offset : offset + 4 * math.prod(shapes[k])].view(np.float32)
            for k, offset in zip(data, offsets, strict=True)
        }
        self._output = views[data[-1]].reshape(self._shape)
        self._inputs = [(views[k], arguments[k].reshape(-1)) for k in data[:-1]]
        places = {k: view.ctypes.data for k, view in views.items()}
        constants = [arguments[k] for k in self._workload.constants]
        self._weights = Copies(constants, copies(constants, cold_bytes))
        sets = []
        for addresses in self._weights.addresses:
            places.update(zip(self._workload.constants, addresses, strict=True))
            sets.append([places[k] for k in range(len(shapes))])
        self._sets = ArgumentSets(shapes, sets)

    def verify(self, key: Key, call: Call) -> Verdict:
        """Run a kernel on every check, and keep its output by a key; the worst verdict."""
        worst = Verdict(0.0)
        for run in self._runs:
            run.clear()
            call(run.sets, 0, 1)
            verdict = self._judge(run.output, run.check)
            if not verdict.message and run.guarded_output.overrun():
                verdict = Verdict(math.inf, "it wrote outside its output")
            if verdict.message:
                return verdict
            worst = max(worst, verdict, key=lambda v: v.ratio)
        self._expected[key] = self._runs[-1].output.copy()
        for view, array in self._inputs:  # as they were, whatever the candidate before has done
            view[:] = array
        return worst

    def _judge(self, output: Array, wanted: check.Check) -> Verdict:
        if self._outside is not None:
            written = output.view(np.uint32)[self._outside] != _UNWRITTEN
            if written.any():
                return Verdict(math.inf, "it wrote outside its output")
        return check.judge(buffers.own_region(output, self._workload.output), wanted)

    def forget(self, library: str) -> None:
        """Free the outputs of a library's kernels."""
        self._expected = {k: v for k, v in self._expected.items() if k[0] != library}

    def block(self, key: Key, call: Call) -> Block:
        """Time one block of calls of a verified kernel."""
        self._output.view(np.uint32)[...] = _UNWRITTEN
        seconds = self._calls(call, 1)[0]
        if seconds < _LONG_S:
            seconds = self._calls(call, 2)[-1]
        least = _LEAST_CALLS if seconds < _LONG_S else 1
        calls = min(max(least, math.ceil(BLOCK_S / max(seconds, 1e-9))), _MOST_CALLS)
        waited, seconds = self._least_disturbed(call, calls)
        if np.array_equal(self._output.view(np.uint32), self._expected[key].view(np.uint32)):
            return Block(seconds, waited, Verdict(0.0))
        return Block(seconds, waited, self._judge(self._output, self._workload.checks[-1]))

    def _least_disturbed(self, call: Call, calls: int) -> tuple[float, float]:
        """Share of the time that threads waited for a CPU, and the median of the calls.

        A block is timed again after a pause if other programs disturb it, until patience is at an
        end. It comes back with the first block that nothing disturbs.
        """
        best = (math.inf, 0.0)
        for pause in (0.0, *_PAUSES_S):
            if pause > self._patience_s:
                break
            self._patience_s -= pause
            time.sleep(pause)
            waiting, begin = _waiting_s(), time.monotonic()
            median = float(np.median(self._calls(call, calls)))
            waited = (_waiting_s() - waiting) / (time.monotonic() - begin)
            best = min(best, (waited, median))
            if waited <= self._disturbed:
                self._patience_s = _PATIENCE_S
                break
        return best

    def _calls(self, call: Call, calls: int) -> list[float]:
        seconds = call(self._sets, self._first, calls)
        self._first = (self._first + len(seconds)) % self._sets.count
        return seconds


def _waiting_s() -> float:
    """Seconds that this process's threads have waited for a CPU; 0 where Linux does not tell."""
    total = 0
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has just ended, or there is no such file
            total += int((thread / "schedstat").read_text().split()[1])
    return 1e-9 * total


def copies(constants: Sequence[Array], cold_bytes: int, most: int = _MOST_COPIES) -> int:
    """How many copies of the constants keep each out of the caches until it is used again."""
    size = sum(array.nbytes for array in constants)
    return 1 + (min(-(-cold_bytes // size), most) if size else 0)


class _Run:
    """One check in guarded buffers."""

    def __init__(self, wanted: check.Check, shape: tuple[int, ...], at_end: bool) -> None:
        self.check = wanted
        self.inputs = [Guarded.holding(array, at_end=at_end) for array in wanted.arguments]
        self.guarded_output = Guarded(4 * math.prod(shape), at_end=at_end)
        self.output: Array = _as_float(self.guarded_output.bytes, shape)
        places = [b.bytes.ctypes.data for b in (*self.inputs, self.guarded_output)]
        self.sets = ArgumentSets([a.shape for a in wanted.arguments] + [shape], [places])

    def clear(self) -> None:
        """Fill the output with what shows that it has not been written."""
        self.output.view(np.uint32)[...] = _UNWRITTEN
        self.guarded_output.mark_slack()


def _as_float(data: Bytes, shape: tuple[int, ...]) -> Array:
    return data.view(np.float32).reshape(shape)
