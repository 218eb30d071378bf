"""Copies along axes: Expand and Tile of ONNX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tvmconv.errors import InputError
from tvmconv.kernel import KernelSpec
from tvmconv.ops import BadCase, Case, Operator, expressions, register
from tvmconv.ops._shapes import Shape, broadcast, expect_inputs, integers, text

if TYPE_CHECKING:
    from tvmconv.frontend.node import Builder, OnnxNode
    from tvmconv.graph.ir import Value

Array = npt.NDArray[Any]
Attrs = Mapping[str, Any]


def output_shape(shapes: Sequence[Shape], attrs: Attrs) -> Shape:
    """Return ``shape``, to which the input must broadcast in one direction."""
    expect_inputs(shapes, 1)
    shape = tuple(integers(attrs, "shape"))
    if broadcast(shapes[0], shape) != shape:
        raise InputError(f"attribute 'shape': {text(shapes[0])} cannot become {text(shape)}")
    return shape


def reference(arrays: Sequence[Array], attrs: Attrs) -> Array:
    """Broadcast, and copy."""
    return np.broadcast_to(arrays[0], attrs["shape"]).copy()


def compute(spec: KernelSpec) -> list[Any]:
    """Read index 0 on the axes along which there are copies."""
    shape = spec.inputs[0].shape
    missing = len(spec.output.shape) - len(shape)

    def body(at: Any, index: tuple[Any, ...]) -> Any:
        axes = zip(shape, index[missing:], strict=True)
        return at([i if extent > 1 else 0 for extent, i in axes])

    return expressions.plain_map(spec, body)


def expanded(builder: Builder, x: Value, shape: Sequence[int]) -> Value:
    """Emit a broadcast to a shape, if it is another."""
    if tuple(shape) == x.shape:
        return x
    return builder.emit("expand", [x], {"shape": list(shape)})


def _import_expand(node: OnnxNode, builder: Builder) -> Value:
    """Import Expand: both shapes may broadcast to that of the result."""
    x = node.input(0)
    wanted = node.ints_input(1, "the shape")
    if wanted is None:
        node.fail("input 1, the shape, is required")
    try:
        shape = broadcast(x.shape, tuple(wanted))
    except InputError as error:
        node.fail(str(error))
    return expanded(builder, x, shape)


def _import_tile(node: OnnxNode, builder: Builder) -> Value:
    """Import Tile: each axis gets one of so many repeats in front of it, which both then join."""
    x = node.input(0)
    repeats = node.ints_input(1, "the repeats")
    if repeats is None or len(repeats) != len(x.shape):
        node.fail(f"repeats {repeats} must have {len(x.shape)} elements")
    if any(count < 0 for count in repeats):
        node.fail(f"repeats {repeats} must not be negative")
    if all(count == 1 for count in repeats):
        return x
    single = [extent for size in x.shape for extent in (1, size)]
    wide = [extent for pair in zip(repeats, x.shape, strict=True) for extent in pair]
    y = builder.emit("reshape", [x], {"shape": single})
    y = builder.emit("expand", [y], {"shape": wide})
    shape = [count * extent for count, extent in zip(repeats, x.shape, strict=True)]
    return builder.emit("reshape", [y], {"shape": shape})


OPERATOR = register(
    Operator(
        name="expand",
        summary="copies along axes of extent 1, and along new ones",
        output_shape=output_shape,
        any_dtype=True,
        reference=reference,
        onnx={"Expand": _import_expand, "Tile": _import_tile},
        cases=(
            Case("a row for each image", shapes=((1, 1, 5),), attrs={"shape": [2, 3, 5]}),
            Case("a vector as maps", shapes=((13, 1, 1),), attrs={"shape": [2, 13, 4, 3]}),
            Case("twice upwards", shapes=((1, 1, 4, 1),), attrs={"shape": [2, 3, 4, 2]}),
        ),
        bad_cases=(
            BadCase("2x3 cannot become 1x3", shapes=((2, 3),), attrs={"shape": [1, 3]}),
            BadCase("cannot be broadcast", shapes=((2, 3),), attrs={"shape": [2, 4]}),
        ),
        compute=compute,
    )
)
