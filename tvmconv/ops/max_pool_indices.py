"""Where each maximum of a max pooling lies: ONNX MaxPool's second output.

The index is that of the element in the whole input as one vector; of equal maxima it is the first's
in row-major order. With ``storage_order`` 1 the places of a plane are counted by columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from tvmconv.errors import InputError
from tvmconv.kernel import KIND, KernelSpec
from tvmconv.ops import Array, Attrs, BadCase, Case, Operator, Shape, expressions, register
from tvmconv.ops import family as shared
from tvmconv.ops._dtypes import taking
from tvmconv.ops._shapes import expect_inputs, integer
from tvmconv.problem import Problem


def output_shape(shapes: Sequence[Shape], attrs: Attrs) -> Shape:
    """Return the shape of the maxima, which are the second input."""
    expect_inputs(shapes, 2)
    problem = Problem.parse(attrs["problem"])
    if integer(attrs, "storage_order") not in (0, 1):
        raise InputError(f"attribute 'storage_order' must be 0 or 1, is {attrs['storage_order']}")
    wanted = problem.input_shape, problem.output_shape
    if (tuple(shapes[0]), tuple(shapes[1])) != wanted:
        raise InputError(f"{problem}: x and y must have shapes {wanted}, have {tuple(shapes)}")
    return problem.output_shape


def reference(arrays: Sequence[Any], attrs: Attrs) -> Array:
    """The first place of each window's maximum; its first place inside if that is NaN."""
    problem = Problem.parse(attrs["problem"])
    x = np.asarray(arrays[0], np.float64)
    values = shared.padded(problem, x, -np.inf)
    plane = np.arange(prod(problem.in_spatial)).reshape(1, 1, *problem.in_spatial)
    places = shared.padded(problem, plane, -1.0)
    axes = tuple(range(-problem.rank, 0))
    view = shared.window_view(problem, values)
    found = shared.window_view(problem, places)
    top = view.max(axis=axes, keepdims=True)
    largest = ((view == top) | np.isnan(top)) & (found >= 0)
    first = np.where(largest, found, np.inf).min(axis=axes).astype(np.int64)
    if attrs["storage_order"]:
        first = np.ravel_multi_index(
            np.unravel_index(first, problem.in_spatial), problem.in_spatial, order="F"
        )
    planes = np.arange(problem.batch * problem.ci).reshape(problem.input_shape[:2])
    starts = planes.reshape(*planes.shape, *(1,) * problem.rank) * plane.size
    return np.asarray(first + starts, np.int64)


def compute(spec: KernelSpec) -> list[Any]:
    """The least place in each window at which the input is as large as the window's maximum."""
    from tvmconv._tvm import te, tirx

    p = Problem.parse(spec.attrs["problem"])
    x_layout, y_layout, out = *spec.inputs, spec.output
    x = expressions.placeholder(x_layout, "x")
    y = expressions.placeholder(y_layout, "y")
    taps = expressions.tap_axes(p)
    none = te.max_value("int32")

    def body(*index: Any) -> Any:
        n, slot, *position, lane = index
        place = expressions.window(p, position, taps)
        sizes = p.in_spatial
        near = [te.max(te.min(q, size - 1), 0) for q, size in zip(place, sizes, strict=True)]
        ends = [c for q, size in zip(place, sizes, strict=True) for c in (q >= 0, q < size)]
        largest = x_layout.at_slot(x, n, slot, near, (lane,)) >= (
            y_layout.at_slot(y, n, slot, position, (lane,))
        )
        number = tirx.Select(largest, _flat(near, sizes), none)
        return te.min(tirx.if_then_else(tirx.all(*ends), number, none), axis=taps)

    first = te.compute(out.iteration_shape, body, name="first", attrs={KIND: "window"})

    def element(*index: Any) -> Any:
        n, slot, *position, lane = index
        starts = [
            te.max(_first_inside(q, d), 0)
            for q, d in zip(expressions.window(p, position, [0] * p.rank), p.dilation, strict=True)
        ]
        number = first(*index)
        number = tirx.Select(number == none, _flat(starts, p.in_spatial), number)
        if spec.attrs["storage_order"]:
            number = _by_columns(number, p.in_spatial)
        channel = n * p.ci + slot * out.block + lane
        return number.astype("int64") + channel.astype("int64") * prod(p.in_spatial)

    return [x, y, expressions.elements(out.iteration_shape, element)]


def _first_inside(start: Any, dilation: int) -> Any:
    """The first place that is not negative of those a dilation apart from a start."""
    from tvmconv._tvm import tirx

    if dilation == 1:
        return start
    return tirx.Select(start < 0, (start + (1 << 20) * dilation) % dilation, start)


def _flat(place: Sequence[Any], sizes: Shape) -> Any:
    """The number of a place by rows."""
    number: Any = 0
    for q, size in zip(place, sizes, strict=True):
        number = number * size + q
    return number


def _by_columns(number: Any, sizes: Shape) -> Any:
    """The number by columns of a place that is numbered by rows."""
    from tvmconv._tvm import tirx

    place = []
    for size in reversed(sizes):
        place.append(tirx.truncmod(number, size))
        number = tirx.truncdiv(number, size)
    return _flat(place, tuple(reversed(sizes)))


def _attrs(problem: str, storage_order: int = 0) -> Mapping[str, Any]:
    return {"problem": problem, "storage_order": storage_order, "edges": "test"}


def _case(source: str, problem: str, storage_order: int = 0) -> Case:
    parsed = Problem.parse(problem)
    shapes = (parsed.input_shape, parsed.output_shape)
    return Case(source, shapes=shapes, attrs=_attrs(problem, storage_order))


OPERATOR = register(
    Operator(
        name="max_pool_indices",
        summary="where each maximum of a max pooling lies",
        output_shape=output_shape,
        reference=reference,
        cases=(
            _case("SegNet pool1", "max_pool2d:1x64x32x32:2x2:stride=2"),
            _case("padding, overlapping windows", "max_pool2d:2x17x9x8:3x3:stride=2:padding=1"),
            _case("counted by columns", "max_pool2d:1x5x7x6:3x2:padding=1,0", 1),
            _case("dilated", "max_pool2d:1x3x9x9:3x3:padding=2:dilation=2"),
            _case("1-D", "max_pool1d:2x8x21:4:stride=3:ceil_mode=true"),
            _case("3-D by columns", "max_pool3d:1x4x5x6x4:2x2x2:stride=2:padding=1", 1),
        ),
        bad_cases=(
            BadCase(
                "'storage_order' must be 0 or 1, is 2",
                shapes=((1, 1, 4, 4), (1, 1, 2, 2)),
                attrs=_attrs("max_pool2d:1x1x4x4:2x2:stride=2", 2),
            ),
            BadCase(
                "x and y must have shapes",
                shapes=((1, 1, 4, 4), (1, 1, 3, 2)),
                attrs=_attrs("max_pool2d:1x1x4x4:2x2:stride=2"),
            ),
        ),
        compute=compute,
        layout="blocked",
        output_dtype=taking("float32", "float32", result="int64"),
    )
)
