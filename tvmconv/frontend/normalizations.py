"""Normalisations by statistics of the data themselves, written as reductions and arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tvmconv.frontend.composites import Formula
from tvmconv.ops import reduce
from tvmconv.ops._shapes import text

if TYPE_CHECKING:
    from tvmconv.frontend.node import Builder, OnnxNode
    from tvmconv.graph.ir import Value
    from tvmconv.ops import Importer


class _Standard:
    """``(x − mean)·inverse`` over some axes, with ``inverse = 1/√(variance + epsilon)``."""

    def __init__(self, builder: Builder, x: Value, axes: Sequence[int], epsilon: float) -> None:
        f = Formula(builder, x)
        self.mean = reduce.reduced(builder, "reduce_mean", x, axes, True)
        centred = f("sub", x, self.mean)
        square = f("mul", centred, centred)
        variance = reduce.reduced(builder, "reduce_mean", square, axes, True)
        self.inverse = f("reciprocal", f("sqrt", f("add", variance, epsilon)))
        self.value = f("mul", centred, self.inverse)


def _affine(
    node: OnnxNode, builder: Builder, y: Value, axis: int, scale: Value, bias: Value | None
) -> Value:
    """``y·scale + bias``, both with one number for each index of an axis."""
    shape = [y.shape[axis], *(1,) * (len(y.shape) - axis - 1)]
    for op, value in (("mul", scale), ("add", bias)):
        if value is None:
            continue
        if value.shape != (y.shape[axis],):
            node.fail(
                f"scale and bias must have shape {y.shape[axis]}, one has {text(value.shape)}"
            )
        y = builder.emit(op, [y, builder.emit("reshape", [value], {"shape": shape})])
    return y


def _instance(node: OnnxNode, builder: Builder) -> Value:
    """InstanceNormalization: every channel of every image by its own mean and variance."""
    x = node.input(0)
    if len(x.shape) < 3:
        node.fail(f"input must have spatial axes, has shape {text(x.shape)}")
    axes = range(2, len(x.shape))
    y = _Standard(builder, x, axes, node.float_attr("epsilon", 1e-5)).value
    return _affine(node, builder, y, 1, node.input(1), node.input(2))


def _group(node: OnnxNode, builder: Builder) -> Value:
    """GroupNormalization: groups of channels; scale and bias are one a channel."""
    x, groups = node.input(0), node.int_attr("num_groups")
    if len(x.shape) < 2 or groups < 1 or x.shape[1] % groups:
        node.fail(
            f"attribute 'num_groups' {groups} does not divide the channels of {text(x.shape)}"
        )
    shape = [x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]]
    y = builder.emit("reshape", [x], {"shape": shape})
    y = _Standard(builder, y, range(2, len(shape)), node.float_attr("epsilon", 1e-5)).value
    y = builder.emit("reshape", [y], {"shape": list(x.shape)})
    return _affine(node, builder, y, 1, node.input(1), node.input(2))


def _float_statistics(node: OnnxNode) -> None:
    """Refuse statistics in another type than float32."""
    if node.int_attr("stash_type", 1) != 1:
        node.fail("attribute 'stash_type' must be 1, float32")


def _layer(node: OnnxNode, builder: Builder) -> list[Value]:
    """LayerNormalization: over the axes from ``axis`` on; mean and 1/deviation are results too."""
    x = node.input(0)
    _float_statistics(node)
    first = node.axis(node.int_attr("axis", -1), len(x.shape))
    axes = range(first, len(x.shape))
    standard = _Standard(builder, x, axes, node.float_attr("epsilon", 1e-5))
    y = builder.emit("mul", [standard.value, node.input(1)])
    bias = node.optional(2)
    if bias is not None:
        y = builder.emit("add", [y, bias])
    if y.shape != x.shape:
        node.fail(f"scale and bias must be broadcast to {text(x.shape)}")
    return [y, standard.mean, standard.inverse]


def _root_mean_square(node: OnnxNode, builder: Builder) -> Value:
    """RMSNormalization: ``x / √(mean(x²) + epsilon)·scale`` over the axes from ``axis`` on."""
    x = node.input(0)
    _float_statistics(node)
    first = node.axis(node.int_attr("axis", -1), len(x.shape))
    f = Formula(builder, x)
    axes = range(first, len(x.shape))
    mean = reduce.reduced(builder, "reduce_mean", f("mul", x, x), axes, True)
    deviation = f("sqrt", f("add", mean, node.float_attr("epsilon", 1e-5)))
    y = f("mul", f("div", x, deviation), node.input(1))
    if y.shape != x.shape:
        node.fail(f"scale must be broadcast to {text(x.shape)}")
    return y


def _mean_variance(node: OnnxNode, builder: Builder) -> Value:
    """MeanVarianceNormalization: ``(x − mean)/(deviation + 1e-9)`` over ``axes``."""
    x = node.input(0)
    axes = sorted(node.axes(node.ints_attr("axes", [0, 2, 3]), len(x.shape)))
    f = Formula(builder, x)
    centred = f("sub", x, reduce.reduced(builder, "reduce_mean", x, axes, True))
    square = f("mul", centred, centred)
    deviation = f("sqrt", reduce.reduced(builder, "reduce_mean", square, axes, True))
    return f("div", centred, f("add", deviation, 1e-9))


def _length(node: OnnxNode, builder: Builder) -> Value:
    """LpNormalization: ``x / ‖x‖`` along an axis, in the norm L1 or L2; 0 where that is 0."""
    x, p = node.input(0), node.int_attr("p", 2)
    if p not in (1, 2):
        node.fail(f"attribute 'p' must be 1 or 2, is {p}")
    axis = node.axis(node.int_attr("axis", -1), len(x.shape))
    f = Formula(builder, x)
    norm = reduce.reduced(builder, f"reduce_l{p}", x, [axis], True)
    # Where the norm is 0 all elements are, so that they may be divided by any other number.
    return f("div", x, f("add", norm, f("sub", 1.0, f("sign", norm))))


IMPORTERS: dict[str, Importer] = {
    "InstanceNormalization": _instance,
    "GroupNormalization": _group,
    "LayerNormalization": _layer,
    "RMSNormalization": _root_mean_square,
    "MeanVarianceNormalization": _mean_variance,
    "LpNormalization": _length,
}
