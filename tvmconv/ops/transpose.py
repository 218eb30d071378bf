"""Permutation of axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tvmconv.errors import InputError
from tvmconv.kernel import KernelSpec
from tvmconv.ops import BadCase, Case, Operator, expressions, register
from tvmconv.ops._shapes import Shape, expect_inputs, integers

if TYPE_CHECKING:
    from tvmconv.frontend.node import Builder, OnnxNode
    from tvmconv.graph.ir import Value

Array = npt.NDArray[Any]
Attrs = Mapping[str, Any]


def output_shape(shapes: Sequence[Shape], attrs: Attrs) -> Shape:
    """Return the shape whose axis i is the input's axis ``perm[i]``."""
    expect_inputs(shapes, 1)
    perm = integers(attrs, "perm")
    if sorted(perm) != list(range(len(shapes[0]))):
        raise InputError(
            f"attribute 'perm' {perm} is no permutation of the {len(shapes[0])} axes of the input"
        )
    return tuple(shapes[0][axis] for axis in perm)


def reference(arrays: Sequence[Array], attrs: Attrs) -> Array:
    """Permute the axes (a view)."""
    return np.transpose(arrays[0], attrs["perm"])


def compute(spec: KernelSpec) -> list[Any]:
    """Read axis ``perm[k]`` of the input at index k."""
    perm = spec.attrs["perm"]
    return expressions.plain_map(
        spec, lambda at, index: at([index[perm.index(axis)] for axis in range(len(perm))])
    )


def _import(node: OnnxNode, builder: Builder) -> Value:
    x = node.input(0)
    perm = node.ints_attr("perm", list(reversed(range(len(x.shape)))))
    return builder.emit("transpose", [x], {"perm": perm})


OPERATOR = register(
    Operator(
        name="transpose",
        summary="axes in another order",
        output_shape=output_shape,
        any_dtype=True,
        reference=reference,
        onnx={"Transpose": _import},
        cases=(
            Case("NCHW to NHWC", shapes=((2, 5, 4, 3),), attrs={"perm": [0, 2, 3, 1]}),
            Case("NHWC to NCHW", shapes=((1, 4, 3, 13),), attrs={"perm": [0, 3, 1, 2]}),
            Case("a matrix", shapes=((7, 3),), attrs={"perm": [1, 0]}),
            Case("five axes", shapes=((1, 4, 28, 7, 7),), attrs={"perm": [0, 2, 1, 3, 4]}),
        ),
        bad_cases=(
            BadCase("'perm' [0, 0] is no permutation", shapes=((2, 3),), attrs={"perm": [0, 0]}),
            BadCase("'perm' [1, 0] is no", shapes=((2, 3, 4),), attrs={"perm": [1, 0]}),
            BadCase("'perm' must be a list of integers, is None", shapes=((2, 3),)),
        ),
        compute=compute,
    )
)
