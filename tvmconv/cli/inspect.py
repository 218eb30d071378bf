"""`tvmconv inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tvmconv.cli._options import debug_option, json_option
from tvmconv.cli._output import print_json, print_table
from tvmconv.errors import InputError


@click.command()
@click.argument("file", metavar="FILE.so", type=click.Path(path_type=Path))
@click.option("--sass", is_flag=True, help="Print a GPU's machine code as text, by nvdisasm.")
@json_option
@debug_option
def command(file: Path, sass: bool, as_json: bool) -> None:
    """Tell what a compiled file holds, without running it."""
    if sass and as_json:
        raise InputError("sass: is text, there is no JSON of it")
    if sass:
        from tvmconv.codegen.cuda.sass import disassembled

        for text in disassembled(file):
            click.echo(text)
        return
    from tvmconv.runtime.inspect import inspect_artifact

    facts = inspect_artifact(file)
    if as_json:
        print_json(facts)
    else:
        _print_facts(facts)


def _print_facts(facts: dict[str, Any], indent: str = "") -> None:
    """Print what is simple as ``key: value`` lines and lists of records as tables."""
    for key, value in facts.items():
        if isinstance(value, dict):
            click.echo(f"{indent}{key}:")
            _print_facts(value, indent + "  ")
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            click.echo(f"{indent}{key}:")
            columns = list(dict.fromkeys(column for item in value for column in item))
            rows = [[_brief(item.get(column, "")) for column in columns] for item in value]
            print_table(columns, rows)
        else:
            click.echo(f"{indent}{key}: {_brief(value)}")


def _brief(value: object) -> object:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return value
