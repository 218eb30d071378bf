"""Which operators work on channel blocks and which on planes: the cheapest choice for the graph.

A kernel on *planes* reads and writes plain tensors, N, C, H, W, with neighbouring pixels in the
lanes of a vector; one on *blocks* has neighbouring channels there. Some operators have both
kernels, most only one, and a value that one form makes and the other reads has to be converted, as
do the network's inputs and outputs, which are planes.

With a time for every kernel and every conversion the best choice is a minimum cut: of the operators
in two sets, those on blocks and those on planes, such that the times of the kernels in their sets
and of the values between the sets add up to the least.

References
----------
Boykov, Kolmogorov, An experimental comparison of min-cut/max-flow algorithms for energy
minimization in vision, 2004, section 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from tvmconv import ops
from tvmconv.graph.fuse import FAMILY, base_inputs
from tvmconv.graph.halos import non_negative, tests_edges
from tvmconv.graph.ir import Graph, Node, Value
from tvmconv.kernel import KernelSpec, canonical_json
from tvmconv.layout import HALVES, Layout, itemsize
from tvmconv.ops import Shape, phase_planes
from tvmconv.problem import Problem

#: Operators with kernels of both forms.
BOTH = ops.names(lambda operator: operator.planes)
_ON_BLOCKS = ops.names(lambda operator: operator.layout in ("blocked", "any"))
_EITHER = ops.names(lambda operator: operator.layout == "same")

#: Capacities are whole nanoseconds; this many stand for a choice that there is not.
_FORBIDDEN = 2**30


class Clock(Protocol):
    """Tells how long things take."""

    def forms(self, blocks: KernelSpec, planes: KernelSpec) -> tuple[float, float]:
        """Seconds of a kernel in each form, comparable with each other."""

    def conversion(self, nbytes: int) -> float:
        """Seconds to convert a tensor of so many bytes."""


def on_planes(graph: Graph, block: int, clock: Clock) -> frozenset[Value]:
    """The results of the nodes that should work on planes.

    Parameters
    ----------
    graph : Graph
        Fused.
    block : int
        Channels in a block.
    clock : Clock
    """
    if not any(node.op in BOTH for node in graph.nodes):
        return frozenset()
    network = _Network()
    positive = non_negative(graph)
    for node in graph.nodes:
        if tests_edges(node, positive):
            node = replace(node, attrs={**node.attrs, "edges": "test"})
        network.either(node.output, *seconds(node, graph, block, clock))
    makers = graph.producers()
    for node in graph.nodes:
        for value in _read(node):
            network.apart(value if value in makers else None, node.output, _move(value, clock))
    for value in graph.outputs:
        if value in makers:
            network.apart(None, value, _move(value, clock))
    return frozenset(network.on_planes())


def _read(node: Node) -> Iterator[Value]:
    """The data that a node reads, without its weights."""
    yield node.inputs[0]
    yield from node.inputs[base_inputs(node) if node.op in FAMILY else 1 :]


def _move(value: Value, clock: Clock) -> float:
    if value.is_constant:
        return 0.0  # converted when the network is compiled
    return clock.conversion(math.prod(value.shape) * itemsize(value.dtype))


def seconds(node: Node, graph: Graph, block: int, clock: Clock) -> tuple[float, float]:
    """Times of a node on blocks and on planes, infinite where it has no such kernel."""
    weights = node.inputs[1 : base_inputs(node)] if node.op in FAMILY else []
    floats = node.inputs[0].dtype in ("float32", *HALVES)
    if node.op in BOTH and floats and all(v.is_constant for v in weights) and _is_open(node):
        given = node.inputs[0] in graph.inputs and node.inputs[0].shape[1] < block
        taken = 1 if given and ops.get(node.op).layout == "any" else block
        spec = _spec(node, taken, block)
        return clock.forms(spec, planes_of(spec))
    if node.op in _ON_BLOCKS:
        return 0.0, math.inf
    if node.op in _EITHER and len(node.output.shape) > 1:
        return 0.0, 0.0
    return math.inf, 0.0


def _is_open(node: Node) -> bool:
    """Whether the problem is one that can be computed on planes, directly."""
    problem = Problem.parse(node.attrs["problem"])
    if node.op == "conv_transpose" and not phase_planes.fits(problem):
        return False
    return problem.option("algorithm") in ("auto", "direct", None)


def _spec(node: Node, in_block: int, block: int) -> KernelSpec:
    """The kernel of a node, by the layouts of its first input and of the others."""
    from tvmconv.autoschedule.workload import canonical

    x, *operands = _read(node)
    layouts = [Layout(x.shape, in_block, dtype=x.dtype)]
    layouts += [Layout(v.shape, block if len(v.shape) > 1 else 1, dtype=v.dtype) for v in operands]
    output = Layout(node.output.shape, block, dtype=node.output.dtype)
    return canonical(KernelSpec(node.op, canonical_json(node.attrs), tuple(layouts), output))


def planes_of(spec: KernelSpec) -> KernelSpec:
    """The kernel on planes that computes what a kernel on blocks does."""
    shapes = [layout.shape for layout in (*spec.inputs, spec.output)]
    attrs = {**spec.attrs, "edges": "test"}
    flat = over_pixels(spec.op, attrs["problem"], shapes[1:-1])
    if flat is not None:
        attrs["problem"] = flat.text
        shapes = [pixels(shape) for shape in shapes]
    dtypes = [layout.dtype for layout in (*spec.inputs, spec.output)]
    *inputs, output = (Layout(v, dtype=d) for v, d in zip(shapes, dtypes, strict=True))
    return KernelSpec(spec.op, canonical_json(attrs), tuple(inputs), output)


def as_planes(node: Node) -> tuple[Node, dict[Value, Value]]:
    """A node as it works on planes: over one axis of pixels, where it is pointwise.

    Returns
    -------
    node : Node
    reshaped : dict of Value to Value
        What it reads and writes instead of the original's values.
    """
    attrs = {**node.attrs, "edges": "test"}
    operands = [v.shape for v in node.inputs[base_inputs(node) :]]
    flat = over_pixels(node.op, attrs["problem"], operands)
    if flat is None:
        return replace(node, attrs=attrs), {}
    attrs["problem"] = flat.text
    values = (*_read(node), node.inputs[1], node.output)
    reshaped = {v: _reshaped(v, pixels(v.shape)) for v in values}
    inputs = [reshaped.get(v, v) for v in node.inputs]
    return replace(node, attrs=attrs, inputs=inputs, output=reshaped[node.output]), reshaped


def _reshaped(value: Value, shape: Shape) -> Value:
    data = None if value.data is None else value.data.reshape(shape)
    return Value(f"{value.name}:pixels", shape, value.dtype, data)


def pixels(shape: Shape) -> Shape:
    """N, C and one axis of pixels instead of several spatial ones."""
    return (*shape[:2], math.prod(shape[2:]))


def over_pixels(op: str, text: str, operands: Sequence[Shape]) -> Problem | None:
    """A pointwise convolution over one axis of pixels instead of several spatial ones.

    Returns None if it is none, or has one axis already, or an operand is broadcast along some
    spatial axes only.
    """
    if op != "conv":
        return None
    problem = Problem.parse(text)
    moves = (*problem.pads_low, *problem.pads_high)
    if problem.rank == 1 or max(*problem.kernel, *problem.stride) > 1 or any(moves):
        return None
    spatial = problem.out_spatial
    if any(shape[2:] not in (spatial, (1,) * problem.rank) for shape in operands):
        return None
    options = {name: problem.option(name) for name in ("groups", "bias", "activation", "dtype")}
    given = {name: value for name, value in options.items() if value}
    return Problem.make("conv", pixels(problem.input_shape), (problem.co, 1), **given)


class _Network:
    """A flow network whose minimum cut is the choice; the source is on the side of the planes."""

    def __init__(self) -> None:
        self._numbers: dict[Value, int] = {}
        self._edges: dict[tuple[int, int], int] = {}

    def either(self, value: Value, blocks: float, planes: float) -> None:
        """A node costs so many seconds on blocks, so many on planes."""
        number = self._numbers.setdefault(value, len(self._numbers) + 2)
        self._add(0, number, blocks)
        self._add(number, 1, planes)

    def apart(self, one: Value | None, other: Value, seconds: float) -> None:
        """Two nodes, or a node and the caller, cost so many seconds if they are not of one form."""
        first = 0 if one is None else self._numbers[one]
        second = self._numbers[other]
        self._add(first, second, seconds)
        if first:
            self._add(second, first, seconds)

    def _add(self, tail: int, head: int, seconds: float) -> None:
        capacity = min(seconds * 1e9, _FORBIDDEN)
        total = self._edges.get((tail, head), 0) + math.ceil(capacity)
        self._edges[tail, head] = min(total, _FORBIDDEN)

    def on_planes(self) -> Iterator[Value]:
        """The values on the source's side of the least cut that leaves most on blocks."""
        size = len(self._numbers) + 2
        tails, heads = zip(*self._edges, strict=True)
        capacities = np.array([*self._edges.values()], np.int32)
        graph = csr_array((capacities, (tails, heads)), shape=(size, size))
        rest = csr_array(graph - maximum_flow(graph, 0, 1).flow)
        rest.eliminate_zeros()
        reached = set(breadth_first_order(rest, 0, return_predecessors=False).tolist())
        return (value for value, number in self._numbers.items() if number in reached)
