"""A graph as a Relax module, and back: the form that the network has between passes.

Our operators are Relax operators named ``relax.tvmconv.<op>``, which TVM prints as
``R.tvmconv.<op>(...)``; their shape inference is the registry's, so that
``relax.analysis.well_formed`` checks what the passes make. The function ``main`` takes the inputs
and, after them, the constants (``num_input`` says how many are inputs, as in TVM's own frontends);
one dataflow block has one binding a node. The arrays of the constants stay outside of the
expressions: half a gigabyte of weights passes through every pass by reference, as an attribute of
the module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tvmconv import ops
from tvmconv._tvm import TVMObject, relax, tvm
from tvmconv.errors import InputError
from tvmconv.graph.ir import Graph, Node, Value
from tvmconv.problem import Problem

Shape = tuple[int, ...]

_PREFIX = "relax.tvmconv."
#: Attribute of the module that holds the :class:`Constants`.
_CONSTANTS = "constants"
#: Attributes of ``main``.
_NAME, _INPUTS = "network", "num_input"
#: Attribute of a binding: the name of the node.
_NODE = "name"
_registered: set[str] = set()


class Constants:
    """The arrays of a module's constants, by the names of its parameters.

    Attributes
    ----------
    arrays : dict of str to ndarray
    """

    def __init__(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        self.arrays = dict(arrays)


def to_relax(graph: Graph) -> TVMObject:
    """Turn a graph into a Relax module.

    Parameters
    ----------
    graph : Graph
        Node attributes are JSON-able and none is called ``name``.

    Returns
    -------
    IRModule
        With ``main``, and the constants' arrays, not copied, as an attribute.
    """
    constants = list(graph.constants())
    names = _unique([value.name for value in (*graph.inputs, *constants)])
    variables: dict[Value, TVMObject] = {
        value: relax.Var(name, _type(value.shape, value.dtype))
        for value, name in zip((*graph.inputs, *constants), names, strict=True)
    }
    params = list(variables.values())
    bindings = [_bind(node, variables, graph.outputs) for node in graph.nodes]
    result = relax.Tuple([variables[value] for value in graph.outputs])
    blocks = [relax.DataflowBlock(bindings)] if bindings else []
    body = relax.SeqExpr(blocks, result)
    relax.expr._update_type(body, result.ty)
    main = relax.Function(params, body, result.ty, is_pure=True)
    attrs = {"global_symbol": "main", _NAME: graph.name, _INPUTS: len(graph.inputs)}
    arrays = zip(names[len(graph.inputs) :], constants, strict=True)
    return tvm.IRModule({"main": main.with_attr(attrs)}).with_attr(
        _CONSTANTS, Constants({name: np.asarray(value.data) for name, value in arrays})
    )


def from_relax(module: TVMObject) -> Graph:
    """Turn a Relax module of our operators back into a graph.

    Raises
    ------
    ValueError
        If a pass has left something that is not in the form of :func:`to_relax`.
    """
    main = module["main"]
    arrays = module.attrs[_CONSTANTS].arrays
    count = int(main.attrs[_INPUTS])
    values: dict[TVMObject, Value] = {}
    for k, var in enumerate(main.params):
        data = None if k < count else arrays[str(var.name)]
        values[var] = _value(var, data)
    nodes = []
    for binding in (b for block in main.body.blocks for b in block.bindings):
        if binding.value in values:
            values[binding.var] = values[binding.value]
        else:
            nodes.append(_node(binding, values))
            values[binding.var] = nodes[-1].output
    inputs = [values[var] for var in main.params[:count]]
    fields = getattr(main.body.body, "fields", None)
    if fields is None or any(field not in values for field in fields):
        raise ValueError("the result of main is not a tuple of variables")
    outputs = [values[field] for field in fields]
    return Graph(str(main.attrs[_NAME]), inputs, outputs, nodes)


def script(module: TVMObject) -> str:
    """The module as text, without the constants' arrays."""
    return str(module.without_attr(_CONSTANTS).script())


def _type(shape: Sequence[int], dtype: str) -> TVMObject:
    return relax.TensorType(list(shape), dtype)


def _shape(expression: TVMObject) -> Shape:
    return tuple(int(extent) for extent in expression.ty.shape.values)


def _value(var: TVMObject, data: npt.NDArray[Any] | None = None) -> Value:
    return Value(str(var.name), _shape(var), str(var.ty.dtype), data)


def _unique(names: Sequence[str]) -> list[str]:
    """Number names that occur twice."""
    taken: set[str] = set()
    result = []
    for name in names:
        number, free = 1, name
        while free in taken:
            number, free = number + 1, f"{name}:{number}"
        taken.add(free)
        result.append(free)
    return result


def _bind(node: Node, variables: dict[Value, TVMObject], outputs: Sequence[Value]) -> TVMObject:
    """The binding of a node; its variable joins ``variables``."""
    annotation = _type(node.output.shape, node.output.dtype)
    kind = relax.Var if node.output in outputs else relax.DataflowVar
    var = variables[node.output] = kind(node.output.name, annotation)
    attrs = {**node.attrs, **({_NODE: node.name} if node.name else {})}
    arguments = [variables[value] for value in node.inputs]
    call = relax.Call(operator(node.op), arguments, attrs, ret_ty=annotation)
    return relax.VarBinding(var, call)


def _node(binding: TVMObject, values: Mapping[TVMObject, Value]) -> Node:
    """The node of a binding."""
    call, name = binding.value, str(binding.var.name)
    op = str(getattr(getattr(call, "op", None), "name", ""))
    if not op.startswith(_PREFIX):
        raise ValueError(f"{name}: {call} is no call of an operator of tvmconv")
    if any(argument not in values for argument in call.args):
        raise ValueError(f"{name}: an argument of {op} is not a variable")
    attrs = _attributes(call)
    label = attrs.pop(_NODE, "")
    inputs = [values[argument] for argument in call.args]
    return Node(op.removeprefix(_PREFIX), inputs, _value(binding.var), attrs, label)


def _attributes(call: TVMObject) -> dict[str, Any]:
    attrs: dict[str, Any] = _python(call.attrs) if call.attrs is not None else {}
    return attrs


def _python(value: Any) -> Any:
    """An attribute as JSON has it."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (bool, int, float)) or value is None:
        return value
    if hasattr(value, "items"):
        return {str(key): _python(entry) for key, entry in value.items()}
    return [_python(entry) for entry in value]


def operator(name: str) -> TVMObject:
    """The Relax operator of one of ours, registered when it is first needed.

    Raises
    ------
    InputError
        If there is no such operator.
    """
    full = _PREFIX + name
    if name not in _registered:
        infer = _inference(name)
        tvm.ir.op._ffi_api.RegisterOp(full, f"tvmconv's {name}")
        tvm.ir.register_op_attr(full, "FPurity", True)
        tvm.ir.register_op_attr(full, "FInferType", infer)
        _registered.add(name)
    return tvm.ir.Op.get(full)


def _inference(name: str) -> Callable[[TVMObject, TVMObject], TVMObject]:
    """``FInferType`` of an operator."""
    shape_of = _INTERNAL.get(name) or _registry_shape(name)

    def infer(call: TVMObject, context: TVMObject) -> TVMObject:
        shapes = [_shape(argument) for argument in call.args]
        try:
            shape = shape_of(shapes, _attributes(call))
        except InputError as error:
            raise ValueError(f"{name}: {error}") from None
        dtypes = [str(argument.ty.dtype) for argument in call.args]
        return _type(shape, dtypes[0] if name in _INTERNAL else _dtype(name, dtypes, call))

    return infer


def _dtype(name: str, dtypes: list[str], call: TVMObject) -> str:
    """Element type of a node's result; weights of a family can be packed by then."""
    attrs = _attributes(call)
    family = ops.get(name).family
    if family is not None and family.dtypes is not None and "layout" in attrs:
        problem = Problem.parse(attrs["problem"])
        dtypes = [problem.dtypes[key] for key in problem.inputs]
    return ops.result_dtype(name, dtypes, attrs)


def _registry_shape(name: str) -> Callable[[list[Shape], Mapping[str, Any]], Shape]:
    """Shape inference of an operator of the registry; a program's operands change nothing."""
    record = ops.get(name)

    def shape_of(shapes: list[Shape], attrs: Mapping[str, Any]) -> Shape:
        if "program" in attrs:
            operands = {step["operand"] for step in attrs["program"] if "operand" in step}
            shapes = shapes[: len(shapes) - len(operands)]
        if "layout" in attrs and record.family is not None:  # weights can be packed by then
            shapes = [shapes[0], *list(Problem.parse(attrs["problem"]).inputs.values())[1:]]
        return record.output_shape(shapes, attrs)

    return shape_of


#: Shape inference of the operators that only our passes make.
_INTERNAL: dict[str, Callable[[list[Shape], Mapping[str, Any]], Shape]] = {
    "convert": lambda shapes, attrs: shapes[0],
    "view": lambda shapes, attrs: tuple(attrs.get("shape", shapes[0])),
    "join": lambda shapes, attrs: ops.get("concat").output_shape(shapes, attrs),
}
