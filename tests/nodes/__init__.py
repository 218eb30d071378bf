"""Random ONNX models of one node: every operator that is imported, with random attributes.

They lean towards what goes wrong: asymmetric and automatic padding, strides longer than the kernel,
dilation, one-pixel maps, axes of length 1, broadcasting, channels that no vector width divides.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from tests.nodes import maps, tensors
from tests.nodes.draw import Draw, Node

__all__ = ["FAMILY", "MAKERS", "Node", "random_node"]


def _each(maker: Callable[[str, Draw], Node], names: str) -> dict[str, Callable[[Draw], Node]]:
    return {name: partial(maker, name) for name in names.split()}


#: By operator.
MAKERS: dict[str, Callable[[Draw], Node]] = {
    "Conv": maps.conv,
    "ConvTranspose": maps.conv_transpose,
    **_each(maps.pool, "MaxPool AveragePool LpPool"),
    **_each(maps.global_pool, "GlobalAveragePool GlobalMaxPool GlobalLpPool"),
    "MaxUnpool": maps.max_unpool,
    "Pad": maps.pad,
    "Resize": maps.resize,
    **_each(maps.normalisation, "BatchNormalization InstanceNormalization GroupNormalization LRN"),
    **_each(maps.normalisation, "LayerNormalization RMSNormalization"),
    **_each(maps.blocks_of_depth, "DepthToSpace SpaceToDepth"),
    "Gemm": tensors.gemm,
    "MatMul": tensors.matmul,
    **_each(
        tensors.unary, "Relu LeakyRelu Elu Selu Celu Sigmoid HardSigmoid HardSwish Swish Mish Gelu"
    ),
    **_each(
        tensors.unary, "ThresholdedRelu Softplus Softsign Tanh Shrink Identity Abs Neg Exp Log Sqrt"
    ),
    **_each(
        tensors.unary, "Reciprocal Erf Floor Ceil Round Sign Sin Cos Tan Asin Acos Atan Sinh Cosh"
    ),
    **_each(tensors.unary, "Asinh Acosh Atanh IsInf IsNaN"),
    **_each(
        tensors.binary, "Add Sub Mul Div Mod Pow Less LessOrEqual Greater GreaterOrEqual Equal"
    ),
    **_each(tensors.binary, "And Or Xor"),
    **_each(tensors.several, "Sum Mean Max Min"),
    "PRelu": tensors.prelu,
    "Clip": tensors.clip,
    "Where": tensors.where,
    "Not": tensors.not_,
    **_each(
        tensors.reduction, "ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2"
    ),
    **_each(tensors.reduction, "ReduceLogSum ReduceLogSumExp ReduceSumSquare"),
    **_each(tensors.arg, "ArgMax ArgMin"),
    **_each(tensors.along_axis, "Softmax LogSoftmax LpNormalization"),
    "Concat": tensors.concat,
    "Split": tensors.split,
    "Transpose": tensors.transpose,
    "Slice": tensors.slice_,
    "Reshape": tensors.reshape,
    "Flatten": tensors.flatten,
    "Squeeze": tensors.squeeze,
    "Unsqueeze": tensors.unsqueeze,
    "Tile": tensors.tile,
    "Expand": tensors.expand,
}

#: The family of convolutions, and what lies around it: half of what is drawn.
FAMILY = (
    "Conv", "Conv", "ConvTranspose", "ConvTranspose", "MaxPool", "AveragePool", "LpPool",
    "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "MaxUnpool", "Pad", "Resize", "Gemm",
)  # fmt: skip


def random_node(seed: int) -> Node:
    """A node, the same for the same seed."""
    draw = Draw(np.random.default_rng([4, seed]))
    return MAKERS[draw.pick(FAMILY if draw.flag() else tuple(MAKERS))](draw)
