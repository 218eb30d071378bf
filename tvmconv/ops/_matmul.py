"""Products of matrices that are both known only at run time, as pointwise convolutions.

``A·B`` with A of shape (M, K) and B of shape (K, N) is the 1×1 convolution of B, a row of N pixels
with K channels, by the weight A: the result has M channels. Of a batch of such products every one
is a group, or an image if all have the same A.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tvmconv.errors import InputError
from tvmconv.ops import importing
from tvmconv.ops._shapes import Shape, broadcast, size
from tvmconv.ops.expand import expanded

if TYPE_CHECKING:
    from tvmconv.frontend.node import Builder, OnnxNode
    from tvmconv.graph.ir import Value


def product(node: OnnxNode, builder: Builder, a: Value, b: Value) -> Value:
    """Emit NumPy's ``a @ b`` for any numbers of axes.

    Raises
    ------
    InputError
        If the shapes do not fit.
    """
    if not a.shape or not b.shape:
        node.fail("takes no scalars")
    left = a.shape if len(a.shape) > 1 else (1, *a.shape)
    right = b.shape if len(b.shape) > 1 else (*b.shape, 1)
    if left[-1] != right[-2]:
        node.fail(f"the left side has {left[-1]} columns, the right {right[-2]} rows")
    try:
        batch = broadcast(left[:-2], right[:-2])
    except InputError as error:
        node.fail(str(error))
    rows = [left[-2]] if len(a.shape) > 1 else []
    columns = [right[-1]] if len(b.shape) > 1 else []
    y = _batched(node, builder, _shaped(builder, a, left), _shaped(builder, b, right), batch)
    return _shaped(builder, y, (*batch, *rows, *columns))


def _batched(node: OnnxNode, builder: Builder, a: Value, b: Value, batch: Shape) -> Value:
    """The products of matrices; the result has the right order, and some shape."""
    (m, k), n, count = a.shape[-2:], b.shape[-1], size(batch)
    if size(b.shape[:-2]) == 1:  # the same right side: more rows
        return _pointwise(node, builder, b, _shaped(builder, a, (size(a.shape[:-1]), k)), 1, 1)
    if size(a.shape[:-2]) == 1:
        b = expanded(builder, b, (*batch, k, n))
        return _pointwise(node, builder, b, _shaped(builder, a, (m, k)), count, 1)
    a = expanded(builder, a, (*batch, m, k))
    b = expanded(builder, b, (*batch, k, n))
    return _pointwise(node, builder, b, _shaped(builder, a, (count * m, k)), 1, count)


def _pointwise(
    node: OnnxNode, builder: Builder, x: Value, weight: Value, images: int, groups: int
) -> Value:
    """The 1×1 convolution of some images, or of one in groups."""
    k, n = x.shape[-2:]
    x = _shaped(builder, x, (images, groups * k, n))
    weight = _shaped(builder, weight, (*weight.shape, 1))
    options: dict[str, object] = {"groups": groups}
    return importing.emit(node, builder, "conv", [x, weight], (weight.shape[0], 1), options)


def _shaped(builder: Builder, value: Value, shape: Sequence[int]) -> Value:
    if tuple(shape) == value.shape:
        return value
    return builder.emit("reshape", [value], {"shape": list(shape)})
