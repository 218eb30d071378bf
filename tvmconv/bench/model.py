"""What is benchmarked: a model or a problem's text, made equal for every contender."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from tvmconv.bench.layer import check_onnx, layer_weights, problem_to_onnx
from tvmconv.errors import InputError
from tvmconv.frontend.read import read_model
from tvmconv.layers import Layer
from tvmconv.models import resolve
from tvmconv.problem import Problem

Source = str | Path | onnx.ModelProto | Layer
#: From this version on, an initialiser need not be listed among the graph's inputs.
CONSTANT_INITIALIZERS_IR = 4
LARGEST_RANDOM_INTEGER = 8


@dataclass(frozen=True)
class BenchModel:
    """A model ready for every contender: constant weights, static shapes, random inputs.

    Attributes
    ----------
    name : str
        The file's stem, the problem's text, or the graph's name.
    proto : ModelProto
    inputs : mapping
        By name; normal random numbers, never zeros.
    problem : Problem or None
        What it is, if a single layer.
    origin : str
        Where the layer comes from, if it is one of a suite.
    weights : mapping
        The constants of a single layer, as the problem has them; nothing of a network.
    """

    name: str
    proto: onnx.ModelProto
    inputs: Mapping[str, npt.NDArray[Any]]
    problem: Problem | None = None
    origin: str = ""
    weights: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)


def load_bench_model(source: Source, batch: int | None = None, seed: int = 0) -> BenchModel:
    """Load what is to be benchmarked.

    Parameters
    ----------
    source : str, Path, ModelProto or Layer
        A path, a model, a row of a suite, or a problem's text (it has a colon, and no file of that
        name exists).
    batch : int, optional
        Value of a symbolic first dimension.
    seed : int
        Of the random inputs, and of the weights of a problem.

    Raises
    ------
    InputError
        If the file is missing or no ONNX model, the problem is malformed, or a dimension is
        symbolic.
    """
    return prepare(source, batch, seed)()


def prepare(source: Source, batch: int | None = None, seed: int = 0) -> Callable[[], BenchModel]:
    """Refuse what :func:`load_bench_model` would, and leave for later to draw a problem's weights.

    So a whole suite is checked before long work, and never in memory at once.
    """
    if isinstance(source, Layer):
        return _layer(Problem.parse(source.problem), seed, source.origin)
    if isinstance(source, str) and ":" in source and not Path(source).exists():
        return _layer(Problem.parse(source), seed)
    model = _network(source, batch, seed)
    return lambda: model


def _layer(problem: Problem, seed: int, origin: str = "") -> Callable[[], BenchModel]:
    check_onnx(problem)
    return partial(_draw_layer, problem, seed, origin)


def _draw_layer(problem: Problem, seed: int, origin: str) -> BenchModel:
    proto, inputs = problem_to_onnx(problem, seed)
    weights = layer_weights(problem, seed)
    return BenchModel(problem.text, proto, inputs, problem, origin, weights)


def _network(source: str | Path | onnx.ModelProto, batch: int | None, seed: int) -> BenchModel:
    if isinstance(source, onnx.ModelProto):
        name, proto = source.graph.name or "model", onnx.ModelProto()
        proto.CopyFrom(source)
    else:
        name, proto = Path(source).stem, read_model(resolve(str(source)))
    make_weights_constant(proto)
    fix_batch(proto, batch, name)
    return BenchModel(name, proto, random_model_inputs(proto, name, seed))


def make_weights_constant(model: onnx.ModelProto) -> None:
    """Take initialisers out of the graph's inputs.

    Older files list them there, which makes them overridable defaults: libraries then neither fold
    batch normalisation nor pack weights, and would be timed at a disadvantage.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.ir_version = max(model.ir_version, CONSTANT_INITIALIZERS_IR)


def fix_batch(model: onnx.ModelProto, batch: int | None, name: str) -> None:
    """Give a symbolic first dimension of every input its value.

    Raises
    ------
    InputError
        If `batch` is not positive.
    """
    if batch is None:
        return
    if batch < 1:
        raise InputError(f"{name}: batch must be at least 1, got {batch}")
    for value in [*model.graph.input, *model.graph.output]:
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            dims[0].dim_value = batch
    del model.graph.value_info[:]  # may repeat the symbol


def random_model_inputs(
    model: onnx.ModelProto, name: str, seed: int = 0
) -> dict[str, npt.NDArray[Any]]:
    """Draw every input of a model: normal floats, small integers of either sign.

    Raises
    ------
    InputError
        If a dimension is symbolic; says how to give the batch.
    """
    rng = np.random.default_rng(seed)
    inputs: dict[str, npt.NDArray[Any]] = {}
    for value in model.graph.input:
        tensor = value.type.tensor_type
        shape = [d.dim_value if d.HasField("dim_value") else 0 for d in tensor.shape.dim]
        if min(shape, default=1) < 1:
            raise InputError(f"{name}: input {value.name!r} has a symbolic shape; give --batch N")
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if np.issubdtype(dtype, np.floating):
            inputs[value.name] = rng.standard_normal(shape).astype(dtype)
        else:
            inputs[value.name] = rng.integers(1, LARGEST_RANDOM_INTEGER, shape).astype(dtype)
    return inputs
