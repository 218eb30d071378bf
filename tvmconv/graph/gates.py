"""Gated convolutions, recognised: ``φ(conv(x, f)) · sigmoid(conv(x, g))``.

Either one convolution with twice as many channels is split, or two read the same value.
:mod:`tvmconv.graph.gate_kernels` says later whether that is one kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tvmconv.graph.ir import Graph, Node, Value
from tvmconv.ops import activation
from tvmconv.problem import Problem


def find_gates(graph: Graph) -> Graph:
    """Replace the product of every such pattern by a node of the operator."""
    finder = _Finder.of(graph)
    nodes = [finder.gated(node) or node for node in graph.nodes]
    wanted, kept = set(graph.outputs), []
    for node in reversed(nodes):
        if node.output in wanted:
            wanted.update(node.inputs)
            kept.append(node)
    return replace(graph, nodes=kept[::-1])


@dataclass
class _Finder:
    """Looks for what makes a value that nothing else reads."""

    makers: dict[Value, Node]
    readers: dict[Value, list[Node]]
    outputs: set[Value]

    @classmethod
    def of(cls, graph: Graph) -> _Finder:
        return cls(graph.producers(), graph.consumers(), set(graph.outputs))

    def _private(self, value: Value, readers: int = 1) -> Node | None:
        """The maker of a value that only so many nodes read."""
        if value in self.outputs or len(self.readers.get(value, ())) != readers:
            return None
        return self.makers.get(value)

    def gated(self, node: Node) -> Node | None:
        """The node that computes a product, if it is a gated convolution's."""
        if node.op != "mul" or len(set(node.inputs)) != 2:
            return None
        for value, gate in (node.inputs, node.inputs[::-1]):
            maker = self._private(gate)
            if maker is None or maker.op != "sigmoid":
                continue
            for text, linear in self._activated(value):
                found = self._of_halves(node, linear, maker.inputs[0], text)
                if found is not None:
                    return found
        return None

    def _activated(self, value: Value) -> Iterator[tuple[str, Value]]:
        """The ways to read a value as an activation of another one: none is one of them."""
        maker = self._private(value)
        if maker is not None and len(maker.inputs) == 1:
            text = activation.from_node(maker.op, maker.attrs)
            if text is not None:
                yield text, maker.inputs[0]
        yield "", value

    def _of_halves(self, node: Node, value: Value, gate: Value, text: str) -> Node | None:
        """The gated convolution whose halves are two values."""
        first, second = self._private(value), self._private(gate)
        if first is None or second is None:
            return None
        if first.op == second.op == "slice":
            return self._of_slices(node, first, second, text)
        if not first.op == second.op == "conv" or first.inputs[0] is not second.inputs[0]:
            return None
        problems = [_plain(maker) for maker in (first, second)]
        if problems[0] is None or problems[0] != problems[1]:
            return None
        arrays = [np.concatenate([np.asarray(a.data), np.asarray(b.data)])
                  for a, b in zip(first.inputs[1:], second.inputs[1:], strict=True)]  # fmt: skip
        return _node(node, first.inputs[0], problems[0], arrays, text)

    def _of_slices(self, node: Node, first: Node, second: Node, text: str) -> Node | None:
        """The same of two slices of one convolution."""
        if first.inputs[0] is not second.inputs[0]:
            return None
        conv = self._private(first.inputs[0], readers=2)
        problem = _plain(conv) if conv is not None and conv.op == "conv" else None
        if conv is None or problem is None or problem.co % 2:
            return None
        count = problem.co // 2
        starts = [_half_start(part, count) for part in (first, second)]
        if sorted(starts) != [0, count]:
            return None
        # The gate's half is the second one of the operator.
        arrays = [np.roll(np.asarray(v.data), -starts[0], axis=0) for v in conv.inputs[1:]]
        filters = (count, *problem.kernel)
        own = Problem("conv", problem.input_shape, filters, problem.options)
        return _node(node, conv.inputs[0], own, arrays, text)


def _plain(node: Node) -> Problem | None:
    """The problem of a convolution with constant weights that can be a half, or None."""
    problem = Problem.parse(node.attrs["problem"])
    open_ = problem.option("algorithm") == "auto" and problem.groups == 1
    usual = open_ and not problem.flipped and not problem.activation and set(node.attrs) == {
        "problem"}  # fmt: skip
    return problem if usual and all(v.is_constant for v in node.inputs[1:]) else None


def _half_start(node: Node, count: int) -> int:
    """The first channel of a slice of so many neighbouring channels; -1 if it is none."""
    attrs = node.attrs
    if list(attrs["axes"]) != [1] or list(attrs["steps"]) != [1]:
        return -1
    start, end = attrs["starts"][0], attrs["ends"][0]
    return int(start) if end - start == count else -1


def _node(node: Node, x: Value, plain: Problem, arrays: list[Any], text: str) -> Node:
    """A gated convolution in the place of a product."""
    names = ("stride", "padding", "dilation", "bias", "dtype")
    options = {**{name: plain.option(name) for name in names}, "activation": text}
    problem = Problem("gated_conv", plain.input_shape, plain.filter_shape, options)
    weights = [
        Value(f"{node.output.name}:{name}", array.shape, x.dtype, np.ascontiguousarray(array))
        for name, array in zip(("weight", "bias"), arrays, strict=False)
    ]
    attrs = {"problem": problem.text}
    return Node("gated_conv", [x, *weights], node.output, attrs, node.name)
