"""ONNX's own tests of its operators: whatever is accepted computes what ONNX says."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from tests.onnx_backend import rounding
from tests.onnx_models import Array
from tvmconv.errors import InputError
from tvmconv.frontend import load
from tvmconv.frontend.importer import importers
from tvmconv.graph.evaluate import evaluate

#: What must be accepted in at least one test; the rest exists between constants only, or is tested
#: with older opsets elsewhere.
TESTED = """
    Abs Add AveragePool BatchNormalization Celu Clip Concat Conv ConvInteger ConvTranspose
    DequantizeLinear Div Dropout DynamicQuantizeLinear Elu Erf Exp Flatten Gelu Gemm
    GlobalAveragePool GlobalMaxPool HardSigmoid HardSwish LRN LeakyRelu Log LogSoftmax MatMul
    MatMulInteger Max MaxPool Mean Min Mish Mul Neg PRelu Pad Pow QLinearConv QLinearMatMul
    QuantizeLinear Reciprocal ReduceMean Relu Reshape Selu Shape Sigmoid Slice Softmax Softplus
    Softsign Split Sqrt Squeeze Sub Sum Swish Tanh Transpose Unsqueeze
"""


#: Element types of what is an input still, when all others are constants.
FED = (np.dtype("float32"), np.dtype("uint8"), np.dtype("int8"))


def cases() -> list[tuple[str, onnx.ModelProto, Sequence[Array], Sequence[Array]]]:
    """Every test of the onnx package whose operators are all known here."""
    from onnx.backend.test.case.node import collect_testcases

    known = set(importers())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ONNX's own arithmetic
        found = collect_testcases(None)
    return [
        (case.name, case.model, *case.data_sets[0])
        for case in found
        if case.model
        and case.data_sets
        and {node.op_type for node in case.model.graph.node} <= known
    ]


def with_constants(
    model: onnx.ModelProto, inputs: Sequence[Array]
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """Make all inputs but the first constants: shapes and weights must be."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    feeds = {}
    for item, array in zip(model.graph.input, inputs, strict=False):
        if not feeds and getattr(array, "dtype", None) in FED and array.size:
            feeds[item.name] = array
        elif isinstance(array, (np.ndarray, np.generic)):
            changed.graph.initializer.append(numpy_helper.from_array(np.asarray(array), item.name))
    return changed, feeds


def test_conformance() -> None:
    passed: Counter[str] = Counter()
    wrong = []
    for name, model, inputs, expected in cases():
        changed, feeds = with_constants(model, inputs)
        try:
            graph = load(changed)
            if {value.name for value in graph.inputs} != set(feeds):
                continue
            results = evaluate(graph, feeds, "float32")
        except InputError:
            continue
        # Some expected values are printed with four digits.
        good = len(results) == len(expected) and all(
            got.shape == want.shape
            and np.allclose(got, want, max(1e-4, rounding(want)), 1e-4, equal_nan=True)
            for got, want in zip(results, expected, strict=True)
        )
        passed.update({node.op_type for node in model.graph.node} if good else ())
        wrong += [] if good else [name]
    assert not wrong
    assert set(passed) >= set(TESTED.split())
