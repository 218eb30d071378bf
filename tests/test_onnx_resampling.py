"""The cases of ONNX's own suite for resizing, pooling, unpooling and padding, compiled and run."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

import tvmconv

_FAMILIES = re.compile(
    "test_(resize|upsample|maxpool|averagepool|lppool|maxunpool|global"
    "|constant_pad|edge_pad|reflect_pad|wrap_pad)"
)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # casts of the suite's other cases overflow
    CASES = {
        case.name: case for case in load_model_tests(kind="node") if _FAMILIES.match(case.name)
    }
#: Inputs that decide on shapes: they are made constants, which these operators ask for.
_CONSTANT = frozenset({"scales", "sizes", "roi", "pads", "value", "axes", "output_shape"})


def frozen(model: onnx.ModelProto, inputs: list[Any]) -> tuple[onnx.ModelProto, list[Any]]:
    """The model with the inputs that decide on shapes as initialisers, and its other inputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kept, data = [], []
    for item, array in zip(model.graph.input, inputs, strict=True):
        if item.name in _CONSTANT:
            copy.graph.initializer.append(numpy_helper.from_array(array, item.name))
        else:
            kept.append(item)
            data.append(array)
    del copy.graph.input[:]
    copy.graph.input.extend(kept)
    return copy, data


def test_there_are_cases_of_every_family() -> None:
    assert len(CASES) >= 90


@pytest.mark.parametrize("name", CASES)
def test_case(name: str) -> None:
    case = CASES[name]
    for inputs, expected in case.data_sets:
        model, data = frozen(case.model, list(inputs))
        module = tvmconv.compile(model, threads=1, tuned=False)
        names = [item.name for item in model.graph.input]
        found = module(dict(zip(names, data, strict=True)))
        assert len(found) == len(expected)
        for got, wanted in zip(found, expected, strict=True):
            assert got.dtype == wanted.dtype
            assert got.shape == wanted.shape
            np.testing.assert_allclose(got, wanted, rtol=case.rtol, atol=case.atol)
