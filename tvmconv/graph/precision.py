"""Store what convolutions and dense layers read and write in halves.

The graph's inputs and outputs stay as they are. Convolutions and dense layers, whose weights all
are finite in the type, read and write halves; so does what only halves reach of the operators that
round to the type at most once: pools, activations, sums and products, movements. All else (softmax,
reductions, normalisations) stays in float32, with casts where the types meet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tvmconv import ops
from tvmconv.errors import InputError
from tvmconv.graph.ir import Graph, Node, Value
from tvmconv.layout import HALVES
from tvmconv.ops import Array
from tvmconv.ops.options import DTYPES
from tvmconv.problem import Problem

#: What a network can be stored in: float32 changes nothing.
PRECISIONS = ("float32", *HALVES)

#: Operators without a family that may stay between two halves.
_BETWEEN = frozenset((
    "add", "mul", "maximum", "minimum", "relu", "leaky_relu", "clip", "sigmoid", "tanh", "silu",
    "hard_sigmoid", "hard_swish", "elu", "prelu", "abs", "neg", "scale_shift", "concat", "reshape",
    "transpose", "slice", "pad", "channel_shuffle", "expand",
))  # fmt: skip


def stored_in(graph: Graph, dtype: str) -> Graph:
    """Store the activations and weights of a float32 graph in another type.

    Parameters
    ----------
    graph : Graph
        Not fused.
    dtype : {"float32", "float16", "bfloat16"}

    Raises
    ------
    InputError
        If there is no such type.
    """
    if dtype not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {dtype!r}")
    return graph if dtype == "float32" else _Rewriter(graph, dtype).run()


def roundings(graph: Graph) -> int:
    """How many roundings to halves follow one another, at most, on a way through a graph."""

    def own(node: Node) -> int:
        weights = any(v.is_constant and v.dtype in HALVES for v in node.inputs)
        return (node.output.dtype in HALVES) + weights

    return longest(graph, own)


def longest(graph: Graph, own: Callable[[Node], int]) -> int:
    """The largest sum of what nodes have of something, over the ways through a graph."""
    depth: dict[Value, int] = {}
    for node in graph.nodes:
        before = max((depth.get(value, 0) for value in node.inputs), default=0)
        depth[node.output] = before + own(node)
    return max((depth.get(value, 0) for value in graph.outputs), default=0)


@dataclass
class _Rewriter:
    """One walk over a graph.

    Attributes
    ----------
    graph : Graph
    dtype : str
        The half.
    halves : dict of Value to Value
        Values of the graph that exist in halves.
    computed : set of Value
        Those of them that a node computes in halves.
    wide : set of Value
        Those again that have been cast to float32.
    """

    graph: Graph
    dtype: str
    halves: dict[Value, Value] = field(default_factory=dict)
    computed: set[Value] = field(default_factory=set)
    wide: set[Value] = field(default_factory=set)
    nodes: list[Node] = field(default_factory=list)

    def run(self) -> Graph:
        """Rewrite node by node, then make the outputs what they were."""
        for node in self.graph.nodes:
            if self._is_half(node):
                self._append_half(node)
            else:
                inputs = [self._in_float32(value) for value in node.inputs]
                self.nodes.append(Node(node.op, inputs, node.output, node.attrs, node.name))
        outputs = [self._in_float32(value) for value in self.graph.outputs]
        return Graph(self.graph.name, self.graph.inputs, outputs, self.nodes)

    def _is_half(self, node: Node) -> bool:
        """Whether a node reads and writes halves."""
        floats = all(v.dtype == "float32" for v in (*node.inputs, node.output))
        operator = ops.get(node.op)
        if not floats or operator.output_dtype is not None:
            return False
        constants = [np.asarray(v.data) for v in node.inputs if v.is_constant]
        if operator.family is not None:
            problem = Problem.parse(node.attrs["problem"])
            if "weight" in problem.inputs:
                return all(self._rounds(array, normal=False) for array in constants)
        elif node.op not in _BETWEEN:
            return False
        computed = [v for v in node.inputs if not v.is_constant]
        reached = bool(computed) and self.computed.issuperset(computed)
        return reached and all(self._rounds(array, normal=True) for array in constants)

    def _rounds(self, array: Array, normal: bool) -> bool:
        """Whether a constant is finite as halves and, if ``normal``, each number near its own."""
        with np.errstate(over="ignore"):
            rounded = array.astype(self.dtype).astype(np.float64)
        if not np.isfinite(rounded).all():
            return False
        error = np.abs(rounded - array)
        return not normal or bool((error <= DTYPES[self.dtype].roundoff * np.abs(array)).all())

    def _append_half(self, node: Node) -> None:
        attrs = dict(node.attrs)
        if "problem" in attrs:
            attrs["problem"] = Problem.parse(attrs["problem"]).replace(dtype=self.dtype).text
        old = node.output
        output = Value(f"{old.name}:{self.dtype}", old.shape, self.dtype)
        inputs = [self._in_half(value) for value in node.inputs]
        self.halves[old] = output
        self.computed.add(old)
        self.nodes.append(Node(node.op, inputs, output, attrs, node.name))

    def _in_half(self, value: Value) -> Value:
        """A value in halves: a constant rounded now, another one by a cast."""
        if value not in self.halves:
            name = f"{value.name}:{self.dtype}"
            if value.data is not None:
                data = value.data.astype(self.dtype)
                self.halves[value] = Value(name, value.shape, self.dtype, data)
            else:
                self.halves[value] = half = Value(name, value.shape, self.dtype)
                attrs = {"to": self.dtype}
                self.nodes.append(Node("cast", [value], half, attrs, f"{value.name}:cast"))
        return self.halves[value]

    def _in_float32(self, value: Value) -> Value:
        """A value as the graph has it: computed so, or by a cast of halves."""
        if value in self.computed - self.wide:
            self.wide.add(value)
            half, attrs = self.halves[value], {"to": "float32"}
            self.nodes.append(Node("cast", [half], value, attrs, f"{value.name}:cast"))
        return value
