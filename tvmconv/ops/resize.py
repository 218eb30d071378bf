"""Resizing by interpolation: ONNX ``Resize`` and ``Upsample``.

Output ``o`` of an axis lies at a coordinate of the input, which may lie between two elements
(``coordinates``); it is the nearest element, or a weighted sum of its neighbours (``mode``).

References
----------
ONNX operator specification, Resize-19. R. G. Keys, Cubic convolution interpolation for digital
image processing, 1981, equation 15: the weights of the cubic mode.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tvmconv.kernel import KernelSpec
from tvmconv.ops import (
    Array,
    Family,
    Float64,
    importing,
    resampling,
    resampling_kernel,
    resize_import,
)
from tvmconv.ops import family as shared
from tvmconv.ops import options as opt
from tvmconv.ops.resampling import Axis
from tvmconv.problem import Problem

if TYPE_CHECKING:
    from tvmconv.frontend.node import Builder, OnnxNode
    from tvmconv.graph.ir import Value

COORDINATES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_crop_and_resize",
)
MODES = ("nearest", "linear", "cubic")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


def axes_of(problem: Problem) -> list[Axis]:
    """The spatial axes of a resize problem."""
    scales, roi = problem.option("scales"), problem.option("roi")
    found = []
    for k, (size, count) in enumerate(zip(problem.in_spatial, problem.kernel, strict=True)):
        scale = opt.floats(scales)[k] if scales else count / size
        ends = (0.0, 1.0)
        if roi:
            ends = opt.floats(roi)[k], opt.floats(roi)[problem.rank + k]
        found.append(_axis(problem, size, count, scale, ends))
    return found


def _axis(problem: Problem, size: int, count: int, scale: float, ends: tuple[float, float]) -> Axis:
    mode, kind = problem.option("mode"), problem.option("coordinates")
    crops = kind == "tf_crop_and_resize"
    if scale == 1.0 and count == size and (not crops or ends == (0.0, 1.0)):
        return resampling.identity(size)
    at = coordinates(kind, size, count, scale, ends)
    beyond = (at < 0) | (at > size - 1) if crops else None
    if beyond is not None and not beyond.any():
        beyond = None
    if mode == "nearest":
        return Axis(size, _nearest(at, problem.option("nearest"))[None], None, beyond)
    shrink = min(scale, 1.0) if problem.option("antialias") else 1.0
    places, weights = _neighbours(at, mode, problem, shrink)
    if problem.option("exclude_outside"):
        inside = (places >= 0) & (places < size)
        weights = np.where(inside, weights, 0.0)
        total = weights.sum(axis=0)
        weights = weights / np.where(total == 0, 1.0, total)
    return Axis(size, places, weights, beyond)


def coordinates(
    kind: str, size: int, count: int, scale: float, ends: tuple[float, float] = (0.0, 1.0)
) -> Float64:
    """Where each output lies among the inputs.

    Parameters
    ----------
    kind : str
        One of :data:`COORDINATES`.
    size, count : int
        Inputs and outputs.
    scale : float
        Outputs an input, of which ``count`` may be rounded.
    ends : (float, float)
        The part of the input that ``tf_crop_and_resize`` takes, relative to its size.

    Returns
    -------
    ndarray of float64, (count,)
    """
    o = np.arange(count, dtype=np.float64)
    wide = scale * size
    if kind == "align_corners":
        return np.zeros(count) if wide == 1 else o * (size - 1) / (wide - 1)
    if kind == "asymmetric":
        return o / scale
    if kind == "tf_crop_and_resize":
        first, last = ends
        if wide == 1:
            return np.full(count, (first + last) / 2 * (size - 1))
        return first * (size - 1) + o * (last - first) * (size - 1) / (wide - 1)
    if kind == "pytorch_half_pixel" and wide == 1:
        return np.full(count, -0.5)
    offset = size / 2 * (1 - count / wide) if kind == "half_pixel_symmetric" else 0.0
    return offset + (o + 0.5) / scale - 0.5


def _nearest(at: Float64, rounding: str) -> npt.NDArray[np.int64]:
    """Round coordinates."""
    left = np.floor(at)
    share = at - left
    up = {
        "round_prefer_floor": share > 0.5,
        "round_prefer_ceil": share >= 0.5,
        "floor": np.zeros(at.shape, bool),
        "ceil": share > 0,
    }[rounding]
    return np.asarray(left + up, np.int64)


def _neighbours(
    at: Float64, mode: str, problem: Problem, shrink: float
) -> tuple[npt.NDArray[np.int64], Float64]:
    """The neighbours of coordinates and their weights; ``shrink`` < 1 widens the filter."""
    half = math.ceil((1 if mode == "linear" else 2) / shrink)
    places = np.floor(at).astype(np.int64) + np.arange(1 - half, half + 1)[:, None]
    distance = np.abs(places - at) * shrink
    if mode == "linear":
        weights = np.clip(1 - distance, 0, None)
    else:
        weights = _keys(distance, float(problem.option("cubic_coeff")))
    return (places, weights / weights.sum(axis=0)) if shrink < 1 else (places, weights)


def _keys(d: Float64, a: float) -> Float64:
    """Keys' cubic filter at a distance."""
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def validate(problem: Problem) -> None:
    """Refuse lists of another length than the axes, and scales that do not give the sizes."""
    for name, wanted in (("scales", problem.rank), ("roi", 2 * problem.rank)):
        text = problem.option(name)
        if text and len(opt.floats(text)) != wanted:
            problem.fail(name, f"must have {wanted} values, got {len(opt.floats(text))}")
    if problem.option("roi") and problem.option("coordinates") != "tf_crop_and_resize":
        problem.fail("roi", "is only of use to coordinates=tf_crop_and_resize")
    if problem.option("coordinates") == "tf_crop_and_resize" and not problem.option("roi"):
        problem.fail("roi", "is required by coordinates=tf_crop_and_resize")
    if problem.option("scales") and min(opt.floats(problem.option("scales"))) <= 0:
        problem.fail("scales", "must be positive")
    for name in ("antialias", "exclude_outside"):
        if problem.option(name) and problem.option("mode") == "nearest":
            problem.fail(name, "is of linear and cubic interpolation")


def _resampled(problem: Problem, x: Array, absolute: bool) -> Float64:
    axes = axes_of(problem)
    maps = [resampling.matrix(axis) for axis in axes]
    y = resampling.apply(x, [np.abs(factor) for factor in maps] if absolute else maps)
    value = float(problem.option("extrapolation"))
    return np.where(resampling.beyond(axes), abs(value) if absolute else value, y)


def reference(problem: Problem, arrays: Mapping[str, Array]) -> Float64:
    """Each axis multiplied by the matrix of its interpolation."""
    return _resampled(problem, arrays["x"], False)


def magnitude(problem: Problem, arrays: Mapping[str, Array]) -> Float64:
    """The same of absolute values, of the weights too: cubic ones are negative in part."""
    return _resampled(problem, np.abs(arrays["x"]), True)


def compute(spec: KernelSpec) -> list[Any]:
    """Resample the axes; arguments are ``x``, the tables of :func:`pack`, operands, the output."""
    problem = Problem.parse(spec.attrs["problem"])
    value = float(problem.option("extrapolation"))
    return resampling_kernel.compute(spec, axes_of(problem), "sum", value)


def pack(spec: KernelSpec, constants: Sequence[Array]) -> list[Array]:
    """The tables of places and weights."""
    problem = Problem.parse(spec.attrs["problem"])
    return resampling.tables(axes_of(problem), spec.output.block == 1)


FAMILY = Family(
    filter_form=("K",),
    options=(
        opt.choice("mode", MODES),
        opt.choice("coordinates", COORDINATES),
        opt.choice("nearest", ROUNDINGS),
        opt.number("cubic_coeff", -0.75),
        opt.flag("exclude_outside"),
        opt.flag("antialias"),
        opt.number("extrapolation", 0.0),
        opt.number_list("scales"),
        opt.number_list("roi"),
        opt.DTYPE,
    ),
    validate=validate,
    inputs=lambda problem: {"x": problem.input_shape},
    out_spatial=lambda problem: problem.kernel,
    taps=lambda problem: resampling.terms(axes_of(problem)),
    reference=reference,
    magnitude=magnitude,
    arithmetic="mean",
    windows=False,
)

CASES = (
    ("resize2d:1x32x14x14:28x28", "FPN: nearest ×2"),
    ("resize2d:1x64x28x28:56x56:mode=linear", "U-Net without transposed convolution"),
    ("resize2d:1x21x16x16:128x128:mode=linear:coordinates=align_corners", "DeepLab's last layer"),
    ("resize2d:1x8x9x7:27x28:mode=linear", "other whole factors"),
    ("resize2d:1x3x12x13:24x26:mode=cubic", "cubic ×2"),
    ("resize2d:1x20x11x17:7x23:mode=cubic:exclude_outside=true:cubic_coeff=-0.5", "excludes"),
    ("resize2d:2x17x24x40:9x13:mode=linear:antialias=true", "antialias, prime sizes"),
    ("resize2d:1x4x24x40:7x40:mode=cubic:antialias=true", "antialias of one axis alone"),
    ("resize2d:1x5x8x8:8x21:mode=linear:coordinates=pytorch_half_pixel", "one axis alone"),
    ("resize2d:1x5x1x1:6x7:mode=linear", "one-pixel map"),
    ("resize2d:1x6x9x8:5x4:nearest=ceil:coordinates=asymmetric", "nearest, smaller"),
    ("resize2d:1x6x9x8:9x24:nearest=round_prefer_ceil:coordinates=asymmetric", "nearest ×3"),
    ("resize2d:1x3x4x9:6x21:mode=linear:coordinates=half_pixel_symmetric:scales=1.6,2.4",
     "scales that give no whole size"),
    ("resize2d:1x3x8x9:5x6:mode=linear:coordinates=tf_crop_and_resize:extrapolation=10"
     ":roi=0.4,-0.3,0.6,1.2", "a crop beyond the image"),
    ("resize1d:1x16x50:100:mode=linear", "WaveGAN's upsampling"),
    ("resize1d:1x7x50:33:mode=cubic", "1-D, fewer"),
    ("resize3d:1x8x4x7x7:8x14x14:mode=linear", "3-D U-Net"),
    ("resize3d:1x4x3x5x6:5x5x9", "3-D nearest"),
)  # fmt: skip

BAD_CASES = (
    ("resize2d:1x8x9x9:9", "filter must have 2 sizes (KxK), got 1"),
    ("resize2d:1x8x9x9:18x18:mode=area", "mode must be one of nearest, linear, cubic, got 'area'"),
    ("resize2d:1x8x9x9:18x18:scales=2", "scales must have 2 values, got 1"),
    ("resize2d:1x8x9x9:18x18:scales=2,x", "scales must be numbers, got '2,x'"),
    ("resize2d:1x8x9x9:18x18:roi=0,0,1,1", "roi is only of use to coordinates=tf_crop_and_resize"),
    ("resize2d:1x8x9x9:4x4:antialias=true", "antialias is of linear and cubic interpolation"),
    ("resize2d:1x8x9x9:4x4:cubic_coeff=nan", "cubic_coeff must be a finite number, got 'nan'"),
)


def _import(node: OnnxNode, builder: Builder) -> Value:
    """ONNX ``Resize`` and ``Upsample``."""
    x = node.input(0)
    asked = resize_import.read(node)
    if asked is None:
        return x
    first = resize_import.first_axis(x.shape, asked)
    if first is None:
        node.fail(
            f"resizing {list(x.shape)} to {list(asked.sizes)} is not supported:"
            " it has more than three axes from the first that changes"
        )
    options = asked.options(first, x.shape)
    sizes = asked.sizes[first:]
    if first == 2:
        return importing.emit(node, builder, "resize", [x], sizes, options)
    lead = (*x.shape[:first], *(1,) * (2 - first))
    x = builder.emit("reshape", [x], {"shape": [*lead, *x.shape[first:]]})
    y = importing.emit(node, builder, "resize", [x], sizes, options)
    return builder.emit("reshape", [y], {"shape": list(asked.sizes)})


shared.register_family(
    "resize",
    "interpolation to another size: nearest, linear, cubic",
    FAMILY,
    ranks=(1, 2, 3),
    onnx={"Resize": _import, "Upsample": _import},
    cases=CASES,
    bad_cases=BAD_CASES,
    compute=compute,
    pack=pack,
    planes=True,
)
