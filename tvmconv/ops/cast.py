"""A conversion between the types of floats: float32, float16 and bfloat16.

What is stored in fewer bits is rounded to the nearest number, the even one of two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tvmconv.errors import InputError
from tvmconv.kernel import KernelSpec
from tvmconv.layout import HALVES
from tvmconv.ops import BadCase, Case, Operator, expressions, register
from tvmconv.ops._shapes import Shape, expect_inputs

Array = npt.NDArray[Any]
Attrs = Mapping[str, Any]

FLOATS = ("float32", *HALVES)


def output_shape(shapes: Sequence[Shape], attrs: Attrs) -> Shape:
    """Return the shape of the input."""
    expect_inputs(shapes, 1)
    return shapes[0]


def output_dtype(dtypes: Sequence[str], attrs: Attrs) -> str:
    """Return the type that is asked for; refuse what is no conversion of floats."""
    for dtype in (attrs.get("to"), *dtypes):
        if dtype not in FLOATS:
            raise InputError(f"casts between {', '.join(FLOATS)}, not {dtype}")
    return str(attrs["to"])


def reference(arrays: Sequence[Array], attrs: Attrs) -> Array:
    """Round to the type; a wider array stays one."""
    x = np.asarray(arrays[0])
    if attrs["to"] not in HALVES:
        return x if x.dtype == np.float64 else x.astype(np.float32)
    rounded = x.astype(attrs["to"])
    return rounded.astype(np.float64) if x.dtype == np.float64 else rounded


def compute(spec: KernelSpec) -> list[Any]:
    """The elements as they are: loads and stores convert."""
    x_layout, out = spec.inputs[0], spec.output
    x = expressions.placeholder(x_layout, "x")

    def body(*index: Any) -> Any:
        return expressions.operand_at(x, x_layout, out, index)

    return [x, expressions.elements(out.iteration_shape, body)]


_CASTS = (("float32", "float16"), ("float32", "bfloat16"), ("float16", "float32"),
          ("bfloat16", "float32"), ("float16", "bfloat16"), ("bfloat16", "float16"))  # fmt: skip

OPERATOR = register(
    Operator(
        name="cast",
        summary="floats in another type of floats",
        output_shape=output_shape,
        reference=reference,
        output_dtype=output_dtype,
        cases=tuple(
            Case(f"{given} to {to}", shapes=((2, 13, 5, 3),), attrs={"to": to}, dtypes=(given,))
            for given, to in _CASTS
        ),
        bad_cases=(BadCase("has 2", shapes=((1, 3), (1, 3)), attrs={"to": "float16"}),),
        compute=compute,
        layout="same",
    )
)
