"""Average pooling: the mean over ``k`` of ``x[n, c, o*stride - low + k*dilation]``.

The sum over a window is divided by the number of its taps inside the input, or with
``count_include_pad`` inside the padded input; what ceil mode adds beyond that never counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tvmconv.kernel import KIND, KernelSpec
from tvmconv.ops import Array, Float64, expressions, importing, max_pool, rows, windows
from tvmconv.ops import family as shared
from tvmconv.ops import options as opt
from tvmconv.problem import Problem

if TYPE_CHECKING:
    from tvmconv.frontend.node import Builder, OnnxNode
    from tvmconv.graph.ir import Value


def divisors(problem: Problem) -> Float64:
    """Elements that each window's sum is divided by: an array of the output's spatial shape."""
    product = np.ones(())
    for axis, count in enumerate(problem.out_spatial):
        low, size = problem.pads_low[axis], problem.in_spatial[axis]
        limits = (0, size)
        if problem.count_include_pad:
            limits = (-low, size + problem.pads_high[axis])
        along = (problem.kernel[axis], problem.stride[axis], problem.dilation[axis])
        counts = windows.tap_counts(count, *along, low, limits)
        product = np.multiply.outer(product, counts.astype(np.float64))
    return product


def reference(problem: Problem, arrays: Mapping[str, Array]) -> Float64:
    """Sum over each window, divided."""
    axes = tuple(range(-problem.rank, 0))
    view = shared.window_view(problem, shared.padded(problem, np.asarray(arrays["x"]), 0.0))
    return np.asarray(view.sum(axis=axes) / divisors(problem))


def pack(spec: KernelSpec, constants: Sequence[Array]) -> list[Array]:
    """Reciprocals of the divisors (*out_spatial), unless all of them are equal."""
    counts = divisors(Problem.parse(spec.attrs["problem"]))
    return [] if np.ptp(counts) == 0 else [(1.0 / counts).astype(np.float32)]


def compute(spec: KernelSpec) -> list[Any]:
    """The sum over the taps ``rk0`` …, times the reciprocal of its divisor.

    Arguments are ``x``, the table of :func:`pack` if there is one, the program's operands, and the
    output. The halo must hold zeros.
    """
    from tvmconv._tvm import te, tirx

    p = Problem.parse(spec.attrs["problem"])
    counts = divisors(p)
    table = None if np.ptp(counts) == 0 else te.placeholder(counts.shape, name="reciprocal")
    planes = spec.output.block == 1
    x, pool = rows.pooled(spec, te.sum, 0.0, False) if planes else _pooled(spec)

    def mean(*index: Any) -> Any:
        if table is None:
            return pool(*index) * tirx.const(1.0 / float(counts.flat[0]), "float32")
        return pool(*index) * table[tuple(index[2 : 2 + p.rank])]

    operands, output = expressions.finish(spec, mean)
    return [x, *([] if table is None else [table]), *operands, output]


def _pooled(spec: KernelSpec) -> list[Any]:
    """The input, and its sum over the taps, on channel blocks."""
    from tvmconv._tvm import te

    p = Problem.parse(spec.attrs["problem"])
    x_layout = spec.inputs[0]
    x = expressions.placeholder(x_layout, "x")
    taps = expressions.tap_axes(p)

    def body(*index: Any) -> Any:
        n, slot, *position, lane = index
        place = expressions.window(p, position, taps)
        return te.sum(x_layout.at_slot(x, n, slot, place, (lane,)), axis=taps)

    shape = spec.output.iteration_shape
    return [x, te.compute(shape, body, name="pool", attrs={KIND: "window"})]


def import_average_pool(node: OnnxNode, builder: Builder) -> Value:
    """ONNX ``AveragePool``."""
    node.allow_attrs(
        "auto_pad", "ceil_mode", "count_include_pad", "dilations", "kernel_shape", "pads", "strides"
    )
    rank = importing.spatial_rank(node)
    options = importing.window_options(node, rank)
    for key in ("ceil_mode", "count_include_pad"):
        options[key] = importing.flag_attr(node, key)
    kernel = importing.kernel_shape(node, rank)
    return importing.emit(node, builder, "avg_pool", [node.input(0)], kernel, options)


FAMILY = replace(
    max_pool.FAMILY,
    options=(
        opt.STRIDE,
        opt.PADDING,
        opt.DILATION,
        opt.CEIL_MODE,
        opt.COUNT_INCLUDE_PAD,
        opt.DTYPE,
    ),
    reference=reference,
    arithmetic="mean",
)

CASES = (
    ("avg_pool2d:1x128x56x56:2x2:stride=2", "DenseNet-121 transition 1"),
    ("avg_pool2d:1x24x56x56:3x3:stride=2:padding=1", "ShuffleNet v1 shortcut"),
    ("avg_pool2d:1x32x35x35:3x3:padding=1:count_include_pad=true", "Inception v3 branch_pool"),
    ("avg_pool2d:1x64x7x7:7x7", "Inception v1 pool5"),
    ("avg_pool2d:1x4x8x8:3x3:stride=2:padding=1:ceil_mode=true", "ceil mode, padding excluded"),
    (
        "avg_pool2d:1x4x6x6:4x4:stride=5:padding=0,0,1,1:ceil_mode=true:count_include_pad=true",
        "ceil mode reads beyond the padding, which does not count",
    ),
    ("avg_pool2d:1x4x7x7:2x2:stride=2:padding=1:dilation=2", "dilated"),
    ("avg_pool2d:1x4x5x6:2x3:stride=2:padding=same_upper", "SAME_UPPER, even and odd kernels"),
    ("avg_pool1d:1x8x21:3:stride=2:padding=1,0", "asymmetric padding"),
    ("avg_pool3d:1x4x6x7x7:2x3x3:stride=2,1,1:padding=0,1,1", "I3D-like"),
)

BAD_CASES = (
    ("avg_pool2d:1x8x9x9:3x3:padding=0,0,3,0", "padding must be less than the window's extent 3"),
    ("avg_pool2d:1x8x9x9", "filter sizes are missing"),
    ("avg_pool2d:1x8x9x9:2x2:bias=true", "option 'bias' is unknown"),
    (
        "avg_pool1d:1x1x1:2:dilation=4:padding=2",
        "leaves a window on spatial axis 0 with padding alone",
    ),
)

shared.register_family(
    "avg_pool",
    "average pooling",
    FAMILY,
    ranks=(1, 2, 3),
    onnx={"AveragePool": import_average_pool},
    cases=CASES,
    bad_cases=BAD_CASES,
    compute=compute,
    pack=pack,
    planes=True,
)
