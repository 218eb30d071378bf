"""Where values lie in channel blocks and where as planes, and where they are converted."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace

from tvmconv import ops
from tvmconv.graph.forms import BOTH, as_planes
from tvmconv.graph.fuse import base_inputs
from tvmconv.graph.ir import Graph, Node, Value
from tvmconv.layout import Layout
from tvmconv.ops.quads import QUAD

#: Operators whose result lies in blocks and whose input has to.
_BLOCKED = ops.names(lambda operator: operator.layout in ("blocked", "any"))
#: Operators that read channels one by one, from plain tensors as well.
_ANY_INPUT = ops.names(lambda operator: operator.layout == "any")
#: Operators that read words of four channels, from any blocks of those.
_WORDS = ops.names(lambda operator: operator.words)
#: Operators whose result lies as their inputs do.
_SAME = ops.names(lambda operator: operator.layout == "same")


def assign_blocks(
    graph: Graph, block: int, planes: Container[Value] = ()
) -> tuple[Graph, dict[Value, Layout]]:
    """Rewrite a graph over values of the layouts that its operators take.

    Parameters
    ----------
    graph : Graph
    block : int
        Channels in a block.
    planes : container of Value
        Results of the nodes that work on planes.

    Returns
    -------
    graph : Graph
        With ``convert`` nodes where a value is needed in another form than it is made in, and
        ``pack_weight`` nodes for weights that are known only at run time.
    layouts : dict
        Of every computed value, without halos.
    """
    placer = _Placer(graph, block, planes)
    for node in graph.nodes:
        placer.place(node)
    return Graph(graph.name, graph.inputs, graph.outputs, placer.nodes), placer.layouts


class _Placer:
    """One walk over the graph that chooses blocked or plain for every value."""

    def __init__(self, graph: Graph, block: int, planes: Container[Value]) -> None:
        self.block, self.planes = block, planes
        self.given = frozenset(graph.inputs)
        self.windowed = {
            node.inputs[0]
            for node in graph.nodes
            if node.op in _ANY_INPUT and node.output not in planes
        }
        self.nodes: list[Node] = []
        self.layouts = {v: Layout(v.shape, dtype=v.dtype) for v in graph.inputs}
        self.converted: dict[tuple[Value, int], Value] = {}

    def place(self, node: Node) -> None:
        """Append a node, after the conversions of what it reads."""
        block = self._output_block(node)
        if node.op in BOTH and block == 1:
            self._place_on_planes(node)
            return
        if node.op in _BLOCKED:
            taken = block
            if node.op in _ANY_INPUT:
                taken = self._plain_if_unblocked(node.inputs[0], block)
            elif node.op in _WORDS:
                taken = self._quads_if_unblocked(node.inputs[0], block)
            inputs = [self._as(node.inputs[0], taken), *self._rest(node, taken, block)]
        elif node.op in _SAME:
            inputs = [self._as(v, block) for v in node.inputs]
        else:
            inputs = [self._as(v, 1) for v in node.inputs]
        self._append(Node(node.op, inputs, node.output, node.attrs, node.name), block)

    def _place_on_planes(self, node: Node) -> None:
        base = base_inputs(node)
        data = (self._as(v, 1) for v in (node.inputs[0], *node.inputs[base:]))
        node = replace(node, inputs=[next(data), *node.inputs[1:base], *data])
        placed, reshaped = as_planes(node)
        for old, new in reshaped.items():
            if old is not node.output and not old.is_constant:
                self._append(Node("reshape", [old], new, {"shape": [*new.shape]}, node.name), 1)
        self._append(placed, 1)
        if placed.output is not node.output:
            attrs = {"shape": [*node.output.shape]}
            self._append(Node("reshape", [placed.output], node.output, attrs, node.name), 1)

    def _append(self, node: Node, block: int) -> None:
        shape, dtype = node.output.shape, node.output.dtype
        self.layouts[node.output] = Layout(shape, block if len(shape) > 1 else 1, dtype=dtype)
        self.nodes.append(node)

    def _output_block(self, node: Node) -> int:
        """Block of a node's result."""
        if node.output in self.planes:
            return 1
        if node.op in _BLOCKED:
            return self.block
        if node.op in _SAME:
            blocked = any(self.layouts[v].block > 1 for v in node.inputs if v in self.layouts)
            return self.block if blocked or self._is_border(node) else 1
        return 1

    def _is_border(self, node: Node) -> bool:
        """Whether it puts a border around a map that comes in, for windows to read in blocks."""
        return (
            node.op == "pad"
            and node.inputs[0] in self.given
            and node.output in self.windowed
            and node.inputs[0].shape[1] == node.output.shape[1] >= self.block
        )

    def _plain_if_unblocked(self, value: Value, block: int) -> int:
        """Keep what is already plain; bring a graph's input with few channels in plainly."""
        if value in self.layouts and value not in self.given:
            return self.layouts[value].block
        return 1 if len(value.shape) == 2 or value.shape[1] < block else block

    def _quads_if_unblocked(self, value: Value, block: int) -> int:
        """Bring few channels in by blocks of one word."""
        known = self.layouts.get(value)
        if known is not None and known.block > 1:
            return known.block
        return min(block, QUAD * -(-value.shape[1] // QUAD)) if value.shape[1] < block else block

    def _rest(self, node: Node, taken: int, block: int) -> list[Value]:
        """Weights and bias, packed if they are computed; operands of the program in blocks."""
        base = base_inputs(node)
        weights = node.inputs[1:base]
        if not all(v.is_constant for v in weights) and ops.get(node.op).packed_weight:
            weights = [
                self._packed(node, role, v, taken, block)
                for role, v in zip(("weight", "bias"), weights, strict=False)
            ]
        return [*weights, *(self._as(v, block) for v in node.inputs[base:])]

    def _packed(self, node: Node, role: str, value: Value, taken: int, block: int) -> Value:
        """A weight or bias that is known only at run time, packed by a kernel."""
        attrs = {"problem": node.attrs["problem"], "host": node.op, "role": role}
        attrs |= {"in_block": taken, "block": block}
        shape = ops.get("pack_weight").output_shape([value.shape], attrs)
        packed = Value(f"{node.name}:{role}", shape, value.dtype)
        self._append(Node("pack_weight", [self._as(value, 1)], packed, attrs, node.name), 1)
        return packed

    def _as(self, value: Value, block: int) -> Value:
        """A value in the wanted block, converted if it has another."""
        block = block if len(value.shape) > 1 else 1
        known = self.layouts.get(value)
        if known is not None and known.block == block:
            return value
        if (value, block) not in self.converted:
            copy = Value(f"{value.name}:{block}", value.shape, value.dtype)
            self.converted[value, block] = copy
            self._append(Node("convert", [value], copy, {}, value.name), block)
        return self.converted[value, block]
