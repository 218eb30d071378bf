"""The graph that the frontend makes and the passes rewrite.

A graph is a list of single-output nodes in execution order over named, statically shaped values.
Between passes it can be turned into a Relax function (:mod:`tvmconv.graph.relax`) and back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Quantised:
    """What a constant was before it was dequantised: ``(data - zero_point) * scale``.

    Attributes
    ----------
    data : ndarray
        Integers, in the shape of the constant.
    scale, zero_point : ndarray
        Of one element, or of one for each position along ``axis``.
    axis : int
    """

    data: npt.NDArray[Any]
    scale: npt.NDArray[Any]
    zero_point: npt.NDArray[Any]
    axis: int = 0


@dataclass(eq=False)
class Value:
    """One tensor: an input of the graph, a constant, or the output of a node.

    Attributes
    ----------
    name : str
        Unique in the graph.
    shape : tuple of int
        Logical shape in ONNX order (N, C, spatial...).
    dtype : str
        NumPy's name of the element type.
    data : ndarray or None
        The elements of a constant; None for anything computed.
    quantised : Quantised or None
        Of a constant that the model has in integers.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    data: npt.NDArray[Any] | None = None
    quantised: Quantised | None = None

    @property
    def is_constant(self) -> bool:
        """Whether the elements are known at compile time."""
        return self.data is not None


@dataclass(eq=False)
class Node:
    """One operator instance: ``output = op(*inputs, **attrs)``.

    Attributes
    ----------
    op : str
        Name in the operator registry.
    attrs : dict
        JSON-able attributes; the convolution family keeps its problem's text in ``problem``.
    name : str
        Name of the ONNX node it came from, for messages.
    """

    op: str
    inputs: list[Value]
    output: Value
    attrs: dict[str, Any] = field(default_factory=dict)
    name: str = ""


@dataclass(eq=False)
class Graph:
    """A network: nodes in execution order.

    Attributes
    ----------
    name : str
        The model's name: the file's stem, or the problem's text.
    inputs, outputs : list of Value
        In the model's order; an output may be an input or a constant.
    nodes : list of Node
    """

    name: str
    inputs: list[Value]
    outputs: list[Value]
    nodes: list[Node]

    def constants(self) -> Iterator[Value]:
        """Yield every constant that a node or an output uses, once."""
        seen: set[int] = set()
        used = [v for node in self.nodes for v in node.inputs] + self.outputs
        for value in used:
            if value.is_constant and id(value) not in seen:
                seen.add(id(value))
                yield value

    def producers(self) -> dict[Value, Node]:
        """Map each computed value to the node that makes it."""
        return {node.output: node for node in self.nodes}

    def consumers(self) -> dict[Value, list[Node]]:
        """Map each value to the nodes that read it, in order, once a node."""
        readers: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for value in dict.fromkeys(node.inputs):
                readers.setdefault(value, []).append(node)
        return readers
