"""What an operator's ONNX importer is given: the node as it was read, and a builder of graph nodes.

An importer is a function ``importer(node: OnnxNode, builder: Builder) -> Value | list[Value]``. It
reads attributes with the typed getters of :class:`OnnxNode`, refuses what it cannot honour with
:meth:`OnnxNode.fail`, and makes nodes of our dialect with :meth:`Builder.emit`. A list is returned
by operators with several outputs, in ONNX's order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from tvmconv.errors import InputError
from tvmconv.frontend import show
from tvmconv.frontend.limits import ConstantBudget, check_shape
from tvmconv.frontend.show import quoted
from tvmconv.graph.ir import Node, Value
from tvmconv.layout import HALVES
from tvmconv.ops._shapes import axes_in

if TYPE_CHECKING:
    from tvmconv.ops import Operator

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class OnnxNode:
    """One node of an ONNX graph, free of protobuf.

    Attributes
    ----------
    op_type, domain, name : str
        As in the file; ``domain`` is ``""`` for ONNX's own operators, and a nameless node is given
        the name of its first output.
    attrs : dict
        Attribute values as Python values: int, float, str, lists of them, or ndarray for a tensor.
    inputs : list of Value or None
        Resolved inputs; None for an optional one that was left out. Trailing None are dropped.
    outputs : list of str
        Names of the outputs; ``""`` for one that was left out, or that nothing reads.
    opset : int
        Version of the operator set of ``domain`` that the model imports.
    file : str
        The model's file, for messages.
    """

    op_type: str
    domain: str
    name: str
    attrs: Mapping[str, Any]
    inputs: Sequence[Value | None]
    outputs: Sequence[str]
    opset: int
    file: str = "model"

    def fail(self, message: str) -> NoReturn:
        """Refuse the node.

        Raises
        ------
        InputError
            Always: ``FILE: node 'NAME' (OpType): MESSAGE``.
        """
        raise InputError(f"{self.file}: node {quoted(self.name)} ({self.op_type}): {message}")

    def input(self, index: int) -> Value:
        """Return a required input; refuse the node where it is missing."""
        if index >= len(self.inputs):
            self.fail(f"needs at least {index + 1} inputs, has {len(self.inputs)}")
        value = self.inputs[index]
        if value is None:
            self.fail(f"input {index} is required")
        return value

    def optional(self, index: int) -> Value | None:
        """Return an input, or None where it was left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def constant_input(self, index: int, what: str) -> Array:
        """Return the elements of a required input that must be known at compile time."""
        value = self.input(index)
        if value.data is None:
            self.fail(f"{what} (input '{value.name}') must be a constant")
        return value.data

    def ints_input(self, index: int, what: str) -> list[int] | None:
        """Return an optional constant 1-D integer input as a list; a scalar is one element."""
        if self.optional(index) is None:
            return None
        data = self.constant_input(index, what)
        if data.dtype.kind not in "iu" or data.ndim > 1:
            self.fail(f"{what} must be a 1-D integer tensor, is {data.dtype} of shape {data.shape}")
        return [int(v) for v in data.reshape(-1)]

    def int_attr(self, key: str, default: int | None = None) -> int:
        """Return an integer attribute; without a default it is required."""
        value = self._attr(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            self.fail(f"attribute '{key}' must be an integer, is {show.value(value)}")
        return value

    def float_attr(self, key: str, default: float | None = None) -> float:
        """Return a float attribute; without a default it is required."""
        value = self._attr(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self.fail(f"attribute '{key}' must be a float, is {show.value(value)}")
        return float(value)

    def str_attr(self, key: str, default: str | None = None) -> str:
        """Return a string attribute; without a default it is required."""
        value = self._attr(key, default)
        if not isinstance(value, str):
            self.fail(f"attribute '{key}' must be a string, is {show.value(value)}")
        return value

    def ints_attr(self, key: str, default: Sequence[int] | None = None) -> list[int]:
        """Return an attribute that is a list of integers; without a default it is required."""
        value = self._attr(key, default)
        if not isinstance(value, (list, tuple)) or not all(isinstance(v, int) for v in value):
            self.fail(f"attribute '{key}' must be a list of integers, is {show.value(value)}")
        return list(value)

    def axis(self, axis: int, rank: int) -> int:
        """Return an axis counted from the front, for a tensor of that rank."""
        return self.axes([axis], rank, "axis")[0]

    def axes(self, axes: Sequence[int], rank: int, key: str = "axes") -> list[int]:
        """Return axes counted from the front; refuse those outside or named twice."""
        try:
            return axes_in(axes, rank, key)
        except InputError as error:
            self.fail(str(error))

    def has(self, key: str) -> bool:
        """Whether the file gives the attribute."""
        return key in self.attrs

    def allow_attrs(self, *keys: str) -> None:
        """Refuse attributes that the operator does not have, rather than ignore their meaning."""
        unknown = sorted(set(self.attrs) - set(keys))
        if unknown:
            self.fail(f"unknown attribute '{unknown[0]}'")

    def _attr(self, key: str, default: Any) -> Any:
        if key in self.attrs:
            return self.attrs[key]
        if default is None:
            self.fail(f"attribute '{key}' is required")
        return default


class Builder:
    """Collects the nodes that importers emit; shapes come from the operator registry.

    A node whose inputs are all constants is computed at once and becomes a constant itself, unless
    it is of the convolution family.

    Parameters
    ----------
    file : str
        The model's file, for messages.
    names : iterable of str
        Names that are taken: those of the file.
    budget : ConstantBudget, optional
        How many bytes may be made by folding.
    """

    def __init__(
        self, file: str, names: Iterable[str] = (), budget: ConstantBudget | None = None
    ) -> None:
        self.file = file
        self.nodes: list[Node] = []
        self.current: OnnxNode | None = None
        self.budget = budget or ConstantBudget(file)
        self._names = set(names)
        self._counts: dict[str, int] = {}

    def emit(
        self,
        op: str,
        inputs: Sequence[Value],
        attrs: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> Value:
        """Append ``op(*inputs, **attrs)`` and return its output.

        Parameters
        ----------
        op : str
            A name in the operator registry.
        inputs : sequence of Value
            Operands; constants come from :meth:`constant`.
        attrs : mapping, optional
            JSON-able attributes; fully resolved (no negative axes, no defaults left out).
        name : str, optional
            Wanted name of the output; made unique. The last value of an ONNX node is renamed to the
            file's name, so this is only of interest for values in between.

        Raises
        ------
        InputError
            If the registry refuses the shapes or attributes, or the output is too large or has size
            0; the message names file and node.
        """
        from tvmconv import ops  # importing it here breaks a cycle: operators import this module

        attrs = dict(attrs or {})
        operator = ops.get(op)
        folds = bool(inputs) and operator.family is None and all(v.is_constant for v in inputs)
        try:
            shape = tuple(operator.output_shape([v.shape for v in inputs], attrs))
            check_shape(shape, "output", empty=folds)
            dtype = _result_dtype(operator, inputs, attrs, folds)
            if folds:
                data = self.budget.fold(operator, [v.data for v in inputs], attrs, shape)
        except InputError as error:
            self.fail(str(error))
        if folds:
            return self.constant(data, name)
        origin = self.current.name if self.current else op
        output = Value(self.unique(name or f"{origin}:{op}"), shape, dtype)
        self.nodes.append(Node(op, list(inputs), output, attrs, origin))
        return output

    def constant(self, array: Array, name: str | None = None) -> Value:
        """Make a constant of an array (kept, not copied).

        Raises
        ------
        InputError
            If the model has made too many bytes of constants.
        """
        array = np.asarray(array)
        try:
            self.budget.charge(array)
        except InputError as error:
            self.fail(str(error))
        origin = self.current.name if self.current else "constant"
        return Value(
            self.unique(name or f"{origin}:constant"), array.shape, array.dtype.name, array
        )

    def fail(self, message: str) -> NoReturn:
        """Refuse the node that is being imported.

        Raises
        ------
        InputError
            Always: ``FILE: node 'NAME' (OpType): MESSAGE``.
        """
        if self.current is not None:
            self.current.fail(message)
        raise InputError(f"{self.file}: {message}")

    def unique(self, name: str) -> str:
        """Reserve a name that no other value of the graph has."""
        candidate = name
        while candidate in self._names:
            self._counts[name] = self._counts.get(name, 0) + 1
            candidate = f"{name}.{self._counts[name]}"
        self._names.add(candidate)
        return candidate


def _result_dtype(
    operator: Operator, inputs: Sequence[Value], attrs: Mapping[str, Any], folds: bool
) -> str:
    """Return the element type of a node's output; refuse what no kernel computes.

    Which types an operator of a family takes is an option of its problem.
    """
    if operator.output_dtype is not None:
        return operator.output_dtype([value.dtype for value in inputs], attrs)
    dtype = _common_dtype(inputs)
    free = folds or operator.any_dtype or operator.family is not None
    if not free and dtype not in ("float32", *HALVES):
        raise InputError(f"is not supported for {dtype} tensors that are computed at run time")
    return dtype


def _common_dtype(inputs: Sequence[Value]) -> str:
    """Return the element type of all inputs; refuse a mixture, which ONNX does not have either."""
    names = {value.dtype: value.name for value in inputs}
    if len(names) > 1:
        listed = ", ".join(f"'{name}' is {dtype}" for dtype, name in names.items())
        raise InputError(f"inputs have different element types: {listed}")
    return next(iter(names), "float32")
