"""Layout: every value gets its place in memory: blocks, halo, a slice of a concatenation.

Rewrites, in this order; each takes and returns a graph whose nodes carry the layout of their
result in ``attrs["layout"]``:

* :func:`assign_forms`: activations of the convolution family lie in channel blocks or as planes,
  whichever is faster for the whole graph, conversions included;
* :func:`choose_algorithms`: a convolution may be computed on transformed tiles;
* :func:`assign_halos`: a value that is read with padding gets a halo of zeros, a narrow one where
  schedules skip the rest (:func:`tvmconv.graph.halos.skip_edges`, before all of these);
* :func:`share_concatenations`: a concatenation along the channels, if its parts start at whole
  blocks, is a buffer into whose slices the parts are written where they are made;
* :func:`share_views`: a reshape, or a conversion that moves nothing, is the same memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from tvmconv.graph.blocks import assign_blocks
from tvmconv.graph.forms import Clock, on_planes
from tvmconv.graph.fuse import base_inputs
from tvmconv.graph.halos import halo_fill, non_negative, reads_halo, tests_edges, window_halo
from tvmconv.graph.ir import Graph, Node, Value
from tvmconv.kernel import KernelSpec, canonical_json
from tvmconv.layout import Layout
from tvmconv.problem import Problem

#: Ranks for which the runtime has conversions between a plain tensor and a slice or a halo.
_STRIDED_RANKS = range(2, 6)


@dataclass(eq=False)
class Placed:
    """A graph whose values have layouts.

    Attributes
    ----------
    graph : Graph
        With ``convert`` nodes (plain to blocked or back; of a constant: when it is compiled),
        ``view`` nodes (the same memory) and ``join`` nodes (the parts are slices of the result).
    layouts : dict
        Of every input and every computed value.
    buffer : dict
        The value in whose buffer a value lies: a concatenation, or what it is a view of.
    """

    graph: Graph
    layouts: dict[Value, Layout] = field(default_factory=dict)
    buffer: dict[Value, Value] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: Graph) -> Placed:
        """Read the layouts from the nodes' attributes, which lose them.

        Raises
        ------
        ValueError
            If a node has no layout.
        """
        placed = cls(Graph(graph.name, graph.inputs, graph.outputs, []))
        placed.layouts |= {v: Layout(v.shape, dtype=v.dtype) for v in graph.inputs}
        for node in graph.nodes:
            attrs = dict(node.attrs)
            if "layout" not in attrs:
                raise ValueError(f"{node.name} ({node.op}) has no layout")
            placed.layouts[node.output] = _layout(node.output, attrs.pop("layout"))
            placed.graph.nodes.append(Node(node.op, node.inputs, node.output, attrs, node.name))
            if node.op == "view":
                placed.buffer[node.output] = node.inputs[0]
            if node.op == "join":
                placed.buffer |= dict.fromkeys(node.inputs, node.output)
        return placed

    def to_graph(self) -> Graph:
        """The graph with the layouts among the nodes' attributes."""
        nodes = [
            replace(node, attrs={**node.attrs, "layout": _attribute(self.layouts[node.output])})
            for node in self.graph.nodes
        ]
        return replace(self.graph, nodes=nodes)

    def root(self, value: Value) -> Value:
        """Follow :attr:`buffer` to the value that owns the memory."""
        while value in self.buffer:
            value = self.buffer[value]
        return value


def _attribute(layout: Layout) -> dict[str, Any]:
    """What a layout adds to its value's shape and dtype, as JSON."""
    found: dict[str, Any] = {"block": layout.block}
    if layout.has_halo:
        found |= {"lows": list(layout.lows), "highs": list(layout.highs)}
    if layout.fill:
        found["fill"] = layout.fill
    if layout.slots:
        found |= {"slots": layout.slots, "first": layout.first}
    return found


def _layout(value: Value, attribute: dict[str, Any]) -> Layout:
    found = dict(attribute)
    lows, highs = tuple(found.pop("lows", ())), tuple(found.pop("highs", ()))
    return Layout(value.shape, lows=lows, highs=highs, dtype=value.dtype, **found)


def place(graph: Graph, block: int, clock: Clock | None = None) -> Placed:
    """Give every value of a fused graph a layout, in blocks of so many channels or as planes."""
    graph = assign_halos(assign_forms(graph, block, clock))
    return Placed.of(share_views(share_concatenations(graph)))


def assign_forms(graph: Graph, block: int, clock: Clock | None = None) -> Graph:
    """Choose which values lie in blocks.

    Parameters
    ----------
    graph : Graph
        Fused.
    block : int
        Channels in a block.
    clock : Clock, optional
        Without it everything that can lies in blocks.
    """
    planes = on_planes(graph, block, clock) if clock else ()
    return Placed(*assign_blocks(graph, block, planes)).to_graph()


def choose_algorithms(graph: Graph, choose: Callable[[KernelSpec], str]) -> Graph:
    """Let ``choose`` name the algorithm of every convolution that leaves it open.

    Only weights that are known now can be transformed.
    """
    placed = Placed.of(graph)
    for node in placed.graph.nodes:
        if node.op != "conv":
            continue
        problem, base = Problem.parse(node.attrs["problem"]), base_inputs(node)
        constant = all(v.is_constant for v in node.inputs[1:base])
        layouts = [
            placed.layouts.get(v) or Layout(v.shape) for v in (node.inputs[0], *node.inputs[base:])
        ]
        if not constant or problem.option("algorithm") != "auto":
            continue
        output = placed.layouts[node.output]
        name = choose(KernelSpec(node.op, canonical_json(node.attrs), tuple(layouts), output))
        if name != "direct":
            node.attrs = {**node.attrs, "problem": problem.replace(algorithm=name).text}
    return placed.to_graph()


def assign_halos(graph: Graph) -> Graph:
    """Choose halos."""
    placed = Placed.of(graph)
    _halos(placed)
    return placed.to_graph()


def _halos(placed: Placed) -> None:
    """Give every value the halo that its readers need; a maximum may need none or no zeros.

    A caller's tensor has none, and a halo holds one number: who needs another reads a copy.
    """
    positive = non_negative(placed.graph)
    nodes: list[Node] = []
    copies: dict[tuple[Value, int], Value] = {}
    for node in placed.graph.nodes:
        x = node.inputs[0]
        if tests_edges(node, positive):
            node.attrs = {**node.attrs, "edges": "test"}
        elif reads_halo(node):
            fill = halo_fill(node.attrs)
            if x in placed.graph.inputs or _holds_another(placed.layouts[x], fill):
                if (x, fill) not in copies:
                    copies[x, fill] = _copied_with_form(placed, nodes, x)
                x = copies[x, fill]
                node.inputs = [x, *node.inputs[1:]]
            placed.layouts[x] = placed.layouts[x].with_halo(*window_halo(node.attrs), fill)
        nodes.append(node)
    placed.graph.nodes = nodes


def _holds_another(layout: Layout, fill: int) -> bool:
    """Whether a halo is there and holds another number."""
    return layout.has_halo and layout.fill != fill


def _copied_with_form(placed: Placed, nodes: list[Node], source: Value) -> Value:
    """Append nodes that copy a value into one that lies in the same blocks."""
    copy, form = _copied(placed, nodes, source), placed.layouts[source]
    if form.block == 1:
        return copy
    again = Value(f"{source.name}:copy", source.shape, source.dtype)
    placed.layouts[again] = Layout(source.shape, form.block, dtype=source.dtype)
    nodes.append(Node("convert", [copy], again, {}, source.name))
    return again


def _copied(placed: Placed, nodes: list[Node], source: Value) -> Value:
    """Append a node that copies a value into a plain one of its own."""
    copy = Value(f"{source.name}:plain", source.shape, source.dtype)
    placed.layouts[copy] = Layout(source.shape, dtype=source.dtype)
    nodes.append(Node("convert", [source], copy, {}, source.name))
    return copy


def converts_constant(node: Node) -> bool:
    """Whether a node's result is known when the network is compiled."""
    return node.op == "convert" and node.inputs[0].is_constant


def share_concatenations(graph: Graph) -> Graph:
    """Let the parts of a concatenation along channels be slices of its buffer."""
    placed = Placed.of(graph)
    made = {n.output for n in graph.nodes if not converts_constant(n)}
    # From the last to the first: a concatenation that is itself a part goes first into its whole.
    for node in reversed(placed.graph.nodes):
        layout = placed.layouts[node.output]
        if node.op != "concat" or not _aligned(node, layout):
            continue
        if _same_fill(placed, node) and _parts_free(placed, node, made):
            node.op = "join"
            placed.buffer |= dict.fromkeys(node.inputs, node.output)
    _spread_slices(placed)
    return placed.to_graph()


def _aligned(node: Node, layout: Layout) -> bool:
    """Whether every part but the last fills whole slots, in blocks as in the result."""
    if node.attrs["axis"] != 1 or len(layout.shape) not in _STRIDED_RANKS:
        return False
    return all(v.shape[1] % layout.block == 0 for v in node.inputs[:-1])


def _same_fill(placed: Placed, node: Node) -> bool:
    """Whether the halos of the parts and of the buffer, as far as there are any, hold the same."""
    root = placed.root(node.output)
    values = [*(v for v in placed.layouts if placed.root(v) is root), *node.inputs]
    layouts = [placed.layouts[v] for v in values if v in placed.layouts]
    return len({layout.fill for layout in layouts if layout.has_halo}) <= 1


def _parts_free(placed: Placed, node: Node, made: set[Value]) -> bool:
    """Whether every part is made at run time, once, and is not yet a slice of something else."""
    return len(set(node.inputs)) == len(node.inputs) and all(
        v in made and v not in placed.buffer for v in node.inputs
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
                fill = whole.fill if whole.has_halo else own.fill
                both = whole.with_halo(own.lows, own.highs, fill)
                same = own.with_halo(whole.lows, whole.highs, fill)
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


def share_views(graph: Graph) -> Graph:
    """Let a reshape, or a conversion that moves nothing, be the same memory.

    What remains is done by the runtime, whose conversions have a compact plain tensor on one side:
    where neither side is one, such as from a halo into blocks, a copy that is comes between.
    """
    placed = Placed.of(graph)
    made = {n.output for n in graph.nodes if not converts_constant(n)}
    nodes: list[Node] = []
    for node in placed.graph.nodes:
        source = node.inputs[0]
        given = placed.root(source) in graph.inputs
        if node.op in ("reshape", "convert") and (given or source in made):
            old, new = placed.layouts[source], placed.layouts[node.output]
            moves = not (old.is_compact and new.is_compact and _same_order(node, old, new))
            if not moves and (new.is_plain or not given):  # blocks are aligned, an input is not
                node.op = "view"
                placed.buffer[node.output] = source
            elif not (old.is_plain or new.is_plain):
                node.inputs = [_copied(placed, nodes, source)]
        nodes.append(node)
    placed.graph.nodes = nodes
    return placed.to_graph()


def _same_order(node: Node, old: Layout, new: Layout) -> bool:
    """Whether the elements of two compact tensors lie in the same order."""
    if node.op == "reshape":
        return True
    single = math.prod(old.shape[2:]) == 1
    whole = old.shape[1] % max(old.block, new.block) == 0
    return single and (whole or (old.shape[0] == 1 and new.block == 1))
