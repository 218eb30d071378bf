"""Layout: every value gets its place in memory: blocks, halo, a slice of a concatenation.

Activations of the convolution family lie in channel blocks through the whole graph; values are
converted only where an operator cannot take blocks, and at the edges. A value that is read with
padding gets a halo of zeros; a concatenation along the channels, if its parts start at whole
blocks, is a buffer into whose slices the parts are written where they are made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from tvmconv.graph.fuse import FAMILY, base_inputs
from tvmconv.graph.ir import Graph, Node, Value
from tvmconv.layout import Layout
from tvmconv.packing import packed_shapes
from tvmconv.problem import Problem

#: Operators whose result lies in blocks and whose input has to.
_BLOCKED = FAMILY | {"lrn", "channel_shuffle"}
#: Operators that read channels one by one, from plain tensors as well.
_ANY_INPUT = frozenset({"conv", "dense"})


@dataclass(eq=False)
class Placed:
    """A graph whose values have layouts.

    Attributes
    ----------
    graph : Graph
        With ``convert`` nodes (plain to blocked or back) and ``view`` nodes (the same memory).
    layouts : dict
        Of every computed value and every constant operand of a program.
    buffer : dict
        The value in whose buffer a value lies: itself, a concatenation, or what it is a view of.
    """

    graph: Graph
    layouts: dict[Value, Layout] = field(default_factory=dict)
    buffer: dict[Value, Value] = field(default_factory=dict)

    def root(self, value: Value) -> Value:
        """Follow :attr:`buffer` to the value that owns the memory."""
        while self.buffer.get(value, value) is not value:
            value = self.buffer[value]
        return value


def place(graph: Graph, block: int) -> Placed:
    """Give every value of a fused graph a layout.

    Parameters
    ----------
    graph : Graph
    block : int
        Channels in a block.
    """
    placed = _Placer(graph, block).run()
    _halos(placed)
    _share_concatenations(placed)
    _share_views(placed)
    return placed


class _Placer:
    """One walk over the graph that chooses blocked or plain for every value."""

    def __init__(self, graph: Graph, block: int) -> None:
        self.source = graph
        self.block = block
        self.nodes: list[Node] = []
        self.layouts: dict[Value, Layout] = {}
        self.converted: dict[tuple[Value, int], Value] = {}

    def run(self) -> Placed:
        """Rewrite every node over values of the layouts that it takes."""
        for node in self.source.nodes:
            self._place(node)
        outputs = [self._as(v, self._plain_or_same(v)) for v in self.source.outputs]
        graph = Graph(self.source.name, self.source.inputs, outputs, self.nodes)
        return Placed(graph, self.layouts)

    def _plain_or_same(self, value: Value) -> int:
        """Outputs leave in any layout: the runtime unpacks them."""
        return self.layouts[value].block if value in self.layouts else 1

    def _place(self, node: Node) -> None:
        rank = len(node.output.shape)
        block = self._output_block(node)
        if node.op in _BLOCKED:
            taken = block
            if node.op in _ANY_INPUT:
                taken = self._plain_if_unblocked(node.inputs[0], block)
            inputs = [self._as(node.inputs[0], taken), *self._rest(node, taken, block)]
        elif node.op in ("elementwise", "concat"):
            inputs = [self._as(v, block) for v in node.inputs]
        else:
            inputs = [self._as(v, 1) for v in node.inputs]
        op = "view" if node.op == "reshape" else node.op
        self.layouts[node.output] = Layout(node.output.shape, block if rank > 1 else 1)
        self.nodes.append(Node(op, inputs, node.output, node.attrs, node.name))

    def _output_block(self, node: Node) -> int:
        """Block of a node's result."""
        if node.op in _BLOCKED:
            return self.block
        if node.op == "elementwise" or (node.op == "concat" and node.attrs["axis"] == 1):
            blocked = any(
                self.layouts[v].block > 1 for v in node.inputs if v in self.layouts
            )
            return self.block if blocked else 1
        return 1

    def _plain_if_unblocked(self, value: Value, block: int) -> int:
        """Keep what is already plain; bring a graph's input with few channels in plainly."""
        if value in self.layouts:
            return self.layouts[value].block
        return 1 if len(value.shape) == 2 or value.shape[1] < block else block

    def _rest(self, node: Node, taken: int, block: int) -> list[Value]:
        """Weights and bias, packed if they are computed; operands of the program in blocks."""
        base = base_inputs(node)
        weights = node.inputs[1:base]
        if not all(v.is_constant for v in weights):
            weights = [
                self._packed(node, role, v, taken, block)
                for role, v in zip(("weight", "bias"), weights, strict=False)
            ]
        return [*weights, *(self._as(v, block) for v in node.inputs[base:])]

    def _packed(self, node: Node, role: str, value: Value, taken: int, block: int) -> Value:
        """A weight or bias that is known only at run time, packed by a kernel."""
        attrs = {"problem": node.attrs["problem"], "host": node.op, "role": role}
        attrs |= {"in_block": taken, "block": block}
        shape = packed_shapes(node.op, Problem.parse(node.attrs["problem"]), taken, block)[role]
        packed = Value(f"{node.name}:{role}", shape, value.dtype)
        self.layouts[packed] = Layout(shape, dtype=value.dtype)
        self.nodes.append(Node("pack_weight", [self._as(value, 1)], packed, attrs, node.name))
        return packed

    def _as(self, value: Value, block: int) -> Value:
        """A value in the wanted block, converted if it has another."""
        block = block if len(value.shape) > 1 else 1
        if value.is_constant:
            copy = Value(f"{value.name}:{block}", value.shape, value.dtype, value.data)
            self.layouts[copy] = Layout(value.shape, block, dtype=value.dtype)
            return copy
        known = self.layouts.get(value)
        if known is not None and known.block == block:
            return value
        if (value, block) not in self.converted:
            copy = Value(f"{value.name}:{block}", value.shape, value.dtype)
            self.layouts[copy] = Layout(value.shape, block, dtype=value.dtype)
            self.converted[value, block] = copy
            self.nodes.append(Node("convert", [value], copy, {}, value.name))
        return self.converted[value, block]


def window_halo(problem: Problem) -> tuple[list[int], list[int]]:
    """How far the windows of a problem reach beyond its input, before and after each axis."""
    if not problem.kernel or problem.op.startswith("global"):
        return [0] * problem.rank, [0] * problem.rank
    highs = [
        max(0, (out - 1) * stride + extent - low - size)
        for out, stride, extent, low, size in zip(
            problem.out_spatial, problem.stride, problem.kernel_extent, problem.pads_low,
            problem.in_spatial, strict=True,
        )
    ]  # fmt: skip
    return list(problem.pads_low), highs


def _halos(placed: Placed) -> None:
    """Give every value the halo that its readers need; a maximum may need none or no zeros."""
    positive = _non_negative(placed.graph)
    for node in placed.graph.nodes:
        if node.op not in FAMILY:
            continue
        lows, highs = window_halo(Problem.parse(node.attrs["problem"]))
        if not any(lows) and not any(highs):
            continue
        x = node.inputs[0]
        if node.op == "max_pool" and x not in positive:
            node.attrs = {**node.attrs, "edges": "test"}
            continue
        placed.layouts[x] = placed.layouts[x].with_halo(lows, highs)


def _non_negative(graph: Graph) -> set[Value]:
    """Values known to have no negative element: for them zeros pad a maximum rightly."""
    known: set[Value] = set()
    for node in graph.nodes:
        program = node.attrs.get("program", [])
        last: dict[str, Any] = program[-1] if program else {}
        activation = ""
        if node.op in FAMILY:
            activation = Problem.parse(node.attrs["problem"]).activation
        clips = last.get("op") == "clip" and (last.get("min") or 0) >= 0 and "min" in last
        made = last.get("op") in ("relu", "sigmoid", "hard_sigmoid") or clips
        made = made or (not program and activation in ("relu", "relu6", "sigmoid"))
        keeps = node.op in ("max_pool", "avg_pool", "global_avg_pool", "concat", "convert")
        keeps = keeps and not program and all(v in known for v in node.inputs)
        if made or keeps:
            known.add(node.output)
    return known


def _share_concatenations(placed: Placed) -> None:
    """Let the parts of a concatenation along channels be slices of its buffer."""
    readers = placed.graph.consumers()
    # From the last to the first: a concatenation that is itself a part goes first into its whole.
    for node in reversed(placed.graph.nodes):
        layout = placed.layouts[node.output]
        if node.op != "concat" or not _aligned(node, layout) or not _parts_free(placed, node):
            continue
        node.op = "join"
        halo = layout
        for part in node.inputs:
            own = placed.layouts[part]
            halo = halo.with_halo(own.lows, own.highs)
        placed.layouts[node.output] = halo
        for part in node.inputs:
            placed.buffer[part] = node.output
    _spread_slices(placed)
    del readers


def _aligned(node: Node, layout: Layout) -> bool:
    """Whether every part but the last fills whole slots, in blocks as in the result."""
    whole = all(v.shape[1] % layout.block == 0 for v in node.inputs[:-1])
    return node.attrs["axis"] == 1 and whole and len(layout.shape) > 1


def _parts_free(placed: Placed, node: Node) -> bool:
    """Whether every part is made by a kernel, once, and is not yet a slice of something else."""
    made = {n.output for n in placed.graph.nodes if n.op not in ("view",)}
    return len(set(node.inputs)) == len(node.inputs) and all(
        v in made and v not in placed.buffer and not v.is_constant for v in node.inputs
    )


def _spread_slices(placed: Placed) -> None:
    """Work out, from the whole to the parts, the first slot and the halo of every slice."""
    joins = [n for n in reversed(placed.graph.nodes) if n.op == "join"]
    grown = True
    while grown:  # the halo of a part widens the whole, and that of the whole every part
        grown = False
        for node in joins:
            for part in node.inputs:
                whole, own = placed.layouts[node.output], placed.layouts[part]
                both = whole.with_halo(own.lows, own.highs)
                same = own.with_halo(whole.lows, whole.highs)
                grown = grown or both != whole or same != own
                placed.layouts[node.output], placed.layouts[part] = both, same
    for node in joins:
        whole = placed.layouts[node.output]
        first = whole.first
        slots = whole.slots or whole.own_slots
        for part in node.inputs:
            own = placed.layouts[part]
            placed.layouts[part] = replace(own, slots=slots, first=first)
            first += own.own_slots


def _share_views(placed: Placed) -> None:
    """Let a reshape, or a conversion that moves nothing, be the same memory."""
    for node in placed.graph.nodes:
        if node.op not in ("view", "convert"):
            continue
        source = node.inputs[0]
        if source not in placed.layouts or node.output in placed.buffer:
            if node.op == "view":
                node.op = "reshape"
            continue
        old, new = placed.layouts[source], placed.layouts[node.output]
        if old.has_halo or new.has_halo or old.slots or new.slots:
            node.op = "reshape" if node.op == "view" else "convert"
        elif node.op == "view" or _same_order(old, new):
            node.op = "view"
            placed.buffer[node.output] = source


def _same_order(old: Layout, new: Layout) -> bool:
    """Whether the elements of a plain and a blocked tensor lie in the same order."""
    single = math.prod(old.shape[2:]) == 1
    whole = old.shape[1] % max(old.block, new.block) == 0
    return single and (whole or (old.shape[0] == 1 and new.block == 1))
