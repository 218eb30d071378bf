"""How a window moves along one spatial axis: what each output reads, in plain integers.

A convolution or pool of stride s reads ``o*s - low + k*d`` for its tap k. A transposed convolution
adds input i, times tap k, to output ``i*s - low + k*d``; seen from the output o, tap k reads input
``(o + low - k*d) / s`` where that is whole. The same written as a window: it slides by 1 over the
input with s - 1 zeros between neighbours, where input i stands at position i·s.

References
----------
Dumoulin and Visin, A guide to convolution arithmetic for deep learning, 2016, chapters 2 and 4;
ONNX operator specification, Conv-22 and ConvTranspose-22.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import gcd
from typing import TYPE_CHECKING

from tvmconv.explain import border
from tvmconv.ops import windows

if TYPE_CHECKING:
    from tvmconv.problem import Problem

#: What the axes of a map are called, by rank.
NAMES = {0: (), 1: ("W",), 2: ("H", "W"), 3: ("D", "H", "W")}


@dataclass(frozen=True)
class Read:
    """What one tap of one output reads.

    Attributes
    ----------
    tap : int
    position : int
        On the axis that the window slides over; for a transposed convolution that is the input
        with its zeros inserted.
    index : int or None
        Element of the input; None where there is none: padding, or an inserted zero.
    """

    tap: int
    position: int
    index: int | None


@dataclass(frozen=True)
class Axis:
    """One axis of a convolution or pool.

    Attributes
    ----------
    size, taps, stride, dilation, low, high : int
        Input size, taps of the kernel, and the options; ``low`` and ``high`` are the padding.
    ceil : bool
        Whether the last window may overhang the padded input.
    mode : str
        What fills the padding, see :mod:`tvmconv.explain.border`; empty for zeros.
    flipped : bool
        Whether the first tap reads the last element of a window: a true convolution.
    """

    size: int
    taps: int
    stride: int = 1
    dilation: int = 1
    low: int = 0
    high: int = 0
    ceil: bool = False
    mode: str = ""
    flipped: bool = False

    @property
    def extent(self) -> int:
        """Positions from the first tap to the last: ``d*(K-1) + 1``."""
        return windows.extent(self.taps, self.dilation)

    @property
    def outputs(self) -> int:
        """Output size."""
        pads = (self.low, self.high)
        return windows.outputs(self.size, self.extent, self.stride, pads, self.ceil)

    @property
    def step(self) -> int:
        """Positions from one output's window to the next's."""
        return self.stride

    @property
    def scale(self) -> Fraction:
        """Inputs from one output's window to the next's."""
        return Fraction(self.stride)

    @property
    def span(self) -> tuple[int, int]:
        """First position, and the one after the last, of the padded input and of all windows."""
        read = (self.outputs - 1) * self.stride - self.low + self.extent
        return -self.low, max(self.size + self.high, read)

    def window(self, output: int) -> tuple[int, int]:
        """First and last position of an output's window."""
        first = output * self.stride - self.low
        return first, first + self.extent - 1

    def index(self, position: int) -> int | None:
        """Element of the input at a position, if there is one."""
        if 0 <= position < self.size:
            return position
        return border.source(position, self.size, self.mode) if self.mode else None

    def kind(self, position: int) -> str:
        """What is at a position: ``"input"``, ``"zero"`` (inserted) or ``"padding"``."""
        return "input" if 0 <= position < self.size else "padding"

    def position(self, output: int, tap: int) -> int:
        """Where a tap of an output reads."""
        return self.window(output)[0] + self._place(tap) * self.dilation

    def _place(self, tap: int) -> int:
        """Where in the window a tap stands."""
        return self.taps - 1 - tap if self.flipped else tap

    def reads(self, output: int) -> Iterator[Read]:
        """What an output reads, by rising tap."""
        for tap in range(self.taps):
            position = self.position(output, tap)
            yield Read(tap, position, self.index(position))

    def taps_inside(self, output: int) -> range:
        """The taps of an output that read an input."""
        if self.mode:
            return range(self.taps)
        first = self.window(output)[0]
        start = max(0, -(first // self.dilation))
        stop = min(self.taps, (self.size - 1 - first) // self.dilation + 1)
        if self.flipped:
            start, stop = self.taps - max(start, stop), self.taps - start
        return range(start, stop)

    def interval(self, first: int, last: int) -> tuple[int, int]:
        """First and last input that a run of outputs reads, if there were inputs everywhere."""
        return self.window(first)[0], self.window(last)[1]

    @property
    def field(self) -> int:
        """Inputs from the first to the last that any one output reads."""
        return self.extent

    @property
    def terms(self) -> int:
        """Pairs of an output and a tap."""
        return self.outputs * self.taps

    @property
    def useful_terms(self) -> int:
        """Pairs of an output and a tap that read an input."""
        if self.mode:
            return self.terms
        along = (self.outputs, self.stride, self.taps, self.dilation)
        return pairs_below(*along, self.low + self.size) - pairs_below(*along, self.low)


@dataclass(frozen=True)
class TransposedAxis(Axis):
    """One axis of a transposed convolution; ``extra`` is ONNX's ``output_padding``."""

    extra: int = 0

    @property
    def outputs(self) -> int:
        """Output size: ``(I-1)*s + d*(K-1) + 1 + output_padding - low - high``."""
        return (self.size - 1) * self.stride + self.extent + self.extra - self.low - self.high

    @property
    def step(self) -> int:
        """Positions from one output's window to the next's."""
        return 1

    @property
    def scale(self) -> Fraction:
        """Inputs from one output's window to the next's."""
        return Fraction(1, self.stride)

    @property
    def span(self) -> tuple[int, int]:
        """First position, and the one after the last, of the spread input and of all windows."""
        inputs = (self.size - 1) * self.stride + 1
        return min(0, self.window(0)[0]), max(inputs, self.window(self.outputs - 1)[1] + 1)

    def window(self, output: int) -> tuple[int, int]:
        """First and last position of an output's window."""
        last = output + self.low
        return last - self.extent + 1, last

    def index(self, position: int) -> int | None:
        """Element of the input at a position, if there is one."""
        index, between = divmod(position, self.stride)
        return index if not between and 0 <= index < self.size else None

    def kind(self, position: int) -> str:
        """What is at a position: ``"input"``, ``"zero"`` (inserted) or ``"padding"``."""
        if self.index(position) is not None:
            return "input"
        return "zero" if 0 < position < (self.size - 1) * self.stride else "padding"

    def position(self, output: int, tap: int) -> int:
        """Where a tap of an output reads."""
        return self.window(output)[1] - tap * self.dilation

    def taps_inside(self, output: int) -> range:
        """The taps of an output that read an input: every p-th, p the stride over gcd(s, d)."""
        common = gcd(self.stride, self.dilation)
        place, period = output + self.low, self.stride // common
        if place % common:
            return range(0)
        # k·d = place (mod s)
        start = place // common * pow(self.dilation // common, -1, period) % period
        least = place - (self.size - 1) * self.stride  # of k·d: the last input
        start += max(0, -(-(-(-least // self.dilation) - start) // period)) * period
        return range(start, min(self.taps, place // self.dilation + 1), period)

    def interval(self, first: int, last: int) -> tuple[int, int]:
        """First and last input that a run of outputs reads, if there were inputs everywhere."""
        return -(-self.window(first)[0] // self.stride), self.window(last)[1] // self.stride

    @property
    def field(self) -> int:
        """Inputs from the first to the last that any one output reads."""
        return -(-self.extent // self.stride)

    @property
    def terms(self) -> int:
        """Pairs of an input and a tap, those that the padding cuts off included."""
        return self.size * self.taps

    @property
    def useful_terms(self) -> int:
        """Pairs of an input and a tap that reach an output."""
        # The same count as of a convolution from the outputs to the inputs.
        along = (self.size, self.stride, self.taps, self.dilation)
        return pairs_below(*along, self.low + self.outputs) - pairs_below(*along, self.low)


def pairs_below(outputs: int, stride: int, taps: int, dilation: int, limit: int) -> int:
    """Count the pairs of an output o and a tap k with ``o*s + k*d < limit``, without a loop."""
    if limit <= 0:
        return 0
    last = min(outputs - 1, (limit - 1) // stride)  # the last with any tap
    whole = min(last, (limit - 1 - (taps - 1) * dilation) // stride)  # the last with all taps
    full = max(0, whole + 1)
    # Those between have ceil((limit - o*s)/d) taps each; from the last one down, that rises.
    offset = limit - last * stride + dilation - 1
    return full * taps + _floor_sum(last + 1 - full, dilation, stride, offset)


def _floor_sum(count: int, divisor: int, factor: int, offset: int) -> int:
    """The sum of ``(factor*j + offset) // divisor`` for ``j`` in ``range(count)``.

    By the steps of Euclid's algorithm; all numbers are at least 0.
    """
    total = 0
    while count > 0:
        total += count * (count - 1) // 2 * (factor // divisor) + count * (offset // divisor)
        factor, offset = factor % divisor, offset % divisor
        top = factor * count + offset
        count, offset = divmod(top, divisor)
        divisor, factor = factor, divisor
    return total


def axes_of(problem: Problem) -> tuple[Axis, ...] | None:
    """The spatial axes of a problem, or None if its operator's windows move in another way."""
    names = {option.name for option in problem.family.options}
    moves = "K" not in problem.family.filter_form or {"stride", "padding"} <= names
    if not moves or "offset" in problem.inputs:  # the latter: deformable
        return None
    extra = problem.option("output_padding") or (0,) * problem.rank
    axes = tuple(_axis(problem, k, extra[k]) for k in range(problem.rank))
    return axes if tuple(axis.outputs for axis in axes) == problem.out_spatial else None


def _axis(problem: Problem, k: int, extra: int) -> Axis:
    size, taps = problem.in_spatial[k], problem.kernel[k]
    stride, dilation = problem.stride[k], problem.dilation[k]
    low, high = problem.pads_low[k], problem.pads_high[k]
    if any(option.name == "output_padding" for option in problem.family.options):
        return TransposedAxis(size, taps, stride, dilation, low, high, extra=extra)
    mode = border.mode_of(problem, k)
    return Axis(size, taps, stride, dilation, low, high, problem.ceil_mode, mode, problem.flipped)


def is_transposed(axes: tuple[Axis, ...]) -> bool:
    """Whether the axes are those of a transposed convolution."""
    return any(isinstance(axis, TransposedAxis) for axis in axes)


def input_channels(problem: Problem, channel: int) -> range:
    """The input channels that an output channel reads."""
    if "CO" not in problem.family.filter_form:
        return range(channel, channel + 1)
    group = channel // (problem.co // problem.groups)
    count = problem.ci // problem.groups
    return range(group * count, (group + 1) * count)
