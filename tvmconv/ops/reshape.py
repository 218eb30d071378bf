"""Another shape for the same elements: Reshape, Flatten, Squeeze and Unsqueeze of ONNX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tvmconv.errors import InputError
from tvmconv.ops import BadCase, Case, Operator, register
from tvmconv.ops._shapes import Shape, expect_inputs, integers, size, text

if TYPE_CHECKING:
    from tvmconv.frontend.node import Builder, OnnxNode
    from tvmconv.graph.ir import Value

Array = npt.NDArray[Any]
Attrs = Mapping[str, Any]


def output_shape(shapes: Sequence[Shape], attrs: Attrs) -> Shape:
    """Return ``shape``, which must hold as many elements as the input."""
    expect_inputs(shapes, 1)
    shape = tuple(integers(attrs, "shape"))
    if any(extent < 0 for extent in shape):
        raise InputError(f"attribute 'shape' {list(shape)} has a negative extent")
    if size(shape) != size(shapes[0]):
        raise InputError(
            f"attribute 'shape': {text(shapes[0])} with {size(shapes[0])} elements cannot become "
            f"{text(shape)} with {size(shape)}"
        )
    return shape


def reference(arrays: Sequence[Array], attrs: Attrs) -> Array:
    """Reshape (a view where possible)."""
    return np.reshape(arrays[0], attrs["shape"])


def _import_reshape(node: OnnxNode, builder: Builder) -> Value:
    """Import Reshape: 0 copies an extent unless ``allowzero``, and one -1 takes what is left."""
    x = node.input(0)
    wanted = node.ints_input(1, "the shape")
    if wanted is None:
        node.fail("input 1, the shape, is required")
    if any(extent < -1 for extent in wanted) or wanted.count(-1) > 1:
        node.fail(f"shape {wanted} may have one -1 and no other negative extent")
    shape = list(wanted)
    if not node.int_attr("allowzero", 0):
        for axis, extent in enumerate(shape):
            if extent == 0:
                if axis >= len(x.shape):
                    node.fail(f"shape {wanted}: 0 at axis {axis} copies an axis that x lacks")
                shape[axis] = x.shape[axis]
    if -1 in shape:
        known = size([extent for extent in shape if extent != -1])
        if known == 0 or size(x.shape) % known:
            node.fail(f"{text(x.shape)} cannot be reshaped to {wanted}")
        shape[shape.index(-1)] = size(x.shape) // known
    return builder.emit("reshape", [x], {"shape": shape})


def _import_flatten(node: OnnxNode, builder: Builder) -> Value:
    """Import Flatten: a matrix whose rows join the axes before ``axis``."""
    x = node.input(0)
    axis = node.int_attr("axis", 1)
    rank = len(x.shape)
    if not -rank <= axis <= rank:
        node.fail(f"attribute 'axis': axis {axis} is outside a tensor of rank {rank}")
    axis = axis + rank if axis < 0 else axis
    return builder.emit("reshape", [x], {"shape": [size(x.shape[:axis]), size(x.shape[axis:])]})


def _axes(node: OnnxNode) -> list[int] | None:
    """Return ``axes``: an attribute before opset 13, an optional input since."""
    if node.opset >= 13:
        axes: list[int] | None = node.ints_input(1, "axes")
        return axes
    return node.ints_attr("axes") if node.has("axes") else None


def _import_squeeze(node: OnnxNode, builder: Builder) -> Value:
    """Import Squeeze: axes of extent 1 vanish, all of them where ``axes`` is left out."""
    x = node.input(0)
    axes = _axes(node)
    if axes is None:
        axes = [i for i, extent in enumerate(x.shape) if extent == 1]
    axes = node.axes(axes, len(x.shape))
    for axis in axes:
        if x.shape[axis] != 1:
            node.fail(f"attribute 'axes': axis {axis} of {text(x.shape)} is not 1")
    shape = [extent for i, extent in enumerate(x.shape) if i not in axes]
    return builder.emit("reshape", [x], {"shape": shape})


def _import_unsqueeze(node: OnnxNode, builder: Builder) -> Value:
    """Import Unsqueeze: ``axes`` are places in the output where an extent of 1 appears."""
    x = node.input(0)
    axes = _axes(node)
    if axes is None:
        node.fail("axes are required")
    axes = node.axes(axes, len(x.shape) + len(axes))
    rest = iter(x.shape)
    shape = [1 if i in axes else next(rest) for i in range(len(x.shape) + len(axes))]
    return builder.emit("reshape", [x], {"shape": shape})


OPERATOR = register(
    Operator(
        name="reshape",
        summary="the same elements in another shape",
        output_shape=output_shape,
        any_dtype=True,
        reference=reference,
        onnx={
            "Reshape": _import_reshape,
            "Flatten": _import_flatten,
            "Squeeze": _import_squeeze,
            "Unsqueeze": _import_unsqueeze,
        },
        cases=(
            Case("vgg19: before fc6", shapes=((1, 512, 7, 7),), attrs={"shape": [1, 25088]}),
            Case("a batch kept", shapes=((2, 13, 2, 3),), attrs={"shape": [2, 78]}),
            Case(
                "shufflenet: groups apart",
                shapes=((1, 24, 5, 5),),
                attrs={"shape": [1, 4, 6, 5, 5]},
            ),
        ),
        bad_cases=(
            BadCase("1x6 with 6 elements", shapes=((1, 6),), attrs={"shape": [4]}),
            BadCase("negative extent", shapes=((1, 6),), attrs={"shape": [-1]}),
            BadCase("'shape' must be a list of integers", shapes=((1, 6),)),
        ),
    )
)
