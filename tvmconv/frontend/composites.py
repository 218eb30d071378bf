"""ONNX operators that are written as a few others of the graph, which fuse into one kernel."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tvmconv.ops import reduce

if TYPE_CHECKING:
    from tvmconv.frontend.node import Builder, OnnxNode
    from tvmconv.graph.ir import Value
    from tvmconv.ops import Importer


#: Below the largest float32: a bound for what must not be infinite.
_FINITE = 3e38


class Formula:
    """Arithmetic on values of one dtype, emitted as nodes."""

    def __init__(self, builder: Builder, x: Value) -> None:
        self.builder, self.dtype = builder, x.dtype

    def __call__(self, op: str, *operands: Value | float, **attrs: float) -> Value:
        """Emit ``op``; numbers become constants."""
        values = [
            self.builder.constant(np.array(item, self.dtype)) if isinstance(item, float) else item
            for item in operands
        ]
        return self.builder.emit(op, values, attrs)


def _gelu(node: OnnxNode, builder: Builder) -> Value:
    """Gelu: ``x/2·(1 + erf(x/√2))``, or with tanh of ``√(2/π)·(x + 0.044715·x³)``."""
    x = node.input(0)
    f = Formula(builder, x)
    approximate = node.str_attr("approximate", "none")
    if approximate == "none":
        inner = f("erf", f("mul", x, math.sqrt(0.5)))
    elif approximate == "tanh":
        cube = f("mul", f("mul", x, x), x)
        argument = f("add", x, f("mul", cube, 0.044715))
        inner = f("tanh", f("mul", argument, math.sqrt(2.0 / math.pi)))
    else:
        node.fail(f"attribute 'approximate' {approximate!r} must be 'none' or 'tanh'")
    return f("mul", f("mul", x, 0.5), f("add", inner, 1.0))


def _mish(node: OnnxNode, builder: Builder) -> Value:
    """Mish: ``x·tanh(log(1 + exp(x)))``."""
    x = node.input(0)
    f = Formula(builder, x)
    return f("mul", x, f("tanh", f("softplus", x)))


def _swish(node: OnnxNode, builder: Builder) -> Value:
    """Swish: ``x / (1 + exp(-alpha·x))``."""
    x = node.input(0)
    f = Formula(builder, x)
    alpha = node.float_attr("alpha", 1.0)
    if alpha == 1.0:
        return f("silu", x)
    return f("mul", x, f("sigmoid", f("mul", x, alpha)))


def _selu(node: OnnxNode, builder: Builder) -> Value:
    """Selu: ``gamma·x`` where x > 0, else ``gamma·alpha·(exp(x) − 1)``."""
    x = node.input(0)
    f = Formula(builder, x)
    alpha = node.float_attr("alpha", 1.67326319217681884765625)
    gamma = node.float_attr("gamma", 1.05070102214813232421875)
    return f("mul", f("elu", x, alpha=alpha), gamma)


def _celu(node: OnnxNode, builder: Builder) -> Value:
    """Celu: ``max(0, x) + min(0, alpha·(exp(x/alpha) − 1))``, which is ``alpha·elu(x/alpha)``."""
    x = node.input(0)
    f = Formula(builder, x)
    alpha = node.float_attr("alpha", 1.0)
    if alpha <= 0:
        node.fail(f"attribute 'alpha' must be positive, is {alpha:g}")
    if alpha == 1.0:
        return f("elu", x, alpha=1.0)
    return f("mul", f("elu", f("mul", x, 1.0 / alpha), alpha=1.0), alpha)


def _softsign(node: OnnxNode, builder: Builder) -> Value:
    """Softsign: ``x / (1 + |x|)``."""
    x = node.input(0)
    f = Formula(builder, x)
    return f("div", x, f("add", f("abs", x), 1.0))


def _mean(node: OnnxNode, builder: Builder) -> Value:
    """Mean of any number of tensors, element by element."""
    x = node.input(0)
    f = Formula(builder, x)
    total = x
    for index in range(1, len(node.inputs)):
        total = f("add", total, node.input(index))
    return f("mul", total, 1.0 / len(node.inputs)) if len(node.inputs) > 1 else x


def _square_block(node: OnnxNode, shape: tuple[int, ...]) -> tuple[int, bool]:
    """The block size of DepthToSpace and SpaceToDepth, and whether depth comes before the block."""
    block, mode = node.int_attr("blocksize"), node.str_attr("mode", "DCR")
    if len(shape) != 4:
        node.fail(f"input must have 4 axes, has {len(shape)}")
    if block < 1:
        node.fail(f"attribute 'blocksize' must be at least 1, is {block}")
    if mode not in ("DCR", "CRD"):
        node.fail(f"attribute 'mode' {mode!r} must be 'DCR' or 'CRD'")
    return block, mode == "CRD"


def _depth_to_space(node: OnnxNode, builder: Builder) -> Value:
    """DepthToSpace: groups of blocksize² channels become blocks of pixels."""
    x = node.input(0)
    block, depth_first = _square_block(node, x.shape)
    n, c, h, w = x.shape
    if c % block**2:
        node.fail(f"{c} channels are no multiple of blocksize², {block**2}")
    depth = c // block**2
    split = [n, depth, block, block, h, w] if depth_first else [n, block, block, depth, h, w]
    perm = [0, 1, 4, 2, 5, 3] if depth_first else [0, 3, 4, 1, 5, 2]
    y = builder.emit("reshape", [x], {"shape": split})
    y = builder.emit("transpose", [y], {"perm": perm})
    return builder.emit("reshape", [y], {"shape": [n, depth, h * block, w * block]})


def _space_to_depth(node: OnnxNode, builder: Builder) -> Value:
    """SpaceToDepth: blocks of pixels become channels, the inverse of DepthToSpace."""
    x = node.input(0)
    block, depth_first = _square_block(node, x.shape)
    n, c, h, w = x.shape
    if h % block or w % block:
        node.fail(f"{h}x{w} pixels are no multiple of blocksize, {block}")
    split = [n, c, h // block, block, w // block, block]
    perm = [0, 1, 3, 5, 2, 4] if depth_first else [0, 3, 5, 1, 2, 4]
    y = builder.emit("reshape", [x], {"shape": split})
    y = builder.emit("transpose", [y], {"perm": perm})
    shape = [n, c * block**2, h // block, w // block]
    return builder.emit("reshape", [y], {"shape": shape})


def _log_sum(node: OnnxNode, builder: Builder) -> Value:
    """ReduceLogSum: ``log(Σ x)``."""
    x, axes = node.input(0), reduce.axes_of(node, 18)
    if axes:
        x = reduce.reduced(builder, "reduce_sum", x, axes, bool(node.int_attr("keepdims", 1)))
    return builder.emit("log", [x])


def _log_sum_exp(node: OnnxNode, builder: Builder) -> Value:
    """ReduceLogSumExp: ``m + log(Σ exp(x − m))`` with the largest element m, made finite."""
    x, axes = node.input(0), reduce.axes_of(node, 18)
    if not axes:
        return x
    f = Formula(builder, x)
    top = reduce.reduced(builder, "reduce_max", x, axes, True)
    top = f("clip", top, min=-_FINITE, max=_FINITE)
    total = reduce.reduced(builder, "reduce_sum", f("exp", f("sub", x, top)), axes, True)
    result = f("add", f("log", total), top)
    if node.int_attr("keepdims", 1):
        return result
    shape = [extent for axis, extent in enumerate(x.shape) if axis not in axes]
    return builder.emit("reshape", [result], {"shape": shape})


IMPORTERS: dict[str, Importer] = {
    "Gelu": _gelu,
    "Mish": _mish,
    "Swish": _swish,
    "Selu": _selu,
    "Celu": _celu,
    "Softsign": _softsign,
    "Mean": _mean,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "ReduceLogSum": _log_sum,
    "ReduceLogSumExp": _log_sum_exp,
}
