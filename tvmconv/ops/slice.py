"""A part of a tensor: Slice, and Split as several slices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tvmconv.errors import InputError
from tvmconv.kernel import KernelSpec
from tvmconv.ops import BadCase, Case, Operator, expressions, register
from tvmconv.ops._shapes import Shape, axes_in, expect_inputs, integers

if TYPE_CHECKING:
    from tvmconv.frontend.node import Builder, OnnxNode
    from tvmconv.graph.ir import Value

Array = npt.NDArray[Any]
Attrs = Mapping[str, Any]


def _ranges(shape: Shape, attrs: Attrs) -> dict[int, range]:
    """Return the indices taken from each sliced axis; an ``ends`` of -1 lies before index 0."""
    lists = {key: integers(attrs, key) for key in ("starts", "ends", "steps", "axes")}
    if len({len(values) for values in lists.values()}) != 1:
        raise InputError("attributes 'starts', 'ends', 'steps' and 'axes' must be equally long")
    axes = axes_in(lists["axes"], len(shape))
    ranges: dict[int, range] = {}
    for axis, start, end, step in zip(
        axes, lists["starts"], lists["ends"], lists["steps"], strict=True
    ):
        if step == 0:
            raise InputError("attribute 'steps' must not be 0")
        taken = range(start, end, step)
        if len(taken) and not (0 <= taken[0] < shape[axis] and 0 <= taken[-1] < shape[axis]):
            raise InputError(f"attribute 'starts': {taken} is outside axis {axis} of {shape[axis]}")
        ranges[axis] = taken
    return ranges


def output_shape(shapes: Sequence[Shape], attrs: Attrs) -> Shape:
    """Return the shape with ⌈(end − start) / step⌉ elements on each sliced axis."""
    expect_inputs(shapes, 1)
    ranges = _ranges(shapes[0], attrs)
    return tuple(len(ranges[i]) if i in ranges else extent for i, extent in enumerate(shapes[0]))


def reference(arrays: Sequence[Array], attrs: Attrs) -> Array:
    """Slice (a view)."""
    index = [slice(None)] * arrays[0].ndim
    for axis, taken in _ranges(arrays[0].shape, attrs).items():
        stop = None if taken.stop < 0 else taken.stop
        index[axis] = slice(taken.start, stop, taken.step) if len(taken) else slice(0, 0)
    return np.asarray(arrays[0][tuple(index)])


def compute(spec: KernelSpec) -> list[Any]:
    """Read ``start + i·step`` on the sliced axes."""
    ranges = _ranges(spec.inputs[0].shape, spec.attrs)

    def body(at: Callable[..., Any], index: tuple[Any, ...]) -> Any:
        place = list(index)
        for axis, taken in ranges.items():
            place[axis] = index[axis] * taken.step + taken.start
        return at(place)

    return expressions.plain_map(spec, body)


def _clamp(start: int, end: int, step: int, extent: int) -> tuple[int, int]:
    """Resolve ONNX's bounds, which may count from the end and lie outside."""
    start += extent if start < 0 else 0
    end += extent if end < 0 else 0
    if step > 0:
        return min(max(start, 0), extent), min(max(end, 0), extent)
    return min(max(start, -1), extent - 1), min(max(end, -1), extent - 1)


def _import_slice(node: OnnxNode, builder: Builder) -> Value:
    """Import Slice: bounds are attributes before opset 10, inputs since."""
    x = node.input(0)
    starts: list[int] | None
    ends: list[int] | None
    steps: list[int] | None = None
    if node.opset < 10:
        starts, ends = node.ints_attr("starts"), node.ints_attr("ends")
        axes = node.ints_attr("axes") if node.has("axes") else None
    else:
        starts, ends = node.ints_input(1, "starts"), node.ints_input(2, "ends")
        axes, steps = node.ints_input(3, "axes"), node.ints_input(4, "steps")
    if starts is None or ends is None:
        node.fail("starts and ends are required")
    axes = list(range(len(starts))) if axes is None else axes  # ONNX: the first ones
    steps = [1] * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps):
        node.fail("starts, ends, axes and steps must be equally long")
    axes = node.axes(axes, len(x.shape))
    if 0 in steps:
        node.fail("steps must not be 0")
    bounds = [
        _clamp(start, end, step, x.shape[axis])
        for start, end, step, axis in zip(starts, ends, steps, axes, strict=True)
    ]
    attrs = {
        "starts": [low for low, _ in bounds],
        "ends": [high for _, high in bounds],
        "steps": steps,
        "axes": axes,
    }
    if all(step == 1 for step in steps) and all(
        bound == (0, x.shape[axis]) for bound, axis in zip(bounds, axes, strict=True)
    ):
        return x
    return builder.emit("slice", [x], attrs)


def _parts(node: OnnxNode, extent: int) -> list[int]:
    """Return the lengths of Split's outputs; equal ones where none are given."""
    count = len(node.outputs)
    if node.opset < 13:
        parts: list[int] | None = node.ints_attr("split") if node.has("split") else None
    else:
        parts = node.ints_input(1, "split")
    if parts is None:
        if node.int_attr("num_outputs", count) != count:
            node.fail(f"attribute 'num_outputs' is not the number of outputs, {count}")
        chunk = -(-extent // count)
        if node.opset < 18 and extent % count:
            node.fail(f"{extent} elements cannot be split into {count} equal parts")
        parts = [min(chunk, extent - i * chunk) for i in range(count)]
    if len(parts) != count or min(parts) < 0 or sum(parts) != extent:
        node.fail(f"split {parts} does not divide {extent} elements into {count} outputs")
    return parts


def _import_split(node: OnnxNode, builder: Builder) -> list[Value]:
    """Import Split: one slice for each output."""
    x = node.input(0)
    axis = node.axis(node.int_attr("axis", 0), len(x.shape))
    results, start = [], 0
    for part in _parts(node, x.shape[axis]):
        attrs = {"starts": [start], "ends": [start + part], "steps": [1], "axes": [axis]}
        results.append(builder.emit("slice", [x], attrs))
        start += part
    return results


def _attrs(starts: list[int], ends: list[int], steps: list[int], axes: list[int]) -> Attrs:
    return {"starts": starts, "ends": ends, "steps": steps, "axes": axes}


OPERATOR = register(
    Operator(
        name="slice",
        summary="every step-th element between start and end of axes",
        output_shape=output_shape,
        any_dtype=True,
        reference=reference,
        onnx={"Slice": _import_slice, "Split": _import_split},
        cases=(
            Case(
                "shufflenet v2: half of the channels",
                shapes=((1, 116, 7, 7),),
                attrs=_attrs([58], [116], [1], [1]),
            ),
            Case("a crop", shapes=((2, 13, 8, 9),), attrs=_attrs([1, 2], [7, 9], [1, 1], [2, 3])),
            Case("every second pixel", shapes=((1, 4, 7, 7),), attrs=_attrs([1], [7], [2], [3])),
            Case("backwards, to index 0", shapes=((1, 5, 3),), attrs=_attrs([4], [-1], [-1], [1])),
        ),
        bad_cases=(
            BadCase("'steps' must not be 0", shapes=((4,),), attrs=_attrs([0], [4], [0], [0])),
            BadCase("outside axis 0 of 4", shapes=((4,),), attrs=_attrs([0], [5], [1], [0])),
            BadCase("equally long", shapes=((4,),), attrs=_attrs([0], [4], [1], [])),
        ),
        compute=compute,
    )
)
