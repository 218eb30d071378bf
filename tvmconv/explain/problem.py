"""A problem explained: its shapes, its cost, what an output reads, what it is equal to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tvmconv import ops
from tvmconv.errors import InputError
from tvmconv.explain import alternatives, matrix, overlap, roofline, shapes, values
from tvmconv.explain.axes import NAMES, Axis, TransposedAxis, axes_of, input_channels, is_transposed
from tvmconv.explain.text import Section, render, sizes
from tvmconv.ops import Array, winograd
from tvmconv.problem import Problem
from tvmconv.target import Target


@dataclass(frozen=True)
class ProblemExplanation:
    """What :func:`tvmconv.explain` says of a problem; ``print`` it, or take its numbers.

    Attributes
    ----------
    problem : Problem
    target : Target
        Of the roofline.
    at : tuple of int
        The output element of which it says what it reads: batch, channel, place.
    arrays : mapping
        Numbers to compute with, or empty.
    """

    problem: Problem
    target: Target
    at: tuple[int, ...]
    arrays: Mapping[str, Array] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        return render(self.sections())

    @cached_property
    def axes(self) -> tuple[Axis, ...] | None:
        """How windows move along each spatial axis; None if not as a convolution's or a pool's."""
        return axes_of(self.problem)

    @property
    def macs(self) -> int:
        """Multiply-adds, those with padding included; a transposed convolution's have no zeros."""
        return shapes.macs(self.problem, self.axes)

    @property
    def flops(self) -> int:
        """Floating-point operations: 2 a multiply-add, 1 a term of a pool's window."""
        return 2 * self.macs or self.problem.flops

    @property
    def useful_flops(self) -> int:
        """Those of which no factor is padding."""
        return shapes.useful_flops(self.problem, self.axes)

    @property
    def intensity(self) -> float:
        """FLOP a byte, each input and output element moved once."""
        return self.flops / self.problem.bytes_moved

    @property
    def receptive_field(self) -> tuple[int, ...] | None:
        """Inputs along each spatial axis that one output depends on; None if not known."""
        return None if self.axes is None else tuple(axis.field for axis in self.axes)

    @property
    def bound(self) -> roofline.Bound:
        """The least time on the target, from main memory; of the direct algorithm."""
        moved, family = self.problem.bytes_moved, self.problem.family
        return roofline.bound(self.target, self.useful_flops, moved, family)

    def sections(self) -> list[Section]:
        """All of it, in order."""
        problem, axes = self.problem, self.axes
        found = [
            Section(str(problem), (ops.get(problem.op).summary,)),
            shapes.shape_section(problem, axes),
            shapes.cost_section(problem, axes),
            self._roofline(),
        ]
        if axes is not None:
            found.append(shapes.reads_section(problem, axes, self.at))
        if axes and is_transposed(axes):
            own = tuple(axis for axis in axes if isinstance(axis, TransposedAxis))
            found.append(overlap.overlap_section(problem, own))
        if self.arrays:
            found.append(values.values_section(problem, axes, self.at, self.arrays))
        optional = (
            matrix.matrix_section(problem, axes),
            alternatives.alternatives_section(problem, axes),
        )
        return [*found, *(section for section in optional if section is not None)]

    def _roofline(self) -> Section:
        problem, notes = self.problem, []
        if problem.op == "conv" and winograd.fits(problem):
            notes.append("Winograd's algorithm multiplies less, and may take less than this")
        if self.useful_flops < self.flops:
            notes.append("what a kernel may skip is not counted here")
        work = (self.useful_flops, problem.bytes_moved, problem.family)
        return roofline.section(self.target, *work, tuple(notes))

    def svg(self) -> str:
        """The picture as SVG: input, padding, kernel positions and output.

        Raises
        ------
        InputError
            If the operator has no window that moves over a map.
        """
        from tvmconv.explain.drawing import draw

        if not self.axes:
            raise InputError(f"{self.problem}: there is no window to draw")
        return draw(self.problem, self.axes, self.at)

    def to_json(self) -> dict[str, Any]:
        """JSON-able form: the numbers, without the words."""
        problem, axes = self.problem, self.axes
        found: dict[str, Any] = {
            "problem": problem.text,
            "target": self.target.name,
            "inputs": {name: list(shape) for name, shape in problem.inputs.items()},
            "output_shape": list(problem.output_shape),
            "parameters": problem.parameters,
            "macs": self.macs,
            "flops": self.flops,
            "useful_flops": self.useful_flops,
            "bytes_read": problem.bytes_read,
            "bytes_written": problem.bytes_written,
            "intensity": self.intensity,
            "bound_us": self.bound.seconds * 1e6,
            "bound_by": self.bound.limit,
            "receptive_field": None if axes is None else list(self.receptive_field or ()),
            "at": list(self.at),
            "alternatives": [vars(a) for a in alternatives.alternatives(problem, axes)],
        }
        if axes is not None:
            found["reads"] = _reads(problem, axes, self.at)
        if axes and is_transposed(axes):
            own = [axis for axis in axes if isinstance(axis, TransposedAxis)]
            found["overlap_even"] = all(map(overlap.is_even, own))
        if self.arrays:
            found["y"] = problem.reference(self.arrays).tolist()
        return found


def _reads(problem: Problem, axes: tuple[Axis, ...], at: tuple[int, ...]) -> dict[str, Any]:
    """What an output reads along each axis: first and last input, or null, and how many."""
    channels = input_channels(problem, at[1])
    found: dict[str, Any] = {"C": [channels[0], channels[-1], len(channels)]}
    for axis, name, output in zip(axes, NAMES[problem.rank], at[2:], strict=True):
        inside = axis.taps_inside(output)
        taps = inside if axis.mode else (*inside[:1], *inside[-1:])
        places = [axis.index(axis.position(output, tap)) for tap in taps]
        read = [place for place in places if place is not None]
        found[name] = [min(read, default=None), max(read, default=None), len(inside)]
    return found


def output_place(problem: Problem, at: Sequence[int] | None) -> tuple[int, ...]:
    """Batch, channel and place of an output.

    Parameters
    ----------
    problem : Problem
    at : sequence of int or None
        The place; or channel and place; or all three. The middle of channel 0 if None.

    Raises
    ------
    InputError
        If it has another number of axes, or is outside the output.
    """
    shape = problem.output_shape
    if at is None:
        return (0, 0, *(size // 2 for size in shape[2:]))
    full = (*(0,) * (len(shape) - len(at)), *at)
    if not max(problem.rank, 1) <= len(at) <= len(shape):
        raise InputError(f"{problem}: at takes {problem.rank or 1} to {len(shape)} numbers,"
                         f" got {len(at)}")  # fmt: skip
    for number, size in zip(full, shape, strict=True):
        if not 0 <= number < size:
            raise InputError(f"{problem}: at {','.join(map(str, at))} is outside the output"
                             f" {sizes(shape)}")  # fmt: skip
    return full
