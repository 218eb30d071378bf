"""What ONNX's ``Resize`` and ``Upsample`` ask for, in the forms that they have had."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from tvmconv.ops import Shape

if TYPE_CHECKING:
    from tvmconv.frontend.node import OnnxNode

_ATTRIBUTES = (
    "antialias",
    "axes",
    "coordinate_transformation_mode",
    "cubic_coeff_a",
    "exclude_outside",
    "extrapolation_value",
    "keep_aspect_ratio_policy",
    "mode",
    "nearest_mode",
)
#: The first operator set in which Resize has its coordinate modes.
_MODERN = 11


@dataclass(frozen=True)
class Asked:
    """A resize of all axes.

    Attributes
    ----------
    sizes : tuple of int
        The output's shape.
    scales : tuple of float
        Outputs an input of each axis, before sizes are rounded.
    roi : tuple of float
        Start and then end of what is taken of each axis, relative to its size; empty for all.
    rest : dict
        Options of the problem that are the same for all axes.
    """

    sizes: Shape
    scales: tuple[float, ...]
    roi: tuple[float, ...]
    rest: dict[str, object] = field(default_factory=dict)

    def options(self, first: int, shape: Shape) -> dict[str, object]:
        """The options of a problem whose spatial axes are those from ``first`` on.

        ``shape`` is that of the input.
        """
        sizes, scales = self.sizes[first:], self.scales[first:]
        found = dict(self.rest)
        if any(s != o / i for s, o, i in zip(scales, sizes, shape[first:], strict=True)):
            found["scales"] = scales
        if self.roi:
            rank = len(self.sizes)
            found["roi"] = (*self.roi[first:rank], *self.roi[rank + first :])
        return found


def read(node: OnnxNode) -> Asked | None:
    """Read a node; None if it changes nothing.

    Raises
    ------
    InputError
        If sizes and scales are not constants, or attributes are unknown or contradict each other.
    """
    shape = node.input(0).shape
    if node.op_type == "Upsample" or node.opset < _MODERN:
        asked = _read_old(node, shape)
    else:
        asked = _read_modern(node, shape)
    if min(asked.sizes) < 1:
        node.fail(f"the output would have shape {list(asked.sizes)}")
    moves = any(scale != 1 for scale in asked.scales)
    return asked if moves or asked.sizes != shape or asked.roi else None


def _read_old(node: OnnxNode, shape: Shape) -> Asked:
    """Read Upsample, and Resize of opset 10: by scales, from a corner."""
    node.allow_attrs("mode", "scales")
    if node.op_type == "Upsample" and node.opset < 9:
        given = node.attrs.get("scales", ())
        if not isinstance(given, (list, tuple)) or not given:
            node.fail("attribute 'scales' must be a list of floats")
        scales = tuple(map(float, given))
    else:
        scales = _floats(node, 1, "the scales")
    mode = node.str_attr("mode", "nearest")
    if mode not in ("nearest", "linear"):
        node.fail(f"attribute 'mode' {mode!r} is not supported, only 'nearest' and 'linear'")
    fewer = {scale < 1 for scale in scales if scale != 1}
    if mode == "nearest" and len(fewer) > 1:
        node.fail("scales both above and below 1 are not supported")
    rest: dict[str, object] = {
        "mode": mode,
        "coordinates": "asymmetric",
        "nearest": "ceil" if fewer == {True} else "floor",
    }
    return Asked(_scaled(node, shape, scales), scales, (), rest)


def _read_modern(node: OnnxNode, shape: Shape) -> Asked:
    node.allow_attrs(*_ATTRIBUTES)
    rank = len(shape)
    axes = list(range(rank))
    if node.has("axes"):
        axes = node.axes(node.ints_attr("axes"), rank, "axes")
    rest = _rest(node)
    roi: tuple[float, ...] = ()
    if rest["coordinates"] == "tf_crop_and_resize":
        given = _floats(node, 1, "the roi")
        if len(given) != 2 * len(axes):
            node.fail(f"the roi must have {2 * len(axes)} elements, has {len(given)}")
        ends = np.repeat([0.0, 1.0], rank)
        ends[[*axes, *(rank + axis for axis in axes)]] = given
        roi = tuple(ends.tolist())
    scales, sizes = _scales_and_sizes(node, shape, axes)
    return Asked(sizes, scales, roi, rest)


def _rest(node: OnnxNode) -> dict[str, object]:
    """The options that ONNX has under other names."""
    rest: dict[str, object] = {
        "mode": node.str_attr("mode", "nearest"),
        "coordinates": node.str_attr("coordinate_transformation_mode", "half_pixel"),
        "nearest": node.str_attr("nearest_mode", "round_prefer_floor"),
        "cubic_coeff": node.float_attr("cubic_coeff_a", -0.75),
        "exclude_outside": bool(node.int_attr("exclude_outside", 0)),
        "antialias": bool(node.int_attr("antialias", 0)),
        "extrapolation": node.float_attr("extrapolation_value", 0.0),
    }
    if rest["mode"] != "nearest":
        del rest["nearest"]
    if rest["mode"] != "cubic":
        del rest["cubic_coeff"]
    if rest["coordinates"] != "tf_crop_and_resize":
        del rest["extrapolation"]
    return rest


def _scales_and_sizes(
    node: OnnxNode, shape: Shape, axes: Sequence[int]
) -> tuple[tuple[float, ...], Shape]:
    """What the inputs 2 and 3 ask for, of which one has to be there."""
    scales = _floats(node, 2, "the scales") if node.optional(2) is not None else ()
    sizes = (node.ints_input(3, "the sizes") or []) if node.optional(3) is not None else []
    if bool(scales) == bool(sizes):
        node.fail("needs scales or sizes, and not both")
    if len(scales or sizes) != len(axes):
        what = "scales" if scales else "sizes"
        node.fail(f"{what} must have {len(axes)} elements, have {len(scales or sizes)}")
    policy = node.str_attr("keep_aspect_ratio_policy", "stretch")
    if policy not in ("stretch", "not_larger", "not_smaller"):
        node.fail(f"attribute 'keep_aspect_ratio_policy' {policy!r} is unknown")
    full, counts = [1.0] * len(shape), list(shape)
    if scales:
        for axis, scale in zip(axes, scales, strict=True):
            full[axis] = scale
        return tuple(full), _scaled(node, shape, full)
    for axis, count in zip(axes, sizes, strict=True):
        full[axis], counts[axis] = count / shape[axis], count
    if policy != "stretch":
        found = [full[axis] for axis in axes]
        scale = min(found) if policy == "not_larger" else max(found)
        for axis in axes:
            full[axis], counts[axis] = scale, int(scale * shape[axis] + 0.5)
    return tuple(full), tuple(counts)


def _scaled(node: OnnxNode, shape: Shape, scales: Sequence[float]) -> Shape:
    if len(scales) != len(shape):
        node.fail(f"scales must have {len(shape)} elements, have {len(scales)}")
    if not all(0 < scale < math.inf for scale in scales):
        node.fail(f"scales must be positive, are {list(scales)}")
    return tuple(math.floor(extent * s) for extent, s in zip(shape, scales, strict=True))


def _floats(node: OnnxNode, index: int, what: str) -> tuple[float, ...]:
    data = node.constant_input(index, what)
    if data.dtype.kind != "f" or data.ndim != 1:
        node.fail(f"{what} must be a 1-D tensor of floats, is {data.dtype} of shape {data.shape}")
    return tuple(float(v) for v in data)


def first_axis(shape: Shape, asked: Asked) -> int | None:
    """The first axis that has to be a spatial one, of at most three; None if there is none.

    It is 2 where batch and channels keep their size. Otherwise what lies before it is the batch.
    """
    rank = len(shape)
    roi = asked.roi or (0.0,) * rank + (1.0,) * rank
    kept = [
        shape[k] == asked.sizes[k] and asked.scales[k] == 1 and (roi[k], roi[rank + k]) == (0, 1)
        for k in range(rank)
    ]
    if all(kept[:2]) and 3 <= rank <= 5:
        return 2
    first = 1 if kept[0] else 0
    return first if rank - first <= 3 else None
