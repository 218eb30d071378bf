"""NodeProto in, OnnxNode's parts out, after a check against ONNX's own table of operators."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tvmconv.errors import InputError
from tvmconv.frontend.show import quoted
from tvmconv.frontend.tensors import to_array

if TYPE_CHECKING:
    import onnx

#: onnx.AttributeProto.AttributeType of what we read; the others hold graphs, sparse tensors, types.
_FLOAT, _INT, _STRING, _TENSOR, _FLOATS, _INTS, _STRINGS = 1, 2, 3, 4, 6, 7, 8
_KINDS = {
    _FLOAT: "a float", _INT: "an integer", _STRING: "a string", _TENSOR: "a tensor",
    5: "a graph", _FLOATS: "a list of floats", _INTS: "a list of integers",
    _STRINGS: "a list of strings", 9: "a list of tensors", 10: "a list of graphs",
    11: "a sparse tensor", 12: "a list of sparse tensors", 13: "a type", 14: "a list of types",
}  # fmt: skip


def read_attributes(proto: onnx.NodeProto, opset: int) -> dict[str, Any]:
    """Read a node's attributes as Python values.

    Parameters
    ----------
    proto : onnx.NodeProto
    opset : int
        Version of the default operator set.

    Returns
    -------
    dict
        int, float, str, lists of them, or ndarray for a tensor, by name.

    Raises
    ------
    InputError
        If the operator does not exist in this opset; if it has other attributes, other kinds of
        attributes, or another number of inputs and outputs than ONNX says. Without the node's name.
    """
    schema = _schema(proto.op_type, opset)
    _check_count("inputs", len(proto.input), schema.min_input, schema.max_input)
    _check_count("outputs", len(proto.output), schema.min_output, schema.max_output)
    attributes: dict[str, Any] = {}
    for attribute in proto.attribute:
        name = attribute.name
        known = schema.attributes.get(name)
        if known is None:
            raise InputError(f"unknown attribute {quoted(name)}")
        if name in attributes:
            raise InputError(f"attribute {quoted(name)} occurs twice")
        expected = kind_of(known)
        if attribute.type != expected:
            raise InputError(
                f"attribute '{name}' must be {_KINDS.get(expected, 'something else')}, is "
                f"{_KINDS.get(attribute.type, 'of unknown type')}"
            )
        attributes[name] = _python_value(attribute)
    for name, known in schema.attributes.items():
        if known.required and name not in attributes:
            raise InputError(f"attribute '{name}' is required")
    return attributes


@lru_cache(maxsize=1024)
def _schema(op_type: str, opset: int) -> onnx.defs.OpSchema:
    """Return the operator's entry that is valid in this opset."""
    from onnx import defs

    try:
        schema = defs.get_schema(op_type, opset, "")
    except defs.SchemaError:
        raise InputError(f"operator does not exist in opset {opset}") from None
    if schema.deprecated:
        raise InputError(f"operator was removed before opset {opset}")
    return schema


def kind_of(attribute: onnx.defs.OpSchema.Attribute) -> int:
    """Return the number by which a message says an attribute's kind."""
    return int(getattr(attribute.type, "value"))  # noqa: B009  onnx's stubs lack it


def _check_count(what: str, count: int, low: int, high: int) -> None:
    if not low <= count <= high:
        wanted = f"{low}" if low == high else f"{low} to {high}" if high < 2**16 else f">= {low}"
        raise InputError(f"has {count} {what}, must have {wanted}")


def _python_value(attribute: onnx.AttributeProto) -> Any:
    """Return an attribute's value; graphs, types and sparse tensors are refused."""
    kind = attribute.type
    if attribute.ref_attr_name:
        raise InputError(f"attribute '{attribute.name}' refers to a function's attribute")
    if kind == _FLOAT:
        return float(attribute.f)
    if kind == _INT:
        return int(attribute.i)
    if kind in (_STRING, _STRINGS):
        try:
            strings = [item.decode() for item in attribute.strings]
            return attribute.s.decode() if kind == _STRING else strings
        except UnicodeDecodeError:
            raise InputError(f"attribute '{attribute.name}' is not UTF-8") from None
    if kind == _FLOATS:
        return [float(item) for item in attribute.floats]
    if kind == _INTS:
        return [int(item) for item in attribute.ints]
    if kind == _TENSOR:
        try:
            return to_array(attribute.t)
        except InputError as error:
            raise InputError(f"attribute '{attribute.name}': {error}") from None
    raise InputError(f"attribute '{attribute.name}' is {_KINDS[kind]}, which is not supported")
