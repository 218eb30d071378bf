"""Convolutions explained: shapes, cost, what reads what, as text and as a picture.

Works on the problem's text, or on a model's graph as the frontend makes it; compiles nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvmconv.errors import InputError
from tvmconv.target import Target, load_target

if TYPE_CHECKING:
    from tvmconv.explain.model import ModelExplanation
    from tvmconv.explain.problem import ProblemExplanation
    from tvmconv.ops import Array

__all__ = ["explain"]


def explain(
    model: Any,
    target: str | Path | Target = "host",
    *,
    at: Sequence[int] | None = None,
    arrays: Mapping[str, Array] | None = None,
    batch: int | None = None,
    threads: int | None = None,
) -> ProblemExplanation | ModelExplanation:
    """Explain a problem, or a model layer by layer.

    >>> import tvmconv
    >>> print(tvmconv.explain("conv2d:1x64x56x56:64x3x3:padding=1"))  # doctest: +SKIP

    Parameters
    ----------
    model : Problem, text of one, path or ModelProto
    target : Target, name or file
        Of the roofline.
    at : sequence of int, optional
        For a problem: the output of which it is said what it reads, as its place, as channel and
        place, or with the batch before them. A middle one if left out.
    arrays : mapping, optional
        For a problem of at most 64 inputs: ``x``, ``weight``, ``bias`` to compute with.
    batch : int, optional
        For a model: extent of a symbolic first axis.
    threads : int, optional
        Cores of the roofline; the target's if left out.

    Returns
    -------
    ProblemExplanation or ModelExplanation
        ``print`` either; both have ``to_json()`` and ``sections()``, a problem's also ``svg()``.

    Raises
    ------
    InputError
        If there is no such problem or model, or ``at`` or an array does not fit the problem.
    """
    from tvmconv.frontend import is_problem_text
    from tvmconv.problem import Problem

    machine = load_target(target).with_threads(threads)
    if isinstance(model, str) and is_problem_text(model):
        if batch is not None:
            raise InputError(f"{model}: --batch is for models; a problem's text has its batch")
        model = Problem.parse(model)
    if isinstance(model, Problem):
        from tvmconv.explain import values
        from tvmconv.explain.problem import ProblemExplanation, output_place

        numbers = values.check_arrays(model, arrays) if arrays else {}
        return ProblemExplanation(model, machine, output_place(model, at), numbers)
    if at is not None or arrays:
        raise InputError("an output's place and numbers are for problems, not for models")
    from tvmconv.explain.model import explain_graph
    from tvmconv.frontend import load

    return explain_graph(load(model, batch=batch), machine)
