"""Maximum pooling: ``y[n,c,o] = max over k of x[n,c,o*stride-low+k*dilation]`` without padding."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from tvmconv.ops import Array, Family, Float64, importing, windows
from tvmconv.ops import family as shared
from tvmconv.ops import options as opt
from tvmconv.problem import Problem

if TYPE_CHECKING:
    from tvmconv.frontend.node import Builder, OnnxNode
    from tvmconv.graph.ir import Value


def validate(problem: Problem) -> None:
    """Refuse padding as long as the window, and windows that see nothing but padding."""
    for axis, span in enumerate(problem.kernel_extent):
        low, high = problem.pads_low[axis], problem.pads_high[axis]
        if max(low, high) >= span:
            problem.fail("padding", f"must be less than the window's extent {span} on axis {axis},"
                         f" got {max(low, high)}")  # fmt: skip
        along = (problem.in_spatial[axis], problem.stride[axis], problem.dilation[axis])
        count = problem.out_spatial[axis]
        if not problem.count_include_pad and windows.has_empty_window(*along, low, count):
            problem.fail("dilation", f"leaves a window on axis {axis} with padding alone")


def reference(problem: Problem, arrays: Mapping[str, Array]) -> Float64:
    """Maximum over each window; padding is minus infinity."""
    x = shared.padded(problem, np.asarray(arrays["x"]), -np.inf)
    axes = tuple(range(-problem.rank, 0))
    return np.asarray(shared.window_view(problem, x).max(axis=axes))


def import_max_pool(node: OnnxNode, builder: Builder) -> Value:
    """ONNX ``MaxPool`` without its second output."""
    node.allow_attrs(
        "auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "storage_order", "strides"
    )
    if len(node.outputs) > 1 and node.outputs[1]:
        node.fail("the output 'Indices' is not supported")
    rank = importing.spatial_rank(node)
    options = importing.window_options(node, rank)
    options["ceil_mode"] = importing.flag_attr(node, "ceil_mode")
    kernel = importing.kernel_shape(node, rank)
    return importing.emit(node, builder, "max_pool", [node.input(0)], kernel, options)


FAMILY = Family(
    filter_form=("K",),
    options=(opt.STRIDE, opt.PADDING, opt.DILATION, opt.CEIL_MODE, opt.DTYPE),
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
    ("max_pool3d:1x8x8x12x12:1x2x2:stride=1,2,2", "C3D pool1"),
)

BAD_CASES = (
    ("max_pool2d:1x8x9x9:2x2:padding=2", "padding must be less than the window's extent 2"),
    ("max_pool2d:1x8x9x9:2x2:groups=2", "option 'groups' is unknown"),
    ("max_pool2d:1x8x9x9:8x2x2", "filter must have 2 sizes (KxK), got 3"),
    ("max_pool2d:1x8x1x1:2x2", "the output would have size 0"),
    ("max_pool1d:1x1x1:2:dilation=4:padding=2", "leaves a window on axis 0 with padding alone"),
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
)
