"""Runs a plan with the NumPy references in place of its kernels, over real, poisoned memory.

What the graph passes decide is thereby tested without code generation: layouts, halos, slices of
concatenations, views, packed constants, the order of the steps, and the arena in which buffers
follow one another. Memory that nothing has written is NaN, and so are the lanes past the last
channel that a kernel leaves behind.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tvmconv import ops
from tvmconv.codegen.plan import (
    BlockedTensor,
    BorderStep,
    CopyStep,
    KernelStep,
    PackStep,
    TensorArgument,
    UnpackStep,
)
from tvmconv.codegen.plan_check import check_plan
from tvmconv.graph.fuse import FAMILY, base_inputs
from tvmconv.graph.halos import window_halo
from tvmconv.graph.ir import Node, Value
from tvmconv.graph.layout import Placed, converts_constant
from tvmconv.graph.lower import Lowered, lower
from tvmconv.layout import Layout

Array = npt.NDArray[Any]


def simulate(placed: Placed, feeds: Mapping[str, Array]) -> list[Array]:
    """Lower a placed graph and run its plan; outputs as a module gives them."""
    return _Machine(placed, lower(placed), feeds).run()


class _Machine:
    def __init__(self, placed: Placed, lowered: Lowered, feeds: Mapping[str, Array]) -> None:
        self.plan, self.kernels, self.placed = lowered.plan, lowered.kernels, placed
        image = np.frombuffer(bytes(lowered.weights.image()), np.uint8)
        check_plan(self.plan, len(image))
        self.memory: dict[tuple[str, int], Array] = {
            ("arena", 0): np.full(self.plan.arena_bytes // 4, np.nan, np.float32).view(np.uint8),
            ("weights", 0): image,
        }
        for k, port in enumerate(self.plan.inputs):
            self.memory["input", k] = feeds[port.name].reshape(-1).view(np.uint8)
        for k, port in enumerate(self.plan.outputs):
            count = math.prod(port.shape)
            empty = np.full(count, np.nan, port.dtype) if port.dtype == "float32" else None
            values = np.zeros(count, port.dtype) if empty is None else empty
            self.memory["output", k] = values.view(np.uint8)
        free = ("view", "join", "convert", "reshape")
        self.nodes = iter([n for n in placed.graph.nodes if n.op not in free])
        self.packed = {n.output: n.inputs[0] for n in placed.graph.nodes if n.op == "pack_weight"}
        self.folded = {n.output: n.inputs[0] for n in placed.graph.nodes if converts_constant(n)}
        self.known: dict[Value, Array] = {v: feeds[v.name] for v in placed.graph.inputs}

    def run(self) -> list[Array]:
        for step in self.plan.steps:
            if isinstance(step, KernelStep):
                self.kernel(step, next(self.nodes))
            elif isinstance(step, BorderStep):
                inner = self.interior(step.tensor).copy()
                self.blocked(step.tensor)[:] = 0
                self.interior(step.tensor)[:] = inner
            elif isinstance(step, PackStep):
                self.pack(step)
            elif isinstance(step, UnpackStep):
                channels = self.channels(self.interior(step.source), step.source.shape[1])
                self.plain(step.destination)[...] = channels.reshape(step.destination.shape)
            else:
                assert isinstance(step, CopyStep)
                shape = step.destination.shape
                self.plain(step.destination)[...] = self.plain(step.source).reshape(shape)
        assert next(self.nodes, None) is None
        return [
            self.memory["output", k].view(port.dtype).reshape(port.shape).copy()
            for k, port in enumerate(self.plan.outputs)
        ]

    def plain(self, place: TensorArgument) -> Array:
        raw = self.memory[place.space, place.index][place.offset : place.offset + place.nbytes]
        return raw.view(place.dtype).reshape(place.shape)

    def blocked(self, tensor: BlockedTensor) -> Array:
        """The whole tensor with its halo, as (N, slots, *padded, block)."""
        raw = self.memory[tensor.space, 0][tensor.offset : tensor.offset + tensor.nbytes]
        last = (tensor.block, 1) if tensor.padded else (1,)
        shape = (tensor.shape[0], tensor.slots, *tensor.padded, tensor.block)
        strides = [4 * s for s in (*tensor.strides, *last)]
        return np.lib.stride_tricks.as_strided(raw.view(np.float32), shape, strides)

    def interior(self, tensor: BlockedTensor) -> Array:
        inside = zip(tensor.lows, tensor.shape[2:], strict=True)
        cuts = [slice(low, low + size) for low, size in inside]
        return self.blocked(tensor)[(slice(None), slice(None), *cuts)]

    def channels(self, blocks: Array, count: int) -> Array:
        """(N, slots, *spatial, block) to (N, C, *spatial)."""
        moved = np.moveaxis(blocks, -1, 2)
        return moved.reshape(moved.shape[0], -1, *moved.shape[3:])[:, :count]

    def pack(self, step: PackStep) -> None:
        tensor = step.destination
        plain = self.plain(step.source).reshape(tensor.shape)
        wide = np.zeros((tensor.shape[0], tensor.slots * tensor.block, *tensor.shape[2:]))
        wide[:, : tensor.shape[1]] = plain
        shape = (tensor.shape[0], tensor.slots, tensor.block, *tensor.shape[2:])
        self.blocked(tensor)[:] = 0
        self.interior(tensor)[:] = np.moveaxis(wide.reshape(shape), 2, -1)

    def kernel(self, step: KernelStep, node: Node) -> None:
        spec = self.kernels[step.kernel]
        assert spec.op == node.op
        base = base_inputs(node) if node.op in FAMILY else 1
        data = [node.inputs[0], *node.inputs[base:]]
        weights = len(step.arguments) - len(data) - 1
        places = [step.arguments[0], *step.arguments[1 + weights :]]
        arrays = [
            self.read(place, layout) for place, layout in zip(places[:-1], spec.inputs, strict=True)
        ]
        if node.op in FAMILY and "edges" not in node.attrs:
            self.check_halo(places[0], spec.inputs[0], node)
        for place, value in zip(step.arguments[1 : 1 + weights], node.inputs[1:base], strict=False):
            if value in self.packed:
                np.testing.assert_array_equal(self.plain(place), self.known[value])
        constants = [self.weight(value) for value in node.inputs[1:base]]
        pack = ops.get(node.op).pack
        if pack is not None and all(v.is_constant for v in node.inputs[1:base]):
            stored = [self.plain(place) for place in step.arguments[1 : 1 + weights]]
            for found, wanted in zip(stored, pack(spec, constants), strict=True):
                np.testing.assert_array_equal(found, wanted)
        result = _reference(node, [arrays[0], *constants], arrays[1:])
        self.write(places[-1], spec.output, result)
        self.known[node.output] = result

    def weight(self, value: Value) -> Array:
        """A weight as ONNX has it: packed ones are known by what they were packed from."""
        if value in self.packed:
            return self.weight(self.packed[value])
        value = self.folded.get(value, value)
        if value.data is not None:
            return value.data
        if value in self.known:
            return self.known[value]
        (source,) = (n for n in self.placed.graph.nodes if n.output is value)
        parts = [self.weight(v) for v in source.inputs]
        if source.op == "join":
            return np.concatenate(parts, axis=1)
        return parts[0].reshape(value.shape)

    def _cut(self, place: TensorArgument, layout: Layout, halo: bool = False) -> Array:
        """The tensor of a layout in its buffer, as (N, slots, *spatial, block)."""
        buffer = self.plain(place)
        if len(layout.shape) < 2:
            return buffer
        if layout.block == 1:
            buffer = buffer[..., None]
        own = slice(layout.first, layout.first + layout.own_slots)
        inside = zip(layout.lows, layout.shape[2:], strict=True)
        cuts = [slice(None) if halo else slice(low, low + size) for low, size in inside]
        return buffer[(slice(None), own, *cuts)]

    def read(self, place: TensorArgument, layout: Layout) -> Array:
        cut = self._cut(place, layout).copy()
        return cut if len(layout.shape) < 2 else self.channels(cut, layout.shape[1])

    def write(self, place: TensorArgument, layout: Layout, result: Array) -> None:
        target = self._cut(place, layout)
        if len(layout.shape) < 2:
            target[...] = result
            return
        n, channels, *spatial = result.shape
        wide = np.full((n, layout.own_slots * layout.block, *spatial), np.nan, np.float32)
        wide[:, :channels] = result
        shape = (n, layout.own_slots, layout.block, *spatial)
        target[:] = np.moveaxis(wide.reshape(shape), 2, -1)

    def check_halo(self, place: TensorArgument, layout: Layout, node: Node) -> None:
        """What windows reach beyond the interior has to be zero."""
        lows, highs = window_halo(node.attrs)
        whole = self._cut(place, layout, halo=True).copy()
        axes = zip(lows, highs, layout.lows, layout.shape[2:], strict=True)
        cuts = [slice(at - low, at + size + high) for low, high, at, size in axes]
        inside = [slice(low, low + size) for low, size in zip(lows, layout.shape[2:], strict=True)]
        seen = whole[(slice(None), slice(None), *cuts)]
        assert seen.shape[2:-1] == tuple(
            low + size + high for low, size, high in zip(lows, layout.shape[2:], highs, strict=True)
        )
        seen[(slice(None), slice(None), *inside)] = 0
        assert not seen.any(), f"{node.name}: the halo is not zero"


def _reference(node: Node, arrays: list[Array], operands: list[Array]) -> Array:
    """What a fused kernel computes."""
    operator = ops.get(node.op)
    program = node.attrs.get("program", [])
    if node.op == "elementwise":
        return operator.reference([*arrays, *operands], node.attrs)
    if node.op not in FAMILY and node.op != "lrn":
        return np.asarray(operator.reference([*arrays, *operands], node.attrs))
    result = np.asarray(operator.reference(arrays, node.attrs))
    return ops.get("elementwise").reference([result, *operands], {"program": program})
