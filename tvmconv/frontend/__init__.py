"""A model or a problem in, a simplified Graph out.

In the order of the data: ``read`` (bytes to a message), ``schema`` and ``tensors`` (the message's
parts, checked), ``importer`` with ``node`` and the operators' own importers (a graph of our
dialect, constants folded), ``simplify`` (rewrites). Nothing here imports TVM, and ONNX only when a
file is there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tvmconv.errors import InputError
from tvmconv.graph.ir import Graph

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx

    Model = str | os.PathLike[str] | bytes | onnx.ModelProto
    Params = Mapping[str, npt.NDArray[Any]] | str | os.PathLike[str]

__all__ = ["drop_final_softmax", "load"]


def load(
    model: Model,
    *,
    batch: int | None = None,
    params: Params | None = None,
    outputs: Sequence[str] | None = None,
    simplify: bool = True,
) -> Graph:
    """Load a network or a problem as a graph of statically shaped operators.

    Parameters
    ----------
    model : path, bytes, onnx.ModelProto or str
        An ONNX model, or the text of a problem (``conv2d:1x64x56x56:64x3x3:padding=1``): a string
        with a colon after its first word that is no file. The name of one of the light networks of
        the onnx package (``light_resnet50.onnx``) stands for that file where no such file exists.
    batch : int, optional
        Extent of axis 0 where the model leaves it open.
    params : mapping or path of .npz, optional
        Values of a problem's ``weight`` and ``bias``, which then are constants.
    outputs : sequence of str, optional
        Names of values of the model at which to stop, in place of its outputs.
    simplify : bool
        Whether to rewrite the graph (fold batch normalisation, recognise patterns, …).

    Returns
    -------
    Graph
        With the file's names of inputs and outputs.

    Raises
    ------
    InputError
        If the model cannot be read, is malformed or is not supported: one line that names the file,
        the node and the attribute.
    """
    from tvmconv.frontend import problems

    if isinstance(model, str) and is_problem_text(model):
        if batch is not None:
            raise InputError(f"{model}: --batch is for models; a problem's text has its batch")
        return problems.graph_of(model, params, outputs)
    if params is not None:
        raise InputError("params are for problems; a model has its own weights")
    return _load_onnx(model, batch, outputs, simplify)


def is_problem_text(text: str) -> bool:
    """Whether a string is meant as a problem: it has the form of one, and is no file."""
    if re.match(r"[A-Za-z_]\w*:", text) is None:
        return False
    try:
        return not Path(text).exists()
    except OSError:  # longer than a file's name can be
        return True


def drop_final_softmax(graph: Graph) -> Graph:
    """Return the graph with outputs taken before a last Softmax, which saturates.

    Outputs that no Softmax makes stay; one that comes twice then is given once. Networks are
    verified and compared on what this returns.
    """
    from tvmconv.frontend.simplify.rewrite import rebuild

    producers = graph.producers()
    outputs = []
    for value in graph.outputs:
        node = producers.get(value)
        while node is not None and node.op == "reshape":
            node = producers.get(node.inputs[0])
        softmax = node is not None and node.op in ("softmax", "log_softmax")
        outputs.append(node.inputs[0] if node is not None and softmax else value)
    outputs = list(dict.fromkeys(outputs))
    return rebuild(Graph(graph.name, graph.inputs, outputs, graph.nodes), graph.nodes, {})


def _load_onnx(
    model: Model, batch: int | None, outputs: Sequence[str] | None, simplify: bool
) -> Graph:
    """Read, import and simplify an ONNX model."""
    from tvmconv.frontend.read import read_model
    from tvmconv.models import resolve

    file, name = "model", "model"
    if isinstance(model, (str, os.PathLike)):
        file = os.fspath(model)
        name = Path(file).stem
        model = resolve(file)
    proto = read_model(model)
    from tvmconv.frontend.importer import import_model
    from tvmconv.frontend.simplify import simplify as rewrite

    if name == "model" and proto.graph.name:
        name = proto.graph.name
    try:
        with np.errstate(all="ignore"):  # infinities and NaN of constants are values like others
            graph, budget = import_model(proto, file, name, batch, outputs)
            return rewrite(graph, budget) if simplify else graph
    except UnicodeDecodeError:
        raise InputError(f"{file}: a name in it is not UTF-8") from None
