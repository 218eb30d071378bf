"""A model explained: what each layer costs and how far it sees, and the whole network."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from tvmconv import ops
from tvmconv.explain import roofline, shapes
from tvmconv.explain.axes import axes_of
from tvmconv.explain.receptive import Field, receptive_fields
from tvmconv.explain.text import Section, count, duration, render, scaled, sizes
from tvmconv.graph.ir import Graph, Node, Value
from tvmconv.layout import itemsize
from tvmconv.problem import Problem
from tvmconv.target import Target


@dataclass(frozen=True)
class LayerExplanation:
    """One layer of a model.

    Attributes
    ----------
    name, op : str
    problem : str
        Text of its problem; empty for what is no problem.
    output_shape : tuple of int
    parameters : int
        Elements of its constants, less those that a layer before it has, too.
    shared : int
        Elements of its constants that a layer before it has, too.
    macs, flops, bytes : int
        Bytes are those of all inputs and the output, each element once.
    field : Field
        What one element of its output depends on.
    bound : Bound
        The least time by itself.
    """

    name: str
    op: str
    problem: str
    output_shape: tuple[int, ...]
    parameters: int
    shared: int
    macs: int
    flops: int
    bytes: int
    field: Field
    bound: roofline.Bound

    @property
    def intensity(self) -> float:
        """FLOP a byte; 0 where nothing is moved."""
        return self.flops / self.bytes if self.bytes else 0.0

    def to_json(self) -> dict[str, Any]:
        """JSON-able form."""
        field = self.field
        return {
            **{key: getattr(self, key) for key in ("name", "op", "problem")},
            "output_shape": list(self.output_shape),
            **{key: getattr(self, key) for key in ("parameters", "shared", "macs", "flops")},
            "bytes": self.bytes,
            "intensity": self.intensity,
            "receptive_field": "all" if field.whole else list(field.size) or None,
            "jump": list(map(float, field.jump)) or None,
            "bound_us": self.bound.seconds * 1e6,
            "bound_by": self.bound.limit,
        }


@dataclass(frozen=True)
class ModelExplanation:
    """What :func:`tvmconv.explain` says of a model; ``print`` it, or take its numbers.

    Attributes
    ----------
    name : str
    target : Target
        Of the bounds.
    inputs, outputs : dict
        Shapes by name.
    layers : tuple of LayerExplanation
        In the order of execution, before any fusion.
    """

    name: str
    target: Target
    inputs: dict[str, tuple[int, ...]]
    outputs: dict[str, tuple[int, ...]]
    layers: tuple[LayerExplanation, ...]

    def __str__(self) -> str:
        return render(self.sections())

    @property
    def parameters(self) -> int:
        """Elements of all constants, each once."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-adds of all layers."""
        return sum(layer.macs for layer in self.layers)

    @property
    def bytes(self) -> int:
        """Bytes that the layers move, if each reads and writes for itself."""
        return sum(layer.bytes for layer in self.layers)

    def sections(self) -> list[Section]:
        """The table of the layers, and the totals."""
        lines = [f"input {name} {sizes(shape)}" for name, shape in self.inputs.items()]
        lines += [f"output {name} {sizes(shape)}" for name, shape in self.outputs.items()]
        rows = tuple(tuple(_row(layer)) for layer in self.layers)
        return [
            Section(self.name, tuple(lines)),
            Section("layers", (), _COLUMNS, rows),
            self._totals(),
        ]

    def _totals(self) -> Section:
        shared = sum(layer.shared for layer in self.layers)
        flops = sum(layer.flops for layer in self.layers)
        bounds = sum(layer.bound.seconds for layer in self.layers)
        compute = roofline.compute_roof(self.target).seconds(flops)
        more = f"; shared ones counted once, {count(shared)} more otherwise" if shared else ""
        rows: list[tuple[object, ...]] = [
            ("parameters", self.parameters, scaled(self.parameters) + more),
            ("multiply-adds", self.macs, scaled(self.macs)),
            ("bytes", self.bytes, "if every layer reads and writes for itself"),
        ]
        if self.bytes:
            rows.append(("FLOP a byte", flops / self.bytes, "so too"))
        name = self.target.name
        rows.append(("bound", duration(bounds), f"the layers one by one, from memory, on {name}"))
        rows.append(("at the peak", duration(compute), f"if no byte had to be moved, on {name}"))
        return Section("totals", (), ("what", "number", "how"), tuple(rows))

    def to_json(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "model": self.name,
            "target": self.target.name,
            "inputs": {name: list(shape) for name, shape in self.inputs.items()},
            "outputs": {name: list(shape) for name, shape in self.outputs.items()},
            "parameters": self.parameters,
            "macs": self.macs,
            "bytes": self.bytes,
            "bound_us": sum(layer.bound.seconds for layer in self.layers) * 1e6,
            "layers": [layer.to_json() for layer in self.layers],
        }


_COLUMNS = (
    "layer",
    "operator",
    "output",
    "parameters",
    "multiply-adds",
    "bytes",
    "FLOP a byte",
    "receptive field",
    "jump",
    "bound",
)


def _row(layer: LayerExplanation) -> Iterator[object]:
    yield layer.name
    yield layer.problem.partition(":")[0] or layer.op
    yield sizes(layer.output_shape)
    yield from (layer.parameters, layer.macs, layer.bytes)
    yield layer.intensity
    yield "all" if layer.field.whole else sizes(layer.field.size) or "?"
    jump = layer.field.jump
    yield sizes(sorted(set(jump)) if len(set(jump)) < 2 else jump)
    yield duration(layer.bound.seconds) if layer.bound.seconds else ""


def explain_graph(graph: Graph, target: Target) -> ModelExplanation:
    """Explain a graph as the frontend makes it."""
    fields = receptive_fields(graph)
    known: set[object] = set()
    layers = tuple(_layer(node, fields[node.output], known, target) for node in graph.nodes)
    inputs = {value.name: value.shape for value in graph.inputs}
    outputs = {value.name: value.shape for value in graph.outputs}
    return ModelExplanation(graph.name, target, inputs, outputs, layers)


def _layer(node: Node, field: Field, known: set[object], target: Target) -> LayerExplanation:
    operator = ops.get(node.op)
    text = node.attrs.get("problem", "")
    values = [*dict.fromkeys(node.inputs), node.output]
    nbytes = sum(prod(v.shape) * itemsize(v.dtype) for v in values)
    nbytes *= node.op != "reshape"  # which only names the same elements in another way
    macs, flops = 0, prod(node.output.shape) * (operator.expression is not None)
    if text:
        problem = Problem.parse(text)
        axes = axes_of(problem)
        macs = shapes.macs(problem, axes)
        flops = 2 * macs or problem.flops
    parameters = shared = 0
    for value in dict.fromkeys(node.inputs):
        if value.data is not None:
            identity, size = _identity(value), prod(value.shape)
            shared += size * (identity in known)
            parameters += size * (identity not in known)
            known.add(identity)
    bound = roofline.bound(target, flops, nbytes, operator.family)
    return LayerExplanation(
        node.name or node.output.name, node.op, text, node.output.shape, parameters, shared, macs,
        flops, nbytes, field, bound,
    )  # fmt: skip


def _identity(value: Value) -> object:
    """What two uses of one constant have in common.

    A matrix that several layers use is transposed for each of them, so that only its elements say
    that it is the same; where they are all equal, as in models without their weights, they do not.
    """
    data = np.ascontiguousarray(value.data)
    if data.ndim < 2 or np.all(data == data.reshape(-1)[:1]):
        return id(value.data)
    return data.shape, hashlib.blake2b(data.view(np.uint8).data, digest_size=16).digest()
