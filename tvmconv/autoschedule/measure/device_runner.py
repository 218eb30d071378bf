"""Runs candidates on another machine: those of one program together, if its time allows.

The program sends the whole output of every check back; they are judged here, as those of this
machine are. It times the candidates in turns, by its own monotonic clock.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tvmconv.autoschedule.measure import buffers, check
from tvmconv.autoschedule.measure.builder import Build, Builder
from tvmconv.autoschedule.measure.check import Verdict, Workload
from tvmconv.autoschedule.measure.crew import Crew
from tvmconv.autoschedule.measure.outcome import Rejected, Unmeasurable
from tvmconv.autoschedule.measure.references import References
from tvmconv.autoschedule.measure.runner import Block, Kernel
from tvmconv.autoschedule.measure.uses import Uses
from tvmconv.device.wire import BadOutput, Line
from tvmconv.errors import signal_name

if TYPE_CHECKING:
    from tvmconv.device import Runner as Device

Array = npt.NDArray[Any]

_ROUNDS = 5
#: How often to look whether a program has ended.
_LOOK_S = 0.05
_ALIGNMENT = 64
#: What an output holds before the kernel runs; candidates.c has the same number.
_UNWRITTEN = np.uint32(0x7FC0A5A5)
_SIGALRM = 14


@dataclass
class _Found:
    """What a program has said of one candidate."""

    ratio: float = 0.0
    blocks: list[Block] = field(default_factory=list)
    rejected: Rejected | Unmeasurable | None = None


class DeviceRunner:
    """Has the interface of :class:`~tvmconv.autoschedule.measure.runner.Runner`.

    Parameters
    ----------
    crew : Crew
        Builds while programs run.
    device : tvmconv.device.Runner
    builder : Builder
        Knows what is in a program.
    references : References
    threads : int
    cold_bytes : int
        Bytes of weights between two uses of the same ones; 0 for a warm cache.
    limit_s : float
        How long a candidate may take for its checks, or for a block of calls.
    """

    def __init__(
        self,
        crew: Crew,
        device: Device,
        builder: Builder,
        references: References,
        threads: int,
        cold_bytes: int,
        limit_s: float,
    ) -> None:
        self._uses: Uses[_Found] = Uses(device, lambda: crew.turn((), _LOOK_S))
        self._device, self._builder, self._references = device, builder, references
        self._threads, self._cold_bytes, self._limit_s = threads, cold_bytes, limit_s
        self._best_us, self._in_turns = math.inf, True
        self._programs: dict[str, dict[str, _Found]] = {}
        self._turns: dict[Kernel, Iterator[Block]] = {}

    def begin(self, best_us: float, *, in_turns: bool) -> None:
        """Candidates follow; those that are compared in turns have to be on one machine."""
        self._best_us, self._in_turns = best_us, in_turns

    def verify(self, kernel: Kernel) -> float:
        """The largest error of a candidate over its bound.

        Raises
        ------
        Rejected
            It is wrong, crashes or hangs.
        Unmeasurable
            It was not tried, for too many before it hung.
        RunnerError
            The other machine, or the way to it, fails.
        """
        found = self._of(kernel)
        if found.rejected is not None:
            raise found.rejected
        return found.ratio

    def block(self, kernel: Kernel) -> Block:
        """The next of a candidate's blocks, which the program has timed in turns."""
        self.verify(kernel)
        if kernel not in self._turns:
            self._turns[kernel] = itertools.cycle(self._of(kernel).blocks)
        return next(self._turns[kernel])

    def blocks(self, kernel: Kernel, best_us: float) -> list[Block]:
        """All blocks of a candidate."""
        self.verify(kernel)
        return self._of(kernel).blocks

    def forget(self, paths: Iterable[str]) -> None:
        """Forget what programs have said, and the files of workloads."""
        for path in paths:
            self._programs.pop(path, None)
            self._turns = {k: v for k, v in self._turns.items() if k.library != path}
            _data_file(Path(path)).unlink(missing_ok=True)

    def close(self) -> None:
        """Forget everything; there is no process between two uses of the runner."""
        self._programs.clear()
        self._turns.clear()

    def _of(self, kernel: Kernel) -> _Found:
        """What there is of a candidate; its program is run if that has not been done."""
        if kernel.library not in self._programs:
            builds = self._builder.contents[kernel.library]
            self._programs[kernel.library] = self._run(Path(kernel.library), builds)
        return self._programs[kernel.library][kernel.symbol]

    def _run(self, program: Path, builds: Sequence[Build]) -> dict[str, _Found]:
        """Have a program run all its candidates."""
        folders = [self._references.wait(build.spec) for build in builds]
        workloads = {folder: check.load(folder) for folder in folders}
        for folder, workload in workloads.items():
            if not _data_file(folder).exists():
                _write_data(_data_file(folder), workload)
        best_s = 1e-6 * self._best_us if math.isfinite(self._best_us) else 0.0
        numbers = (self._device.timeout_s, self._limit_s, self._threads, _ROUNDS,
                   self._cold_bytes, best_s)  # fmt: skip

        def use(positions: Sequence[int]) -> dict[int, _Found]:
            """Run some of the candidates, and judge them."""
            own = {k: workloads[folders[k]] for k in positions}
            files = [_data_file(f) if k in own else "-" for k, f in enumerate(folders)]
            sent = sum(map(_sent_bytes, own.values()))
            lines = self._device.run(program, [*map(str, numbers), *files], sent)
            try:
                return _read(lines, own, self._limit_s)
            except BadOutput as error:
                raise self._device.failed(str(error)) from None

        found, late = self._uses.run(use, len(builds), in_turns=self._in_turns)
        told = f"did not end within {self._device.timeout_s:g} s (--timeout)"
        found |= dict.fromkeys(late, _Found(rejected=Rejected("timeout", told)))
        untried = _Found(rejected=Unmeasurable(f"several candidates in a row {told}"))
        return {build.symbol: found.get(k, untried) for k, build in enumerate(builds)}


def _data_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.data")


def _sent_bytes(workload: Workload) -> int:
    return 4 * math.prod(workload.output.buffer_shape) * max(2, len(workload.checks))


def _write_data(path: Path, workload: Workload) -> None:
    """Write a workload as candidates.c reads it."""
    shapes = [a.shape for a in workload.checks[-1].arguments] + [workload.output.buffer_shape]
    numbers = [len(workload.checks), len(shapes)]
    for k, shape in enumerate(shapes):
        shape = shape or (1,)
        numbers += [int(k in workload.constants), len(shape), *shape]
    with path.open("wb") as file:
        _write_aligned(file, struct.pack(f"<{len(numbers)}q", *numbers))
        for one in workload.checks:
            for array in one.arguments:
                _write_aligned(file, np.ascontiguousarray(array, np.float32).tobytes())


def _write_aligned(file: Any, data: bytes) -> None:
    file.write(data + bytes(-len(data) % _ALIGNMENT))


def _read(
    lines: Sequence[Line], workloads: Mapping[int, Workload], limit_s: float
) -> dict[int, _Found]:
    """What the lines say of each candidate that was run.

    Raises
    ------
    BadOutput
        They do not say enough.
    """
    seen: dict[int, list[Line]] = {k: [] for k in workloads}
    current = -1
    for line in lines:
        if line.kind in ("candidate", "timing"):
            current = int(line.number(1))
            if current not in seen:
                raise BadOutput(f"sent a candidate that there is not: {current}")
        elif line.kind in ("check", "failed", "died", "block"):
            if current < 0:
                raise BadOutput(f"sent a line of no candidate: {line.kind}")
            seen[current].append(line)
    return {k: _found(seen[k], workload, limit_s) for k, workload in workloads.items()}


def _found(lines: Sequence[Line], workload: Workload, limit_s: float) -> _Found:
    try:
        return _Found(*_judge(lines, workload, limit_s))
    except Rejected as why:
        return _Found(rejected=why)


def _judge(lines: Sequence[Line], workload: Workload, limit_s: float) -> tuple[float, list[Block]]:
    """The largest error of a candidate over its bound, and its blocks."""
    for line in lines:
        if line.kind == "failed":
            raise Rejected("crashed", line.text[:300] or "it returned an error")
        if line.kind == "died":
            number = int(line.number(1))
            if number == _SIGALRM:
                raise Rejected("timeout", f"did not end within {limit_s:g} s")
            raise Rejected("crashed", f"its process was ended by {signal_name(number)}")
    checks = [line for line in lines if line.kind == "check"]
    if len(checks) != max(2, len(workload.checks)):
        raise BadOutput(f"sent {len(checks)} outputs of a candidate")
    worst = max((_verdict(line, workload) for line in checks), key=lambda v: v.ratio)
    if worst.message:
        raise Rejected("wrong", worst.message, worst.ratio)
    blocks = [line for line in lines if line.kind == "block"]
    if not blocks:
        raise BadOutput("sent no times of a candidate")
    if any(line.number(2) != 1 for line in blocks):
        raise Rejected("wrong", "its output changes from call to call")
    return worst.ratio, [Block(1e6 * line.number(1), False) for line in blocks]


def _verdict(line: Line, workload: Workload) -> Verdict:
    """Judge one output."""
    shape, number = workload.output.buffer_shape, int(line.number(1))
    if not 0 <= number < len(workload.checks) or len(line.data) != 4 * math.prod(shape):
        raise BadOutput(f"sent {len(line.data)} of {4 * math.prod(shape)} bytes of an output")
    output: Array = np.frombuffer(line.data, np.float32).reshape(shape)
    outside = np.ones(shape, bool)
    buffers.own_region(outside, workload.output)[...] = False
    if (output.view(np.uint32)[outside] != _UNWRITTEN).any():
        return Verdict(math.inf, "it wrote outside its output")
    return check.judge(buffers.own_region(output, workload.output), workload.checks[number])
