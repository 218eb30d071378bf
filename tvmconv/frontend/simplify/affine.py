"""Batch normalisation, bias and other constants per channel go into the convolution before them.

``scale_shift``, and ``add sub mul div`` with a constant per channel, all compute ``x·a[c] + b[c]``.
A chain of them is one such map: with ``w·a`` and ``bias·a + b`` the convolution or dense layer
before it computes the same. A chain with nothing to fold into becomes one ``scale_shift``. What
dequantises stays as it is, since another order of operations would round in another way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tvmconv.frontend.limits import ConstantBudget
from tvmconv.frontend.simplify.rewrite import View, rebuild
from tvmconv.graph.ir import Graph, Node, Value
from tvmconv.problem import Problem

Array = npt.NDArray[Any]

#: Operators whose weight has the output channels on axis 0, and whose bias is one number a channel;
#: a transposed convolution's weight has the input channels first.
FOLDS_INTO = frozenset({"conv", "conv_transpose", "depthwise_conv", "dense"})


@dataclass(frozen=True)
class Affine:
    """``base·scale[c] + shift[c]``, and the nodes that compute it.

    Attributes
    ----------
    scale, shift : ndarray of float64
        Shape (C,), or () where one number serves all channels.
    """

    base: Value
    scale: Array
    shift: Array
    nodes: tuple[Node, ...]

    def after(self, first: Affine) -> Affine:
        """Return the composition: ``first``, then this."""
        return Affine(
            first.base,
            first.scale * self.scale,
            first.shift * self.scale + self.shift,
            first.nodes + self.nodes,
        )


def run(graph: Graph, budget: ConstantBudget) -> Graph:
    """Fold every chain."""
    view = View(graph)
    nodes: list[Node] = []
    place: dict[Value, int] = {}  # where in `nodes` a value is made
    chains: dict[Value, Affine] = {}  # what has not been emitted yet
    for node in graph.nodes:
        affine = as_affine(node)
        if affine is None or view.producer(affine.base, "dequantize") is not None:
            place[node.output] = len(nodes)
            nodes.append(node)
            continue
        before = chains.pop(affine.base, None)
        chain = affine.after(before) if before is not None else affine
        reader = view.only_consumer(node.output)
        following = as_affine(reader) if reader is not None else None
        if following is not None and following.base is node.output:
            chains[node.output] = chain
            continue
        host = nodes[place[chain.base]] if chain.base in place else None
        folded = None
        if host is not None and view.only_consumer(chain.base) is not None:
            folded = _fold(host, chain, node.output, budget)
        if folded is not None:
            place[node.output] = place[chain.base]
            nodes[place[chain.base]] = folded
            continue
        for emitted in _unfolded(chain, node.output):
            place[emitted.output] = len(nodes)
            nodes.append(emitted)
    return rebuild(graph, nodes, {})


def as_affine(node: Node) -> Affine | None:
    """Return what a node computes as a map per channel, or None."""
    if node.op == "scale_shift":
        x, scale, shift = node.inputs
        if scale.data is None or shift.data is None or x.is_constant:
            return None
        return Affine(x, scale.data.astype(np.float64), shift.data.astype(np.float64), (node,))
    if node.op not in ("add", "sub", "mul", "div"):
        return None
    a, b = node.inputs
    for x, other, swapped in ((a, b, False), (b, a, True)):
        constant = None if x.is_constant else _per_channel(other, x)
        if constant is not None:
            return _arithmetic(node, x, constant, swapped)
    return None


def _arithmetic(node: Node, x: Value, c: Array, swapped: bool) -> Affine | None:
    """Return ``x op c``, or ``c op x`` where swapped."""
    one, zero = np.ones(()), np.zeros(())
    if node.op == "add":
        return Affine(x, one, c, (node,))
    if node.op == "sub":
        return Affine(x, -one, c, (node,)) if swapped else Affine(x, one, -c, (node,))
    if node.op == "mul":
        return Affine(x, c, zero, (node,))
    if swapped or not c.all():  # c / x is no such map, and x / 0 has to stay as it is
        return None
    return Affine(x, 1.0 / c, zero, (node,))


def _per_channel(value: Value, x: Value) -> Array | None:
    """Return a constant as (C,) or () in float64, if it has one number a channel of x."""
    rank = len(x.shape)
    if value.data is None or rank < 2 or len(value.shape) > rank:
        return None
    wide = (1,) * (rank - len(value.shape)) + value.shape
    if any(extent != 1 for axis, extent in enumerate(wide) if axis != 1):
        return None
    data = value.data.astype(np.float64)
    return data.reshape(()) if wide[1] == 1 else data.reshape(-1)


def _fold(host: Node, chain: Affine, output: Value, budget: ConstantBudget) -> Node | None:
    """Return the convolution or dense layer with the chain in its weights, or None."""
    if host.op not in FOLDS_INTO or any(not value.is_constant for value in host.inputs[1:]):
        return None
    problem = Problem.parse(host.attrs["problem"])
    weight, *biases = (value for value in host.inputs[1:])
    if problem.activation or weight.data is None:
        return None
    channels = host.output.shape[1]
    scale = np.broadcast_to(chain.scale, (channels,))
    new_weight = weight
    if (scale != 1).any():
        if not budget.take(weight.data.nbytes):
            return None
        wide = _along_weight(host, problem, scale.astype(weight.dtype))
        new_weight = Value(f"{output.name}:weight", weight.shape, weight.dtype, weight.data * wide)
    bias = np.zeros(channels)
    for value in biases:
        bias = np.asarray(value.data, np.float64)
    data = (bias * scale + chain.shift).astype(weight.dtype)
    if not (np.isfinite(data).all() and np.isfinite(scale).all()):
        return None
    new_bias = Value(f"{output.name}:bias", data.shape, weight.dtype, data)
    attrs = {**host.attrs, "problem": problem.replace(bias=True).text}
    return Node(host.op, [host.inputs[0], new_weight, new_bias], output, attrs, host.name)


def _along_weight(host: Node, problem: Problem, scale: Array) -> Array:
    """A factor for each output channel, as an array that broadcasts to the weight."""
    taps = (1,) * problem.rank
    if host.op != "conv_transpose":
        return scale.reshape(-1, 1, *taps)
    by_input = np.repeat(scale.reshape(problem.groups, -1), problem.ci // problem.groups, axis=0)
    return by_input.reshape(*by_input.shape, *taps)


def _unfolded(chain: Affine, output: Value) -> list[Node]:
    """Return the chain as one ``scale_shift``, or as it was where that is no shorter."""
    scalars = chain.scale.ndim == 0 and chain.shift.ndim == 0
    finite = np.isfinite(chain.scale).all() and np.isfinite(chain.shift).all()
    if len(chain.nodes) == 1 or scalars or not finite:
        return list(chain.nodes)
    channels = (chain.base.shape[1],)
    inputs = [chain.base]
    for name, array in (("scale", chain.scale), ("shift", chain.shift)):
        data = np.broadcast_to(array, channels).astype(output.dtype)
        inputs.append(Value(f"{output.name}:{name}", channels, output.dtype, data))
    return [Node("scale_shift", inputs, output, {}, chain.nodes[0].name)]
