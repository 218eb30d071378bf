"""Comparisons, their combinations, and choices by them: operators on tensors of true and false."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tvmconv import te_math
from tvmconv.errors import InputError
from tvmconv.kernel import KernelSpec
from tvmconv.layout import HALVES
from tvmconv.ops import BadCase, Case, Importer, Operator, expressions, register
from tvmconv.ops._shapes import Shape, broadcast, expect_inputs

if TYPE_CHECKING:
    from tvmconv.frontend.node import Builder, OnnxNode
    from tvmconv.graph.ir import Value

Array = npt.NDArray[Any]
Attrs = Mapping[str, Any]


@dataclass(frozen=True)
class Logic:
    """A function of elements of which some are true or false.

    Attributes
    ----------
    formula : str
        For people.
    inputs : tuple of str
        Element types; ``"any"`` for one that all such inputs share, ``"number"`` for one but bool.
    output : str
        Element type of the result, or ``"any"``.
    reference : callable
        Of as many arrays.
    expression : callable
        Of as many TE expressions.
    """

    formula: str
    inputs: tuple[str, ...]
    output: str
    reference: Callable[..., Any]
    expression: Callable[..., Any]


_PAIR, _NUMBERS, _TRUTHS = ("any", "any"), ("number", "number"), ("bool", "bool")


def _infinite(x: Any, sign: float) -> Any:
    return x == te_math.number(sign * float("inf"))


def _not_a_number(x: Any) -> Any:
    from tvmconv._tvm import tirx

    return tirx.isnan(x)


def _both(a: Any, b: Any) -> Any:
    from tvmconv._tvm import tirx

    return tirx.And(a, b)


def _either(a: Any, b: Any) -> Any:
    from tvmconv._tvm import tirx

    return tirx.Or(a, b)


def _one(a: Any, b: Any) -> Any:
    return a.astype("int32") != b.astype("int32")


def _same(a: Any, b: Any) -> Any:
    """Return a == b, for truths too."""
    return a.astype("int32") == b.astype("int32") if str(a.dtype) == "bool" else a == b


def _unlike(a: Any) -> Any:
    from tvmconv._tvm import tirx

    return tirx.Not(a)


FUNCTIONS: dict[str, Logic] = {
    "less": Logic("a < b", _NUMBERS, "bool", np.less, lambda a, b: a < b),
    "less_equal": Logic("a ≤ b", _NUMBERS, "bool", np.less_equal, lambda a, b: a <= b),
    "greater": Logic("a > b", _NUMBERS, "bool", np.greater, lambda a, b: a > b),
    "greater_equal": Logic("a ≥ b", _NUMBERS, "bool", np.greater_equal, lambda a, b: a >= b),
    "equal": Logic("a = b", _PAIR, "bool", np.equal, _same),
    "and": Logic("a and b", _TRUTHS, "bool", np.logical_and, _both),
    "or": Logic("a or b", _TRUTHS, "bool", np.logical_or, _either),
    "xor": Logic("either a or b", _TRUTHS, "bool", np.logical_xor, _one),
    "not": Logic("not a", ("bool",), "bool", np.logical_not, _unlike),
    "is_nan": Logic("whether x is NaN", ("float32",), "bool", np.isnan, _not_a_number),
    "is_infinity": Logic(
        "whether x is ∞", ("float32",), "bool", np.isposinf, lambda x: _infinite(x, 1.0)
    ),
    "is_minus_infinity": Logic(
        "whether x is −∞", ("float32",), "bool", np.isneginf, lambda x: _infinite(x, -1.0)
    ),
    "is_not_zero": Logic(
        "whether x is not 0", ("float32",), "bool", lambda x: x != 0, lambda x: x != 0.0
    ),
    "as_number": Logic(
        "1 where a is true, else 0", ("bool",), "float32",
        lambda a: a.astype(np.float32),
        lambda a: te_math.select(a, te_math.number(1.0), te_math.number(0.0)),
    ),
    "where": Logic(
        "a where c is true, else b", ("bool", "any", "any"), "any",
        lambda c, a, b: np.where(c, a, b),
        te_math.select,
    ),
}  # fmt: skip


def _make_shape(function: Logic) -> Callable[[Sequence[Shape], Attrs], Shape]:
    def output_shape(shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        """Return the broadcast of all shapes."""
        expect_inputs(shapes, len(function.inputs))
        return reduce(broadcast, shapes)

    return output_shape


def _make_dtype(function: Logic) -> Callable[[Sequence[str], Attrs], str]:
    def output_dtype(dtypes: Sequence[str], attrs: Attrs) -> str:
        """Return the element type of the result; refuse other inputs than the function has."""
        pairs = list(zip(dtypes, function.inputs, strict=True))
        shared = {given for given, wanted in pairs if wanted in ("any", "number")}
        if len(shared) > 1:
            raise InputError(f"inputs have different element types: {', '.join(sorted(shared))}")
        for given, wanted in pairs:
            kind = "float32" if given in HALVES else given
            fits = given != "bool" if wanted == "number" else wanted in ("any", kind)
            if not fits:
                raise InputError(f"takes {wanted}, not {given}")
        return shared.pop() if function.output == "any" else function.output

    return output_dtype


def _make_reference(function: Logic) -> Callable[[Sequence[Array], Attrs], Array]:
    def reference(arrays: Sequence[Array], attrs: Attrs) -> Array:
        given = [
            np.asarray(array, bool) if wanted == "bool" else array
            for array, wanted in zip(arrays, function.inputs, strict=True)
        ]
        return np.asarray(function.reference(*given))

    return reference


def compute(spec: KernelSpec) -> list[Any]:
    """The function of all inputs, each broadcast to the result's shape."""
    function, out = FUNCTIONS[spec.op], spec.output
    tensors = [expressions.placeholder(v, f"input{k}") for k, v in enumerate(spec.inputs)]

    def body(*index: Any) -> Any:
        pairs = zip(tensors, spec.inputs, strict=True)
        return function.expression(
            *(expressions.operand_at(tensor, layout, out, index) for tensor, layout in pairs)
        )

    return [*tensors, expressions.elements(out.iteration_shape, body)]


def _plain(op: str) -> Importer:
    """Make an importer for an ONNX operator without attributes."""

    def importer(node: OnnxNode, builder: Builder) -> Value:
        if node.has("axis"):
            node.fail("attribute 'axis' is not supported")
        return builder.emit(op, [node.input(k) for k in range(len(FUNCTIONS[op].inputs))])

    return importer


def _import_is_inf(node: OnnxNode, builder: Builder) -> Value:
    """Import IsInf: infinities of both signs, or of one, or of none."""
    x = node.input(0)
    found = [
        builder.emit(op, [x])
        for op, key in (("is_infinity", "positive"), ("is_minus_infinity", "negative"))
        if node.int_attr(f"detect_{key}", 1)
    ]
    if len(found) == 2:
        return builder.emit("or", found)
    if found:
        return found[0]
    return builder.constant(np.zeros(x.shape, bool))


IMPORTERS: dict[str, dict[str, Importer]] = {
    "less": {"Less": _plain("less")},
    "less_equal": {"LessOrEqual": _plain("less_equal")},
    "greater": {"Greater": _plain("greater")},
    "greater_equal": {"GreaterOrEqual": _plain("greater_equal")},
    "equal": {"Equal": _plain("equal")},
    "and": {"And": _plain("and")},
    "or": {"Or": _plain("or")},
    "xor": {"Xor": _plain("xor")},
    "not": {"Not": _plain("not")},
    "is_nan": {"IsNaN": _plain("is_nan")},
    "is_infinity": {"IsInf": _import_is_inf},
    "where": {"Where": _plain("where")},
}

_MAP: Shape = (2, 13, 5, 3)
_SHAPES: dict[int, tuple[tuple[str, tuple[Shape, ...]], ...]] = {
    1: (("a map", (_MAP,)), ("a vector", ((10,),))),
    2: (
        ("two maps", (_MAP, _MAP)),
        ("one element a channel", ((13, 1, 1), _MAP)),
        ("a row and a column", ((1, 10), (4, 1))),
    ),
    3: (("three maps", (_MAP,) * 3), ("broadcast every way", ((1, 6, 1, 5), (), (2, 1, 4, 1)))),
}


def _case_dtypes(function: Logic) -> tuple[str, ...]:
    return tuple("bool" if wanted == "bool" else "float32" for wanted in function.inputs)


for _name, _function in FUNCTIONS.items():
    _many = tuple((1, 3) for _ in range(len(_function.inputs) + 1))
    register(
        Operator(
            name=_name,
            summary=f"y = {_function.formula}",
            output_shape=_make_shape(_function),
            output_dtype=_make_dtype(_function),
            reference=_make_reference(_function),
            onnx=IMPORTERS.get(_name, {}),
            cases=tuple(
                Case(source, shapes=shapes, dtypes=_case_dtypes(_function))
                for source, shapes in _SHAPES[len(_function.inputs)]
            ),
            bad_cases=(BadCase(f"has {len(_many)}", shapes=_many),),
            compute=compute,
        )
    )
