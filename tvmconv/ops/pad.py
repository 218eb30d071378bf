"""A border of one value around a tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tvmconv.errors import InputError
from tvmconv.kernel import KernelSpec
from tvmconv.ops import BadCase, Case, Operator, expressions, register
from tvmconv.ops._shapes import Shape, expect_inputs, integers, number

if TYPE_CHECKING:
    from tvmconv.frontend.node import Builder, OnnxNode
    from tvmconv.graph.ir import Value

Array = npt.NDArray[Any]
Attrs = Mapping[str, Any]


def output_shape(shapes: Sequence[Shape], attrs: Attrs) -> Shape:
    """Return the shape with ``lows[i] + highs[i]`` added to axis i."""
    expect_inputs(shapes, 1)
    sides = integers(attrs, "lows"), integers(attrs, "highs")
    for key, side in zip(("lows", "highs"), sides, strict=True):
        if len(side) != len(shapes[0]):
            raise InputError(f"attribute '{key}' {side} must have {len(shapes[0])} elements")
        if min(side, default=0) < 0:
            raise InputError(f"attribute '{key}' {side} must not be negative")
    number(attrs, "value")
    return tuple(low + extent + high for extent, low, high in zip(shapes[0], *sides, strict=True))


def reference(arrays: Sequence[Array], attrs: Attrs) -> Array:
    """Pad."""
    widths = list(zip(attrs["lows"], attrs["highs"], strict=True))
    return np.pad(arrays[0], widths, constant_values=attrs["value"])


def compute(spec: KernelSpec) -> list[Any]:
    """Read what lies inside; the value elsewhere."""
    from tvmconv._tvm import te, tirx

    sizes, lows = spec.inputs[0].shape, spec.attrs["lows"]
    value = tirx.const(spec.attrs["value"], spec.output.dtype)

    def body(at: Callable[..., Any], index: tuple[Any, ...]) -> Any:
        place = [i - low for i, low in zip(index, lows, strict=True)]
        inside = [c for q, size in zip(place, sizes, strict=True) for c in (q >= 0, q < size)]
        near = [te.max(te.min(q, size - 1), 0) for q, size in zip(place, sizes, strict=True)]
        return tirx.if_then_else(tirx.all(*inside), at(near), value)

    return expressions.plain_map(spec, body)


def _pads(node: OnnxNode, rank: int) -> list[int]:
    """Return the lows, then the highs, of all axes; negative ones crop."""
    if node.opset < 11:
        pads: list[int] | None = node.ints_attr("pads")
    else:
        pads = node.ints_input(1, "pads")
    if pads is None:
        node.fail("pads are required")
    axes = node.ints_input(3, "axes") if node.opset >= 18 else None
    axes = list(range(rank)) if axes is None else node.axes(axes, rank)
    if len(pads) != 2 * len(axes):
        node.fail(f"pads {pads} must have {2 * len(axes)} elements")
    full = [0] * (2 * rank)
    for place, axis in enumerate(axes):
        full[axis], full[rank + axis] = pads[place], pads[len(axes) + place]
    return full


def _import(node: OnnxNode, builder: Builder) -> Value:
    """Import Pad: constant mode; pads and value are attributes before opset 11, inputs since."""
    x = node.input(0)
    rank = len(x.shape)
    mode = node.str_attr("mode", "constant")
    if mode not in ("constant", "reflect", "edge", "wrap"):
        node.fail(f"attribute 'mode' {mode!r} is unknown")
    pads = _pads(node, rank)
    if not any(pads):
        return x
    if mode != "constant":
        node.fail(f"attribute 'mode' {mode!r} is not supported, only 'constant'")
    value = node.float_attr("value", 0.0) if node.opset < 11 else 0.0
    if node.opset >= 11 and node.optional(2) is not None:
        data = node.constant_input(2, "the padding value")
        if data.size != 1:
            node.fail(f"the padding value must be a scalar, has shape {data.shape}")
        value = float(data.reshape(()))
    if min(pads) < 0:
        x = _crop(node, builder, x, [max(0, -pad) for pad in pads])
    pads = [max(0, pad) for pad in pads]
    attrs = {"lows": pads[:rank], "highs": pads[rank:], "value": value}
    return builder.emit("pad", [x], attrs) if any(pads) else x


def _crop(node: OnnxNode, builder: Builder, x: Value, crops: list[int]) -> Value:
    """Cut off what negative pads ask for."""
    rank = len(x.shape)
    starts = crops[:rank]
    ends = [extent - crops[rank + i] for i, extent in enumerate(x.shape)]
    if any(end <= start for start, end in zip(starts, ends, strict=True)):
        node.fail(f"negative pads crop everything from {list(x.shape)}")
    steps, axes = [1] * rank, list(range(rank))
    attrs = {"starts": starts, "ends": ends, "steps": steps, "axes": axes}
    return builder.emit("slice", [x], attrs)


OPERATOR = register(
    Operator(
        name="pad",
        summary="a border of one value",
        output_shape=output_shape,
        reference=reference,
        onnx={"Pad": _import},
        cases=(
            Case(
                "TensorFlow's padding of a strided convolution",
                shapes=((1, 3, 8, 8),),
                attrs={"lows": [0, 0, 0, 0], "highs": [0, 0, 1, 1], "value": 0.0},
            ),
            Case(
                "channels too, with another value",
                shapes=((2, 13, 5, 3),),
                attrs={"lows": [0, 2, 1, 0], "highs": [0, 1, 0, 2], "value": -1.5},
            ),
        ),
        bad_cases=(
            BadCase(
                "'lows' [1] must have 2 elements",
                shapes=((2, 3),),
                attrs={"lows": [1], "highs": [0, 0], "value": 0.0},
            ),
            BadCase(
                "'highs' [0, -1] must not be negative",
                shapes=((2, 3),),
                attrs={"lows": [0, 0], "highs": [0, -1], "value": 0.0},
            ),
        ),
        compute=compute,
    )
)
