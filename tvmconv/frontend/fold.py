"""ONNX operators that exist only between constants, and those that vanish at inference.

Exporters compute shapes with them (Shape → Gather → Concat → Reshape) and make weights with
ConstantOfShape. They are computed here, with sizes checked first; one that meets a run-time tensor
is refused by name, since the graph has no operator for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tvmconv.errors import InputError
from tvmconv.frontend.limits import MAX_ARITHMETIC
from tvmconv.frontend.tensors import DTYPES, dtype_name
from tvmconv.layout import HALVES
from tvmconv.ops._shapes import size

if TYPE_CHECKING:
    from tvmconv.frontend.node import Builder, OnnxNode
    from tvmconv.graph.ir import Value
    from tvmconv.ops import Importer

Array = npt.NDArray[Any]


def _data(node: OnnxNode, index: int) -> Array:
    """Return a constant input."""
    value = node.input(index)
    if value.data is None:
        node.fail(f"is supported for constants only, and '{value.name}' is computed at run time")
    return value.data


def _check_size(
    node: OnnxNode, builder: Builder, shape: Sequence[int], dtype: np.dtype[Any]
) -> None:
    """Refuse a result that is too large, before it is made."""
    try:
        builder.budget.check(tuple(shape), dtype)
    except InputError as error:
        node.fail(str(error))


def _constant(node: OnnxNode, builder: Builder) -> Value:
    """Import Constant: exactly one of its attributes holds the value."""
    if len(node.attrs) != 1:
        node.fail(f"must have exactly one attribute, has {len(node.attrs)}")
    ((key, value),) = node.attrs.items()
    dtypes = {"value_float": "f4", "value_floats": "f4", "value_int": "i8", "value_ints": "i8"}
    if key == "value":
        return builder.constant(value)
    if key not in dtypes:
        node.fail(f"attribute '{key}' is not supported")
    return builder.constant(np.array(value, dtypes[key]))


def _constant_of_shape(node: OnnxNode, builder: Builder) -> Value:
    shape = node.ints_input(0, "the shape") or []
    fill = node.attrs.get("value", np.zeros(1, np.float32))
    if fill.size != 1:
        node.fail(f"attribute 'value' must have one element, has shape {fill.shape}")
    _check_size(node, builder, shape, fill.dtype)
    return builder.constant(np.full(shape, fill.reshape(()), fill.dtype))


def _shape(node: OnnxNode, builder: Builder) -> Value:
    """Import Shape, of run-time tensors too; ``start`` and ``end`` came with opset 15."""
    shape = node.input(0).shape
    taken = shape[node.int_attr("start", 0) : node.int_attr("end", len(shape))]
    return builder.constant(np.array(taken, np.int64))


def _size(node: OnnxNode, builder: Builder) -> Value:
    return builder.constant(np.array(size(node.input(0).shape), np.int64))


def _gather(node: OnnxNode, builder: Builder) -> Value:
    data, indices = _data(node, 0), _data(node, 1)
    axis = node.axis(node.int_attr("axis", 0), data.ndim)
    extent = data.shape[axis]
    if indices.dtype.kind not in "iu":
        node.fail(f"indices must be integers, are {indices.dtype}")
    if indices.size and not (-extent <= indices.min() and indices.max() < extent):
        node.fail(f"an index is outside axis {axis} of {extent}")
    shape = (*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :])
    _check_size(node, builder, shape, data.dtype)
    return builder.constant(np.take(data, indices, axis=axis))


def _cast(node: OnnxNode, builder: Builder) -> Value:
    """Import Cast; of a run-time tensor only to the type that it has."""
    wanted = node.int_attr("to")
    if wanted not in DTYPES:
        node.fail(f"attribute 'to': {dtype_name(wanted)} is not supported")
    return _cast_to(node, builder, DTYPES[wanted])


def _cast_like(node: OnnxNode, builder: Builder) -> Value:
    return _cast_to(node, builder, node.input(1).dtype)


def _cast_to(node: OnnxNode, builder: Builder, dtype: str) -> Value:
    x = node.input(0)
    if x.dtype == dtype:
        return x
    floats = ("float32", *HALVES)
    if x.data is None and x.dtype in floats and dtype in floats:
        return builder.emit("cast", [x], {"to": dtype})
    if x.data is None and x.dtype in HALVES and dtype == "bool":
        return builder.emit("is_not_zero", [x])
    if x.data is None and x.dtype == "bool" and dtype in HALVES:
        return builder.emit("cast", [builder.emit("as_number", [x])], {"to": dtype})
    casts = {("bool", "float32"): "as_number", ("float32", "bool"): "is_not_zero"}
    if x.data is None and (x.dtype, dtype) in casts:
        return builder.emit(casts[x.dtype, dtype], [x])
    if x.data is None and dtype == "float32" and x.dtype in ("int32", "uint8", "int8"):
        return builder.emit("dequantize", [x], {"scale": 1.0, "zero_point": 0})
    data = _data(node, 0)
    _check_size(node, builder, data.shape, np.dtype(dtype))
    return builder.constant(data.astype(dtype))


def _range(node: OnnxNode, builder: Builder) -> Value:
    start, limit, delta = (_data(node, i).reshape(-1) for i in range(3))
    if not start.size == limit.size == delta.size == 1 or not delta[0]:
        node.fail("start, limit and delta must be scalars, and delta not 0")
    steps = (float(limit[0]) - float(start[0])) / float(delta[0])
    if not np.isfinite(steps):
        node.fail("start, limit and delta must be finite")
    count = max(0, int(np.ceil(steps)))
    if count > MAX_ARITHMETIC:
        node.fail(f"makes {count} elements, more than {MAX_ARITHMETIC}")
    result = start[0] + np.arange(count).astype(start.dtype) * delta[0]
    return builder.constant(result.astype(start.dtype))


def _identity(node: OnnxNode, builder: Builder) -> Value:
    return node.input(0)


def _dropout(node: OnnxNode, builder: Builder) -> list[Value]:
    """Import Dropout: nothing at inference; the mask says that all elements are kept."""
    if node.opset < 7 and not node.int_attr("is_test", 0):
        node.fail("attribute 'is_test' 0 is not supported: export the model for inference")
    training = node.optional(2)
    if training is not None and (training.data is None or training.data.any()):
        node.fail("training_mode is not supported: export the model for inference")
    x = node.input(0)
    if not any(node.outputs[1:]):
        return [x]
    _check_size(node, builder, x.shape, np.dtype(bool))
    return [x, builder.constant(np.ones(x.shape, bool if node.opset >= 10 else x.dtype))]


IMPORTERS: dict[str, Importer] = {
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Shape": _shape,
    "Size": _size,
    "Gather": _gather,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Range": _range,
    "Identity": _identity,
    "Dropout": _dropout,
}
