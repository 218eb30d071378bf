"""A small problem computed on numbers, with the sum of one output written out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from math import prod

import numpy as np

from tvmconv.errors import InputError
from tvmconv.explain import border
from tvmconv.explain.axes import Axis, input_channels, is_transposed
from tvmconv.explain.text import Section, sizes
from tvmconv.ops import Array
from tvmconv.problem import Problem

#: Elements of the input, and of an array that is printed.
LIMIT = 64
#: Terms of a sum that are written out.
_TERMS = 32


def check_small(problem: Problem) -> None:
    """Refuse an input that is too large to look at."""
    elements = prod(problem.input_shape)
    if elements > LIMIT:
        raise InputError(f"{problem}: numbers are shown for inputs of at most {LIMIT} elements,"
                         f" x has {elements}")  # fmt: skip


def values_section(
    problem: Problem,
    axes: tuple[Axis, ...] | None,
    at: tuple[int, ...],
    arrays: Mapping[str, Array],
) -> Section:
    """Inputs, output, and how one element of the output comes about.

    Parameters
    ----------
    arrays : mapping
        ``x``, ``weight`` and ``bias`` as the problem has them.
    """
    y = problem.reference(arrays)
    lines: list[str] = []
    for name, array in {**arrays, "y": y}.items():
        lines += [f"{name} {sizes(array.shape)}", *("  " + line for line in _grid(array))]
    line = written_out(problem, axes, at, arrays, float(y[at]))
    return Section("on numbers", tuple(lines), notes=(line,))


def written_out(
    problem: Problem,
    axes: tuple[Axis, ...] | None,
    at: tuple[int, ...],
    arrays: Mapping[str, Array],
    result: float,
) -> str:
    """One output as the sum (maximum, mean) of its terms; without them if they are many."""
    name = f"y[{','.join(map(str, at))}]"
    terms = (
        []
        if axes is None or problem.parts or problem.family.gated
        else list(itertools.islice(_terms(problem, axes, at, arrays), 33))
    )
    if not terms or len(terms) > _TERMS:
        return f"{name} = {_number(result)}"
    if problem.family.arithmetic != "multiply-add":
        listed = ", ".join(_number(x) for x, _ in terms)
        word = {"maximum": "max", "norm": f"{problem.option('p')}-norm"}.get(
            problem.family.arithmetic, "mean"
        )
        return f"{name} = {word} of {listed} = {_number(result)}"
    text = " + ".join(f"{_factor(x)}·{_factor(w)}" for x, w in terms)
    total = sum(x * w for x, w in terms)
    if problem.bias:
        bias = float(arrays["bias"][at[1:] if problem.family.unshared else at[1]])
        text, total = f"{text} + {_factor(bias)}", total + bias
    if problem.activation:
        return f"{name} = {problem.activation}({text}) = {_number(result)}"
    return f"{name} = {text} = {_number(result)}"


def _terms(
    problem: Problem, axes: tuple[Axis, ...], at: tuple[int, ...], arrays: Mapping[str, Array]
) -> Iterator[tuple[float, float]]:
    """The inputs that one output reads, each with its weight (1 for pools)."""
    x, weight = arrays["x"], arrays.get("weight")
    for number, channel in enumerate(input_channels(problem, at[1])):
        insides = zip(axes, at[2:], strict=True)
        for taps in itertools.product(*(axis.taps_inside(output) for axis, output in insides)):
            places = zip(axes, at[2:], taps, strict=True)
            positions = [axis.position(output, tap) for axis, output, tap in places]
            element = float(x[(at[0], channel, *border.elements(axes, positions))])
            if weight is None:
                yield element, 1.0
            elif is_transposed(axes):
                column = at[1] % (problem.co // problem.groups)
                yield element, float(weight[(channel, column, *taps)])
            else:
                own = at[2:] if problem.family.unshared else ()
                yield element, float(weight[(*own, at[1], number, *taps)])


def _grid(array: Array) -> list[str]:
    """The elements of an array, a line a row and a blank line between planes."""
    if array.size > LIMIT:
        return ["…"]
    cells = [_number(float(value)) for value in array.reshape(-1)]
    width, columns = max(map(len, cells)), array.shape[-1] if array.ndim else 1
    rows = array.shape[-2] if array.ndim > 2 else array.size
    lines = []
    for start in range(0, len(cells), columns):
        if start and start // columns % rows == 0:
            lines.append("")
        lines.append(" ".join(cell.rjust(width) for cell in cells[start : start + columns]))
    return lines


def _number(value: float) -> str:
    return f"{value:.6g}"


def _factor(value: float) -> str:
    return f"({_number(value)})" if value < 0 else _number(value)


def check_arrays(problem: Problem, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Arrays by name, checked against the problem's inputs; InputError if they do not fit."""
    check_small(problem)
    found = {name: np.asarray(array) for name, array in arrays.items()}
    for name in problem.inputs:
        if name not in found:
            raise InputError(f"{problem}: numbers need {name} of shape"
                             f" {sizes(problem.inputs[name])}")  # fmt: skip
    for name, array in found.items():
        shape = problem.inputs.get(name)
        if shape is None:
            raise InputError(f"{problem}: there is no input {name!r}; it has"
                             f" {', '.join(problem.inputs)}")  # fmt: skip
        if array.shape != shape:
            raise InputError(f"{problem}: {name} must have shape {sizes(shape)},"
                             f" has {sizes(array.shape)}")  # fmt: skip
    return {name: found[name] for name in problem.inputs}
