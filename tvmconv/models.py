"""The light networks of the onnx package, with weights that are worth computing with.

The package ships nine real architectures without their weights: large ones are ``ConstantOfShape``,
all equal, so that the expected output has one distinct value and swapped channels pass unnoticed.
Here every parameter is drawn at random instead, seeded and scaled so that activations neither
vanish nor explode. ``python -m tvmconv.models DIR`` writes the nine files.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tvmconv.errors import EnvironmentError_, InputError

if TYPE_CHECKING:
    import onnx

Array = npt.NDArray[np.float32]

_NAMES = (
    "light_bvlc_alexnet",
    "light_densenet121",
    "light_inception_v1",
    "light_inception_v2",
    "light_resnet50",
    "light_shufflenet",
    "light_squeezenet",
    "light_vgg19",
    "light_zfnet512",
)
#: A scale s of mean square 13/12 and a variance v, both from U(0.5, 1.5), have
#: E[s²/v] = 13/12·ln 3: scales smaller by its root leave the power of activations as it is, however
#: deep the network.
_KEEPS_POWER = float((13 / 12 * np.log(3)) ** -0.5)
#: Operators through which a parameter keeps its role.
_RESHAPES = ("Reshape", "Unsqueeze")
#: Operators that leave the activations of a Relu what they are.
_KEEP_SIGN = (*_RESHAPES, "Transpose", "Concat", "MaxPool", "AveragePool", "Dropout", "LRN")


def light_models() -> list[str]:
    """Return the nine names, in alphabetical order."""
    return list(_NAMES)


def light_path(name: str) -> str:
    """Return where the installed onnx package has a light network.

    Parameters
    ----------
    name : str
        One of :func:`light_models`.

    Raises
    ------
    InputError
        If it is none of the nine.
    EnvironmentError_
        If the onnx package is not installed, or lacks the file.
    """
    if name not in _NAMES:
        raise InputError(f"no light network {name!r}; there are {', '.join(_NAMES)}")
    spec = importlib.util.find_spec("onnx")  # does not import it
    if spec is None or spec.origin is None:
        raise EnvironmentError_("the onnx package is not installed: pip install onnx")
    path = Path(spec.origin).parent / "backend/test/data/light" / f"{name}.onnx"
    if not path.is_file():
        raise EnvironmentError_(f"the installed onnx package does not have {path.name}")
    return str(path)


def resolve(path: str) -> str:
    """Return the path of a model: of the onnx package's ``light_X.onnx`` if no such file exists."""
    stem = path.removesuffix(".onnx")
    return light_path(stem) if stem != path and stem in _NAMES and not Path(path).exists() else path


def light_model(
    name: str, weights: str = "random", seed: int = 0, batch: int | None = None
) -> onnx.ModelProto:
    """Return a light network.

    Parameters
    ----------
    name : str
        One of :func:`light_models`.
    weights : {"random", "constant"}
        ``constant`` are those of the file, mostly all 0.02. ``random`` draws weights from
        N(0, 2/fan_in) (He; 1/fan_in where no Relu comes before), batch normalisation's variance and
        scale from U(0.5, 1.5), mean and bias from N(0, 0.1²).
    seed : int
        Each parameter depends on the seed and its name only.
    batch : int, optional
        Images at a time; the file's 1 where left out.

    Returns
    -------
    onnx.ModelProto

    References
    ----------
    He et al., Delving deep into rectifiers, ICCV 2015, section 2.2.
    """
    import onnx

    if weights not in ("random", "constant"):
        raise InputError(f"weights must be 'random' or 'constant', not {weights!r}")
    model = onnx.load(light_path(name))
    if weights == "random":
        model.ir_version = max(model.ir_version, 4)  # initializers need not be inputs
        _randomise(model.graph, seed)
    if batch is not None:
        _set_batch(model.graph, batch)
    return model


def _randomise(graph: onnx.GraphProto, seed: int) -> None:
    """Replace every parameter whose role is known by an initializer."""
    shapes = _parameter_shapes(graph)
    roles = {name: role for name, role in _roles(graph) if name in shapes}
    kept = [node for node in graph.node if node.output[0] not in roles]
    used = {name for node in kept for name in node.input}
    initializers = [
        item for item in graph.initializer if item.name in used and item.name not in roles
    ]
    given = {item.name for item in graph.initializer}
    inputs = [item for item in graph.input if item.name not in given]
    del graph.node[:], graph.initializer[:], graph.input[:]
    graph.node.extend(kept)
    graph.input.extend(inputs)
    graph.initializer.extend(initializers)
    for name, role in roles.items():
        data = _draw(role, shapes[name], np.random.default_rng([seed, *name.encode()]))
        tensor = graph.initializer.add(name=name, data_type=1, dims=shapes[name])
        tensor.raw_data = data.astype("<f4", copy=False).tobytes()


def _parameter_shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """Return the shape of every float parameter, which is an initializer or a ConstantOfShape."""
    from onnx import numpy_helper

    shapes = {item.name: tuple(item.dims) for item in graph.initializer if item.data_type == 1}
    extents = {item.name: item for item in graph.initializer if item.data_type == 7}
    for node in graph.node:
        if node.op_type == "ConstantOfShape" and node.input[0] in extents:
            shape = numpy_helper.to_array(extents[node.input[0]])
            shapes[node.output[0]] = tuple(int(extent) for extent in shape)
    return shapes


def _roles(graph: onnx.GraphProto) -> Iterator[tuple[str, str]]:
    """Yield each parameter's name and role: bias, scale, mean, variance, and two kinds of weight.

    A Relu halves the power of what goes through it, so weights that read it are larger; and scales
    of branches that are added to a residual stream are smaller, or it would double each time.
    """
    source = {node.output[0]: node for node in graph.node}
    summed = {name for node in graph.node if node.op_type == "Sum" for name in node.input}

    def origin(name: str, through: Sequence[str]) -> str:
        while name in source and source[name].op_type in through:
            name = source[name].input[0]
        return name

    by_input = {
        "Conv": ("", "weight", "bias"),
        "Gemm": ("", "weight", "bias"),
        "BatchNormalization": ("", "scale", "bias", "mean", "variance"),
        "Mul": ("", "scale"),
        "Add": ("", "bias"),
    }
    for node in graph.node:
        for name, role in zip(node.input, by_input.get(node.op_type, ()), strict=False):
            if role == "scale" and node.output[0] in summed:
                role = "branch"
            if role == "weight":
                maker = source.get(origin(node.input[0], _KEEP_SIGN))
                if maker is not None and maker.op_type == "Relu":
                    role = "rectified"
            if role:
                yield origin(name, _RESHAPES), role


def _draw(role: str, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Draw a parameter."""
    if role in ("weight", "rectified"):
        gain = 2.0 if role == "rectified" else 1.0
        fan_in = int(np.prod(shape[1:])) or 1
        return rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(gain / fan_in))
    if role == "variance":
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if role == "scale":
        return (rng.uniform(0.5, 1.5, shape) * _KEEPS_POWER).astype(np.float32)
    if role == "branch":
        return rng.uniform(0.1, 0.4, shape).astype(np.float32)
    return rng.standard_normal(shape, np.float32) * np.float32(0.1)


def _set_batch(graph: onnx.GraphProto, batch: int) -> None:
    """Set axis 0 of inputs and outputs; reshapes of activations copy theirs."""
    from onnx import numpy_helper

    constants = {item.name: item for item in graph.initializer}
    parameters = {node.output[0] for node in graph.node if node.op_type == "ConstantOfShape"}
    if batch < 1:
        raise InputError(f"batch must be at least 1, is {batch}")
    for item in (*graph.input, *graph.output):
        if item.name not in constants:
            item.type.tensor_type.shape.dim[0].dim_value = batch
    for node in graph.node:
        weight = node.input and (node.input[0] in constants or node.input[0] in parameters)
        if node.op_type == "Reshape" and not weight:
            shape = numpy_helper.to_array(constants[node.input[1]]).copy()
            shape[0] = 0
            constants[node.input[1]].CopyFrom(numpy_helper.from_array(shape, node.input[1]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write light networks as files, by the command line; returns the exit code."""
    from tvmconv import cli
    from tvmconv.cli import _models

    return cli.main(arguments, _models.networks)


if __name__ == "__main__":
    sys.exit(main())
