"""Phases of a transposed convolution: outputs of one residue class modulo the stride, axis by axis.

Output ``o`` of a transposed convolution adds ``x[i]·w[k]`` for all ``i·stride + k·dilation - low =
o``. The outputs ``o = q·stride + phase`` of one phase take only the taps whose offset has one
residue, and to each of them belongs one input: in the order of falling ``k`` these are
``q + first``, ``q + first + dilation / g``, … with ``g = gcd(stride, dilation)``. A phase is thus a
convolution of stride 1 with some of the taps, and no zero is ever inserted. Phases may have
different numbers of taps: 3 taps of stride 2 make phases of 1 and of 2.

References
----------
Shi et al., Is the deconvolution layer the same as a convolutional layer?, 2016, section 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import gcd, prod
from typing import Any

import numpy as np

from tvmconv.ops import Array
from tvmconv.problem import Problem

#: Phases of one axis, at most: kernels and their weights have tables of them.
MAX_PHASES = 4096


@dataclass(frozen=True)
class Axis:
    """One spatial axis.

    Attributes
    ----------
    stride : int
        From one output of a phase to the next.
    outputs, inputs : int
        Extents of the axis.
    step : int
        Input elements from one tap of a phase to the next.
    firsts : tuple of int
        By phase: the input that its first output reads at its first tap.
    taps : tuple of tuple of int
        By phase: taps of the filter in the order in which they are read.
    """

    stride: int
    outputs: int
    inputs: int
    step: int
    firsts: tuple[int, ...]
    taps: tuple[tuple[int, ...], ...]

    @property
    def phases(self) -> int:
        """Phases that there are: no more than outputs."""
        return len(self.firsts)

    @property
    def count(self) -> int:
        """Outputs of the longest phase."""
        return -(-self.outputs // self.stride)

    @property
    def ragged(self) -> bool:
        """Whether some phases have fewer outputs than others."""
        return self.outputs > self.stride and self.outputs % self.stride > 0

    @property
    def counts(self) -> tuple[int, ...]:
        """Taps of each phase."""
        return tuple(map(len, self.taps))

    @property
    def most(self) -> int:
        """Taps of the phase that has most, and at least 1."""
        return max(1, *self.counts)

    @property
    def window(self) -> tuple[int, int]:
        """As :attr:`reach`, if every phase had as many taps as the one that has most."""
        last = max(self.firsts) + (self.most - 1) * self.step
        return min(self.firsts), last + self.count - 1

    @property
    def reach(self) -> tuple[int, int]:
        """First and last input that is read, inside of the axis or not."""
        used = [(first, n) for first, n in zip(self.firsts, self.counts, strict=True) if n]
        if not used:
            return 0, 0
        last = max(first + (n - 1) * self.step for first, n in used)
        return min(first for first, _ in used), last + self.count - 1


def most_taps(problem: Problem) -> int:
    """Taps of the phase that has most, without counting the phases."""
    steps = zip(problem.kernel, problem.stride, problem.dilation, strict=True)
    taps = [-(-kernel * gcd(stride, dilation) // stride) for kernel, stride, dilation in steps]
    axes = zip(problem.in_spatial, problem.out_spatial, problem.dilation, taps, strict=True)
    return prod(1 if _single(*sizes) else most for *sizes, most in axes)


def _single(inputs: int, outputs: int, dilation: int) -> bool:
    """Whether each output is a phase, of a tap or none: any stride does for a single input."""
    return inputs == dilation == 1 and outputs <= MAX_PHASES


def axes(problem: Problem) -> tuple[Axis, ...]:
    """The spatial axes of a transposed convolution."""
    return tuple(
        _axis(*sizes)
        for sizes in zip(
            problem.in_spatial,
            problem.out_spatial,
            problem.kernel,
            problem.stride,
            problem.dilation,
            problem.pads_low,
            strict=True,
        )
    )


def _axis(inputs: int, outputs: int, kernel: int, stride: int, dilation: int, low: int) -> Axis:
    if _single(inputs, outputs, dilation):
        stride = max(outputs + low, kernel)
    by_residue: dict[int, list[int]] = {}
    for k in reversed(range(kernel)):
        by_residue.setdefault(k * dilation % stride, []).append(k)
    firsts, taps = [], []
    for phase in range(min(stride, outputs)):
        offset = phase + low
        own = by_residue.get(offset % stride, [])
        taps.append(tuple(own))
        firsts.append((offset - own[0] * dilation) // stride if own else 0)
    step = dilation // gcd(stride, dilation)
    return Axis(stride, outputs, inputs, step, tuple(firsts), tuple(taps))


def halo(problem: Problem) -> tuple[list[int], list[int]]:
    """How far the phases reach beyond the input, before and after each axis."""
    reaches = [(axis.reach, axis.inputs) for axis in axes(problem)]
    lows = [max(0, -low) for (low, _), _ in reaches]
    return lows, [max(0, high - size + 1) for (_, high), size in reaches]


def lanewise(problem: Problem) -> bool:
    """Whether each input channel is a group of its own."""
    return problem.groups == problem.ci > 1


def as_conv(problem: Problem, weight: Array) -> Array:
    """A weight (CI, CO/groups, kernel) as (CO, CI/groups, kernel)."""
    groups, per_in = problem.groups, problem.ci // problem.groups
    grouped = weight.reshape(groups, per_in, -1, *problem.kernel)
    return np.swapaxes(grouped, 1, 2).reshape(problem.co, per_in, *problem.kernel)


def by_phase(axes: Sequence[Axis], weight: Array) -> Array:
    """(slots, *phases, trips, *taps, step, block) of (slots, block, trips, step, *kernel)."""
    weight = np.pad(weight, [(0, 0)] * 4 + [(0, 1)] * len(axes))  # tap -1 is a zero
    for place in range(len(axes) - 1, -1, -1):
        axis = axes[place]
        table = np.array([(*own, *[-1] * (axis.most - len(own))) for own in axis.taps])
        weight = np.take(weight, table.reshape(axis.phases, axis.most), axis=4 + place)
    first = [4 + 2 * place for place in range(len(axes))]
    order = (0, *first, 2, *(place + 1 for place in first), 3, 1)
    return np.ascontiguousarray(weight.transpose(order))


def number(parts: Sequence[Axis]) -> int:
    """Phases of all axes together."""
    return prod(axis.phases for axis in parts)


def split(phase: Any, counts: Sequence[int]) -> list[Any]:
    """The phase along each axis, of one of all axes together; the last axis is counted first."""
    found: list[Any] = []
    for count in reversed(counts):
        found.append(phase % count if len(found) + 1 < len(counts) else phase)
        phase = phase // count
    return found[::-1]


def lookup(table: Sequence[int], index: Any) -> Any:
    """An element of a table as an expression: few comparisons for few runs of equal elements."""
    from tvmconv._tvm import tirx

    value: Any = tirx.const(table[-1], "int32")
    for place in range(len(table) - 1, 0, -1):
        if table[place - 1] != table[place]:
            value = tirx.Select(index < place, tirx.const(table[place - 1], "int32"), value)
    return value


def tap_axes(axes: Sequence[Axis]) -> list[Any]:
    """One reduction axis for each axis of the window, of the taps that the largest phase has."""
    from tvmconv._tvm import te

    return [te.reduce_axis((0, axis.most), f"rk{i}") for i, axis in enumerate(axes)]


def position(
    axes: Sequence[Axis], phase: Any, place: Sequence[Any], taps: Sequence[Any]
) -> list[Any]:
    """The input of a tap at a position of a phase."""
    parts = split(phase, [axis.phases for axis in axes])
    return [
        q + lookup(axis.firsts, part) + tap * axis.step
        for axis, part, q, tap in zip(axes, parts, place, taps, strict=True)
    ]


def places(axes: Sequence[Axis], parts: Sequence[Any], position: Sequence[Any]) -> list[Any]:
    """Where a position of a phase is in the output, or the nearest output if it is not there."""
    from tvmconv._tvm import te

    found = []
    for axis, part, q in zip(axes, parts, position, strict=True):
        place = q * axis.stride + part
        found.append(te.min(place, axis.outputs - 1) if axis.ragged else place)
    return found


@dataclass(frozen=True)
class Window:
    """What schedules and passes have to know of one axis: the attribute ``PHASES``.

    Attributes
    ----------
    inputs, step : int
        As of an :class:`Axis`; ``inputs`` is 0 if taps in the padding are not to be skipped.
    firsts, counts : tuple of int
        By phase: the first input, and taps.
    """

    inputs: int
    step: int
    firsts: tuple[int, ...]
    counts: tuple[int, ...]


def form(parts: Sequence[Axis], skipping: bool) -> list[int]:
    """The attribute ``PHASES`` of a reduction."""
    return [
        number
        for axis in parts
        for number in (
            axis.phases, axis.inputs if skipping else 0, axis.step, *axis.firsts, *axis.counts
        )
    ]  # fmt: skip


def windows(attribute: Sequence[Any]) -> Iterator[Window]:
    """The axes of an attribute ``PHASES``."""
    numbers = iter(int(number) for number in attribute)
    for count in numbers:
        inputs, step = next(numbers), next(numbers)
        firsts = tuple(next(numbers) for _ in range(count))
        yield Window(inputs, step, firsts, tuple(next(numbers) for _ in range(count)))
