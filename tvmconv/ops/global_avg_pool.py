"""Global average pooling: the mean over all spatial axes, each of which becomes 1."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tvmconv.kernel import KIND, KernelSpec
from tvmconv.ops import Array, Family, Float64, expressions, importing, rows
from tvmconv.ops import family as shared
from tvmconv.ops import options as opt
from tvmconv.problem import Problem

if TYPE_CHECKING:
    from tvmconv.frontend.node import Builder, OnnxNode
    from tvmconv.graph.ir import Value


def reference(problem: Problem, arrays: Mapping[str, Array]) -> Float64:
    """Mean over the spatial axes."""
    x = arrays["x"]
    return np.asarray(x.mean(axis=tuple(range(2, x.ndim)), dtype=np.float64, keepdims=True))


def whole_map(spec: KernelSpec, reduce: Callable[..., Any]) -> tuple[Any, Any]:
    """The input, and its reduction (``te.sum``, ``te.max``) over the whole map ``rk0`` …."""
    from tvmconv._tvm import te

    x_layout = spec.inputs[0]
    x = expressions.placeholder(x_layout, "x")
    taps = expressions.tap_axes(Problem.parse(spec.attrs["problem"]))

    def body(*index: Any) -> Any:
        n, slot, lane = index[0], index[1], index[-1]
        return reduce(x_layout.at_slot(x, n, slot, taps, (lane,)), axis=taps)

    shape = spec.output.iteration_shape
    return x, te.compute(shape, body, name="pool", attrs={KIND: "window"})


def compute(spec: KernelSpec) -> list[Any]:
    """The sum over the map, times the reciprocal of its size."""
    from tvmconv._tvm import te, tirx

    planes = spec.output.block == 1
    x, total = rows.whole_plane(spec, te.sum, 0.0) if planes else whole_map(spec, te.sum)
    factor = tirx.const(1.0 / prod(spec.inputs[0].shape[2:]), "float32")
    operands, output = expressions.finish(spec, lambda *index: total(*index) * factor)
    return [x, *operands, output]


def import_global_average_pool(node: OnnxNode, builder: Builder) -> Value:
    """ONNX ``GlobalAveragePool``."""
    node.allow_attrs()
    importing.spatial_rank(node)
    return importing.emit(node, builder, "global_avg_pool", [node.input(0)])


FAMILY = Family(
    filter_form=(),
    options=(opt.DTYPE,),
    validate=lambda problem: None,
    inputs=lambda problem: {"x": problem.input_shape},
    out_spatial=lambda problem: (1,) * problem.rank,
    taps=lambda problem: prod(problem.in_spatial),
    reference=reference,
    arithmetic="mean",
    windows=False,
)

CASES = (
    ("global_avg_pool2d:1x512x7x7", "ResNet-18 pool5"),
    ("global_avg_pool2d:1x1000x13x13", "SqueezeNet pool10"),
    ("global_avg_pool2d:2x17x5x3", "prime sizes, batch 2"),
    ("global_avg_pool2d:1x3x1x1", "one-pixel map: the identity"),
    ("global_avg_pool1d:1x64x101", "1-D"),
    ("global_avg_pool3d:1x32x2x4x4", "R3D-18 pool"),
)

BAD_CASES = (
    ("global_avg_pool2d:1x512x7x7:7x7", "'7x7' is not an option=value"),
    ("global_avg_pool2d:1x512x7x7:stride=2", "option 'stride' is unknown"),
    ("global_avg_pool2d:1x512x7", "input must have 4 sizes, got 3"),
)

shared.register_family(
    "global_avg_pool",
    "mean over all spatial axes",
    FAMILY,
    ranks=(1, 2, 3),
    onnx={"GlobalAveragePool": import_global_average_pool},
    cases=CASES,
    bad_cases=BAD_CASES,
    compute=compute,
    planes=True,
)
