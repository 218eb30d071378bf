"""A factor and an offset for each channel: batch normalisation at inference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tvmconv.errors import InputError
from tvmconv.ops import BadCase, Case, Operator, register
from tvmconv.ops._shapes import Shape, expect_inputs, text

if TYPE_CHECKING:
    from tvmconv.frontend.node import Builder, OnnxNode
    from tvmconv.graph.ir import Value

Array = npt.NDArray[Any]
Attrs = Mapping[str, Any]


def output_shape(shapes: Sequence[Shape], attrs: Attrs) -> Shape:
    """Return the shape of ``x`` (N, C, ...); ``scale`` and ``shift`` have shape (C,)."""
    expect_inputs(shapes, 3)
    x = shapes[0]
    if len(x) < 2:
        raise InputError(f"needs a channel axis, has shape {text(x)}")
    for name, shape in zip(("scale", "shift"), shapes[1:], strict=True):
        if shape != (x[1],):
            raise InputError(f"{name} must have shape {x[1]}, has {text(shape)}")
    return x


def reference(arrays: Sequence[Array], attrs: Attrs) -> Array:
    """Return ``y = x·scale[c] + shift[c]`` in float64, rounded once."""
    x = np.asarray(arrays[0], np.float64)
    wide = (-1,) + (1,) * (x.ndim - 2)
    y = x * arrays[1].astype(np.float64).reshape(wide) + arrays[2].astype(np.float64).reshape(wide)
    return y.astype(arrays[0].dtype)


def _check_inference(node: OnnxNode) -> None:
    """Refuse what only training needs: it makes other statistics than the ones in the file."""
    if node.opset >= 14 and node.int_attr("training_mode", 0):
        node.fail("attribute 'training_mode' 1 is not supported: export the model for inference")
    if node.opset < 7 and not node.int_attr("is_test", 0):
        node.fail("attribute 'is_test' 0 is not supported: export the model for inference")
    if not node.int_attr("spatial", 1):
        node.fail("attribute 'spatial' 0 is not supported")
    if len(node.outputs) > 1:
        node.fail("has outputs of training: export the model for inference")


def _import(node: OnnxNode, builder: Builder) -> Value:
    """Import BatchNormalization: scale·(x − mean)/√(var + epsilon) + bias."""
    x = node.input(0)
    if len(x.shape) < 2:
        node.fail(f"needs a channel axis, has shape {text(x.shape)}")
    _check_inference(node)
    names = ("scale", "bias", "mean", "var")
    values = [node.input(i) for i in range(1, 5)]
    for name, value in zip(names, values, strict=True):
        if value.shape != (x.shape[1],):
            node.fail(f"{name} must have shape {x.shape[1]}, has {text(value.shape)}")
    epsilon = node.float_attr("epsilon", 1e-5)
    data = [value.data for value in values if value.data is not None]
    if len(data) < len(values):
        return _at_run_time(builder, x, values, epsilon)
    scale, bias, mean, var = (array.astype(np.float64) for array in data)
    if not (var + epsilon > 0).all():
        node.fail(f"var + epsilon must be positive, is {(var + epsilon).min():g}")
    factor = scale / np.sqrt(var + epsilon)
    constants = [array.astype(x.dtype) for array in (factor, bias - mean * factor)]
    return builder.emit("scale_shift", [x, *map(builder.constant, constants)])


def _at_run_time(builder: Builder, x: Value, values: list[Value], epsilon: float) -> Value:
    """Normalise with statistics that are known only at run time: a few operations a channel."""
    scale, bias, mean, var = values
    offset = builder.constant(np.array(epsilon, x.dtype))
    deviation = builder.emit("sqrt", [builder.emit("add", [var, offset])])
    factor = builder.emit("div", [scale, deviation])
    shift = builder.emit("sub", [bias, builder.emit("mul", [mean, factor])])
    return builder.emit("scale_shift", [x, factor, shift])


OPERATOR = register(
    Operator(
        name="scale_shift",
        summary="y = x·scale[c] + shift[c] (batch normalisation at inference)",
        output_shape=output_shape,
        reference=reference,
        onnx={"BatchNormalization": _import},
        cases=(
            Case("densenet121: before a convolution", shapes=((1, 96, 7, 7), (96,), (96,))),
            Case("channels that no block divides", shapes=((2, 13, 5, 3), (13,), (13,))),
            Case("a matrix", shapes=((4, 10), (10,), (10,))),
        ),
        bad_cases=(
            BadCase("scale must have shape 3, has 4", shapes=((1, 3, 2, 2), (4,), (3,))),
            BadCase("shift must have shape 3, has scalar", shapes=((1, 3, 2, 2), (3,), ())),
            BadCase("needs a channel axis", shapes=((3,), (3,), (3,))),
            BadCase("takes 3 inputs", shapes=((1, 3),)),
        ),
    )
)
