"""A border around a tensor: of one value, or of the tensor's own elements.

Along an axis of ``size`` elements the border's place ``q``, which is negative before the first
element, holds by ``mode``

* ``constant``: a value;
* ``edge``: the nearest element;
* ``reflect``: the element as far on the other side of the first or last one, which is not repeated;
* ``wrap``: element ``q mod size``;
* ``sphere``: for images of a sphere whose rows are circles of latitude, from pole to pole, at half
  steps from the poles: columns wrap, and beyond a pole the rows come back on the other side, that
  is mirrored and shifted by half the width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

#: Those that ONNX has, and one more.
ONNX_MODES = ("constant", "reflect", "edge", "wrap")
MODES = (*ONNX_MODES, "sphere")


def check(shape: Shape, lows: Sequence[int], highs: Sequence[int], mode: str) -> None:
    """Refuse a border that a mode does not have.

    Raises
    ------
    InputError
        If an element would be reflected or wrapped more than once, or the image has no sphere.
    """
    for axis, (size, low, high) in enumerate(zip(shape, lows, highs, strict=True)):
        most = {"reflect": size - 1, "wrap": size, "sphere": size}.get(mode, max(low, high))
        if max(low, high) > most:
            raise InputError(f"a border of {max(low, high)} in mode {mode!r} is too wide for axis"
                             f" {axis} of {size}")  # fmt: skip
    if mode == "sphere" and (len(shape) != 4 or any((*lows[:2], *highs[:2])) or shape[3] % 2):
        raise InputError("mode 'sphere' pads rows and columns of an image of even width")


def output_shape(shapes: Sequence[Shape], attrs: Attrs) -> Shape:
    """Return the shape with ``lows[i] + highs[i]`` added to axis i."""
    expect_inputs(shapes, 1)
    sides = integers(attrs, "lows"), integers(attrs, "highs")
    for key, side in zip(("lows", "highs"), sides, strict=True):
        if len(side) != len(shapes[0]):
            raise InputError(f"attribute '{key}' {side} must have {len(shapes[0])} elements")
        if min(side, default=0) < 0:
            raise InputError(f"attribute '{key}' {side} must not be negative")
    if attrs["mode"] not in MODES:
        raise InputError(f"attribute 'mode' must be one of {', '.join(MODES)}, is {attrs['mode']}")
    check(shapes[0], *sides, attrs["mode"])
    number(attrs, "value")
    return tuple(low + extent + high for extent, low, high in zip(shapes[0], *sides, strict=True))


def padded(x: Array, lows: Sequence[int], highs: Sequence[int], mode: str, value: float) -> Array:
    """An array with its border."""
    widths = list(zip(lows, highs, strict=True))
    if mode == "constant":
        return np.pad(x, widths, constant_values=value)
    if mode != "sphere":
        return np.pad(x, widths, mode=mode)  # type: ignore[call-overload, no-any-return]
    (low, high), half = widths[2], x.shape[3] // 2
    turned = np.roll(x[:, :, ::-1], half, axis=3)  # as seen from beyond the poles
    rows = x.shape[2]
    x = np.concatenate([turned[:, :, rows - low :], x, turned[:, :, :high]], axis=2)
    return np.pad(x, [(0, 0), (0, 0), (0, 0), widths[3]], mode="wrap")


def reference(arrays: Sequence[Array], attrs: Attrs) -> Array:
    """Pad."""
    return padded(arrays[0], attrs["lows"], attrs["highs"], attrs["mode"], attrs["value"])


def compute(spec: KernelSpec) -> list[Any]:
    """Read each place of the border where it comes from; on blocks a vector of channels."""
    from tvmconv._tvm import te, tirx

    layout, attrs = spec.inputs[0], spec.attrs
    x = expressions.placeholder(layout, "x")
    lows, highs, mode = attrs["lows"], attrs["highs"], attrs["mode"]
    value = tirx.const(attrs["value"], spec.output.dtype)
    moves = [bool(low or high) for low, high in zip(lows, highs, strict=True)]

    def body(*index: Any) -> Any:
        place, lane = list(index), None
        if layout.block > 1:
            lane = place.pop()
            place[1] = place[1] * layout.block + lane if moves[1] else place[1]
            if moves[1] and mode != "constant":
                # Lanes behind the last channel have no source of their own.
                place[1] = te.min(place[1], spec.output.shape[1] - 1)
        place = [q - low for q, low in zip(place, lows, strict=True)]
        sizes = layout.shape
        inside = [
            c
            for q, size, moved in zip(place, sizes, moves, strict=True)
            for c in ((q >= 0, q < size) if moved else ())
        ]
        if mode == "sphere":
            place[2:] = _on_sphere(place[2], place[3], sizes[2], sizes[3])
        else:
            place = [
                _source(q, size, mode) if moved else q
                for q, size, moved in zip(place, sizes, moves, strict=True)
            ]
        if lane is None or moves[1]:
            element = expressions.element(x, layout, place)
        else:
            element = layout.at_slot(x, place[0], place[1], place[2:], (lane,))
        if mode != "constant" or not inside:
            return element
        return tirx.Select(tirx.all(*inside), element, value)

    def _source(q: Any, size: int, mode: str) -> Any:
        if mode == "wrap":
            return _wrapped(q, size)
        if mode == "reflect":
            return size - 1 - te.abs(size - 1 - te.abs(q))
        return te.max(te.min(q, size - 1), 0)

    return [x, expressions.elements(spec.output.iteration_shape, body)]


def _wrapped(q: Any, size: int) -> Any:
    """``q mod size`` of a place at most one size away."""
    from tvmconv._tvm import tirx

    return tirx.Select(q < 0, q + size, tirx.Select(q >= size, q - size, q))


def _on_sphere(row: Any, column: Any, rows: int, columns: int) -> list[Any]:
    """Where a row and a column beyond the edges of an image of a sphere are."""
    from tvmconv._tvm import tirx

    north, south = row < 0, row >= rows
    mirrored = tirx.Select(north, -1 - row, tirx.Select(south, 2 * rows - 1 - row, row))
    column = _wrapped(column, columns)
    turned = _wrapped(column + columns // 2, columns)
    return [mirrored, tirx.Select(tirx.any(north, south), turned, column)]


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


def _value(node: OnnxNode) -> float | int:
    """The value of the constant mode: an attribute before opset 11, an input since."""
    if node.opset < 11:
        return node.float_attr("value", 0.0)
    if node.optional(2) is None:
        return 0.0
    data = node.constant_input(2, "the padding value")
    if data.size != 1:
        node.fail(f"the padding value must be a scalar, has shape {data.shape}")
    value: float | int = data.item()
    return int(value) if data.dtype.kind == "b" else value


def _import(node: OnnxNode, builder: Builder) -> Value:
    """Import Pad; what negative pads ask for is cut off first."""
    x = node.input(0)
    rank = len(x.shape)
    mode = node.str_attr("mode", "constant")
    if mode not in ONNX_MODES:
        node.fail(f"attribute 'mode' {mode!r} is unknown")
    pads = _pads(node, rank)
    if not any(pads):
        return x
    value = _value(node) if mode == "constant" else 0.0
    if min(pads) < 0:
        x = _crop(node, builder, x, [max(0, -pad) for pad in pads])
    pads = [max(0, pad) for pad in pads]
    attrs = {"lows": pads[:rank], "highs": pads[rank:], "value": value, "mode": mode}
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


def _attrs(lows: list[int], highs: list[int], mode: str, value: float = 0.0) -> Attrs:
    return {"lows": lows, "highs": highs, "mode": mode, "value": value}


OPERATOR = register(
    Operator(
        name="pad",
        summary="a border of one value, or of the tensor's own elements",
        output_shape=output_shape,
        reference=reference,
        onnx={"Pad": _import},
        cases=(
            Case(
                "TensorFlow's padding of a strided convolution",
                shapes=((1, 3, 8, 8),),
                attrs=_attrs([0, 0, 0, 0], [0, 0, 1, 1], "constant"),
            ),
            Case(
                "channels too, with another value",
                shapes=((2, 13, 5, 3),),
                attrs=_attrs([0, 2, 1, 0], [0, 1, 0, 2], "constant", -1.5),
            ),
            Case(
                "style transfer: reflected",
                shapes=((1, 19, 7, 6),),
                attrs=_attrs([0, 0, 4, 4], [0, 0, 4, 5], "reflect"),
            ),
            Case("edge", shapes=((2, 17, 5, 4),), attrs=_attrs([0, 0, 7, 0], [0, 0, 1, 2], "edge")),
            Case("wrap", shapes=((2, 17, 5, 4),), attrs=_attrs([0, 0, 5, 1], [0, 0, 0, 4], "wrap")),
            Case(
                "all axes reflected",
                shapes=((2, 5, 4, 3),),
                attrs=_attrs([1, 2, 1, 0], [0, 4, 3, 2], "reflect"),
            ),
            Case(
                "an equirectangular image",
                shapes=((1, 20, 6, 8),),
                attrs=_attrs([0, 0, 2, 3], [0, 0, 3, 8], "sphere"),
            ),
            Case("a vector wraps", shapes=((5,),), attrs=_attrs([2], [3], "wrap")),
        ),
        bad_cases=(
            BadCase(
                "'lows' [1] must have 2 elements",
                shapes=((2, 3),),
                attrs=_attrs([1], [0, 0], "constant"),
            ),
            BadCase(
                "'highs' [0, -1] must not be negative",
                shapes=((2, 3),),
                attrs=_attrs([0, 0], [0, -1], "constant"),
            ),
            BadCase(
                "a border of 3 in mode 'reflect' is too wide for axis 1 of 3",
                shapes=((2, 3),),
                attrs=_attrs([0, 0], [0, 3], "reflect"),
            ),
            BadCase(
                "'sphere' pads rows and columns of an image of even width",
                shapes=((1, 2, 4, 5),),
                attrs=_attrs([0, 0, 1, 1], [0, 0, 1, 1], "sphere"),
            ),
            BadCase(
                "'mode' must be one of", shapes=((2, 3),), attrs=_attrs([0, 0], [0, 1], "mirror")
            ),
        ),
        compute=compute,
        layout="same",
        any_dtype=True,
    )
)
