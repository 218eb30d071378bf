"""Lp pooling: ``y[n, c, o] = (sum over k of |x[n, c, o*stride - low + k*dilation]|^p)^(1/p)``.

Padding is 0 and so adds nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tvmconv import te_math
from tvmconv.kernel import KIND, KernelSpec
from tvmconv.ops import Array, Float64, expressions, importing, max_pool, rows
from tvmconv.ops import family as shared
from tvmconv.ops import options as opt
from tvmconv.problem import Problem

if TYPE_CHECKING:
    from tvmconv.frontend.node import Builder, OnnxNode
    from tvmconv.graph.ir import Value

#: Above this the power of an ordinary number leaves float32.
MAX_P = 16


def reference(problem: Problem, arrays: Mapping[str, Array]) -> Float64:
    """The p-th root of the sum of p-th powers in each window."""
    p = problem.option("p")
    axes = tuple(range(-problem.rank, 0))
    view = shared.window_view(problem, shared.padded(problem, np.asarray(arrays["x"]), 0.0))
    return np.asarray((np.abs(view) ** p).sum(axis=axes) ** (1 / p))


def validate(problem: Problem) -> None:
    """Refuse what other pools do, and powers that leave float32."""
    max_pool.validate(problem)
    if problem.option("p") > MAX_P:
        problem.fail("p", f"must be at most {MAX_P}, got {problem.option('p')}")


def _power(x: Any, p: int) -> Any:
    """``|x|^p`` by multiplications; even powers need no absolute value."""
    value = base = x if p % 2 == 0 else te_math.absolute(x)
    for _ in range(p - 1):
        value = value * base
    return value


def _root(total: Any, p: int) -> Any:
    """The p-th root of what is not negative."""
    if p == 1:
        return total
    if p == 2:
        return te_math.sqrt(total)
    if p == 4:
        return te_math.sqrt(te_math.sqrt(total))
    return _refined_root(te_math.bind(total), p)


def _refined_root(total: Any, p: int) -> Any:
    """A power and a step of Newton's: 1/p in float32 is as far off as the logarithm is large."""
    root = te_math.bind(te_math.power(total, te_math.number(1 / p)))
    slope = te_math.bind(_power(root, p - 1))
    better = root - (slope * root - total) / (slope * te_math.number(p))
    finite = te_math.select(total < te_math.number(math.inf), better, root)
    return te_math.select(root > te_math.number(0.0), finite, root)


def compute(spec: KernelSpec) -> list[Any]:
    """The sum of powers over the taps ``rk0`` …, then its root; the halo must hold zeros."""
    from tvmconv._tvm import te

    problem = Problem.parse(spec.attrs["problem"])
    p = problem.option("p")
    x_layout = spec.inputs[0]
    if spec.output.block == 1:
        x, total = rows.pooled(spec, te.sum, 0.0, False, lambda value: _power(value, p))
    else:
        x = expressions.placeholder(x_layout, "x")
        taps = expressions.tap_axes(problem)

        def body(*index: Any) -> Any:
            n, slot, *position, lane = index
            place = expressions.window(problem, position, taps)
            return te.sum(_power(x_layout.at_slot(x, n, slot, place, (lane,)), p), axis=taps)

        shape = spec.output.iteration_shape
        total = te.compute(shape, body, name="pool", attrs={KIND: "window"})
    operands, output = expressions.finish(spec, lambda *index: _root(total(*index), p))
    return [x, *operands, output]


def import_lp_pool(node: OnnxNode, builder: Builder) -> Value:
    """ONNX ``LpPool``."""
    node.allow_attrs("auto_pad", "ceil_mode", "dilations", "kernel_shape", "p", "pads", "strides")
    rank = importing.spatial_rank(node)
    options = importing.window_options(node, rank)
    options["ceil_mode"] = importing.flag_attr(node, "ceil_mode")
    options["p"] = _p(node)
    kernel = importing.kernel_shape(node, rank)
    return importing.emit(node, builder, "lp_pool", [node.input(0)], kernel, options)


def import_global_lp_pool(node: OnnxNode, builder: Builder) -> Value:
    """ONNX ``GlobalLpPool``: one window as large as the input."""
    node.allow_attrs("p")
    importing.spatial_rank(node)
    x = node.input(0)
    return importing.emit(node, builder, "lp_pool", [x], x.shape[2:], {"p": _p(node)})


def _p(node: OnnxNode) -> int:
    """The power, which was a float in opset 1."""
    if node.opset < 2:
        value = node.float_attr("p", 2.0)
        if not value.is_integer():
            node.fail(f"attribute 'p' must be a whole number, is {value}")
        return int(value)
    return node.int_attr("p", 2)


FAMILY = replace(
    max_pool.FAMILY,
    options=(
        opt.whole("p", 2),
        opt.STRIDE,
        opt.PADDING,
        opt.DILATION,
        opt.CEIL_MODE,
        opt.DTYPE,
    ),
    validate=validate,
    reference=reference,
    arithmetic="norm",
)

CASES = (
    ("lp_pool2d:1x64x28x28:2x2:stride=2", "learned-norm pooling, p = 2"),
    ("lp_pool2d:1x17x13x11:3x3:p=1:padding=1", "sums of absolute values"),
    ("lp_pool2d:2x5x9x8:3x2:p=3:stride=2,1:padding=1,0", "an odd power"),
    ("lp_pool2d:1x8x7x7:2x2:p=4:dilation=2:padding=same_lower", "dilated, fourth root"),
    ("lp_pool2d:1x8x7x7:7x7:p=5", "global"),
    ("lp_pool2d:1x3x10x10:3x3:stride=2:ceil_mode=true", "ceil mode"),
    ("lp_pool1d:1x16x50:5:stride=3:padding=2,0", "1-D"),
    ("lp_pool3d:1x4x5x6x7:2x3x3:stride=1,2,2:padding=1,0,1", "3-D"),
)

BAD_CASES = (
    ("lp_pool2d:1x8x9x9:2x2:p=0", "p must be at least 1, got 0"),
    ("lp_pool2d:1x8x9x9:2x2:p=40", "p must be at most 16, got 40"),
    ("lp_pool2d:1x8x9x9:2x2:p=2.5", "p must be an integer"),
    ("lp_pool2d:1x8x9x9:3x3:padding=3", "padding must be less than the window's extent 3"),
)

shared.register_family(
    "lp_pool",
    "pooling by the p-norm",
    FAMILY,
    ranks=(1, 2, 3),
    onnx={"LpPool": import_lp_pool, "GlobalLpPool": import_global_lp_pool},
    cases=CASES,
    bad_cases=BAD_CASES,
    compute=compute,
    planes=True,
)
