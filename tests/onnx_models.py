"""Small ONNX models for tests, written as text, and onnx.reference as the judge of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from onnx.parser import parse_model
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from tvmconv.frontend import load
from tvmconv.graph.evaluate import evaluate
from tvmconv.graph.ir import Graph

Array = npt.NDArray[Any]


def net(
    body: str,
    x: str = "1,3,8,8",
    outputs: str = "float[] y",
    opset: int = 13,
    inputs: str = "",
    **constants: Array,
) -> onnx.ModelProto:
    """Make a model with the input ``x``, these statements and these initializers.

    The syntax is that of onnx.parser, with a semicolon after each statement.
    """
    signature = inputs or f"float[{x}] x"
    text = f"""<ir_version: 8, opset_import: ["" : {opset}]>
        net ({signature}) => ({outputs}) {{ {body.replace(";", " ")} }}"""
    model = parse_model(text)
    for name, array in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def normal(*shape: int, seed: int = 0) -> Array:
    """Random float32."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def ints(*values: int) -> Array:
    """A 1-D int64 tensor."""
    return np.array(values, np.int64)


def feeds(graph: Graph) -> dict[str, Array]:
    """Random inputs of a graph."""
    return {value.name: normal(*value.shape, seed=i) for i, value in enumerate(graph.inputs)}


class BatchNormalization(OpRun):
    """Inference: before opset 14 onnx.reference takes the statistics of the batch instead."""

    op_domain = ""

    def _run(
        self, x: Array, scale: Array, bias: Array, mean: Array, var: Array, **attributes: Any
    ) -> tuple[Array]:
        wide = (-1,) + (1,) * (x.ndim - 2)
        scale, bias, mean, var = (a.reshape(wide) for a in (scale, bias, mean, var))
        y = scale * (x - mean) / np.sqrt(var + attributes["epsilon"]) + bias
        return (y.astype(x.dtype),)


class LRN(OpRun):
    """By definition: onnx.reference visits as many channels as there are images."""

    op_domain = ""

    def _run(self, x: Array, alpha: float, beta: float, bias: float, size: int) -> tuple[Array]:
        y = np.empty_like(x)
        for channel in range(x.shape[1]):
            low = max(0, channel - (size - 1) // 2)
            high = min(x.shape[1], channel + size // 2 + 1)
            total = (x[:, low:high].astype(np.float64) ** 2).sum(axis=1)
            y[:, channel] = x[:, channel] / (bias + alpha / size * total) ** beta
        return (y,)


def judged(
    model: onnx.ModelProto, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None
) -> Sequence[Array]:
    """What onnx.reference computes, mended."""
    evaluator = ReferenceEvaluator(model, new_ops=[BatchNormalization, LRN])
    result: Sequence[Array] = evaluator.run(outputs, dict(inputs))  # type: ignore[assignment]
    return result


def check(model: onnx.ModelProto, rtol: float = 1e-5, atol: float = 1e-5) -> Graph:
    """Load with and without rewrites; both must compute what onnx.reference does."""
    graph = load(model)
    inputs = feeds(graph)
    expected = judged(model, inputs)
    for candidate in (load(model, simplify=False), graph):
        results = evaluate(candidate, inputs)
        assert [value.name for value in candidate.outputs] == [o.name for o in model.graph.output]
        for value, result, wanted in zip(candidate.outputs, results, expected, strict=True):
            assert value.shape == result.shape == wanted.shape
            np.testing.assert_allclose(result, wanted, rtol, atol)
    return graph


def ops_of(graph: Graph) -> list[str]:
    """Operators in execution order."""
    return [node.op for node in graph.nodes]
