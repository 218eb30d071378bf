"""What the operators' tensor expressions share: kernel descriptions, programs, vector mathematics.

Every operator's ``compute(spec)`` receives a :class:`KernelSpec` and returns the placeholders and
the result of one kernel, in the order of the kernel's arguments. Nothing here imports TVM when it
is imported.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvmconv.layout import Layout

#: Attribute of a ``te.compute`` by which a design space knows what it schedules:
#: ``contraction`` (a reduction in which one factor is the same for every lane), ``window``
#: (a reduction lane by lane), ``map`` (no reduction) and ``stage`` (an intermediate result).
KIND = "tvmconv.kind"


@dataclass(frozen=True)
class KernelSpec:
    """One kernel: an operator over tensors of given layouts.

    Attributes
    ----------
    op : str
        Name in the operator registry.
    attrs_json : str
        The node's attributes, as canonical JSON. ``program`` lists the elementwise steps that are
        applied to the result (see :func:`apply_program`).
    inputs : tuple of Layout
        Layouts of the data inputs, ``x`` first, then the tensor operands of the program.
    output : Layout
    """

    op: str
    attrs_json: str
    inputs: tuple[Layout, ...]
    output: Layout

    @property
    def attrs(self) -> dict[str, Any]:
        """The node's attributes."""
        attrs: dict[str, Any] = json.loads(self.attrs_json)
        return attrs

    @property
    def program(self) -> list[dict[str, Any]]:
        """The elementwise steps after the operator: the problem's activation, then the program."""
        attrs = self.attrs
        steps: list[dict[str, Any]] = attrs.get("program", [])
        return [*activation_steps(attrs.get("problem", "")), *steps]

    @property
    def text(self) -> str:
        """A canonical text: equal for equal kernels."""
        layouts = [
            [list(v.shape), v.block, list(v.lows), list(v.highs), v.slots, v.first, v.dtype]
            for v in (*self.inputs, self.output)
        ]
        return json.dumps([self.op, self.attrs, layouts], sort_keys=True)

    @property
    def digest(self) -> str:
        """A short hash of :attr:`text`, for symbol names."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


def activation_steps(problem: str) -> list[dict[str, Any]]:
    """The activation of a problem as steps of a program."""
    from tvmconv.ops.activation import split
    from tvmconv.problem import Problem

    name = Problem.parse(problem).activation if problem else ""
    if not name:
        return []
    if name == "relu6":
        return [{"op": "clip", "min": 0.0, "max": 6.0}]
    activation, values = split(name)
    named = zip((key for key, _ in activation.parameters), values, strict=True)
    return [{"op": activation.node, **dict(named)}]


def canonical_json(attrs: Mapping[str, Any]) -> str:
    """Attributes as JSON text with sorted keys."""
    return json.dumps(dict(attrs), sort_keys=True)


def placeholder(layout: Layout, name: str) -> Any:
    """A placeholder for the whole buffer in which a tensor lies."""
    from tvmconv._tvm import te

    return te.placeholder(layout.buffer_shape, layout.dtype, name=name)


@dataclass(frozen=True)
class ChannelPlan:
    """Which input channels a block of output channels reads, and in which steps.

    A block of ``block`` output channels may belong to several groups; it then reads the input
    channels of all of them, and the packed weight is zero where an output channel does not belong.

    Attributes
    ----------
    length : int
        Input channels that every block reads.
    step : int
        Extent of the inner reduction axis: divides ``length``, every start and the input's block.
    starts : tuple of int
        First input channel of each output block.
    """

    length: int
    step: int
    starts: tuple[int, ...]


def channel_plan(
    in_channels: int, out_channels: int, groups: int, in_block: int, out_block: int
) -> ChannelPlan:
    """Plan the channel reduction of a (grouped) convolution on blocked tensors."""
    per_in, per_out = in_channels // groups, out_channels // groups
    blocks = range(0, out_channels, out_block)
    spans = max(
        (min(low + out_block, out_channels) - 1) // per_out - low // per_out + 1 for low in blocks
    )
    length = min(spans * per_in, in_channels)
    starts = tuple(min(low // per_out * per_in, in_channels - length) for low in blocks)
    step = math.gcd(length, *starts)
    return ChannelPlan(length, math.gcd(step, in_block) if in_block > 1 else 1, starts)


def channel_start(plan: ChannelPlan, slot: Any, out_channels: int, groups: int, block: int) -> Any:
    """First input channel of output block ``slot`` as an index expression."""
    from tvmconv._tvm import te, tirx

    if not any(plan.starts):
        return tirx.const(0, "int32")
    per_out = out_channels // groups
    per_in = plan.starts[-1] + plan.length
    per_in //= groups
    start = slot * block // per_out * per_in
    last = plan.starts[-1]
    naive = (len(plan.starts) - 1) * block // per_out * per_in
    return start if naive == last else te.min(start, last)


def apply_program(
    value: Any,
    steps: Sequence[Mapping[str, Any]],
    operands: Sequence[Callable[[], Any]],
) -> Any:
    """Apply elementwise steps to an expression.

    Parameters
    ----------
    value : expression
    steps : sequence of mapping
        ``{"op": name, ...}``; a binary step has ``operand`` (index into ``operands``) or
        ``scalar``, and ``reverse`` if the running value is its second argument.
    operands : sequence of callable
        Each gives the operand's element at the current index.
    """
    from tvmconv.te_math import BINARY, UNARY

    for step in steps:
        name = step["op"]
        if name in BINARY:
            other = operands[step["operand"]]() if "operand" in step else step["scalar"]
            pair = (other, value) if step.get("reverse") else (value, other)
            value = BINARY[name](*pair)
        else:
            value = UNARY[name](value, step)
    return value


def finish(
    spec: KernelSpec,
    result: Callable[..., Any],
    bias: Any | None = None,
    first_operand: int = 1,
) -> tuple[list[Any], Any]:
    """Make the output stage of a kernel: bias, program, store.

    Parameters
    ----------
    spec : KernelSpec
    result : callable
        ``result(*indices)`` is the operator's result at an index of the output's
        :attr:`~tvmconv.layout.Layout.iteration_shape`.
    bias : te.Tensor, optional
        Packed ``(CB, block)``.
    first_operand : int
        Position in ``spec.inputs`` of the program's first tensor operand.

    Returns
    -------
    placeholders : list of te.Tensor
        For the program's operands, in order.
    output : te.Tensor
    """
    from tvmconv._tvm import te

    out = spec.output
    layouts = spec.inputs[first_operand:]
    tensors = [placeholder(v, f"operand{k}") for k, v in enumerate(layouts)]

    def body(*index: Any) -> Any:
        value = result(*index)
        if bias is not None:
            value = value + bias[index[1], index[-1]]
        operands = [
            lambda t=t, v=v: operand_at(t, v, out, index)  # type: ignore[misc]
            for t, v in zip(tensors, layouts, strict=True)
        ]
        return apply_program(value, spec.program, operands)

    output = te.compute(out.iteration_shape, body, name="output", attrs={KIND: "map"})
    return tensors, output


def operand_at(tensor: Any, layout: Layout, out: Layout, index: Sequence[Any]) -> Any:
    """Element of a program's operand that belongs to an index of the output.

    The operand has the output's shape, or extent 1 on some axes, which are broadcast. A blocked
    operand with one channel per output channel and no batch is a packed per-channel vector.
    """
    if out.block > 1 and layout.block == out.block:
        n, slot, *position, lane = index
        place = [p if layout.shape[2 + k] > 1 else 0 for k, p in enumerate(position)]
        batch = n if layout.shape[0] > 1 else 0
        if layout.shape[1] == 1 and out.shape[1] > 1:
            return layout.at_slot(tensor, batch, 0, place, (0,))
        return layout.at_slot(tensor, batch, slot, place, (lane,))
    logical = list(index)
    if out.block > 1:
        n, slot, *position, lane = index
        logical = [n, slot * out.block + lane, *position]
    missing = len(out.shape) - len(layout.shape)
    place = [
        i if layout.shape[k] > 1 else 0
        for k, i in enumerate(logical[missing:])
    ]
    if len(layout.shape) < 2 or not layout.has_halo and layout.block == 1:
        offsets = layout.offsets
        return tensor[tuple(i + o for i, o in zip(place, offsets, strict=True))]
    return layout.at(tensor, place[0], place[1], place[2:])
