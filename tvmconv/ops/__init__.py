"""The operator registry: one file an operator, one record an operator.

A module of this package calls :func:`register` with an :class:`Operator`; the command line, the
frontend, the tests and the README's table iterate over the records. Modules are found by
:mod:`pkgutil` at the first look-up, so adding an operator means adding one file. No module here
imports TVM when it is imported: a ``compute`` function does so when it is called.

Every operator can be used as a node of a graph through ``output_shape`` and ``reference``, which
have one form for all: shapes (or arrays) of the inputs, and the node's attributes. Operators of the
convolution family can also stand alone as a :class:`tvmconv.problem.Problem`; what a problem has to
know of them is in ``family``, and their only attribute as a node is ``problem``, the text.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from tvmconv.errors import InputError

if TYPE_CHECKING:
    from tvmconv.kernel import KernelSpec
    from tvmconv.ops.options import Option
    from tvmconv.problem import Problem

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]
Shape = tuple[int, ...]
Attrs = Mapping[str, Any]
#: ``importer(node, builder)`` turns one ONNX node into graph nodes and returns its output value.
#: ``node`` has ``op_type name attrs inputs opset``; ``builder.emit(op, inputs, attrs, name)``
#: returns a Value and ``builder.fail(message)`` raises InputError with the file and the node.
Importer = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Case:
    """One instance of an operator that has to be right, with where it comes from.

    Attributes
    ----------
    source : str
        The network and layer, the bug or the rule that the case stands for.
    problem : str
        Text of the problem; empty for operators without a family.
    shapes, attrs
        Shapes of the inputs and attributes of the node, for operators without a family.
    dtypes : tuple of str
        Element types of the inputs, if not all are float32.
    """

    source: str
    problem: str = ""
    shapes: tuple[Shape, ...] = ()
    attrs: Attrs = field(default_factory=dict)
    dtypes: tuple[str, ...] = ()


@dataclass(frozen=True)
class BadCase:
    """An instance that must be refused with an InputError whose text contains ``message``."""

    message: str
    problem: str = ""
    shapes: tuple[Shape, ...] = ()
    attrs: Attrs = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """What :class:`~tvmconv.problem.Problem` has to know of an operator of the convolution family.

    Every callable takes the problem first.

    Attributes
    ----------
    filter_form : tuple of str
        What the text's third field lists: ``"CO"`` for the output channels (or columns), ``"K"``
        for one extent per spatial axis. Without ``"CO"`` there are as many output channels as
        input channels; without ``"K"`` the window is the whole input.
    options : tuple of Option
        Those it takes, in the order in which the canonical text lists them.
    validate : callable
        ``validate(problem)`` raises InputError by ``problem.fail(attribute, why)``.
    inputs : callable
        ``inputs(problem)`` gives the shapes of ``x``, ``weight``, ``bias`` as far as it has them.
    out_spatial : callable
        ``out_spatial(problem)``: output sizes along the spatial axes; what is not positive is
        refused for all.
    taps : callable
        ``taps(problem)``: the number of terms in the sum (or maximum) of one output element.
    reference : callable
        ``reference(problem, arrays)`` gives the output before the activation in float64; arrays
        are named as in ``inputs``. With absolute values for arrays it gives the magnitude of the
        accuracy formula, unless the arithmetic is a maximum.
    magnitude : callable, optional
        ``magnitude(problem, arrays)``, where the reference of absolute values is not that.
    arithmetic : str
        How terms are combined: ``"multiply-add"`` (2 FLOP a term), ``"mean"``, ``"norm"``,
        ``"sum"`` or ``"maximum"`` (1 FLOP a term). A mean or a norm of integers may be rounded; a
        sum or a maximum never is.
    depthwise : bool
        Whether each input channel is a group of its own.
    transposed : bool
        Whether the window slides over the output: each input element is multiplied by every tap.
    windows : bool
        Whether windows slide over the input with its padding; otherwise there is no padding.
    dtypes : callable or None
        ``dtypes(problem)``: element types of the inputs by name, and of the ``output``, where not
        all are the problem's.
    gated : bool
        Whether the sums of half of the weight's filters are multiplied by the sigmoid of those of
        the other half; the activation, if there is one, is part of the product.
    unshared : bool
        Whether each output position has weights, and a bias, of its own: their axes are the first
        ones of the weight, and the last ones of the bias.
    parts : callable, optional
        ``parts(problem)``: the problems that, one after the other, compute what it does, the first
        from its input, each without the last one's activation.
    largest_sum : callable, optional
        ``largest_sum(problem, m)``: the largest partial sum of arrays of numbers up to m, where
        that is not ``taps·m² + m``.
    """

    filter_form: tuple[str, ...]
    options: tuple[Option, ...]
    validate: Callable[[Problem], None]
    inputs: Callable[[Problem], dict[str, Shape]]
    out_spatial: Callable[[Problem], Shape]
    taps: Callable[[Problem], int]
    reference: Callable[[Problem, Mapping[str, Array]], Float64]
    arithmetic: Literal["multiply-add", "mean", "norm", "sum", "maximum"] = "multiply-add"
    depthwise: bool = False
    transposed: bool = False
    magnitude: Callable[[Problem, Mapping[str, Array]], Float64] | None = None
    windows: bool = True
    dtypes: Callable[[Problem], dict[str, str]] | None = None
    gated: bool = False
    unshared: bool = False
    parts: Callable[[Problem], tuple[Problem, ...]] | None = None
    largest_sum: Callable[[Problem, int], int] | None = None


@dataclass(frozen=True)
class PackedWeight:
    """The order in which a kernel reads its weight, as the channel blocks of x and y make it.

    Attributes
    ----------
    shape : callable
        ``shape(problem, in_block, block)``: shape of the packed weight, ``block`` last.
    element : callable
        ``element(problem, in_block, block, source, index)``: the TE expression of one element of
        the packed weight, for weights that are known only at run time; ``source`` is a tensor of
        the weight's own shape. Padding is 0. The same as what ``Operator.pack`` does in NumPy.
    """

    shape: Callable[[Problem, int, int], Shape]
    element: Callable[[Problem, int, int, Any, Sequence[Any]], Any]


@dataclass(frozen=True)
class Operator:
    """One operator.

    Attributes
    ----------
    name : str
        Name in graphs, without a rank: ``"conv"``, ``"concat"``.
    summary : str
        One line for ``tvmconv ops``.
    output_shape : callable
        ``output_shape(shapes, attrs)`` from the shapes of the inputs and the node's attributes;
        raises InputError that names the attribute.
    reference : callable
        ``reference(arrays, attrs)`` in NumPy, computed in float64 where rounding matters and
        returned in the dtype of the first input, or that of ``output_dtype``.
    output_dtype : callable or None
        ``output_dtype(dtypes, attrs)`` from the element types of the inputs, for operators on more
        than numbers; raises InputError. None: all have the same type, which is also the result's.
    any_dtype : bool
        Whether it moves elements of whatever type, or computes with them, modulo 2^n.
    ranks : tuple of int
        Spatial ranks that exist, each a suffix in a problem's text (``conv2d``); empty if the
        name has no suffix.
    onnx : mapping of str to Importer
        ONNX operator types that this operator imports.
    cases, bad_cases : tuple
        What has to be right, and what has to be refused with which message.
    family : Family or None
        What a Problem has to know; None for operators that exist in graphs only.
    compute : callable or None
        ``compute(spec)``: the tensor expression of a kernel, as a list of tensors in the order of
        the kernel's arguments: ``x``, what ``pack`` gives, the other inputs, the output. Imports
        TVM when it is called. None for operators that never are a kernel of their own.
    pack : callable or None
        ``pack(spec, constants)``: the arrays that the kernel reads for the constant inputs.
    packed_weight : PackedWeight or None
        For operators whose weight may also be known only at run time.
    expression : callable or None
        Of operators that work element by element and so can be a step of a fused program:
        ``expression(value, attrs)`` or ``expression(a, b)`` is the TE expression of one element.
    costly : bool
        Whether the expression is long, so that a fused program has only one such step: TVM's
        simplifier takes an expression for a tree, and exponential time for a chain of them.
    layout : {"plain", "same", "blocked", "any"}
        Where channels may lie in blocks: nowhere; in every tensor if they do in one input; in
        every tensor, always; always in the output, while x is read in either form.
    planes : bool
        Whether there are kernels on plain tensors too, of an operator whose tensors lie in blocks.
    takes_program : bool
        Whether the kernel can apply a fused program to its result while that is in registers.
    words : bool
        Whether the kernel reads its first input, of bytes in blocks, in words of four channels.
    internal : bool
        Whether only graph passes make such nodes; :func:`operators` leaves them out.
    """

    name: str
    summary: str
    output_shape: Callable[[Sequence[Shape], Attrs], Shape]
    reference: Callable[[Sequence[Any], Attrs], Any]
    output_dtype: Callable[[Sequence[str], Attrs], str] | None = None
    any_dtype: bool = False
    ranks: tuple[int, ...] = ()
    onnx: Mapping[str, Importer] = field(default_factory=dict)
    cases: tuple[Case, ...] = ()
    bad_cases: tuple[BadCase, ...] = ()
    family: Family | None = None
    compute: Callable[[KernelSpec], list[Any]] | None = None
    pack: Callable[[KernelSpec, Sequence[Array]], list[Array]] | None = None
    packed_weight: PackedWeight | None = None
    expression: Callable[..., Any] | None = None
    costly: bool = False
    layout: Literal["plain", "same", "blocked", "any"] = "plain"
    planes: bool = False
    takes_program: bool = False
    words: bool = False
    internal: bool = False


_OPERATORS: dict[str, Operator] = {}
_IMPORTERS: dict[str, Importer] = {}
_discovered = False


def register(operator: Operator) -> Operator:
    """Add an operator to the registry and return it.

    Raises
    ------
    ValueError
        If the name, or one of the ONNX types it imports, is taken.
    """
    if operator.name in _OPERATORS:
        raise ValueError(f"operator {operator.name!r} is registered twice")
    taken = sorted(set(operator.onnx) & set(_IMPORTERS))
    if taken:
        raise ValueError(f"operator {operator.name!r}: ONNX type {taken[0]!r} has an importer")
    _OPERATORS[operator.name] = operator
    _IMPORTERS.update(operator.onnx)
    return operator


def _discover() -> None:
    """Import every module of this package, once."""
    global _discovered
    if not _discovered:
        for module in pkgutil.iter_modules(__path__):
            importlib.import_module(f"{__name__}.{module.name}")
        _discovered = True


def operators() -> dict[str, Operator]:
    """Every operator that a model can have by name, in alphabetical order."""
    _discover()
    return {name: op for name, op in sorted(_OPERATORS.items()) if not op.internal}


def names(condition: Callable[[Operator], bool]) -> frozenset[str]:
    """Names of the operators that fulfil a condition, internal ones included."""
    _discover()
    return frozenset(name for name, op in _OPERATORS.items() if condition(op))


def importers() -> dict[str, Importer]:
    """The importer of every ONNX operator type."""
    _discover()
    return dict(sorted(_IMPORTERS.items()))


def get(name: str) -> Operator:
    """The operator of that name.

    Raises
    ------
    InputError
        If there is none; the message names the nearest ones.
    """
    _discover()
    if name not in _OPERATORS:
        raise InputError(f"unknown operator {name!r}{nearest(name, _OPERATORS)}")
    return _OPERATORS[name]


def result_dtype(name: str, dtypes: Sequence[str], attrs: Attrs) -> str:
    """Element type of a node's output: the operator's, then what the steps of a program make."""
    operator = get(name)
    rule = operator.output_dtype
    dtype = dtypes[0] if rule is None else rule(dtypes, attrs)
    for step in attrs.get("program", ()):
        step_rule = get(step["op"]).output_dtype
        dtype = dtype if step_rule is None else step_rule([dtype], step)
    return dtype


def nearest(name: str, names: Iterable[str]) -> str:
    """``"; did you mean A or B?"`` with the names most like a mistyped one, or an empty string."""
    close = difflib.get_close_matches(name, list(names), n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""
