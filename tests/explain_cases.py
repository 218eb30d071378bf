"""What tests of explanations share: a transposed convolution, whether or not it is registered."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pytest

from tvmconv import ops
from tvmconv.ops import Array, Family, Float64, Operator, Shape, conv
from tvmconv.ops import options as opt
from tvmconv.problem import Problem

OUTPUT_PADDING = opt.per_axis("output_padding", default=0, smallest=0)


def _out_spatial(problem: Problem) -> Shape:
    extra = problem.option("output_padding")
    return tuple(
        (problem.in_spatial[k] - 1) * problem.stride[k]
        + problem.kernel_extent[k]
        + extra[k]
        - problem.pads_low[k]
        - problem.pads_high[k]
        for k in range(problem.rank)
    )


def _inputs(problem: Problem) -> dict[str, Shape]:
    weight = (problem.ci, problem.co // problem.groups, *problem.kernel)
    return {"x": problem.input_shape, "weight": weight}


def _reference(problem: Problem, arrays: Mapping[str, Array]) -> Float64:
    """Each input times each tap, added where it belongs."""
    x, weight = arrays["x"], arrays["weight"]
    y = np.zeros(problem.output_shape)
    per = problem.ci // problem.groups, problem.co // problem.groups
    places = itertools.product(*map(range, problem.in_spatial))
    for place, tap in itertools.product(places, itertools.product(*map(range, problem.kernel))):
        columns = zip(place, tap, problem.stride, problem.dilation, problem.pads_low, strict=True)
        at = tuple(i * s + k * d - low for i, k, s, d, low in columns)
        if all(0 <= o < size for o, size in zip(at, problem.out_spatial, strict=True)):
            for ci, co in itertools.product(range(problem.ci), range(per[1])):
                channel = ci // per[0] * per[1] + co
                y[(slice(None), channel, *at)] += (
                    x[(slice(None), ci, *place)] * weight[(ci, co, *tap)]
                )
    return y


STAND_IN = Operator(
    name="conv_transpose",
    summary="a stand-in for tests",
    output_shape=lambda shapes, attrs: (),
    reference=lambda arrays, attrs: arrays[0],
    ranks=(1, 2, 3),
    family=Family(
        filter_form=("CO", "K"),
        options=(opt.STRIDE, opt.PADDING, OUTPUT_PADDING, opt.DILATION, opt.GROUPS, opt.DTYPE),
        validate=lambda problem: None,
        inputs=_inputs,
        out_spatial=_out_spatial,
        taps=conv.taps,
        reference=_reference,
    ),
)


@pytest.fixture
def transposed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator conv_transpose: the registered one, or a stand-in."""
    if "conv_transpose" not in ops.operators():
        monkeypatch.setitem(ops._OPERATORS, "conv_transpose", STAND_IN)
