"""The NumPy reference of a whole model: ONNX's evaluator on the file as it is.

ONNX's own evaluator loops over pixels in Python for windows, and reads automatic padding off the
wrong axes; for the convolution family our references stand in its place. It also mixes the batch's
own statistics into a batch normalisation of opset 9 with one output, which is inference; its LRN
normalises only as many channels as there are images; its Pad cuts nothing off; and its Softmax
ignores that before opset 13 all axes from the given one on are normalised together. Nothing of the
frontend takes part, so that its mistakes are seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tvmconv import ops
from tvmconv.oracle_quantised import quantised_operators
from tvmconv.problem import Problem

if TYPE_CHECKING:
    import onnx

Array = npt.NDArray[Any]


def evaluate_model(
    model: onnx.ModelProto, feeds: Mapping[str, Array], names: Sequence[str]
) -> list[Array]:
    """Compute values of a model by their names.

    Parameters
    ----------
    model : onnx.ModelProto
    feeds : mapping
        The model's inputs.
    names : sequence of str
        Outputs, or any other values.
    """
    from onnx.reference import ReferenceEvaluator

    operators = _windowed_operators()
    if any(e.domain in ("", "ai.onnx") and e.version < 13 for e in model.opset_import):
        operators += _coerced_softmax()
    evaluator = ReferenceEvaluator(model, new_ops=operators)
    with np.errstate(all="ignore"):
        return [np.asarray(v) for v in evaluator.run(list(names), dict(feeds))]


#: What may be done to a softmax's result before it is an output.
_AFTER_SOFTMAX = ("Reshape", "Flatten", "Squeeze", "QuantizeLinear", "DequantizeLinear")


def before_softmax(model: onnx.ModelProto) -> list[str]:
    """Names of the outputs, with that of a softmax replaced by the one of its input."""
    makers = {name: node for node in model.graph.node for name in node.output}
    names = []
    for output in model.graph.output:
        node = makers.get(output.name)
        while node is not None and node.op_type in _AFTER_SOFTMAX:
            node = makers.get(node.input[0])
        softmax = node is not None and node.op_type in ("Softmax", "LogSoftmax")
        names.append(node.input[0] if node is not None and softmax else output.name)
    return names


def window_options(attrs: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Translate ONNX attributes of a window to options of a problem."""
    options: dict[str, Any] = {}
    for onnx_name, option in names.items():
        value = attrs.get(onnx_name)
        if value is not None and value != []:
            options[option] = bool(value) if option in ("ceil_mode", "count_include_pad") else value
    mode = attrs.get("auto_pad")
    mode = mode.decode() if isinstance(mode, bytes) else mode
    if mode not in (None, "", "NOTSET"):
        options["padding"] = mode.lower()
    return options


_CONV = {"strides": "stride", "pads": "padding", "dilations": "dilation", "group": "groups"}
_TRANSPOSED = {**_CONV, "output_padding": "output_padding", "output_shape": "output_shape"}
_POOL = {"strides": "stride", "pads": "padding", "dilations": "dilation", "ceil_mode": "ceil_mode"}
_AVERAGE = {**_POOL, "count_include_pad": "count_include_pad"}
_NORM = {**_POOL, "p": "p"}


def _reference(problem: Problem, arrays: Sequence[Array | None]) -> tuple[Array]:
    given = [a for a in arrays if a is not None]
    y = problem.reference(dict(zip(problem.inputs, given, strict=True)))
    return (y.astype(given[0].dtype),)


def _pool(op: str, names: Mapping[str, str], x: Array, attrs: Mapping[str, Any]) -> Problem:
    """The problem of a pooling node."""
    options = _listed(window_options(attrs, names))
    return Problem.make(op, x.shape, attrs["kernel_shape"], dtype=str(x.dtype), **options)


def _listed(options: Mapping[str, Any]) -> dict[str, Any]:
    return {k: list(map(int, v)) if isinstance(v, (list, tuple)) else v for k, v in options.items()}


def _windowed_operators() -> list[Any]:
    """Operator classes that ONNX's evaluator takes instead of its own."""
    from onnx.reference.op_run import OpRun

    def conv(x: Array, w: Array, b: Array | None, attrs: Mapping[str, Any]) -> tuple[Array]:
        options = _listed(window_options(attrs, _CONV))
        filters = (w.shape[0], *w.shape[2:])
        problem = Problem.make("conv", x.shape, filters, bias=b is not None, **options)
        return _reference(problem, [x, w, b])

    def transposed(x: Array, w: Array, b: Array | None, attrs: Mapping[str, Any]) -> tuple[Array]:
        options = _listed(window_options(attrs, _TRANSPOSED))
        filters = (w.shape[1] * options.get("groups", 1), *w.shape[2:])
        problem = Problem.make("conv_transpose", x.shape, filters, bias=b is not None, **options)
        return _reference(problem, [x, w, b])

    def pool(op: str, names: Mapping[str, str], x: Array, attrs: Mapping[str, Any]) -> tuple[Array]:
        return _reference(_pool(op, names, x, attrs), [x])

    class Conv(OpRun):  # type: ignore[misc,unused-ignore]
        op_domain = ""

        def _run(self, X: Array, W: Array, B: Array | None = None, **attrs: Any) -> tuple[Array]:
            return conv(X, W, B, attrs)

    class ConvTranspose(OpRun):  # type: ignore[misc,unused-ignore]
        op_domain = ""

        def _run(self, X: Array, W: Array, B: Array | None = None, **attrs: Any) -> tuple[Array]:
            return transposed(X, W, B, attrs)

    class MaxPool(OpRun):  # type: ignore[misc,unused-ignore]
        op_domain = ""

        def _run(self, x: Array, **attrs: Any) -> tuple[Array, ...]:
            (y,) = pool("max_pool", _POOL, x, attrs)
            if len(self.onnx_node.output) == 1:
                return (y,)
            problem = _pool("max_pool", _POOL, x, attrs).text
            order = {"problem": problem, "storage_order": attrs.get("storage_order") or 0}
            return y, ops.get("max_pool_indices").reference([x, y], order)

    class LpPool(OpRun):  # type: ignore[misc,unused-ignore]
        op_domain = ""

        def _run(self, x: Array, **attrs: Any) -> tuple[Array]:
            return pool("lp_pool", _NORM, x, attrs)

    class AveragePool(OpRun):  # type: ignore[misc,unused-ignore]
        op_domain = ""

        def _run(self, x: Array, **attrs: Any) -> tuple[Array]:
            return pool("avg_pool", _AVERAGE, x, attrs)

    class Pad(OpRun):  # type: ignore[misc,unused-ignore]
        op_domain = ""

        def _run(
            self,
            x: Array,
            pads: Array,
            value: Array | float | None = None,
            axes: Array | None = None,
            mode: str | None = None,
        ) -> tuple[Array]:
            return (
                bordered(x, list(pads), 0 if value is None else value, axes, mode or "constant"),
            )

    class BatchNormalization(OpRun):  # type: ignore[misc,unused-ignore]
        op_domain = ""

        def _run(
            self, x: Array, scale: Array, bias: Array, mean: Array, var: Array, **attrs: Any
        ) -> tuple[Array]:
            return (batch_norm(x, scale, bias, mean, var, _given(attrs, "epsilon", 1e-5)),)

    class LRN(OpRun):  # type: ignore[misc,unused-ignore]
        op_domain = ""

        def _run(self, x: Array, **attrs: Any) -> tuple[Array]:
            given = {name: _given(attrs, name, default) for name, default in _LRN.items()}
            return (response_norm(x, size=attrs["size"], **given),)

    class GlobalAveragePool(OpRun):  # type: ignore[misc,unused-ignore]
        op_domain = ""

        def _run(self, x: Array) -> tuple[Array]:
            return (
                x.mean(axis=tuple(range(2, x.ndim)), keepdims=True, dtype="float64").astype(
                    x.dtype
                ),
            )

    class GlobalMaxPool(OpRun):  # type: ignore[misc,unused-ignore]
        op_domain = ""

        def _run(self, x: Array) -> tuple[Array]:
            return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)

    class GlobalLpPool(OpRun):  # type: ignore[misc,unused-ignore]
        op_domain = ""

        def _run(self, x: Array, **attrs: Any) -> tuple[Array]:
            return pool("lp_pool", _NORM, x, {**attrs, "kernel_shape": x.shape[2:]})

    return [
        Conv, ConvTranspose, MaxPool, LpPool, AveragePool, Pad, BatchNormalization, LRN,
        GlobalAveragePool, GlobalMaxPool, GlobalLpPool,
        *quantised_operators(lambda x, w, attrs: conv(x, w, None, attrs)[0]),
    ]  # fmt: skip


def _coerced_softmax() -> list[Any]:
    """Softmax and LogSoftmax of the opsets below 13: over all axes from ``axis`` on."""
    from onnx.reference.op_run import OpRun

    def normalised(node: onnx.NodeProto, x: Array) -> Array:
        # ONNX's evaluator would give the default of the newest opset, which is another.
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        axes = tuple(range(axis % x.ndim, x.ndim))
        shifted = x.astype(np.float64) - x.max(axis=axes, keepdims=True)
        return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=axes, keepdims=True)))

    class Softmax(OpRun):  # type: ignore[misc,unused-ignore]
        op_domain = ""

        def _run(self, x: Array, axis: int | None = None) -> tuple[Array]:
            return (np.exp(normalised(self.onnx_node, x)).astype(x.dtype),)

    class LogSoftmax(OpRun):  # type: ignore[misc,unused-ignore]
        op_domain = ""

        def _run(self, x: Array, axis: int | None = None) -> tuple[Array]:
            return (normalised(self.onnx_node, x).astype(x.dtype),)

    return [Softmax, LogSoftmax]


_LRN = {"alpha": 1e-4, "beta": 0.75, "bias": 1.0}


def bordered(
    x: Array, pads: Sequence[int], value: Array | float, axes: Array | None, mode: str
) -> Array:
    """Pad some axes, or all; negative pads cut off first."""
    axes = np.arange(x.ndim) if axes is None else axes % x.ndim
    widths = [(0, 0)] * x.ndim
    for k, axis in enumerate(axes):
        widths[axis] = int(pads[k]), int(pads[len(axes) + k])
    sizes = zip(widths, x.shape, strict=True)
    x = x[tuple(slice(max(0, -low), size - max(0, -high)) for (low, high), size in sizes)]
    given = {"constant_values": value} if mode == "constant" else {}
    sides = [(max(low, 0), max(high, 0)) for low, high in widths]
    return np.pad(x, sides, mode=mode, **given)  # type: ignore[call-overload, no-any-return]


def response_norm(x: Array, size: int, alpha: float, beta: float, bias: float) -> Array:
    """Divide by ``(bias + alpha/size · sum of the squares in a window of channels)^beta``."""
    squares = np.square(x, dtype=np.float64)
    below, above = (size - 1) // 2, size // 2
    padded = np.pad(squares, [(0, 0), (below, above)] + [(0, 0)] * (x.ndim - 2))
    total = sum(padded[:, k : k + x.shape[1]] for k in range(size))
    return np.asarray(x / (bias + alpha / size * total) ** beta, dtype=x.dtype)


def _given(attrs: Mapping[str, Any], name: str, default: float) -> float:
    """An attribute, which may be 0, or its default."""
    return default if attrs.get(name) is None else float(attrs[name])


def batch_norm(
    x: Array, scale: Array, bias: Array, mean: Array, var: Array, epsilon: float
) -> Array:
    """Normalise by the statistics in the file: ``scale·(x - mean)/√(var + epsilon) + bias``."""
    wide = (1, -1, *(1,) * (x.ndim - 2))
    s, b, m, v = (a.astype(np.float64).reshape(wide) for a in (scale, bias, mean, var))
    return np.asarray(s * (x - m) / np.sqrt(v + epsilon) + b, dtype=x.dtype)
