"""What the operators' tensor expressions share: inputs, fused programs, the output stage.

The functions import TVM when they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tvmconv import ops, te_math
from tvmconv.kernel import KIND, TF32, WINDOW, KernelSpec
from tvmconv.layout import Layout
from tvmconv.ops import Array, Shape
from tvmconv.problem import Problem

#: Types in which values are stored, but not computed with.
_HALF = ("float16", "bfloat16")


def placeholder(layout: Layout, name: str) -> Any:
    """A placeholder for the whole buffer in which a tensor lies."""
    from tvmconv._tvm import te

    return te.placeholder(layout.buffer_shape, layout.dtype, name=name)


def window(problem: Problem, position: Sequence[Any], taps: Sequence[Any]) -> list[Any]:
    """Input position of a tap at an output position: ``o*stride - low + k*dilation``."""
    axes = zip(position, problem.stride, taps, problem.dilation, problem.pads_low, strict=True)
    return [o * s + k * d - low for o, s, k, d, low in axes]


def window_attrs(problem: Problem) -> dict[str, list[int]]:
    """The attribute ``WINDOW`` of a problem's reduction, if its windows reach into padding."""
    if not any(problem.pads_low) and not any(problem.pads_high):
        return {}
    axes = zip(problem.stride, problem.dilation, problem.pads_low, problem.in_spatial, strict=True)
    return {WINDOW: [number for axis in axes for number in axis]}


def tap_axes(problem: Problem) -> list[Any]:
    """One reduction axis for each axis of the window."""
    from tvmconv._tvm import te

    return [te.reduce_axis((0, extent), f"rk{i}") for i, extent in enumerate(problem.kernel)]


def pack_channels(vector: Array, slots: int, block: int) -> Array:
    """A vector over channels as ``(slots, block)``, padded with 0."""
    padded = np.zeros(slots * block, vector.dtype)
    padded[: vector.size] = vector.reshape(-1)
    return padded.reshape(slots, block)


def elements(
    shape: Shape,
    body: Callable[..., Any],
    name: str = "output",
    kind: str = "map",
    attrs: Mapping[str, Any] | None = None,
) -> Any:
    """A tensor without a reduction: ``body(*index)`` is its element, made in a scope."""
    from tvmconv._tvm import te

    def scoped(*index: Any) -> Any:
        return te_math.scoped(lambda: body(*index))

    return te.compute(shape, scoped, name=name, attrs={KIND: kind, **(attrs or {})})


def finish(
    spec: KernelSpec,
    result: Callable[..., Any],
    bias: Any | None = None,
    *,
    shape: Shape | None = None,
    locate: Callable[..., tuple[Any, ...]] | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> tuple[list[Any], Any]:
    """Make the output stage of a kernel: bias, program, store.

    Parameters
    ----------
    spec : KernelSpec
        Its inputs after the first are the program's tensor operands.
    result : callable
        ``result(*indices)`` is the operator's result at an index of the output's
        :attr:`~tvmconv.layout.Layout.iteration_shape`.
    bias : te.Tensor, optional
        Packed ``(slots, block)``.
    shape : tuple of int, optional
        Of the result, where it is not the output's iteration shape.
    locate : callable, optional
        ``locate(*indices)``: the index in the iteration shape of an element of the result.
    attrs : mapping, optional
        Of the output stage, besides its kind.

    Returns
    -------
    placeholders : list of te.Tensor
        For the program's operands, in order.
    output : te.Tensor
    """
    out, layouts = spec.output, spec.inputs[1:]
    tensors = [placeholder(v, f"operand{k}") for k, v in enumerate(layouts)]

    def body(*index: Any) -> Any:
        value = result(*index)
        if locate is not None:
            index = locate(*index)
        if bias is not None:
            value = value + bias[index[1], index[-1]]

        def operand(k: int) -> Any:
            return widened(operand_at(tensors[k], layouts[k], out, index))

        value = apply_program(value, spec.program, operand)
        return value.astype(out.dtype) if out.dtype in _HALF else value

    return tensors, elements(shape or out.iteration_shape, body, attrs=attrs)


def apply_program(
    value: Any, steps: Sequence[Mapping[str, Any]], operand: Callable[[int], Any]
) -> Any:
    """Apply elementwise steps to an expression.

    Parameters
    ----------
    value : expression
    steps : sequence of mapping
        ``{"op": name, ...}`` with the operator's attributes; a binary step has ``operand`` (which)
        or ``scalar``, and ``reverse`` if the running value is its second argument. An operand may
        have a ``program`` of its own, of steps without operands.
    operand : callable
        Gives an operand's element at the current index.
    """
    for step in steps:
        expression = ops.get(step["op"]).expression
        if expression is None:
            raise ValueError(f"{step['op']} cannot be a step of a program")
        if "operand" not in step and "scalar" not in step:
            value = expression(value, step)
            continue
        if "operand" in step:
            other = apply_program(operand(step["operand"]), step.get("program", ()), operand)
        else:
            other = te_math.number(step["scalar"])
        value = expression(other, value) if step.get("reverse") else expression(value, other)
    return value


def widened(value: Any) -> Any:
    """An element of a tensor in the type in which it is computed with: float32 for a half."""
    return value.astype("float32") if str(value.dtype) in _HALF else value


def product(one: Any, other: Any) -> Any:
    """The product of two elements of tensors, in the type in which it is computed."""
    return widened(one) * widened(other)


def product_attrs(spec: KernelSpec) -> dict[str, bool]:
    """The attribute ``TF32`` of a kernel's sum of products, if the kernel may use it."""
    return {TF32: True} if spec.attrs.get("tf32") else {}


def operand_at(tensor: Any, layout: Layout, out: Layout, index: Sequence[Any]) -> Any:
    """Element of a tensor that belongs to an index of the output.

    The tensor has the output's shape, or extent 1 on some axes, which are broadcast; if plain, it
    may also have fewer axes, which are then the last ones.

    Raises
    ------
    ValueError
        If it does not lie in the output's blocks.
    """
    if layout.block != out.block and len(layout.shape) > 1:
        raise ValueError(f"{layout} cannot be read for {out}")
    if out.block == 1:
        missing = len(out.shape) - len(layout.shape)
        axes = zip(layout.shape, index[missing:], strict=True)
        return element(tensor, layout, [i if extent > 1 else 0 for extent, i in axes])
    n, slot, *position, lane = index
    place = [p if extent > 1 else 0 for extent, p in zip(layout.shape[2:], position, strict=True)]
    batch = n if layout.shape[0] > 1 else 0
    if layout.shape[1] == 1 and out.shape[1] > 1:
        return layout.at_slot(tensor, batch, 0, place, (0,))
    return layout.at_slot(tensor, batch, slot, place, (lane,))


def element(tensor: Any, layout: Layout, place: Sequence[Any]) -> Any:
    """Element of a tensor of any rank and layout at a logical index."""
    if len(layout.shape) < 2:
        return tensor[tuple(place)]
    return layout.at(tensor, place[0], place[1], place[2:])


def plain_map(
    spec: KernelSpec, body: Callable[[Callable[..., Any], tuple[Any, ...]], Any]
) -> list[Any]:
    """Make the compute of an operator without arithmetic on plain tensors.

    ``body(at, index)`` is the output's element at an index; ``at(place)`` reads the input.
    """
    x_layout = spec.inputs[0]
    x = placeholder(x_layout, "x")

    def at(place: Sequence[Any]) -> Any:
        return element(x, x_layout, place)

    return [x, elements(spec.output.shape, lambda *index: body(at, index))]
