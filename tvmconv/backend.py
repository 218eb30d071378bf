"""tvmconv as an ONNX backend: the interface of ``onnx.backend.base``.

>>> import tvmconv.backend as backend
>>> prepared = backend.prepare(model)  # doctest: +SKIP
>>> (y,) = prepared.run([x])  # doctest: +SKIP

Shapes are static in what tvmconv compiles. Some ONNX operators take what decides the shape of their
result as an input, and a model may leave that to its caller: the ``shape`` of a Reshape, the
``scales`` of a Resize. Such an input is *frozen*: the model is compiled when it is first run, with
the values that it is given, and again for other values. :func:`shape_inputs` says which they are;
``prepare(model, freeze=False)`` refuses them instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from onnx.backend.base import Backend, BackendRep

from tvmconv.compiler import compile
from tvmconv.errors import InputError
from tvmconv.frontend import load
from tvmconv.frontend.read import MAX_OPSET
from tvmconv.runtime.loader import Module

Array = npt.NDArray[Any]

#: For each operator the inputs that decide its result's shape, or what it reads where.
SHAPE_OPERANDS: Mapping[str, tuple[int, ...]] = {
    "CenterCropPad": (1,),
    "ConstantOfShape": (0,),
    "ConvInteger": (1, 3),
    "Dropout": (1, 2),
    "Expand": (1,),
    "MaxUnpool": (2,),
    "MatMulInteger": (1, 3),
    "Pad": (1, 2, 3),
    "QLinearConv": (1, 2, 3, 4, 5, 6, 7, 8),
    "QLinearMatMul": (1, 2, 3, 4, 5, 6, 7),
    "Range": (0, 1, 2),
    "ReduceL1": (1,),
    "ReduceL2": (1,),
    "ReduceLogSum": (1,),
    "ReduceLogSumExp": (1,),
    "ReduceMax": (1,),
    "ReduceMean": (1,),
    "ReduceMin": (1,),
    "ReduceProd": (1,),
    "ReduceSum": (1,),
    "ReduceSumSquare": (1,),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
}

#: How many modules a model may have, each for other values of its frozen inputs.
_KEPT = 16

#: Operators of whose input only the shape matters, which is known.
_SHAPE_READERS = ("Shape", "Size")


def shape_inputs(model: onnx.ModelProto) -> list[str]:
    """Names of the inputs on whose values a shape in the model depends.

    They are found backwards, from the operands in :data:`SHAPE_OPERANDS` through all that they are
    computed from.

    Parameters
    ----------
    model : onnx.ModelProto

    Returns
    -------
    list of str
        In the model's order.
    """
    wanted: set[str] = set()
    for node in reversed(model.graph.node):
        if wanted.intersection(node.output) and node.op_type not in _SHAPE_READERS:
            wanted.update(node.input)
        places = SHAPE_OPERANDS.get(node.op_type, ())
        wanted.update(node.input[k] for k in places if k < len(node.input))
    return [item.name for item in _inputs(model) if item.name in wanted]


class Prepared(BackendRep):
    """A model that is ready to run; :meth:`TvmconvBackend.prepare` makes it."""

    def __init__(self, model: onnx.ModelProto, freeze: bool, options: Mapping[str, Any]) -> None:
        self._model = model
        self._options = dict(options)
        self._names = [item.name for item in _inputs(model)]
        self._frozen = shape_inputs(model) if freeze else []
        self._modules: dict[tuple[bytes, ...], Module] = {}
        if not self._frozen:
            self._module({})

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Array, ...]:
        """Run the model.

        Parameters
        ----------
        inputs : sequence of array, or mapping of str to array
            In the model's order, or by name.

        Returns
        -------
        tuple of ndarray
            The outputs, in the model's order.

        Raises
        ------
        InputError
            If the inputs are not those of the model, or it cannot be compiled for the values of
            those that are frozen.
        """
        arrays = self._by_name(inputs)
        frozen = {name: arrays.pop(name) for name in self._frozen}
        return tuple(self._module(frozen)(arrays))

    def _by_name(self, inputs: Any) -> dict[str, Any]:
        """The given arrays by name; those that are frozen must be among them."""
        if isinstance(inputs, Mapping):
            missing = [name for name in self._frozen if name not in inputs]
            if missing:
                raise InputError(f"input '{missing[0]}' is missing")
            return {str(name): array for name, array in inputs.items()}
        given = [inputs] if isinstance(inputs, np.ndarray) else list(inputs)
        if len(given) != len(self._names):
            raise InputError(f"takes {len(self._names)} inputs, got {len(given)}")
        return dict(zip(self._names, given, strict=True))

    def _module(self, frozen: Mapping[str, Any]) -> Module:
        """The model compiled for these values of the frozen inputs, once."""
        arrays = {name: _tensor(name, array) for name, array in frozen.items()}
        key = tuple(
            a.dtype.str.encode() + repr(a.shape).encode() + a.tobytes() for a in arrays.values()
        )
        if key not in self._modules:
            while len(self._modules) >= _KEPT:
                del self._modules[next(iter(self._modules))]  # the oldest
            self._modules[key] = compile(_with_constants(self._model, arrays), **self._options)
        return self._modules[key]


class TvmconvBackend(Backend):
    """Compiles every model with :func:`tvmconv.compile`."""

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether models can run there: on the CPU."""
        return device.split(":")[0] == "CPU"

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether a model can be compiled, as far as that can be known before its inputs are."""
        if not cls.supports_device(device):
            return False
        if shape_inputs(model):
            return True
        try:
            load(model)
        except InputError:
            return False
        return True

    @classmethod
    def prepare(
        cls, model: onnx.ModelProto, device: str = "CPU", *, freeze: bool = True, **kwargs: Any
    ) -> Prepared:
        """Compile a model.

        Parameters
        ----------
        model : onnx.ModelProto
        device : str
            ``"CPU"``.
        freeze : bool
            Whether inputs that decide shapes become constants at the first run.
        **kwargs
            What :func:`tvmconv.compile` takes: ``target``, ``threads``, ``log``, ``batch``, …

        Raises
        ------
        InputError
            If the model is not supported: one line that names the node and the attribute.
        """
        if not cls.supports_device(device):
            raise InputError(f"device {device!r} is not supported, only 'CPU'")
        return Prepared(model, freeze, kwargs)

    @classmethod
    def run_model(
        cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any
    ) -> tuple[Array, ...]:
        """Compile a model and run it once."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[tuple[np.dtype[Any], tuple[int, ...]]] | None = None,
        **kwargs: Any,
    ) -> tuple[Array, ...]:
        """Compile a model of one node and run it once.

        Parameters
        ----------
        node : onnx.NodeProto
        inputs : sequence of array
            For the inputs that the node names, in order; those without a name are left out.
        outputs_info : sequence, optional
            Not needed: what the node computes says it.
        **kwargs
            ``opset_version`` of the node, the newest that is known if left out, and what
            :meth:`prepare` takes.
        """
        opset = kwargs.pop("opset_version", None) or min(onnx.defs.onnx_opset_version(), MAX_OPSET)
        names = list(dict.fromkeys(name for name in node.input if name))
        if len(names) != len(inputs):
            raise InputError(f"takes {len(names)} inputs, got {len(inputs)}")
        ports = [
            _port(name, _tensor(name, array)) for name, array in zip(names, inputs, strict=True)
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        graph = helper.make_graph([node], node.op_type or "node", ports, outputs)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        return cls.run_model(model, inputs, device, **kwargs)


def _inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs that a caller gives: those without an initializer."""
    constants = {item.name for item in model.graph.initializer}
    return [item for item in model.graph.input if item.name not in constants]


def _tensor(name: str, array: Any) -> Array:
    """An input as an array; a sequence, a string or nothing at all is refused."""
    try:
        found = np.asarray(array)
    except ValueError:
        raise InputError(f"input '{name}' is no tensor") from None
    if isinstance(array, (list, tuple)) or found.dtype.kind in "OSU":
        raise InputError(f"input '{name}' is no tensor of numbers")
    return found


def _port(name: str, array: Array) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, kind, array.shape)


def _with_constants(model: onnx.ModelProto, arrays: Mapping[str, Array]) -> onnx.ModelProto:
    """The model with some inputs as initializers."""
    if not arrays:
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    changed.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in arrays.items()
    )
    return changed


is_compatible = TvmconvBackend.is_compatible
prepare = TvmconvBackend.prepare
run_model = TvmconvBackend.run_model
run_node = TvmconvBackend.run_node
supports_device = TvmconvBackend.supports_device
