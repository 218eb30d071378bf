"""ONNX operators that are written as a few others of the graph, which fuse into one kernel."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tvmconv.frontend.node import Builder, OnnxNode
    from tvmconv.graph.ir import Value
    from tvmconv.ops import Importer


class _Formula:
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
    f = _Formula(builder, x)
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
    f = _Formula(builder, x)
    return f("mul", x, f("tanh", f("softplus", x)))


def _swish(node: OnnxNode, builder: Builder) -> Value:
    """Swish: ``x / (1 + exp(-alpha·x))``."""
    x = node.input(0)
    f = _Formula(builder, x)
    alpha = node.float_attr("alpha", 1.0)
    if alpha == 1.0:
        return f("silu", x)
    return f("mul", x, f("sigmoid", f("mul", x, alpha)))


def _selu(node: OnnxNode, builder: Builder) -> Value:
    """Selu: ``gamma·x`` where x > 0, else ``gamma·alpha·(exp(x) − 1)``."""
    x = node.input(0)
    f = _Formula(builder, x)
    alpha = node.float_attr("alpha", 1.67326319217681884765625)
    gamma = node.float_attr("gamma", 1.05070102214813232421875)
    return f("mul", f("elu", x, alpha=alpha), gamma)


def _celu(node: OnnxNode, builder: Builder) -> Value:
    """Celu: ``max(0, x) + min(0, alpha·(exp(x/alpha) − 1))``, which is ``alpha·elu(x/alpha)``."""
    x = node.input(0)
    f = _Formula(builder, x)
    alpha = node.float_attr("alpha", 1.0)
    if alpha <= 0:
        node.fail(f"attribute 'alpha' must be positive, is {alpha:g}")
    if alpha == 1.0:
        return f("elu", x, alpha=1.0)
    return f("mul", f("elu", f("mul", x, 1.0 / alpha), alpha=1.0), alpha)


def _softsign(node: OnnxNode, builder: Builder) -> Value:
    """Softsign: ``x / (1 + |x|)``."""
    x = node.input(0)
    f = _Formula(builder, x)
    return f("div", x, f("add", f("abs", x), 1.0))


def _mean(node: OnnxNode, builder: Builder) -> Value:
    """Mean of any number of tensors, element by element."""
    x = node.input(0)
    f = _Formula(builder, x)
    total = x
    for index in range(1, len(node.inputs)):
        total = f("add", total, node.input(index))
    return f("mul", total, 1.0 / len(node.inputs)) if len(node.inputs) > 1 else x


IMPORTERS: dict[str, Importer] = {
    "Gelu": _gelu,
    "Mish": _mish,
    "Swish": _swish,
    "Selu": _selu,
    "Celu": _celu,
    "Softsign": _softsign,
    "Mean": _mean,
}
