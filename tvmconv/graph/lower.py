"""Lowering: a graph whose values have layouts becomes kernels, packed weights and a plan."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tvmconv.codegen.plan import (
    BlockedTensor,
    BorderStep,
    KernelStep,
    PackStep,
    Plan,
    Port,
    Step,
    TensorArgument,
    UnpackStep,
)
from tvmconv.graph.fuse import base_inputs
from tvmconv.graph.ir import Node, Value
from tvmconv.graph.layout import Placed
from tvmconv.graph.memory import Lifetime, aligned, assign_offsets
from tvmconv.kernel import KernelSpec, canonical_json
from tvmconv.layout import Layout, itemsize
from tvmconv.problem import Problem

#: Nodes that cost nothing: their result is memory that something else writes.
_FREE = frozenset({"view", "join"})


class Weights:
    """The constants of a model, packed, one after the other at aligned offsets."""

    def __init__(self) -> None:
        self._image = bytearray()
        self._known: dict[tuple[Any, ...], list[TensorArgument]] = {}

    def add(
        self, key: tuple[Any, ...], pack: Callable[[], list[np.ndarray[Any, Any]]]
    ) -> list[TensorArgument]:
        """Append arrays, unless those of that key are there, and return where they lie."""
        if key not in self._known:
            self._known[key] = [self._append(np.ascontiguousarray(array)) for array in pack()]
        return self._known[key]

    def _append(self, array: np.ndarray[Any, Any]) -> TensorArgument:
        argument = TensorArgument("weights", array.shape, str(array.dtype), len(self._image))
        self._image += array.reshape(-1).view(np.uint8).data
        self._image += bytes(aligned(len(self._image)) - len(self._image))
        return argument

    def image(self) -> bytearray:
        """All of it as bytes, not copied."""
        return self._image


@dataclass
class Lowered:
    """What code generation needs.

    Attributes
    ----------
    plan : Plan
    kernels : dict of str to KernelSpec
        By the name under which the plan calls them.
    weights : Weights
    """

    plan: Plan
    kernels: dict[str, KernelSpec] = field(default_factory=dict)
    weights: Weights = field(default_factory=Weights)


def lower(placed: Placed) -> Lowered:
    """Lower a placed graph."""
    return _Lowerer(placed).run()


class _Lowerer:
    """One walk over the placed graph."""

    def __init__(self, placed: Placed) -> None:
        self.placed = placed
        self.graph = placed.graph
        self.inputs = {v: k for k, v in enumerate(self.graph.inputs)}
        self.nodes = [n for n in self.graph.nodes if n.op not in _FREE]
        self.weights = Weights()
        self.kernels: dict[str, KernelSpec] = {}
        self.steps: list[Step] = []
        self.offsets, self.arena_bytes = self._arena()

    def _arena(self) -> tuple[dict[Value, int], int]:
        """Offsets of the buffers of all computed values."""
        alive: dict[Value, Lifetime] = {}
        for k, node in enumerate(self.nodes):
            for value in (node.output, *node.inputs):
                if value.is_constant or value in self.inputs:
                    continue
                root = self.placed.root(value)
                size = self.placed.layouts[root].buffer_bytes
                alive.setdefault(root, Lifetime(size, k, k)).last = k
        for value in self.graph.outputs:
            if not value.is_constant and value not in self.inputs:
                alive[self.placed.root(value)].last = len(self.nodes)
        offsets, arena_bytes = assign_offsets(list(alive.values()))
        return dict(zip(alive, offsets, strict=True)), arena_bytes

    def run(self) -> Lowered:
        """Emit the steps of every node, then the outputs'."""
        clean: set[Value] = set()
        for node in self.nodes:
            root = self.placed.root(node.output)
            if root not in clean:
                clean.add(root)
                self._border(node, root)
            if node.op in ("convert", "reshape"):
                self._convert(node)
            else:
                self._kernel(node)
        for k, value in enumerate(self.graph.outputs):
            self._output(k, value)
        plan = Plan(
            self.arena_bytes,
            [Port(v.name, v.shape, v.dtype) for v in self.graph.inputs],
            [Port(v.name.partition(":")[0], v.shape, v.dtype) for v in self.graph.outputs],
            self.steps,
        )
        return Lowered(plan, self.kernels, self.weights)

    def _border(self, node: Node, root: Value) -> None:
        """Zero the halo before the first writer of a buffer, unless that writer does."""
        layout = self.placed.layouts[root]
        packs = node.op == "convert" and node.output is root and layout.block >= 1
        if layout.has_halo and not packs:
            tensor = BlockedTensor.of(layout, self.offsets[root])
            self.steps.append(BorderStep(tensor, f"{node.name}:border"))

    def _tensor(self, value: Value) -> BlockedTensor:
        root = self.placed.root(value)
        layout = self.placed.layouts[value]
        return BlockedTensor.of(layout, self.offsets[root])

    def _plain(self, value: Value) -> TensorArgument:
        """A caller's tensor, or a compact plain one in the arena."""
        if value in self.inputs:
            return TensorArgument("input", value.shape, value.dtype, 0, self.inputs[value])
        if value.is_constant:
            return self.weights.add(_data(value))
        root = self.placed.root(value)
        return TensorArgument("arena", value.shape, value.dtype, self.offsets[root])

    def _convert(self, node: Node) -> None:
        """Bring a value into another layout with the runtime's own code."""
        source, result = node.inputs[0], node.output
        new = self.placed.layouts[result]
        old = self.placed.layouts.get(source)
        if old is None or (old.block == 1 and not old.has_halo and not old.slots):
            self.steps.append(PackStep(self._plain(source), self._shaped(result), node.name))
        elif new.block == 1 and not new.has_halo and not new.slots:
            self.steps.append(UnpackStep(self._shaped(source), self._plain(result), node.name))
        else:
            raise ValueError(f"{node.name}: no conversion from {old} to {new}")

    def _shaped(self, value: Value) -> BlockedTensor:
        """A value as N, C and up to three more axes; plain ones of other ranks are flattened."""
        layout = self.placed.layouts[value]
        if layout.block == 1 and not layout.has_halo and not layout.slots:
            offset = self.offsets[self.placed.root(value)]
            return BlockedTensor((1, math.prod(value.shape)), offset, dtype=value.dtype)
        return self._tensor(value)

    def _output(self, index: int, value: Value) -> None:
        target = TensorArgument("output", value.shape, value.dtype, 0, index)
        if value in self.inputs or value.is_constant:
            raise ValueError(f"output {value.name} is not computed")
        self.steps.append(UnpackStep(self._shaped(value), target, f"{value.name}:output"))

    def _kernel(self, node: Node) -> None:
        """Emit the call of a node's kernel."""
        from tvmconv.computes import PACK

        base = base_inputs(node) if node.op not in ("concat", "add") else 0
        layouts = self.placed.layouts
        if node.op == "elementwise" or (node.attrs.get("problem") and node.op != "pack_weight"):
            data = [node.inputs[0], *node.inputs[base:]]
            constants = node.inputs[1:base]
        else:
            data, constants = list(node.inputs), []
        places = [self._place(v) for v in (*data, node.output)]
        spec = KernelSpec(
            node.op,
            canonical_json(node.attrs),
            tuple(layout for layout, _ in places[:-1]),
            places[-1][0],
        )
        name = f"tvmconv_{spec.digest}"
        self.kernels.setdefault(name, spec)
        packed: list[TensorArgument] = []
        if constants and not constants[0].is_constant:
            packed = [self._place(v)[1] for v in constants]
        elif node.op in PACK:
            packed = [self.weights.add(a) for a in PACK[node.op](spec, [_data(v) for v in constants])]
        arguments = [argument for _, argument in places]
        call = (arguments[0], *packed, *arguments[1:])
        macs = 0
        if base_inputs(node) > 1 and node.op != "pack_weight":
            macs = Problem.parse(node.attrs["problem"]).macs
        self.steps.append(KernelStep(name, tuple(call), node.name, node.op, macs))
        del layouts

    def _place(self, value: Value) -> tuple[Layout, TensorArgument]:
        """Layout under which a kernel sees a value, and where the kernel finds it."""
        layout = self.placed.layouts[value]
        if value.is_constant:
            return layout, self.weights.add(_blocked(_data(value), layout))
        offset = self.offsets[self.placed.root(value)]
        slot_bytes = math.prod(layout.buffer_shape[2:]) * itemsize(layout.dtype)
        if layout.slots and layout.shape[0] == 1 and slot_bytes % 64 == 0:
            offset += layout.first * slot_bytes
            layout = replace(layout, slots=0, first=0)
        return layout, TensorArgument("arena", layout.buffer_shape, layout.dtype, offset)


def _data(value: Value) -> np.ndarray[Any, Any]:
    if value.data is None:
        raise ValueError(f"{value.name} is not a constant")
    return value.data


def _blocked(data: np.ndarray[Any, Any], layout: Layout) -> np.ndarray[Any, Any]:
    """Bring a constant into a layout without halo."""
    if layout.block == 1:
        return data.reshape(layout.buffer_shape)
    n, channels, *spatial = layout.shape
    slots, block = layout.own_slots, layout.block
    wide = np.zeros((n, slots * block, *spatial), data.dtype)
    wide[:, :channels] = data.reshape(layout.shape)
    return np.ascontiguousarray(
        np.moveaxis(wide.reshape(n, slots, block, *spatial), 2, -1)
    )
