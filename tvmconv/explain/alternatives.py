"""What other layers with the same shapes would cost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from math import gcd, isqrt, prod

from tvmconv.errors import InputError
from tvmconv.explain.axes import Axis, is_transposed
from tvmconv.explain.shapes import macs
from tvmconv.explain.text import Section, times
from tvmconv.problem import Problem

#: Channels of an image, by which the inputs of a dense layer are recognised as one.
_IMAGE_CHANNELS = (3, 1)
#: The most groups that are compared with.
_GROUPS = 32
_WINDOW = ("stride", "padding", "padding_mode", "dilation")


@dataclass(frozen=True)
class Alternative:
    """A layer, or two in a row, in a problem's place.

    Attributes
    ----------
    name : str
    parameters, macs : int
    how : str
        The problems, or the shapes, that it consists of.
    """

    name: str
    parameters: int
    macs: int
    how: str


def alternatives(problem: Problem, axes: tuple[Axis, ...] | None) -> tuple[Alternative, ...]:
    """What could stand in a problem's place; nothing for pools."""
    if problem.family.arithmetic != "multiply-add":
        return ()
    if not problem.rank:
        return tuple(_of_dense(problem))
    if axes is None:
        return ()
    found: list[Alternative] = []
    with suppress(InputError):  # what is between two layers can be too large to exist
        found.extend(_resized(problem) if is_transposed(axes) else _of_convolution(problem))
    return (*found, _dense(problem))


def _of_convolution(problem: Problem) -> Iterator[Alternative]:
    """Other convolutions from the same input to the same output."""
    channels = problem.ci
    window = {name: value for name in _WINDOW if (value := problem.option(name)) is not None}
    plain = Problem("conv", problem.input_shape, (problem.co, *problem.kernel), window)
    plain = plain.replace(bias=problem.bias)
    if problem.family.unshared:
        yield _chain("the same weights everywhere", plain)
    if problem.family.gated:
        yield _chain("without the gate", plain)
    if problem.groups > 1 or problem.parts:
        yield _chain("all channels with all", plain)
    groups = gcd(channels, problem.co, _GROUPS)
    if 1 < groups < channels and groups != problem.groups:
        yield _chain(f"{groups} groups", plain.replace(groups=groups))
    if channels > 1 and prod(problem.kernel) > 1 and not problem.parts:
        depthwise = Problem(
            "depthwise_conv", problem.input_shape, (channels, *problem.kernel), window
        )
        pointwise = Problem(
            "conv",
            depthwise.output_shape,
            (problem.co, *(1,) * problem.rank),
            {"bias": problem.bias},
        )
        yield _chain("depthwise separable", depthwise, pointwise)
    if sum(taps > 1 for taps in problem.kernel) > 1 and problem.groups == 1:
        yield _chain("spatially separable", *_one_axis_each(plain))


def _one_axis_each(problem: Problem) -> list[Problem]:
    """One convolution an axis in place of one over all."""
    steps, shape = [], problem.input_shape
    for axis, taps in enumerate(problem.kernel):
        padded = problem.pads_low[axis] or problem.pads_high[axis]
        if taps == problem.stride[axis] == 1 and not padded:
            continue

        def along(values: tuple[int, ...], other: int, axis: int = axis) -> tuple[int, ...]:
            return tuple(v if k == axis else other for k, v in enumerate(values))

        options = {
            "stride": along(problem.stride, 1),
            "dilation": along(problem.dilation, 1),
            "padding": along(problem.pads_low, 0) + along(problem.pads_high, 0),
            "padding_mode": problem.option("padding_mode"),
        }
        step = Problem("conv", shape, (problem.co, *along(problem.kernel, 1)), options)
        steps.append(step)
        shape = step.output_shape
    steps[-1] = steps[-1].replace(bias=problem.bias)
    return steps


def _resized(problem: Problem) -> Iterator[Alternative]:
    """The nearest pixels repeated, then a convolution that reaches as many inputs."""
    kernel = resized_kernel(problem)
    padding = tuple((taps - 1) // 2 for taps in kernel)
    shape = (*problem.input_shape[:2], *problem.out_spatial)
    options = {"padding": padding, "groups": problem.groups, "bias": problem.bias}
    conv = Problem("conv", shape, (problem.co, *kernel), options)
    yield Alternative("resize, then convolve", conv.parameters, conv.macs, f"nearest → {conv}")


def resized_kernel(problem: Problem) -> tuple[int, ...]:
    """Odd taps, at least 3, that reach as many inputs on the resized map as the problem's do."""
    reach = zip(problem.kernel_extent, problem.stride, strict=True)
    return tuple(max(3, stride * (-(-extent // stride) - 1) + 1) | 1 for extent, stride in reach)


def _dense(problem: Problem) -> Alternative:
    """Every output from every input."""
    ins, outs = prod(problem.input_shape[1:]), prod(problem.output_shape[1:])
    parameters = ins * outs + outs * problem.bias
    return Alternative("dense", parameters, problem.batch * ins * outs, f"{ins} inputs → {outs}")


def _of_dense(problem: Problem) -> Iterator[Alternative]:
    """A convolution to as many channels, if the inputs can be an image."""
    for channels in _IMAGE_CHANNELS:
        pixels, rest = divmod(problem.ci, channels)
        side = isqrt(pixels)
        if rest or side * side != pixels or side < 8:
            continue
        options = {"padding": 1, "bias": problem.bias}
        conv = Problem("conv", (problem.batch, channels, side, side), (problem.co, 3, 3), options)
        yield _chain(f"convolution of a {channels}x{side}x{side} image", conv)
        return


def _chain(name: str, *problems: Problem) -> Alternative:
    return Alternative(
        name,
        sum(problem.parameters for problem in problems),
        sum(problem.macs for problem in problems),
        ", then ".join(map(str, problems)),
    )


def alternatives_section(problem: Problem, axes: tuple[Axis, ...] | None) -> Section | None:
    """The alternatives beside the problem; None if there are none."""
    found = alternatives(problem, axes)
    if not found:
        return None
    own = Alternative("this", problem.parameters, macs(problem, axes), problem.name)
    rows: list[tuple[object, ...]] = [(own.name, own.parameters, "", own.macs, "", own.how)]
    for other in found:
        fewer = (times(other.parameters, own.parameters), times(other.macs, own.macs))
        row = (other.name, other.parameters, fewer[0], other.macs, fewer[1], other.how)
        rows.append(row)
    columns = ("layer", "parameters", "", "multiply-adds", "", "consists of")
    return Section("what others would cost", (), columns, tuple(rows))
