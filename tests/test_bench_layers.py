"""The table of real layers is what it says: valid, without repeats, and as often in its network."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import onnx
import pytest

from tests.layers import LAYERS, SIX, Layer
from tvmconv.problem import Problem

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
IN_LIGHT = [layer for layer in LAYERS if (LIGHT / f"light_{layer.network}.onnx").exists()]
Key = tuple[object, ...]


def test_rows_are_canonical_problems_and_differ() -> None:
    texts = [layer.problem for layer in LAYERS]
    assert [Problem.parse(text).text for text in texts] == texts
    assert len(set(texts)) == len(texts)
    assert len({layer.origin for layer in LAYERS}) == len(LAYERS)
    assert len(LAYERS) >= 31
    assert LAYERS[:6] == SIX


@cache
def layers_of(network: str) -> Counter[Key]:
    model = onnx.shape_inference.infer_shapes(onnx.load(LIGHT / f"light_{network}.onnx"))
    shapes = {
        value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        for value in [*model.graph.value_info, *model.graph.input]
    }
    shapes.update({tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer})
    found: Counter[Key] = Counter()
    for node in model.graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type in ("Conv", "Gemm"):
            weight = shapes[node.input[1]]
        elif node.op_type.endswith("Pool"):
            weight = tuple(attributes.get("kernel_shape", ()))
        else:
            continue
        strides = tuple(attributes.get("strides", ()))
        pads = tuple(attributes.get("pads", (0, 0, 0, 0) if strides else ()))
        found[(shapes[node.input[0]], weight, strides, pads, attributes.get("group", 1))] += 1
    return found


def key_of(problem: Problem) -> Key:
    weight = problem.inputs.get("weight")
    if problem.op.startswith("global_"):
        return (problem.input_shape, (), (), (), 1)
    pads = problem.pads_low + problem.pads_high
    kernel = problem.kernel if weight is None else weight
    return (problem.input_shape, kernel, problem.stride, pads, problem.groups)


@pytest.mark.parametrize("layer", IN_LIGHT, ids=lambda layer: layer.origin)
def test_the_network_has_the_layer_as_often_as_the_row_says(layer: Layer) -> None:
    assert layers_of(layer.network)[key_of(Problem.parse(layer.problem))] == layer.count
