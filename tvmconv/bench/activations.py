"""Activations as nodes of ONNX."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from tvmconv import ops
from tvmconv.ops import activation as activations

Arrays = dict[str, npt.NDArray[Any]]


def activation_nodes(text: str, source: str, result: str) -> tuple[list[onnx.NodeProto], Arrays]:
    """The nodes from ``source`` to ``result`` that compute an activation, and their constants.

    Parameters
    ----------
    text : str
        Canonical; nothing if empty.
    source, result : str
        Names of values; other names begin with the result's.
    """
    if not text:
        return [], {}
    activation, values = activations.split(text)
    name = f"{result}:activation"
    if activation.name == "silu":
        gate = helper.make_node("Sigmoid", [source], [f"{result}:gate"], name=f"{result}:gate")
        return [gate, helper.make_node("Mul", [source, f"{result}:gate"], [result], name=name)], {}
    if activation.node == "clip":
        low, high = values or (0.0, 6.0)
        limits = {f"{result}:min": low, f"{result}:max": high}
        constants = {key: np.array(value, np.float32) for key, value in limits.items()}
        return [helper.make_node("Clip", [source, *limits], [result], name=name)], constants
    kind = next(iter(ops.get(activation.node).onnx))
    attributes: dict[str, Any] = dict(
        zip((key for key, _ in activation.parameters), values, strict=True)
    )
    return [helper.make_node(kind, [source], [result], name=name, **attributes)], {}
