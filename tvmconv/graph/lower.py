"""Lowering: a graph whose values have layouts becomes kernels, packed weights and a plan."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tvmconv import ops
from tvmconv.codegen.plan import (
    BlockedTensor,
    BorderStep,
    CopyStep,
    Fill,
    KernelStep,
    PackStep,
    Plan,
    Port,
    Step,
    TensorArgument,
    UnpackStep,
)
from tvmconv.codegen.plan_check import ALIGNMENT_BYTES
from tvmconv.errors import InputError
from tvmconv.graph.fuse import HOSTS, base_inputs
from tvmconv.graph.ir import Node, Value
from tvmconv.graph.layout import Placed, converts_constant
from tvmconv.graph.memory import Lifetime, aligned, assign_offsets
from tvmconv.kernel import TENSOR_CORE_OPS, KernelSpec, canonical_json
from tvmconv.layout import Layout, itemsize
from tvmconv.ops import winograd
from tvmconv.problem import Problem

#: Nodes that cost nothing: their result is memory that something else writes.
_FREE = frozenset({"view", "join"})

#: Kernels index their buffers with 32-bit integers.
_MAX_ELEMENTS = 2**31 - 1


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
            self._known[key] = [self._append(np.asarray(array, order="C")) for array in pack()]
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
    module : IRModule
        What was lowered: the network after the graph passes.
    choices : dict of str to Choice
        How the kernels are scheduled, where not as the model has it.
    """

    plan: Plan
    kernels: dict[str, KernelSpec]
    weights: Weights
    module: Any = None
    choices: dict[str, Any] = field(default_factory=dict)


def lower(placed: Placed, *, resident_halos: bool = False, allow_tf32: bool = False) -> Lowered:
    """Lower a placed graph.

    Parameters
    ----------
    placed : Placed
    resident_halos : bool
        Whether the arena is zero, but for the plan's fills, when a run first sees it. Then a halo's
        memory is shared only with halos of the same place, shape and value, so that they stay as
        they are and no step has to write them.
    allow_tf32 : bool
        Whether products of float32 may be those of tensor cores, which round the factors.
    """
    return _Lowerer(placed, resident_halos, allow_tf32).run()


def lower_module(module: Any, **options: Any) -> Lowered:
    """Lower what :func:`tvmconv.graph.pipeline.optimized` returns; see :func:`lower`."""
    from tvmconv.graph.relax import from_relax

    placed = Placed.of(from_relax(module))
    return replace(lower(placed, **options), module=module)


class _Lowerer:
    """One walk over the placed graph."""

    def __init__(self, placed: Placed, resident_halos: bool, allow_tf32: bool = False) -> None:
        self.placed = placed
        self.resident_halos = resident_halos
        self.allow_tf32 = allow_tf32
        self.graph = placed.graph
        self.inputs = {v: k for k, v in enumerate(self.graph.inputs)}
        self.folded = {n.output: n.inputs[0] for n in self.graph.nodes if converts_constant(n)}
        free = (n for n in self.graph.nodes if n.op not in _FREE)
        self.nodes = [n for n in free if n.output not in self.folded]
        self.weights = Weights()
        self.kernels: dict[str, KernelSpec] = {}
        self.steps: list[Step] = []
        self.fills: list[Fill] = []
        self.outputs = self._direct_outputs()
        self.offsets, self.arena_bytes = self._arena()

    def _is_made(self, value: Value) -> bool:
        """Whether a step writes a value, or the buffer that it is a view of."""
        known = value.is_constant or value in self.folded
        return not known and self.placed.root(value) not in self.inputs

    def _direct_outputs(self) -> dict[Value, int]:
        """Buffers that are written where the caller wants an output: plain, and read by nobody."""
        roots = [self.placed.root(value) for value in self.graph.outputs]
        read = {self.placed.root(value) for node in self.nodes for value in node.inputs}
        written = {node.output for node in self.nodes}
        return {
            root: index
            for index, root in enumerate(roots)
            if root in written - read
            and roots.count(root) == 1
            and self.placed.layouts[root].is_plain
        }

    def _port(self, value: Value) -> TensorArgument | None:
        """The caller's tensor in which a value lies, or None."""
        root, layout = self.placed.root(value), self.placed.layouts.get(value)
        shape = value.shape if layout is None else layout.buffer_shape
        if root in self.inputs:
            return TensorArgument("input", shape, value.dtype, 0, self.inputs[root])
        if root in self.outputs:
            return TensorArgument("output", shape, value.dtype, 0, self.outputs[root])
        return None

    def _in_arena(self, value: Value) -> bool:
        return self._is_made(value) and self.placed.root(value) not in self.outputs

    def _arena(self) -> tuple[dict[Value, int], int]:
        """Offsets of the buffers of all computed values."""
        alive: dict[Value, Lifetime] = {}
        for k, node in enumerate(self.nodes):
            for value in filter(self._in_arena, (node.output, *node.inputs)):
                root = self.placed.root(value)
                size = self.placed.layouts[root].buffer_bytes
                alive.setdefault(root, Lifetime(size, k, k)).last = k
        for value in filter(self._in_arena, self.graph.outputs):
            alive[self.placed.root(value)].last = len(self.nodes)
        groups: dict[Layout | None, list[Value]] = {}
        for root in alive:
            own = self.placed.layouts[root]
            apart = self.resident_halos and own.has_halo
            groups.setdefault(own if apart else None, []).append(root)
        placed: dict[Value, int] = {}
        start = 0
        for layout, group in groups.items():
            offsets, size = assign_offsets([alive[root] for root in group])
            placed |= {root: start + offset for root, offset in zip(group, offsets, strict=True)}
            if layout is not None and layout.fill:
                self.fills.append(Fill(start, size, layout.fill % 256))
            start += size
        return placed, start

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
            if self.placed.root(value) not in self.outputs:
                self._output(k, value)
        plan = Plan(
            self.arena_bytes,
            [Port(v.name, v.shape, v.dtype) for v in self.graph.inputs],
            [Port(v.name, v.shape, v.dtype) for v in self.graph.outputs],
            self.steps,
            fills=self.fills,
        )
        return Lowered(plan, self.kernels, self.weights)

    def _border(self, node: Node, root: Value) -> None:
        """Zero the halo before the first writer of a buffer, unless that writer does."""
        layout = self.placed.layouts[root]
        packs = node.op in ("convert", "reshape") and node.output is root
        if layout.has_halo and not packs and not self.resident_halos:
            tensor = BlockedTensor.of(layout, self.offsets[root])
            self.steps.append(BorderStep(tensor, f"{node.name}:border"))

    def _tensor(self, value: Value) -> BlockedTensor:
        root = self.placed.root(value)
        layout = self.placed.layouts[value]
        return BlockedTensor.of(layout, self.offsets[root])

    def _plain(self, value: Value) -> TensorArgument:
        """A caller's tensor, a constant, or a compact plain tensor in the arena."""
        if value.is_constant or value in self.folded:
            layout = Layout(value.shape, dtype=value.dtype)
            return self._constant(self.folded.get(value, value), layout)
        if (port := self._port(value)) is not None:
            return port
        root = self.placed.root(value)
        return TensorArgument("arena", value.shape, value.dtype, self.offsets[root])

    def _convert(self, node: Node) -> None:
        """Bring a value into another layout with the runtime's own code."""
        source, result = node.inputs[0], node.output
        new = self.placed.layouts[result]
        old = self.placed.layouts.get(source)
        plain = old is None or old.is_plain
        if plain and new.is_plain:
            self.steps.append(CopyStep(self._plain(source), self._plain(result), node.name))
        elif plain:
            self.steps.append(PackStep(self._plain(source), self._shaped(result), node.name))
        elif new.is_plain:
            self.steps.append(UnpackStep(self._shaped(source), self._plain(result), node.name))
        else:
            raise ValueError(f"{node.name}: no conversion from {old} to {new}")

    def _shaped(self, value: Value) -> BlockedTensor:
        """A value as N, C and up to three more axes; plain ones of other ranks are flattened."""
        layout = self.placed.layouts[value]
        if layout.is_plain:
            offset = self.offsets[self.placed.root(value)]
            return BlockedTensor((1, math.prod(value.shape)), offset, dtype=value.dtype)
        return self._tensor(value)

    def _output(self, index: int, value: Value) -> None:
        target = TensorArgument("output", value.shape, value.dtype, 0, index)
        name = f"{value.name}:output"
        if self._in_arena(value):
            self.steps.append(UnpackStep(self._shaped(value), target, name))
        else:
            self.steps.append(CopyStep(self._plain(value), target, name))

    def _kernel(self, node: Node) -> None:
        """Emit the call of a node's kernel."""
        base = base_inputs(node) if node.op in HOSTS else 1
        data, weights = [node.inputs[0], *node.inputs[base:]], node.inputs[1:base]
        places = [self._place(v) for v in (*data, node.output)]
        layouts = tuple(layout for layout, _ in places)
        spec = KernelSpec(node.op, canonical_json(node.attrs), layouts[:-1], layouts[-1])
        if self.allow_tf32 and _suits_tf32(spec):
            spec = replace(spec, attrs_json=canonical_json({**node.attrs, "tf32": True}))
        algorithm = _algorithm(spec, weights)
        name = f"tvmconv_{spec.digest}"
        self.kernels.setdefault(name, spec)
        arguments = [argument for _, argument in places]
        if ops.get(node.op).words:
            words = spec.inputs[0].words
            arguments[0] = replace(arguments[0], shape=words.buffer_shape, dtype=words.dtype)
        packed = self._packed(name, spec, weights)
        problem = node.attrs.get("problem", "") if node.op in HOSTS else ""
        macs = Problem.parse(problem).macs if weights else 0
        call = (arguments[0], *packed, *arguments[1:])
        for argument in call:
            if math.prod(argument.shape) > _MAX_ELEMENTS:
                shape = "x".join(map(str, argument.shape))
                message = f"needs a buffer of {shape} elements in blocks, more than 2^31 - 1"
                raise InputError(f"{self.graph.name}: node {node.name!r} ({node.op}): {message}")
        self.steps.append(KernelStep(name, call, node.name, node.op, macs, algorithm, problem))

    def _packed(self, name: str, spec: KernelSpec, weights: list[Value]) -> list[TensorArgument]:
        """A kernel's weights, in the order in which it reads them, or its tables."""
        if not all(v.is_constant for v in weights):
            if ops.get(spec.op).packed_weight is None:
                problem = Problem.parse(spec.attrs["problem"])
                problem.fail("weight", "must be a constant; give --params")
            return [self._place(v)[1] for v in weights]
        pack = ops.get(spec.op).pack
        if pack is None:
            return []
        arrays = [_data(v) for v in weights]
        return self.weights.add((name, *map(id, arrays)), lambda: pack(spec, arrays))

    def _place(self, value: Value) -> tuple[Layout, TensorArgument]:
        """Layout under which a kernel sees a value, and where the kernel finds it."""
        layout = self.placed.layouts[value]
        if value in self.folded:
            return layout, self._constant(self.folded[value], layout)
        if (port := self._port(value)) is not None:
            return layout, port
        offset = self.offsets[self.placed.root(value)]
        slot_bytes = math.prod(layout.buffer_shape[2:]) * itemsize(layout.dtype)
        if layout.slots and layout.shape[0] == 1 and slot_bytes % ALIGNMENT_BYTES == 0:
            offset += layout.first * slot_bytes
            layout = replace(layout, slots=0, first=0)
        return layout, TensorArgument("arena", layout.buffer_shape, layout.dtype, offset)

    def _constant(self, value: Value, layout: Layout) -> TensorArgument:
        """A constant among the weights, in a layout."""
        data = _data(value)
        return self.weights.add((id(data), layout), lambda: [_in_layout(data, layout)])[0]


def _suits_tf32(spec: KernelSpec) -> bool:
    """Whether a kernel is a product of matrices of float32, on blocks and of several rows."""
    if spec.op not in TENSOR_CORE_OPS or spec.inputs[0].dtype != "float32":
        return False
    n, _, *spatial = spec.output.shape
    on_blocks = min(spec.inputs[0].block, spec.output.block) > 1
    problem = Problem.parse(spec.attrs["problem"])
    return on_blocks and n * math.prod(spatial) > 1 and not winograd.tile_outputs(problem)


def _algorithm(spec: KernelSpec, weights: list[Value]) -> str:
    """The algorithm of a kernel, empty where there is no choice or it is the direct one.

    Raises
    ------
    InputError
        If the problem names one that needs constant weights, or channel blocks, and has none.
    """
    if spec.attrs.get("tf32"):
        return "tf32"
    if spec.op != "conv":
        return ""
    problem = Problem.parse(spec.attrs["problem"])
    if not winograd.tile_outputs(problem):
        return ""
    if not all(v.is_constant for v in weights):
        problem.fail("algorithm", "needs weights that are constants; give --params")
    if spec.inputs[0].block == 1:
        problem.fail("algorithm", f"needs a block of input channels, got {problem.ci}")
    return str(problem.option("algorithm"))


def _data(value: Value) -> np.ndarray[Any, Any]:
    if value.data is None:
        raise ValueError(f"{value.name} is not a constant")
    return value.data


def _in_layout(data: np.ndarray[Any, Any], layout: Layout) -> np.ndarray[Any, Any]:
    """Bring a constant into a layout."""
    data = data.reshape(layout.shape)
    if layout.has_halo:
        halo = [(0, 0), (0, 0), *zip(layout.lows, layout.highs, strict=True)]
        data = np.pad(data, halo, constant_values=layout.fill)
    if layout.block == 1:
        return data
    n, channels, *spatial = data.shape
    slots, block = layout.own_slots, layout.block
    wide = np.zeros((n, slots * block, *spatial), data.dtype)
    wide[:, :channels] = data
    return np.moveaxis(wide.reshape(n, slots, block, *spatial), 2, -1)
