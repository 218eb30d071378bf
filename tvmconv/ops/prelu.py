"""ReLU with a learned slope below zero.

References
----------
He et al., Delving deep into rectifiers, ICCV 2015, section 2.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tvmconv import te_math
from tvmconv.errors import InputError
from tvmconv.ops import BadCase, Case, Operator, register
from tvmconv.ops._shapes import Shape, broadcast, expect_inputs, text

if TYPE_CHECKING:
    from tvmconv.frontend.node import Builder, OnnxNode
    from tvmconv.graph.ir import Value

Array = npt.NDArray[Any]
Attrs = Mapping[str, Any]


def output_shape(shapes: Sequence[Shape], attrs: Attrs) -> Shape:
    """Return the shape of ``x`` (N, C, ...); ``slope`` is a scalar or has shape (C,)."""
    expect_inputs(shapes, 2)
    x, slope = shapes
    if slope != () and (len(x) < 2 or slope != (x[1],)):
        raise InputError(
            f"slope must be a scalar or have shape {text(x[1:2])}, has shape {text(slope)}"
        )
    return x


def reference(arrays: Sequence[Array], attrs: Attrs) -> Array:
    """Return ``x`` where x ≥ 0, else ``slope[c]·x``."""
    x, slope = arrays
    if slope.ndim == 1:  # as a step of a program it has all axes
        slope = slope.reshape((-1,) + (1,) * (x.ndim - 2))
    return np.where(x >= 0, x, slope * x).astype(x.dtype)


def expression(x: Any, slope: Any) -> Any:
    """Return ``x`` where x ≥ 0, else ``slope·x``, of one element."""
    x = te_math.bind(x)
    return te_math.select(x >= te_math.number(0.0), x, x * slope)


def _import(node: OnnxNode, builder: Builder) -> Value:
    """Import PRelu: the slope is broadcast to x in one direction, aligned to the last axis.

    Before opset 7 a vector was one slope for each channel.
    """
    x, slope = node.input(0), node.input(1)
    rank = len(x.shape)
    if node.opset < 7 and len(slope.shape) == 1 and rank > 2:
        slope = builder.emit("reshape", [slope], {"shape": [*slope.shape, *(1,) * (rank - 2)]})
    if len(slope.shape) > rank or broadcast(x.shape, slope.shape) != x.shape:
        node.fail(f"slope {text(slope.shape)} cannot be broadcast to {text(x.shape)}")
    wide = (1,) * (rank - len(slope.shape)) + tuple(slope.shape)
    if all(extent == 1 for extent in wide):
        return builder.emit("prelu", [x, builder.emit("reshape", [slope], {"shape": []})])
    if rank >= 2 and wide == (1, x.shape[1]) + (1,) * (rank - 2):
        flat = builder.emit("reshape", [slope], {"shape": [x.shape[1]]})
        return builder.emit("prelu", [x, flat])
    zero = builder.constant(np.zeros((), x.dtype))
    below = builder.emit("mul", [builder.emit("minimum", [x, zero]), slope])
    return builder.emit("add", [builder.emit("relu", [x]), below])


OPERATOR = register(
    Operator(
        name="prelu",
        summary="y = x where x ≥ 0, else slope[c]·x",
        output_shape=output_shape,
        reference=reference,
        onnx={"PRelu": _import},
        cases=(
            Case("a slope per channel", shapes=((1, 24, 7, 7), (24,))),
            Case("channels that no block divides", shapes=((2, 13, 5, 3), (13,))),
            Case("one slope", shapes=((1, 10, 4, 4), ())),
        ),
        bad_cases=(
            BadCase("shape 3, has shape 4", shapes=((1, 3, 2, 2), (4,))),
            BadCase("takes 2 inputs", shapes=((1, 3, 2, 2),)),
        ),
        expression=expression,
    )
)
