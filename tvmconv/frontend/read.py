"""Bytes in, ModelProto out: the file is ONNX, of a version we know, and whole."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from tvmconv.errors import InputError
from tvmconv.frontend.limits import MAX_NODES
from tvmconv.frontend.show import quoted
from tvmconv.frontend.tensors import load_external

if TYPE_CHECKING:
    import onnx

#: Operator sets of the default domain whose semantics the importers know. Before 6, operators had
#: attributes that only said where memory may be shared, and Reshape's shape was one.
MIN_OPSET, MAX_OPSET = 6, 28
#: protobuf does not read larger messages.
_MAX_FILE_BYTES = 2**31 - 1


def read_model(source: str | os.PathLike[str] | bytes | onnx.ModelProto) -> onnx.ModelProto:
    """Read a model, with its external data.

    Parameters
    ----------
    source : path, bytes or ModelProto
        Bytes are those of a file; a ModelProto is not changed.

    Returns
    -------
    onnx.ModelProto

    Raises
    ------
    InputError
        If it cannot be read or is no ONNX model.
    """
    if isinstance(source, bytes):
        return _parse(source, "model")
    if not isinstance(source, (str, os.PathLike)):
        return source
    path = os.fspath(source)
    model = _parse(_read_bytes(path), path)  # a missing file is reported before onnx is imported
    load_external(model, path)
    return model


def _read_bytes(path: str) -> bytes:
    """Read a regular file that protobuf could parse."""
    try:
        status = Path(path).stat()
        if stat.S_ISDIR(status.st_mode):
            raise InputError(f"{path}: is a directory, not an ONNX file")
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path}: is not a regular file")
        if status.st_size > _MAX_FILE_BYTES:
            raise InputError(
                f"{path}: has {status.st_size} bytes; ONNX files above 2 GiB keep their weights as "
                "external data"
            )
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{path}: cannot be read: {why}") from None


def _parse(data: bytes, label: str) -> onnx.ModelProto:
    """Parse a message; protobuf accepts many files that are none, which `check_model` sorts out."""
    import onnx
    from google.protobuf.message import DecodeError

    if not data:
        raise InputError(f"{label}: is empty")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise InputError(f"{label}: is not an ONNX model, or is truncated") from None
    if not model.HasField("graph"):
        raise InputError(f"{label}: is not an ONNX model: it has no graph")
    return model


def opset_version(model: onnx.ModelProto, label: str) -> int:
    """Return the version of the default operator set.

    Raises
    ------
    InputError
        If none is given, or it is not one of ``MIN_OPSET`` to ``MAX_OPSET``.
    """
    versions = {entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")}
    if len(versions) != 1:
        which = "none" if not versions else f"several ({', '.join(map(str, sorted(versions)))})"
        raise InputError(f"{label}: must import one version of ONNX's operators, imports {which}")
    version = versions.pop()
    if not MIN_OPSET <= version <= MAX_OPSET:
        advice = "; convert it with onnx.version_converter" if version < MIN_OPSET else ""
        raise InputError(
            f"{label}: opset {version} is not supported; opsets {MIN_OPSET} to {MAX_OPSET} "
            f"are{advice}"
        )
    return int(version)


def check_graph(graph: onnx.GraphProto, label: str) -> None:
    """Refuse what no importer could see: sizes, sparse and quantised parts, duplicate names.

    Raises
    ------
    InputError
        With the name of what is wrong.
    """
    if len(graph.node) > MAX_NODES:
        raise InputError(f"{label}: has {len(graph.node)} nodes, more than {MAX_NODES}")
    if not graph.output:
        raise InputError(f"{label}: has no outputs")
    if graph.sparse_initializer:
        raise InputError(f"{label}: sparse initializers are not supported")
    if graph.quantization_annotation:
        raise InputError(f"{label}: quantization annotations are not supported")
    for what, values in (
        ("input", graph.input),
        ("output", graph.output),
        ("initializer", graph.initializer),
    ):
        seen: set[str] = set()
        for item in values:
            if not item.name:
                raise InputError(f"{label}: {what} without a name")
            if item.name in seen:
                raise InputError(f"{label}: {what} {quoted(item.name)} occurs twice")
            seen.add(item.name)
