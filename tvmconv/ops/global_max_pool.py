"""Global maximum pooling: the maximum over all spatial axes, each of which becomes 1."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tvmconv import te_math
from tvmconv.kernel import KernelSpec
from tvmconv.ops import Array, Float64, expressions, global_avg_pool, importing, rows
from tvmconv.ops import family as shared
from tvmconv.problem import Problem

if TYPE_CHECKING:
    from tvmconv.frontend.node import Builder, OnnxNode
    from tvmconv.graph.ir import Value


def reference(problem: Problem, arrays: Mapping[str, Array]) -> Float64:
    """Maximum over the spatial axes."""
    x = np.asarray(arrays["x"], np.float64)
    return np.asarray(x.max(axis=tuple(range(2, x.ndim)), keepdims=True))


def compute(spec: KernelSpec) -> list[Any]:
    """The maximum over the map."""
    from tvmconv._tvm import te

    if spec.output.block == 1:
        x, largest = rows.whole_plane(spec, te.max, te_math.number(-math.inf))
    else:
        x, largest = global_avg_pool.whole_map(spec, te.max)
    operands, output = expressions.finish(spec, lambda *index: largest(*index))
    return [x, *operands, output]


def import_global_max_pool(node: OnnxNode, builder: Builder) -> Value:
    """ONNX ``GlobalMaxPool``."""
    node.allow_attrs()
    importing.spatial_rank(node)
    return importing.emit(node, builder, "global_max_pool", [node.input(0)])


FAMILY = replace(global_avg_pool.FAMILY, reference=reference, arithmetic="maximum")

CASES = (
    ("global_max_pool2d:1x512x7x7", "retrieval networks (MAC pooling)"),
    ("global_max_pool2d:3x5x1x7", "one row"),
    ("global_max_pool1d:1x128x50", "text CNN"),
    ("global_max_pool3d:1x8x3x5x2", "3-D"),
)

BAD_CASES = (
    ("global_max_pool2d:1x512x7x7:padding=1", "option 'padding' is unknown"),
    ("global_max_pool4d:1x2x3x4x5x6", "unknown operator 'global_max_pool4d'; did you mean"),
)

shared.register_family(
    "global_max_pool",
    "maximum over all spatial axes",
    FAMILY,
    ranks=(1, 2, 3),
    onnx={"GlobalMaxPool": import_global_max_pool},
    cases=CASES,
    bad_cases=BAD_CASES,
    compute=compute,
    planes=True,
)
