"""Maximum pooling: ``y[n,c,o] = max over k of x[n,c,o*stride-low+k*dilation]`` without padding."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tvmconv import te_math
from tvmconv.kernel import KIND, KernelSpec
from tvmconv.ops import Array, Family, Float64, expressions, importing, rows, windows
from tvmconv.ops import family as shared
from tvmconv.ops import options as opt
from tvmconv.problem import Problem

if TYPE_CHECKING:
    from tvmconv.frontend.node import Builder, OnnxNode
    from tvmconv.graph.ir import Value


#: Element types of which maxima are taken.
DTYPES = (*opt.SUPPORTED_DTYPES, *opt.BYTE_DTYPES)


def validate(problem: Problem) -> None:
    """Refuse padding as long as the window, and windows that see nothing but padding."""
    for axis, span in enumerate(problem.kernel_extent):
        low, high = problem.pads_low[axis], problem.pads_high[axis]
        if max(low, high) >= span:
            problem.fail("padding", f"must be less than the window's extent {span} on spatial axis"
                         f" {axis}, got {max(low, high)}")  # fmt: skip
        along = (problem.in_spatial[axis], problem.stride[axis], problem.dilation[axis])
        count = problem.out_spatial[axis]
        if not problem.count_include_pad and windows.has_empty_window(*along, low, count):
            problem.fail("dilation", f"leaves a window on spatial axis {axis} with padding alone")


def reference(problem: Problem, arrays: Mapping[str, Array]) -> Float64:
    """Maximum over each window; padding is minus infinity."""
    x = shared.padded(problem, np.asarray(arrays["x"]), -np.inf)
    axes = tuple(range(-problem.rank, 0))
    return np.asarray(shared.window_view(problem, x).max(axis=axes))


def compute(spec: KernelSpec) -> list[Any]:
    """The maximum over the taps ``rk0`` …, channel by channel.

    With ``edges: "test"`` in the attributes the padding is not read; otherwise the halo must hold
    nothing larger than the results, such as zeros where no input is negative.
    """
    from tvmconv._tvm import te

    p = Problem.parse(spec.attrs["problem"])
    x_layout, out = spec.inputs[0], spec.output
    if out.block == 1:
        # The nearest row inside belongs to the window too, unless the window skips it.
        nearest = set(p.dilation[:-1]) <= {1}
        x, pool = rows.pooled(spec, te.max, _least(p), nearest)
        operands, output = expressions.finish(spec, lambda *index: pool(*index))
        return [x, *operands, output]
    x = expressions.placeholder(x_layout, "x")
    taps = expressions.tap_axes(p)
    tested = spec.attrs.get("edges") == "test"

    def body(*index: Any) -> Any:
        n, slot, *position, lane = index
        place = expressions.window(p, position, taps)
        if tested:
            element = _inside(p, place, lambda near: x_layout.at_slot(x, n, slot, near, (lane,)))
        else:
            element = x_layout.at_slot(x, n, slot, place, (lane,))
        return te.max(element, axis=taps)

    pool = te.compute(out.iteration_shape, body, name="pool", attrs={KIND: "window"})
    operands, output = expressions.finish(spec, lambda *index: pool(*index))
    return [x, *operands, output]


def _inside(problem: Problem, place: list[Any], at: Callable[[list[Any]], Any]) -> Any:
    """An element of the input, or what changes no maximum where the place is in the padding."""
    from tvmconv._tvm import te, tirx

    sizes = problem.in_spatial
    near = [te.max(te.min(q, size - 1), 0) for q, size in zip(place, sizes, strict=True)]
    element = at(near)
    if set(problem.dilation) == {1}:
        return element  # the nearest element inside belongs to the window too
    ends = [c for q, size in zip(place, sizes, strict=True) for c in (q >= 0, q < size)]
    return tirx.if_then_else(tirx.all(*ends), element, _least(problem))


def _least(problem: Problem) -> Any:
    """What is no more than anything."""
    from tvmconv._tvm import te

    bytes_ = problem.dtype in opt.BYTE_DTYPES
    return te.min_value(problem.dtype) if bytes_ else te_math.number(-math.inf)


def import_max_pool(node: OnnxNode, builder: Builder) -> Value | list[Value]:
    """ONNX ``MaxPool``; where its second output is used, a kernel of its own finds the places."""
    node.allow_attrs(
        "auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "storage_order", "strides"
    )
    rank = importing.spatial_rank(node)
    options = importing.window_options(node, rank)
    options["ceil_mode"] = importing.flag_attr(node, "ceil_mode")
    kernel = importing.kernel_shape(node, rank)
    x = node.input(0)
    y = importing.emit(node, builder, "max_pool", [x], kernel, options)
    if len(node.outputs) < 2 or not node.outputs[1]:
        return y
    attrs = {
        "problem": builder.nodes[-1].attrs["problem"],
        "storage_order": int(importing.flag_attr(node, "storage_order")),
        "edges": "test",  # it reads no padding
    }
    return [y, builder.emit("max_pool_indices", [x, y], attrs)]


FAMILY = Family(
    filter_form=("K",),
    options=(opt.STRIDE, opt.PADDING, opt.DILATION, opt.CEIL_MODE, opt.dtype_of(DTYPES)),
    validate=validate,
    inputs=lambda problem: {"x": problem.input_shape},
    out_spatial=shared.out_spatial,
    taps=lambda problem: prod(problem.kernel),
    reference=reference,
    arithmetic="maximum",
)

CASES = (
    ("max_pool2d:1x64x112x112:3x3:stride=2:padding=1", "ResNet-50 pool1"),
    ("max_pool2d:1x96x54x54:3x3:stride=2", "AlexNet pool1"),
    ("max_pool2d:1x64x112x112:2x2:stride=2", "VGG-19 pool2"),
    ("max_pool2d:1x192x28x28:3x3:padding=1", "Inception v1 inception_3a/pool"),
    ("max_pool2d:1x64x111x111:3x3:stride=2:ceil_mode=true", "SqueezeNet pool1 of Caffe"),
    ("max_pool2d:1x8x7x7:2x2:stride=2:padding=1:ceil_mode=true", "ceil mode, last window dropped"),
    ("max_pool2d:1x16x10x10:2x2:stride=2:dilation=2", "dilated"),
    ("max_pool2d:1x4x6x6:3x3:stride=2:padding=same_lower", "SAME_LOWER"),
    ("max_pool2d:1x4x9x9:1x1:stride=3", "stride longer than the window"),
    ("max_pool2d:1x3x1x1:3x3:padding=1", "one-pixel map"),
    ("max_pool1d:1x32x1000:4:stride=4", "M5 audio network"),
    ("max_pool1d:1x4x2:3:stride=2:ceil_mode=true", "one window, larger than the input"),
    ("max_pool2d:1x24x9x9:3x3:stride=2:padding=1:dtype=uint8", "of quantised numbers"),
    ("max_pool2d:1x17x8x9:2x3:padding=0,1:dtype=int8", "of signed ones"),
    ("max_pool3d:1x8x8x12x12:1x2x2:stride=1,2,2", "C3D pool1"),
    ("max_pool2d:1x64x28x28:3x3:stride=2:padding=1:dtype=int8", "a quantised ResNet's pool1"),
    ("max_pool2d:1x19x9x8:3x2:padding=1,0:dilation=2,1:dtype=uint8", "unsigned, dilated"),
)

BAD_CASES = (
    ("max_pool2d:1x8x9x9:2x2:padding=2", "padding must be less than the window's extent 2"),
    ("max_pool2d:1x8x9x9:2x2:groups=2", "option 'groups' is unknown"),
    ("max_pool2d:1x8x9x9:8x2x2", "filter must have 2 sizes (KxK), got 3"),
    ("max_pool2d:1x8x1x1:2x2", "the output would have size 0"),
    (
        "max_pool1d:1x1x1:2:dilation=4:padding=2",
        "leaves a window on spatial axis 0 with padding alone",
    ),
    ("max_pool2d:1x8x9x9:2x2:ceil_mode=2", "ceil_mode must be true or false, got '2'"),
    ("max_pool1d:1x1x4:3:stride=2:padding=valid:ceil_mode=true", "ceil_mode is ambiguous in ONNX"),
)

shared.register_family(
    "max_pool",
    "maximum pooling",
    FAMILY,
    ranks=(1, 2, 3),
    onnx={"MaxPool": import_max_pool},
    cases=CASES,
    bad_cases=BAD_CASES,
    compute=compute,
    planes=True,
)
