"""A graph computed by the operators' NumPy references, node by node: what is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tvmconv import ops
from tvmconv.errors import InputError
from tvmconv.graph.ir import Graph, Node, Value

Array = npt.NDArray[Any]
Inputs = Mapping[str, Array] | Sequence[Array]


def evaluate(graph: Graph, inputs: Inputs, dtype: str = "float64") -> list[Array]:
    """Compute the outputs.

    Parameters
    ----------
    graph : Graph
        Of registry operators.
    inputs : mapping of str to ndarray, or sequence of ndarray
        By name, or in the order of ``graph.inputs``.
    dtype : {"float64", "float32"}
        What floats between nodes are rounded to; inside a node the references use float64. Those
        that are quantised, and what is made of integers, are float32 all the same, as ONNX has it.

    Returns
    -------
    list of ndarray
        In the order of ``graph.outputs``, floats in that dtype or in float32.

    Raises
    ------
    InputError
        If an input is missing, unknown, or has another shape than the graph's.
    """
    wanted = set(graph.outputs)
    found = dict(_bind(graph, inputs, dtype))
    for node, array in trace(graph, inputs, dtype):
        if node.output in wanted:
            found[node.output] = array
    return [
        _constant(value, dtype) if value.is_constant else found[value] for value in graph.outputs
    ]


def trace(graph: Graph, inputs: Inputs, dtype: str = "float64") -> Iterator[tuple[Node, Array]]:
    """Yield every node with its output, in execution order; the parameters are :func:`evaluate`'s.

    An array is forgotten after its last reader, so peak memory is that of the network. Who wants to
    stop at the first wrong node just stops iterating.
    """
    values = _bind(graph, inputs, dtype)
    readers = Counter(value for node in graph.nodes for value in node.inputs)
    for node in graph.nodes:
        operator = ops.get(node.op)
        keep = operator.family is not None  # these convert weights themselves, block by block
        arrays = [
            _constant(value, value.dtype if keep else dtype) if value.is_constant else values[value]
            for value in node.inputs
        ]
        with np.errstate(all="ignore"):  # infinities and NaN are results
            result = np.asarray(operator.reference(arrays, node.attrs))
        yield node, result
        values[node.output] = result
        for value in node.inputs:
            readers[value] -= 1
            if not readers[value]:
                values.pop(value, None)


def _bind(graph: Graph, inputs: Inputs, dtype: str) -> dict[Value, Array]:
    """Return the run-time inputs by value, checked."""
    if not isinstance(inputs, Mapping):
        if len(inputs) != len(graph.inputs):
            raise InputError(f"{graph.name}: takes {len(graph.inputs)} inputs, got {len(inputs)}")
        names = (value.name for value in graph.inputs)
        inputs = dict(zip(names, inputs, strict=True))
    unknown = sorted(set(inputs) - {value.name for value in graph.inputs})
    if unknown:
        raise InputError(f"{graph.name}: there is no input '{unknown[0]}'")
    bound = {}
    for value in graph.inputs:
        if value.name not in inputs:
            raise InputError(f"{graph.name}: input '{value.name}' is missing")
        array = np.asarray(inputs[value.name])
        if array.shape != value.shape:
            raise InputError(
                f"{graph.name}: input '{value.name}' must have shape {value.shape}, "
                f"has {array.shape}"
            )
        floats = np.dtype(value.dtype).kind in "fV"  # V: bfloat16
        bound[value] = array.astype(dtype if floats else value.dtype, copy=False)
    return bound


def _constant(value: Value, dtype: str) -> Array:
    """Return a constant's elements in that dtype."""
    data = np.asarray(value.data)
    return data.astype(dtype, copy=False) if data.dtype.kind in "fV" else data
