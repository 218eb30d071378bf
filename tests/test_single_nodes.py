"""Random models of one node, by the oracle of whole models and, if it is there, ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

import tvmconv
from tests.nodes import MAKERS, random_node
from tvmconv.frontend.importer import importers
from tvmconv.oracle import evaluate_model

#: Operators that move nothing of a model's input, or are in older opsets, or are drawn elsewhere.
NOT_DRAWN = {
    "Cast", "CastLike", "Constant", "ConstantOfShape", "DeformConv", "Dropout", "Gather",
    "MeanVarianceNormalization", "Range", "Shape", "Size", "Upsample",
    # tests/test_quantised_operators.py draws these
    "ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv",
    "QLinearMatMul", "QuantizeLinear",
}  # fmt: skip


def test_every_operator_is_drawn() -> None:
    assert set(MAKERS) == set(importers()) - NOT_DRAWN


@pytest.mark.parametrize("seed", range(40))
def test_by_the_oracle(seed: int) -> None:
    node = random_node(seed)
    model, feeds = node.model(), node.feeds()
    got = tvmconv.compile(model, threads=1 + seed % 2)(feeds)
    expected = evaluate_model(model, feeds, [output.name for output in model.graph.output])
    for y, wanted in zip(got, expected, strict=True):
        np.testing.assert_allclose(y, wanted, rtol=1e-3, atol=1e-5, strict=True)


@pytest.mark.parametrize("seed", range(40, 60))
def test_by_onnx_runtime(seed: int) -> None:
    pytest.importorskip("onnxruntime")
    from tests.benchmarks.single_nodes import outcome

    result, why = outcome(random_node(seed), 1 + seed % 2)
    assert result != "wrong", why
    assert result != "refused", why
