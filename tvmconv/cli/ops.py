"""`tvmconv ops`."""

from __future__ import annotations

import click

from tvmconv.cli._options import debug_option, json_option
from tvmconv.cli._output import print_json, print_table


@click.command()
@json_option
@debug_option
def command(as_json: bool) -> None:
    """List the operators, and the ONNX operators they stand for."""
    from tvmconv.ops import operators
    from tvmconv.ops.canonical import names_of

    known = list(operators().values())
    if as_json:
        print_json(
            [
                {
                    "name": operator.name,
                    "ranks": operator.ranks,
                    "problem": operator.family is not None,
                    "onnx": sorted(operator.onnx),
                    "summary": operator.summary,
                }
                for operator in known
            ]
        )
        return
    rows = [
        (
            operator.name,
            names_of(operator.name) if operator.family else "",
            ", ".join(sorted(operator.onnx)),
            operator.summary,
        )
        for operator in known
    ]
    print_table(("operator", "problem", "ONNX", "what it computes"), rows)
