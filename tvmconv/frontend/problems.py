"""A problem's text as a model of one node."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from tvmconv.errors import InputError
from tvmconv.graph.ir import Graph, Node, Value
from tvmconv.ops._shapes import Shape, text
from tvmconv.problem import Problem

Array = npt.NDArray[Any]
Params = Mapping[str, Array] | str | os.PathLike[str]

#: Name of the output of a problem's graph.
OUTPUT = "y"


def graph_of(
    problem_text: str, params: Params | None = None, outputs: Sequence[str] | None = None
) -> Graph:
    """Make the graph of one problem.

    Parameters
    ----------
    problem_text : str
    params : mapping or path of .npz, optional
        Those inputs that are constants, by name.
    outputs : sequence of str, optional
        Can only be ``["y"]``.

    Returns
    -------
    Graph
        Inputs ``x``, ``weight`` and ``bias`` as far as the problem has them and ``params`` does
        not; output ``y``.

    Raises
    ------
    InputError
        If the text is no problem, or a parameter is unknown, misshapen or of another type.
    """
    problem = Problem.parse(problem_text)
    if outputs is not None and list(outputs) != [OUTPUT]:
        raise InputError(f"{problem}: the only output is '{OUTPUT}', not {list(outputs)}")
    constants = read_params(problem, params)
    values = [
        Value(name, shape, problem.dtypes[name], constants.get(name))
        for name, shape in problem.inputs.items()
    ]
    output = Value(OUTPUT, problem.output_shape, problem.dtypes["output"])
    node = Node(problem.op, values, output, {"problem": problem.text}, problem.op)
    run_time = [value for value in values if not value.is_constant]
    return Graph(problem.text, run_time, [output], [node])


def read_params(problem: Problem, params: Params | None) -> dict[str, Array]:
    """Return the parameters, checked against the problem."""
    if params is None:
        return {}
    shapes = {name: shape for name, shape in problem.inputs.items() if name != "x"}
    if isinstance(params, (str, os.PathLike)):
        return _read_npz(os.fspath(params), shapes, problem.dtypes)
    constants = {}
    for name, array in params.items():
        array = np.asarray(array)
        _check("params", name, array.shape, array.dtype.name, shapes, problem.dtypes)
        constants[name] = array
    return constants


def _check(
    where: str,
    name: str,
    shape: Shape,
    dtype: str,
    shapes: Mapping[str, Shape],
    dtypes: Mapping[str, str],
) -> None:
    """Refuse a parameter that the problem does not have, or not like that."""
    if name not in shapes:
        known = ", ".join(shapes) or "none"
        raise InputError(f"{where}: parameter {name!r} is unknown; the problem has {known}")
    if shape != shapes[name]:
        raise InputError(f"{where}: {name} must have shape {text(shapes[name])}, has {text(shape)}")
    if dtype != dtypes[name]:
        raise InputError(f"{where}: {name} must be {dtypes[name]}, is {dtype}")


def _read_npz(
    path: str, shapes: Mapping[str, Shape], dtypes: Mapping[str, str]
) -> dict[str, Array]:
    """Read a .npz file; each header is checked before its array is allocated."""
    constants = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.namelist():
                name = entry.removesuffix(".npy")
                with archive.open(entry) as stream:
                    _check(path, name, *_header(stream), shapes, dtypes)
                with archive.open(entry) as stream:
                    constants[name] = np.lib.format.read_array(stream, allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: is no readable .npz file: {error}") from None
    return constants


def _header(stream: Any) -> tuple[Shape, str]:
    """Return shape and dtype that a .npy stream announces."""
    source: BinaryIO = stream
    version = np.lib.format.read_magic(source)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(source)
    else:
        shape, _, dtype = np.lib.format.read_array_header_2_0(source)
    return tuple(shape), dtype.name
