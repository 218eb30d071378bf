"""Channel shuffle: mixes the channels of the groups of a grouped convolution.

References
----------
Zhang et al., ShuffleNet, CVPR 2018, section 3.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tvmconv.errors import InputError
from tvmconv.kernel import KernelSpec
from tvmconv.ops import BadCase, Case, Operator, expressions, register
from tvmconv.ops._shapes import Shape, expect_inputs, integer, text

Array = npt.NDArray[Any]
Attrs = Mapping[str, Any]


def output_shape(shapes: Sequence[Shape], attrs: Attrs) -> Shape:
    """Return the input's shape; ``groups`` must divide the channels (axis 1)."""
    expect_inputs(shapes, 1)
    groups = integer(attrs, "groups")
    if len(shapes[0]) < 2:
        raise InputError(f"needs a channel axis, has shape {text(shapes[0])}")
    if groups < 1 or shapes[0][1] % groups:
        raise InputError(f"attribute 'groups' {groups} does not divide {shapes[0][1]} channels")
    return shapes[0]


def reference(arrays: Sequence[Array], attrs: Attrs) -> Array:
    """Return ``y[:, k·groups + j] = x[:, j·(C/groups) + k]``."""
    x, groups = arrays[0], attrs["groups"]
    n, channels, *rest = x.shape
    return np.reshape(
        np.swapaxes(np.reshape(x, (n, groups, channels // groups, *rest)), 1, 2), x.shape
    )


def compute(spec: KernelSpec) -> list[Any]:
    """Read channel ``c % groups * (C / groups) + c // groups`` for each channel c."""
    from tvmconv._tvm import te

    layout, out = spec.inputs[0], spec.output
    x = expressions.placeholder(layout, "x")
    groups, channels = spec.attrs["groups"], layout.shape[1]

    def body(*index: Any) -> Any:
        n, slot, *position, lane = index
        # Lanes past the last channel read that one: their results are never read.
        channel = te.min(slot * out.block + lane, channels - 1)
        source = channel % groups * (channels // groups) + channel // groups
        return layout.at(x, n, source, position)

    return [x, expressions.elements(out.iteration_shape, body)]


OPERATOR = register(
    Operator(
        name="channel_shuffle",
        summary="y[:, k·groups + j] = x[:, j·(C/groups) + k]",
        output_shape=output_shape,
        reference=reference,
        any_dtype=True,
        cases=(
            Case("shufflenet stage 2", shapes=((1, 112, 28, 28),), attrs={"groups": 4}),
            Case("groups of odd size", shapes=((2, 15, 3, 3),), attrs={"groups": 3}),
            Case("one channel a group: nothing moves", shapes=((1, 5, 2, 2),), attrs={"groups": 5}),
        ),
        bad_cases=(
            BadCase("'groups' 3 does not divide 8", shapes=((1, 8, 2, 2),), attrs={"groups": 3}),
            BadCase("'groups' 0 does not divide 8", shapes=((1, 8, 2, 2),), attrs={"groups": 0}),
            BadCase("needs a channel axis", shapes=((8,),), attrs={"groups": 2}),
        ),
        compute=compute,
        layout="blocked",
    )
)
