"""A checked ModelProto in, a Graph out: shapes are inferred here, and nothing else is believed.

Declared shapes of values in between are ignored; declared outputs must agree with what comes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tvmconv.errors import InputError
from tvmconv.frontend import composites, fold, normalizations, schema
from tvmconv.frontend.limits import MAX_WEIGHT_BYTES, ConstantBudget, check_shape
from tvmconv.frontend.node import Builder, OnnxNode
from tvmconv.frontend.read import check_graph, opset_version
from tvmconv.frontend.show import quoted
from tvmconv.frontend.tensors import DTYPES, dtype_name, to_array
from tvmconv.graph.ir import Graph, Value
from tvmconv.layout import HALVES
from tvmconv.ops._shapes import text

if TYPE_CHECKING:
    import onnx

    from tvmconv.ops import Importer

#: Element types that run-time tensors may have.
COMPUTE_DTYPES = ("float32", *HALVES, "bool", "int8", "uint8", "int32", "int64")


def importers() -> dict[str, Importer]:
    """Every ONNX operator type that is understood, with the function that imports it."""
    from tvmconv import ops

    return {**fold.IMPORTERS, **composites.IMPORTERS, **normalizations.IMPORTERS, **ops.importers()}


def import_model(
    model: onnx.ModelProto,
    file: str,
    name: str,
    batch: int | None = None,
    outputs: Sequence[str] | None = None,
) -> tuple[Graph, ConstantBudget]:
    """Import the part of a model that its outputs need.

    Parameters
    ----------
    model : onnx.ModelProto
        With its external data loaded.
    file : str
        For messages.
    name : str
        The graph's name.
    batch : int, optional
        Extent of axis 0 where an input leaves it open.
    outputs : sequence of str, optional
        Names of values to stop at, in place of the model's outputs.

    Returns
    -------
    Graph
        Not simplified; constants are folded.
    ConstantBudget
        What is left for constants that rewrites make.

    Raises
    ------
    InputError
        If anything in the part that is needed is malformed or not supported.
    """
    opset = opset_version(model, file)
    check_graph(model.graph, file)
    state = _Import(model.graph, file, opset)
    return state.run(name, batch, outputs), state.builder.budget


class _Import:
    """The state of one import: values by name, and the builder."""

    def __init__(self, graph: onnx.GraphProto, file: str, opset: int) -> None:
        self.graph, self.file, self.opset = graph, file, opset
        self.producer = self._producers()
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        carried = graph.ByteSize()
        names = {*self.producer, *self.tensors, *(item.name for item in graph.input)}
        self.builder = Builder(file, names, ConstantBudget(file, carried))
        self.used = {item for node in graph.node for item in node.input}
        self.values: dict[str, Value] = {}
        self.weight_bytes = 0
        self.importers = importers()

    def fail(self, message: str) -> InputError:
        return InputError(f"{self.file}: {message}")

    def run(self, name: str, batch: int | None, outputs: Sequence[str] | None) -> Graph:
        """Import everything that ``outputs`` need."""
        declared = {item.name: item for item in self.graph.output}
        wanted = list(outputs) if outputs is not None else list(declared)
        self.used.update(wanted)
        inputs = self._inputs(batch)
        for index in self._needed(wanted):
            self._import_node(index)
        results = [self._result(item, set(wanted)) for item in wanted]
        for value in results:
            if value.name in declared:
                self._check_output(declared[value.name], value)
        return Graph(name, inputs, results, self.builder.nodes)

    def _producers(self) -> dict[str, int]:
        """Map each value's name to the index of the node that makes it; names are made once."""
        given = {item.name for item in self.graph.initializer}
        given |= {item.name for item in self.graph.input}
        producer: dict[str, int] = {}
        for index, node in enumerate(self.graph.node):
            for output in node.output:
                if output and (output in producer or output in given):
                    raise self.fail(
                        f"node {self._node_name(index)}: output {quoted(output)} is made twice"
                    )
                producer[output] = index
        producer.pop("", None)
        return producer

    def _node_name(self, index: int) -> str:
        node = self.graph.node[index]
        name = node.name or next((output for output in node.output if output), f"#{index}")
        return f"{quoted(name)} ({quoted(node.op_type)[1:-1]})"

    def _inputs(self, batch: int | None) -> list[Value]:
        """Make the graph's inputs: those of the file that have no initializer."""
        if batch is not None and (isinstance(batch, bool) or batch < 1):
            raise self.fail(f"--batch must be at least 1, is {batch}")
        inputs = []
        for item in self.graph.input:
            if item.name in self.tensors:
                continue  # a default value that a caller could override: a constant for us
            shape = _static_shape(item, batch, self.file)
            kind = dtype_name(item.type.tensor_type.elem_type)
            if kind not in COMPUTE_DTYPES:
                raise self.fail(
                    f"input {quoted(item.name)}: element type {kind} is not supported, only "
                    f"{', '.join(COMPUTE_DTYPES)}"
                )
            self.values[item.name] = Value(item.name, shape, kind)
            inputs.append(self.values[item.name])
        return inputs

    def _needed(self, wanted: Sequence[str]) -> list[int]:
        """Return the nodes that the wanted values depend on, in the file's (sorted) order."""
        needed: set[int] = set()
        stack = list(wanted)
        while stack:
            name = stack.pop()
            index = self.producer.get(name)
            if index is None or index in needed:
                continue
            needed.add(index)
            stack.extend(item for item in self.graph.node[index].input if item)
        return sorted(needed)

    def _value(self, name: str) -> Value | None:
        """Return a value by name, reading it if it is an initializer; None if there is none yet."""
        if name not in self.values and name in self.tensors:
            try:
                data = to_array(self.tensors[name])
            except InputError as error:
                raise self.fail(f"initializer {quoted(name)}: {error}") from None
            self.builder.budget.know(data)
            self.weight_bytes += data.nbytes
            if self.weight_bytes > MAX_WEIGHT_BYTES:
                raise self.fail(f"has more than {MAX_WEIGHT_BYTES} bytes of weights")
            self.values[name] = Value(name, data.shape, data.dtype.name, data)
        return self.values.get(name)

    def _import_node(self, index: int) -> None:
        """Import one node and bind its outputs to their names."""
        proto = self.graph.node[index]
        node = self._read_node(index)
        self.builder.current = node
        first_new = len(self.builder.nodes)
        result = self.importers[proto.op_type](node, self.builder)
        values = [result] if isinstance(result, Value) else list(result)
        made = {emitted.output for emitted in self.builder.nodes[first_new:]}
        for name, value in zip(proto.output, values, strict=False):
            if not name:
                continue
            if value in made:
                value.name = name
                made.discard(value)  # the same value under a second name keeps the first
            self.values[name] = value
        missing = [name for name in node.outputs[len(values) :] if name]
        if missing:
            node.fail(f"output {quoted(missing[0])} is not supported")

    def _read_node(self, index: int) -> OnnxNode:
        """Resolve a node's inputs and attributes; refuse unknown operators."""
        proto = self.graph.node[index]
        where = f"node {self._node_name(index)}"
        if proto.domain not in ("", "ai.onnx") or proto.op_type not in self.importers:
            domain = quoted(proto.domain)[1:-1] or "ai.onnx"
            raise self.fail(
                f"{where}: operator {quoted(proto.op_type)} (domain {domain}, opset {self.opset}) "
                "is not supported"
            )
        inputs: list[Value | None] = []
        for name in proto.input:
            value = self._value(name) if name else None
            if name and value is None:
                raise self.fail(
                    f"{where}: input {quoted(name)} is no input, initializer or output of a node "
                    "before it"
                )
            inputs.append(value)
        while inputs and inputs[-1] is None:
            inputs.pop()
        try:
            attrs = schema.read_attributes(proto, self.opset)
        except InputError as error:
            raise self.fail(f"{where}: {error}") from None
        name = proto.name or next((item for item in proto.output if item), f"#{index}")
        outputs = [item if item in self.used else "" for item in proto.output]
        return OnnxNode(proto.op_type, "", name, attrs, inputs, outputs, self.opset, self.file)

    def _result(self, name: str, wanted: set[str]) -> Value:
        """Return an output under its own name.

        A name may be an alias (Identity, Dropout). What a node computed is renamed; of an input, a
        constant or another output a copy is made, so that every output is a value of its own.
        """
        value = self._value(name)
        if value is None:
            raise self.fail(f"output {quoted(name)} is made by no node")
        if value.dtype not in (COMPUTE_DTYPES if value.data is None else DTYPES.values()):
            raise self.fail(f"output {quoted(name)}: element type {value.dtype} is not supported")
        check_shape(value.shape, f"{self.file}: output {quoted(name)}")
        if value.name == name:
            return value
        if value.data is not None:
            return Value(name, value.shape, value.dtype, value.data)
        if value.name not in wanted and value.name in self.producer:
            value.name = name
            return value
        self.builder.current = None
        copy = self.builder.emit("reshape", [value], {"shape": list(value.shape)})
        copy.name = name
        return copy

    def _check_output(self, item: onnx.ValueInfoProto, value: Value) -> None:
        """Refuse a model whose declared output contradicts what its nodes compute."""
        tensor = item.type.tensor_type
        if not item.type.HasField("tensor_type"):
            return
        declared = dtype_name(tensor.elem_type)
        if tensor.elem_type and declared != value.dtype:
            raise self.fail(
                f"output {quoted(item.name)} is declared as {declared}, but is {value.dtype}"
            )
        if not tensor.HasField("shape"):
            return
        dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
        # Exporters also write an empty shape where they know none.
        agrees = not dims or (
            len(dims) == len(value.shape)
            and all(dim in (None, extent) for dim, extent in zip(dims, value.shape, strict=True))
        )
        if not agrees:
            shown = "x".join("?" if dim is None else str(dim) for dim in dims)
            raise self.fail(
                f"output {quoted(item.name)} is declared as {shown}, but has shape "
                f"{text(value.shape)}"
            )


def _static_shape(item: onnx.ValueInfoProto, batch: int | None, file: str) -> tuple[int, ...]:
    """Return an input's shape; axis 0 may be open, and then takes ``batch``."""
    where = f"{file}: input {quoted(item.name)}"
    tensor = item.type.tensor_type
    if not item.type.HasField("tensor_type"):
        raise InputError(f"{where} is not a tensor")
    if not tensor.HasField("shape"):
        raise InputError(f"{where} has no shape")
    shape: list[int] = []
    for axis, dim in enumerate(tensor.shape.dim):
        if dim.HasField("dim_value"):
            shape.append(dim.dim_value)
            if axis == 0 and batch is not None and dim.dim_value != batch:
                raise InputError(f"{where} has the fixed batch {dim.dim_value}, not {batch}")
        elif axis > 0:
            raise InputError(
                f"{where}: axis {axis} is symbolic ({quoted(dim.dim_param)}); shapes must be static"
            )
        elif batch is None:
            raise InputError(
                f"{where}: the batch is symbolic ({quoted(dim.dim_param)}); give it with --batch N"
            )
        else:
            shape.append(batch)
    check_shape(tuple(shape), where)
    return tuple(shape)
