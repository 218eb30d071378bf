"""The receptive field of every value of a network, through branches and transposed convolutions.

The field of an output is the run of inputs, along each axis, from the first to the last that it
depends on, as if the input went on beyond its edges. The jump is how many inputs lie between the
fields of neighbours: the product of the strides before; below 1 after enough upsampling.

References
----------
Araujo, Norris and Sim, Computing receptive fields of convolutional neural networks, Distill, 2019.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import lcm

from tvmconv import ops
from tvmconv.explain.axes import Axis, axes_of
from tvmconv.graph.ir import Graph, Node, Value
from tvmconv.ops import resampling, resize
from tvmconv.problem import Problem

#: Neighbours that are looked at where their fields differ in length, after upsampling.
_PHASES = 64


@dataclass(frozen=True)
class Field:
    """What the elements of a value depend on.

    Attributes
    ----------
    size : tuple of int
        Inputs along each spatial axis; empty if not known, or if ``whole``.
    jump : tuple of Fraction
        Empty if the value's axes are not those of a map.
    whole : bool
        Whether every element depends on the whole input.
    """

    size: tuple[int, ...] = ()
    jump: tuple[Fraction, ...] = ()
    whole: bool = False


@dataclass(frozen=True, eq=False)
class _ResizedAxis:
    """An axis of a resize; beyond its edges the places go on as they are inside."""

    inner: resampling.Axis

    @property
    def scale(self) -> Fraction:
        """Inputs from one output to the next, on average."""
        return Fraction(self.inner.size, self.inner.outputs)

    def interval(self, first: int, last: int) -> tuple[int, int]:
        """First and last input that outputs from ``first`` to ``last`` read."""
        low, high = (divmod(output, self.inner.outputs) for output in (first, last))
        size, places = self.inner.size, self.inner.places
        return (
            int(places[:, low[1]].min()) + low[0] * size,
            int(places[:, high[1]].max()) + high[0] * size,
        )


@dataclass(frozen=True)
class _Link:
    """How a value's elements read one run-time input of its node, an axis each."""

    source: Value
    axes: tuple[Axis | _ResizedAxis, ...]


#: Of a value: links to what it reads; None if it depends on all of it; ``()`` if that is unknown.
_Links = dict[Value, "tuple[_Link, ...] | None"]


def receptive_fields(graph: Graph) -> dict[Value, Field]:
    """The field of every value that a node computes, and of the graph's inputs."""
    links: _Links = {}
    fields = {value: _of_input(value) for value in graph.inputs}
    order = {node.output: number for number, node in enumerate(graph.nodes)}
    jumps = {value: set(field.jump) for value, field in fields.items()}
    for node in graph.nodes:
        sources = [v for v in dict.fromkeys(node.inputs) if not v.is_constant]
        before = [fields[source] for source in sources]
        links[node.output] = found = _links(node)
        jumps[node.output] = set().union(*(jumps[source] for source in sources))
        if found is None or any(field.whole for field in before):
            fields[node.output] = Field(jump=_jump(found or (), fields), whole=True)
        elif not found:
            fields[node.output] = _carried(node, before)
        else:
            fields[node.output] = _measured(node, links, fields, jumps, order, graph)
        jumps[node.output] |= set(fields[node.output].jump)
    return fields


def _of_input(value: Value) -> Field:
    rank = len(value.shape) - 2
    return Field((1,) * rank, (Fraction(1),) * rank) if rank in (1, 2, 3) else Field()


def _carried(node: Node, before: list[Field]) -> Field:
    """The field where no axis is a map's: each element is one of the input's, if only moved."""
    moved = node.op in ("reshape", "transpose") or ops.get(node.op).expression is not None
    if moved and len(before) == 1:
        return Field(before[0].size)
    return Field()


def _jump(links: tuple[_Link, ...], fields: dict[Value, Field]) -> tuple[Fraction, ...]:
    """The jump that all inputs agree on, or nothing."""
    found = set()
    for link in links:
        jump = fields[link.source].jump
        if len(jump) == len(link.axes):
            pairs = zip(link.axes, jump, strict=True)
            found.add(tuple(axis.scale * step for axis, step in pairs))
    return found.pop() if len(found) == 1 else ()


def _measured(
    node: Node,
    links: _Links,
    fields: dict[Value, Field],
    jumps: dict[Value, set[Fraction]],
    order: dict[Value, int],
    graph: Graph,
) -> Field:
    """The field by following neighbouring outputs back to the graph's inputs."""
    jump = _jump(links[node.output] or (), fields)
    if not jump or any(not fields[link.source].size for link in links[node.output] or ()):
        return Field()
    sizes = []
    for axis, step in enumerate(jump):
        # After so many outputs the fields repeat, further along the input.
        period = lcm(*((step / other).denominator for other in jumps[node.output] if other))
        sizes.append(
            max(
                _length(node, axis, output, links, order, graph)
                for output in range(min(period, _PHASES))
            )
        )
    return Field(tuple(sizes), jump)


def _length(
    node: Node, axis: int, output: int, links: _Links, order: dict[Value, int], graph: Graph
) -> int:
    """Inputs along an axis from the first to the last that an output depends on."""
    spans: dict[Value, tuple[int, int]] = {node.output: (output, output)}
    for number in range(order[node.output], -1, -1):
        value = graph.nodes[number].output
        if value not in spans:
            continue
        span = spans.pop(value)
        for link in links[value] or ():
            first, last = link.axes[axis].interval(*span)
            if first <= last:  # taps of a transposed convolution can meet no input
                low, high = spans.get(link.source, (first, last))
                spans[link.source] = min(low, first), max(high, last)
    if not spans:
        return 0
    return max(high for _, high in spans.values()) - min(low for low, _ in spans.values()) + 1


def _links(node: Node) -> tuple[_Link, ...] | None:
    """How a node's output reads its inputs."""
    sources = [v for v in dict.fromkeys(node.inputs) if not v.is_constant]
    if "problem" in node.attrs:
        problem = Problem.parse(node.attrs["problem"])
        if not problem.rank or not problem.filter_shape:  # dense, or a pool of the whole map
            return None
        if node.op == "resize":
            resized = tuple(_ResizedAxis(axis) for axis in resize.axes_of(problem))
            return (_Link(node.inputs[0], resized),)
        axes = axes_of(problem)
        return () if axes is None else (_Link(node.inputs[0], axes),)
    if node.op == "deform_im2col":  # where it reads is known at run time
        return None
    rank = len(node.output.shape) - 2
    if rank not in (1, 2, 3):
        return ()
    found = [(source, _map_axes(node, source, rank)) for source in sources if not _spread(source)]
    if any(axes is None for _, axes in found):
        return None if node.op in ("reduce_mean", "softmax", "log_softmax") else ()
    return tuple(_Link(source, axes) for source, axes in found if axes is not None)


def _spread(source: Value) -> bool:
    """Whether a value is one pixel, which is spread over the other inputs' map if there are any.

    Such a gate depends on the whole input as a rule, and then so does what it scales.
    """
    return len(source.shape) > 2 and set(source.shape[2:]) == {1}


def _map_axes(node: Node, source: Value, rank: int) -> tuple[Axis, ...] | None:
    """How the spatial axes of an input become those of the output; None if they do not."""
    if len(source.shape) != rank + 2:
        return None
    if node.op == "slice" and min(node.attrs["steps"], default=1) < 1:
        return None
    if node.op in ("pad", "slice") or (node.op == "concat" and node.attrs["axis"] > 1):
        return tuple(_moved_axes(node, source))
    same = source.shape[2:] == node.output.shape[2:]
    attrs, op = node.attrs, node.op
    pointwise = (
        ops.get(op).expression is not None
        or op in ("concat", "scale_shift", "lrn", "channel_shuffle")
        or (op in ("softmax", "log_softmax") and attrs["axis"] % (rank + 2) == 1)
        or (op == "transpose" and list(attrs["perm"][2:]) == list(range(2, rank + 2)))
        or (op == "reduce_mean" and {axis % (rank + 2) for axis in attrs["axes"]} <= {0, 1})
    )
    return tuple(Axis(size, 1) for size in source.shape[2:]) if same and pointwise else None


def _moved_axes(node: Node, source: Value) -> Iterator[Axis]:
    """The axes along which output o reads input ``o*step + start``."""
    rank, attrs = len(source.shape), node.attrs
    starts, steps = dict.fromkeys(range(rank), 0), dict.fromkeys(range(rank), 1)
    if node.op == "pad":
        starts = {axis: -low for axis, low in enumerate(attrs["lows"])}
    elif node.op == "slice":
        axes = [axis % rank for axis in attrs["axes"]]
        starts.update(zip(axes, attrs["starts"], strict=True))
        steps.update(zip(axes, attrs["steps"], strict=True))
    else:
        axis, before = attrs["axis"], node.inputs[: node.inputs.index(source)]
        starts[axis] = -sum(value.shape[axis] for value in before)
    for axis in range(2, rank):
        yield Axis(source.shape[axis], 1, steps[axis], low=-starts[axis])
