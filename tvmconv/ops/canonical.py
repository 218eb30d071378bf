"""What makes a Problem valid and canonical: its sizes, its options, and what they lead to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from math import prod
from typing import TYPE_CHECKING

from tvmconv import ops
from tvmconv.errors import InputError
from tvmconv.ops import Shape
from tvmconv.ops.options import DTYPES, LIMIT, Value, whole_number

if TYPE_CHECKING:
    from tvmconv.problem import Problem

#: Tensors of this many bytes are refused: none fits a machine that runs these kernels.
TENSOR_BYTES_LIMIT = 2**40
_SIZE = "-?[0-9]{1,4000}"


def shortened(text: str) -> str:
    """A text as it is shown in a message, which stays one readable line."""
    text = " ".join(text.split())
    return text if len(text) <= 200 else text[:197] + "..."


def problem_names() -> dict[str, tuple[str, int]]:
    """Every name that a problem's text can begin with, with its operator and rank."""
    names = {}
    for op in ops.operators().values():
        if op.family is not None:
            for rank in op.ranks or (0,):
                names[text_name(op.name, rank)] = (op.name, rank)
    return names


def text_name(op: str, rank: int) -> str:
    """How a problem's text begins: ``conv2d``, ``conv2d_transpose``, ``dense``."""
    return _spelled(op, str(rank)) if ops.get(op).ranks else op


def names_of(op: str) -> str:
    """How the texts of an operator's problems begin, in one word: ``conv{1,2,3}d_transpose``."""
    ranks = ops.get(op).ranks
    return _spelled(op, "{" + ",".join(map(str, ranks)) + "}") if ranks else op


def _spelled(op: str, ranks: str) -> str:
    stem = op.removesuffix("_transpose")
    return f"{stem}{ranks}d{op.removeprefix(stem)}"


def split(text: str) -> tuple[str, Shape, Shape, tuple[tuple[str, str], ...]]:
    """Take a problem's text apart: operator, input and filter sizes, options.

    Raises
    ------
    InputError
        If the text is malformed; whether there is such a problem is not looked at.
    """
    name, *fields = text.split(":")
    names = problem_names()
    if name not in names:
        known = dict.fromkeys(names_of(op) for op, _ in names.values())
        hint = ops.nearest(name, names) or f"; known are {', '.join(known)}"
        raise InputError(f"{shortened(text)}: unknown operator {name[:40]!r}{hint}")
    op, rank = names[name]
    family = ops.get(op).family
    wanted = 2 if family is not None and family.filter_form else 1
    shapes: list[Shape] = []
    options: list[tuple[str, str]] = []
    for field in fields:
        key, equals, value = field.partition("=")
        if equals:
            options.append((key, value))
        elif options or len(shapes) == wanted:
            raise InputError(f"{shortened(text)}: {field[:40]!r} is not an option=value")
        elif not re.fullmatch(f"{_SIZE}(x{_SIZE})*", field):
            raise InputError(f"{shortened(text)}: {field[:40]!r} is no list of sizes like 1x64x56")
        else:
            shapes.append(tuple(int(size) for size in field.split("x")))
    if len(shapes) < wanted:
        missing = ("input", "filter")[len(shapes)]
        raise InputError(f"{shortened(text)}: {missing} sizes are missing")
    if len(shapes[0]) != rank + 2:
        raise InputError(
            f"{shortened(text)}: input must have {rank + 2} sizes, got {len(shapes[0])}"
        )
    return op, shapes[0], shapes[1] if wanted == 2 else (), tuple(options)


def written(problem: Problem) -> list[str]:
    """The fields of the text that are sizes."""
    shapes = (problem.input_shape, problem.filter_shape)
    return ["x".join(str(size) for size in shape) for shape in shapes if shape]


def given_text(problem: Problem) -> str:
    """The problem as it was given, valid or not, for messages."""
    fields = [text_name(problem.op, problem.rank), *written(problem)]
    for key, value in problem.options:
        shown = ",".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
        fields.append(f"{key}={shown}")
    return shortened(":".join(fields))


def sizes(problem: Problem) -> dict[str, Shape]:
    """Check the input's and the filter's sizes, and return them as plain integers."""
    form = problem.family.filter_form
    found: dict[str, Shape] = {}
    for attribute in ("input", "filter"):
        numbers = []
        for size in getattr(problem, f"{attribute}_shape"):
            number = whole_number(size)
            if number is None or number < 1:
                problem.fail(attribute, f"sizes must be positive integers, got {str(size)[:40]}")
            if number > LIMIT:
                problem.fail(attribute, f"sizes must be at most {LIMIT}, got {str(size)[:40]}")
            numbers.append(number)
        found[f"{attribute}_shape"] = tuple(numbers)
    ranks = ops.get(problem.op).ranks or (0,)
    if problem.rank not in ranks:
        known = " or ".join(str(rank + 2) for rank in ranks)
        problem.fail("input", f"must have {known} sizes, got {problem.rank + 2}")
    parts = []
    for part in form:
        parts += ["K"] * problem.rank if part == "K" else [part]
    if len(problem.filter_shape) != len(parts):
        shown = f" ({'x'.join(parts)})" if parts else ""
        count = len(problem.filter_shape)
        problem.fail("filter", f"must have {len(parts)} sizes{shown}, got {count}")
    return found


def options(problem: Problem) -> Iterator[tuple[tuple[str, Value], ...]]:
    """Read the options; yield them as read, then after each that resolves others.

    What is yielded is in canonical order without defaults; the caller stores it, so that the next
    step sees it.
    """
    family = problem.family
    known = {option.name: option for option in family.options}
    given: dict[str, object] = {}
    for key, value in problem.options:
        if key not in known:
            hint = ops.nearest(key, known) or f"; {problem.op} takes {', '.join(known)}"
            problem.fail("option", f"{key[:40]!r} is unknown{hint}")
        if key in given:
            problem.fail(key, "is given twice")
        given[key] = value
    values = {key: known[key].read(problem, value) for key, value in given.items()}

    def kept() -> tuple[tuple[str, Value], ...]:
        pairs = [(name, values[name]) for name in known if name in values]
        return tuple((k, v) for k, v in pairs if v != known[k].default(problem.rank))

    yield kept()
    for option in family.options:
        if option.resolve is not None:
            values.update(option.resolve(problem))
            yield kept()


def check(problem: Problem) -> None:
    """Refuse what the operator refuses, index arithmetic beyond int32 and tensors too large."""
    _check_windows(problem)
    problem.family.validate(problem)
    tensors: Mapping[str, Shape] = {**problem.inputs, "output": problem.output_shape}
    for name, shape in tensors.items():
        size = prod(shape) * DTYPES[problem.dtypes[name]].itemsize
        if max(shape) > LIMIT or size >= TENSOR_BYTES_LIMIT:
            shown = "x".join(map(str, shape))
            problem.fail(name, f"of shape {shown} is too large: {size} bytes")


def _check_windows(problem: Problem) -> None:
    for axis, span in enumerate(problem.kernel_extent):
        padded = problem.in_spatial[axis] + problem.pads_low[axis] + problem.pads_high[axis]
        if span > LIMIT:
            problem.fail(
                "dilation", f"makes the filter span {span} on spatial axis {axis}, over {LIMIT}"
            )
        if padded > LIMIT:
            problem.fail(
                "padding", f"makes the input {padded} long on spatial axis {axis}, over {LIMIT}"
            )
        size = problem.out_spatial[axis]
        if size < 1 and problem.family.transposed:
            problem.fail("padding", f"leaves an output of size {size} on spatial axis {axis}")
        if size < 1:
            problem.fail(
                "filter",
                f"spans {span} and does not fit the padded input of {padded} on spatial axis"
                f" {axis}: the output would have size 0",
            )
