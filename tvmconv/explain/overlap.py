"""Uneven overlap of a transposed convolution: how many taps meet in each output.

Where the taps do not divide evenly among the outputs between two inputs, some outputs are sums of
more products than their neighbours, and pictures made so show a checkerboard.

References
----------
Odena, Dumoulin and Olah, Deconvolution and checkerboard artifacts, Distill, 2016.
"""

from __future__ import annotations

from math import gcd

from tvmconv.explain.alternatives import resized_kernel
from tvmconv.explain.axes import NAMES, TransposedAxis
from tvmconv.explain.text import Section, sizes
from tvmconv.problem import Problem

#: Outputs of an axis that are shown, and rows and columns of the picture.
_SHOWN, _SIDE = 24, 12
#: From the fewest taps to the most.
_SHADES = "·░▒▓█"


def phase_taps(axis: TransposedAxis) -> tuple[int, ...]:
    """Taps that reach an output, for each place between two inputs (o + low modulo the stride)."""
    counts = [0] * axis.stride
    period = axis.stride // gcd(axis.dilation, axis.stride)
    for tap in range(min(period, axis.taps)):
        counts[tap * axis.dilation % axis.stride] = -(-(axis.taps - tap) // period)
    return tuple(counts)


def overlap(axis: TransposedAxis) -> list[int]:
    """Products that meet in each of the first outputs, edges included."""
    return [len(axis.taps_inside(output)) for output in range(min(axis.outputs, _SHOWN))]


def is_even(axis: TransposedAxis) -> bool:
    """Whether as many taps reach every output, away from the edges."""
    return gcd(axis.dilation, axis.stride) == 1 and axis.taps % axis.stride == 0


def even_kernel(axis: TransposedAxis) -> int:
    """Fewest taps, not fewer than the axis has, with which the overlap is even; 0 if none has."""
    if gcd(axis.dilation, axis.stride) != 1:
        return 0
    return -(-axis.taps // axis.stride) * axis.stride


def overlap_section(problem: Problem, axes: tuple[TransposedAxis, ...]) -> Section:
    """The overlap along each axis, its picture, and how to avoid an uneven one."""
    rows: list[tuple[object, ...]] = []
    for axis, name in zip(axes, NAMES[problem.rank], strict=True):
        counts = phase_taps(axis) if axis.stride <= _SHOWN else ()
        along = " ".join(map(str, overlap(axis))) + " …" * (axis.outputs > _SHOWN)
        verdict = "even" if is_even(axis) else "uneven" if all(counts) else "uneven, with holes"
        rows.append((name, " ".join(map(str, counts)), verdict, along))
    columns = ("axis", "taps by place", "overlap", "products in each output")
    bad = [axis for axis in axes if not is_even(axis)]
    lines = ("even: every output away from the edges is the sum of as many products",)
    notes = advice(problem, axes) if bad else ()
    picture = _picture(axes) if bad and len(axes) > 1 else ()
    title = "overlap (checkerboard)" if bad else "overlap"
    return Section(title, () if bad else lines, columns, tuple(rows), (*picture, *notes))


def _picture(axes: tuple[TransposedAxis, ...]) -> tuple[str, ...]:
    """Products in each output of a corner of the last two axes, as shades."""
    rows, columns = (overlap(axis)[:_SIDE] for axis in axes[-2:])
    most = max(rows) * max(columns) or 1
    lines = [f"products in each output of {NAMES[2][0]} and {NAMES[2][1]}, darkest {most}:"]
    for row in rows:
        shades = (_SHADES[-(-row * column * 4 // most)] for column in columns)
        lines.append("  " + "".join(shade * 2 for shade in shades))
    return tuple(lines)


def advice(problem: Problem, axes: tuple[TransposedAxis, ...]) -> tuple[str, ...]:
    """Two ways to the same output shape without a checkerboard."""
    lines = []
    kernel = tuple(even_kernel(axis) for axis in axes)
    if all(kernel):
        lines.append(_with_kernel(problem, axes, kernel))
    else:
        lines.append("the dilation and the stride have a common factor: no kernel can be even")
    conv = sizes(resized_kernel(problem))
    lines.append(
        f"or resize to {sizes(problem.out_spatial)} (nearest), then convolve with {conv}, stride 1"
    )
    return tuple(lines)


def _with_kernel(
    problem: Problem, axes: tuple[TransposedAxis, ...], kernel: tuple[int, ...]
) -> str:
    """A kernel that the stride divides, with the padding that keeps the output's shape."""
    pads = _padding(axes, kernel, with_extra=False)
    kept = ""
    if min(pads) < 0:
        pads, kept = _padding(axes, kernel, with_extra=True), ", the same output_padding"
    if pads[: len(axes)] == pads[len(axes) :]:
        pads = pads[: len(axes)]
    shown = str(pads[0]) if len(set(pads)) == 1 else ",".join(map(str, pads))
    return (
        f"taps that the stride divides: {sizes(kernel)} with padding={shown}{kept} gives the same"
        f" shape, {sizes(problem.out_spatial)}"
    )


def _padding(
    axes: tuple[TransposedAxis, ...], kernel: tuple[int, ...], with_extra: bool
) -> list[int]:
    """Lows then highs, with which longer kernels give as many outputs as the axes have."""
    lows, highs = [], []
    for axis, taps in zip(axes, kernel, strict=True):
        more = axis.dilation * (taps - axis.taps) - (0 if with_extra else axis.extra)
        lows.append(axis.low + more // 2)
        highs.append(axis.high + more - more // 2)
    return [*lows, *highs]
