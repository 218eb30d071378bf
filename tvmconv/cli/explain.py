"""`tvmconv explain`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tvmconv.cli._files import check_files, json_file_option, write_json, write_text
from tvmconv.cli._options import (
    batch_option,
    debug_option,
    input_option,
    model_source,
    params_option,
    target_option,
    threads_option,
)
from tvmconv.cli._output import console
from tvmconv.errors import InputError
from tvmconv.target import load_target

if TYPE_CHECKING:
    from tvmconv.ops import Array


def _place(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        return tuple(int(number) for number in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is no list of numbers like 0,3,5") from None


@click.command()
@click.argument("model", metavar="PROBLEM|MODEL.onnx")
@target_option
@threads_option
@click.option(
    "--at",
    metavar="O",
    callback=_place,
    help="The output of which to say what it reads: its place, as 3,5, or with its channel before"
    " that; the middle if not given.",
)
@click.option(
    "--svg",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Draw the problem: input, padding, the window in several places, output.",
)
@input_option
@params_option
@batch_option
@json_file_option
@debug_option
def command(
    model: str,
    target: str,
    threads: int | None,
    at: tuple[int, ...] | None,
    svg: Path | None,
    inputs: dict[str, Path],
    params: Path | None,
    batch: int | None,
    json_file: Path | None,
) -> None:
    """Show the arithmetic of a problem or of a model's layers, without compiling.

    Of a problem: the output's shape, parameters, multiply-adds, bytes, the least time on a target,
    what one output reads, the dense matrix it is, what other layers would cost. Of a model: a table
    of its layers with their cost and receptive field. With --input and --params, arrays of at most
    64 elements, a problem is also computed.
    """
    source = model_source(model)
    machine = load_target(target)
    check_files(picture=svg, JSON=json_file)
    if isinstance(source, Path) and (svg or inputs or params or at):
        raise InputError(f"{model}: --at, --svg, --input and --params are for problems")
    from tvmconv.explain import explain
    from tvmconv.explain.text import render

    arrays = _arrays(str(source), inputs, params) if inputs or params else None
    found: Any = explain(source, machine, at=at, arrays=arrays, batch=batch, threads=threads)
    picture = found.svg() if svg is not None else ""
    sections = found.sections()
    write_json(found.to_json(), json_file, lambda: click.echo(render(sections, console())))
    if svg is not None:
        write_text(svg, picture)


def _arrays(source: str, inputs: dict[str, Path], params: Path | None) -> dict[str, Array]:
    """The arrays of a problem: those of --params, and a file for each other input."""
    from tvmconv.cli._arrays import load_inputs
    from tvmconv.explain.values import check_small
    from tvmconv.frontend.problems import read_params
    from tvmconv.problem import Problem

    problem = Problem.parse(source)
    check_small(problem)
    constants = read_params(problem, params)
    specs = [
        {"name": name, "shape": shape, "dtype": problem.dtype}
        for name, shape in problem.inputs.items()
        if name not in constants
    ]
    missing = [str(spec["name"]) for spec in specs if spec["name"] not in inputs]
    if missing:
        raise InputError(
            f"{source}: needs --input {missing[0]}=x.npy" + " or --params" * (missing[0] != "x")
        )
    return {**constants, **load_inputs(source, specs, inputs, None)}
