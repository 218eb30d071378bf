"""Concatenation along one axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tvmconv.errors import InputError
from tvmconv.kernel import KernelSpec
from tvmconv.ops import BadCase, Case, Operator, expressions, register
from tvmconv.ops._shapes import Shape, axis_in, integer, text

if TYPE_CHECKING:
    from tvmconv.frontend.node import Builder, OnnxNode
    from tvmconv.graph.ir import Value

Array = npt.NDArray[Any]
Attrs = Mapping[str, Any]


def output_shape(shapes: Sequence[Shape], attrs: Attrs) -> Shape:
    """Return the shape with the extents along ``axis`` added up; the others must agree."""
    if not shapes:
        raise InputError("takes at least 1 input, has 0")
    first = shapes[0]
    axis = axis_in(integer(attrs, "axis"), len(first))
    for shape in shapes[1:]:
        if len(shape) != len(first) or any(
            m != n for i, (m, n) in enumerate(zip(first, shape, strict=True)) if i != axis
        ):
            raise InputError(f"shapes {text(first)} and {text(shape)} differ outside axis {axis}")
    return (*first[:axis], sum(shape[axis] for shape in shapes), *first[axis + 1 :])


def reference(arrays: Sequence[Array], attrs: Attrs) -> Array:
    """Concatenate."""
    return np.concatenate(list(arrays), axis=attrs["axis"])


def compute(spec: KernelSpec) -> list[Any]:
    """Every element from the part in which it lies.

    Only concatenations whose parts cannot be slices of the result are kernels.
    """
    from tvmconv._tvm import te, tirx

    parts = [expressions.placeholder(v, f"part{k}") for k, v in enumerate(spec.inputs)]
    out, axis = spec.output, spec.attrs["axis"]

    def body(*index: Any) -> Any:
        place = list(index)
        if out.block > 1:
            place = [index[0], index[1] * out.block + index[-1], *index[2:-1]]
        value, end = None, out.shape[axis]
        for tensor, layout in zip(reversed(parts), reversed(spec.inputs), strict=True):
            extent = layout.shape[axis]
            near = te.max(te.min(place[axis] - (end - extent), extent - 1), 0)
            element = expressions.element(tensor, layout, [*place[:axis], near, *place[axis + 1 :]])
            inside = place[axis] < end
            value = element if value is None else tirx.if_then_else(inside, element, value)
            end -= extent
        return value

    return [*parts, expressions.elements(out.iteration_shape, body)]


def _import(node: OnnxNode, builder: Builder) -> Value:
    inputs = [node.input(i) for i in range(len(node.inputs))]
    if not inputs:
        node.fail("needs at least 1 input, has 0")
    if len(inputs) == 1:
        return inputs[0]
    axis = node.axis(node.int_attr("axis"), len(inputs[0].shape))
    return builder.emit("concat", inputs, {"axis": axis})


OPERATOR = register(
    Operator(
        name="concat",
        summary="inputs one after another along an axis",
        output_shape=output_shape,
        any_dtype=True,
        reference=reference,
        onnx={"Concat": _import},
        cases=(
            Case(
                "inception_v1 3a: four branches",
                shapes=((1, 64, 7, 7), (1, 128, 7, 7), (1, 32, 7, 7), (1, 32, 7, 7)),
                attrs={"axis": 1},
            ),
            Case(
                "channels that no block divides",
                shapes=((2, 3, 5, 5), (2, 13, 5, 5)),
                attrs={"axis": 1},
            ),
            Case("rows", shapes=((1, 4, 2, 3), (1, 4, 1, 3)), attrs={"axis": 2}),
        ),
        bad_cases=(
            BadCase("takes at least 1", attrs={"axis": 0}),
            BadCase("axis 4 is outside", shapes=((1, 2, 3, 4),), attrs={"axis": 4}),
            BadCase(
                "shapes 1x2x3 and 1x2x4 differ outside axis 1",
                shapes=((1, 2, 3), (1, 2, 4)),
                attrs={"axis": 1},
            ),
        ),
        compute=compute,
        layout="same",
    )
)
