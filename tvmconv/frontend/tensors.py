"""TensorProto in, NumPy array out, with every size checked before it is believed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tvmconv.errors import InputError
from tvmconv.frontend.limits import MAX_WEIGHT_BYTES, check_shape
from tvmconv.frontend.show import quoted

if TYPE_CHECKING:
    import onnx

Array = npt.NDArray[Any]

#: Element types of constants, by ONNX's number.
DTYPES: dict[int, str] = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64",
    9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16",
}  # fmt: skip


def dtype_name(number: int) -> str:
    """Return the NumPy name of an ONNX element type, or a description of one we do not have."""
    return DTYPES.get(number, f"ONNX element type {number}")


def itemsize(number: int) -> int:
    """Return the bytes of one element; bfloat16 is not NumPy's own."""
    return 2 if number == 16 else np.dtype(DTYPES[number]).itemsize


def to_array(tensor: onnx.TensorProto) -> Array:
    """Convert a tensor whose data are in the message.

    Parameters
    ----------
    tensor : onnx.TensorProto

    Returns
    -------
    ndarray
        May be read-only, and a view of the message's bytes.

    Raises
    ------
    InputError
        If the element type is not supported, or dims and data disagree.
    """
    from onnx import numpy_helper

    count = _check_header(tensor)
    if tensor.data_location == 1 or tensor.external_data:
        raise InputError("its data are in another file: give the model as a path")
    if tensor.HasField("raw_data"):
        expected = count * itemsize(tensor.data_type)
        if len(tensor.raw_data) != expected:
            raise InputError(
                f"dims {list(tensor.dims)} need {expected} bytes, raw_data has "
                f"{len(tensor.raw_data)}"
            )
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, OverflowError):
        raise InputError(
            f"dims {list(tensor.dims)} need {count} elements, the data are others"
        ) from None


def _check_header(tensor: onnx.TensorProto) -> int:
    """Check element type and dims; return the number of elements."""
    if tensor.data_type not in DTYPES:
        raise InputError(f"{dtype_name(tensor.data_type)} is not supported")
    if tensor.HasField("segment"):
        raise InputError("segments are not supported")
    check_shape(tuple(tensor.dims), "tensor", empty=True)
    return math.prod(tensor.dims)


def load_external(model: onnx.ModelProto, path: str) -> None:
    """Read the tensors whose data are in other files into the message.

    ONNX's own reader opens the files, which refuses locations outside the model's folder; how much
    it reads is decided here, from the dims.

    Parameters
    ----------
    model : onnx.ModelProto
        Changed in place.
    path : str
        The model's file.

    Raises
    ------
    InputError
        If a file is missing, outside the model's folder, too short or too large.
    """
    from onnx import checker, external_data_helper

    total = 0
    for tensor in _tensors(model.graph):
        if tensor.data_location != 1:
            continue
        where = f"{path}: tensor {quoted(tensor.name)}"
        try:
            total += _limit_external(tensor)
            if total > MAX_WEIGHT_BYTES:
                raise InputError(f"external data exceed {MAX_WEIGHT_BYTES} bytes")
            external_data_helper.load_external_data_for_tensor(tensor, str(Path(path).parent))
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        except (checker.ValidationError, OSError, ValueError) as error:
            why = " ".join(str(error).split())
            raise InputError(f"{where}: external data cannot be read: {why[:300]}") from None


def _limit_external(tensor: onnx.TensorProto) -> int:
    """Make the entry's length the one that the dims need; return it in bytes."""
    expected = _check_header(tensor) * itemsize(tensor.data_type)
    lengths = [entry for entry in tensor.external_data if entry.key == "length"]
    for entry in lengths:
        if entry.value != str(expected):
            raise InputError(
                f"dims {list(tensor.dims)} need {expected} bytes, the external data have "
                f"length {quoted(entry.value)}"
            )
    if not lengths:
        tensor.external_data.add(key="length", value=str(expected))
    return expected


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor of a graph without subgraphs, which are refused anyway."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
