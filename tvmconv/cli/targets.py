"""`tvmconv targets`."""

from __future__ import annotations

import click

from tvmconv.cli._options import debug_option, json_option
from tvmconv.cli._output import print_json, print_table
from tvmconv.records import to_toml
from tvmconv.target import load_target, target_files, targets


@click.group(invoke_without_command=True)
@json_option
@debug_option
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """List the targets, show one, or detect the host."""
    if context.invoked_subcommand is not None:
        return
    known = list(targets().values())
    if as_json:
        print_json([target.to_dict() for target in known])
        return
    rows = [
        (
            target.name,
            target.vector.bits,
            target.vector.registers,
            target.vector.f32_lanes * target.vector.fma_per_cycle,
            ", ".join(target.aliases),
            target.description,
        )
        for target in known
    ]
    print_table(
        ("target", "vector bits", "registers", "MAC/cycle/core", "also", "description"), rows
    )


@command.command()
@click.argument("name")
@json_option
@debug_option
def show(name: str, as_json: bool) -> None:
    """Print the TOML of a target.

    NAME may be an alias, `host` or the path of a file.
    """
    target = load_target(name)
    files = {path.stem: path for path in target_files()}
    if as_json:
        print_json(target.to_dict())
    elif target is targets().get(target.name):
        # The file itself, because its comments say where each number is from.
        click.echo(files[target.name].read_text(encoding="utf-8"), nl=False)
    else:
        click.echo(to_toml(target.to_dict()), nl=False)


@command.command()
@json_option
@debug_option
def detect(as_json: bool) -> None:
    """Print the TOML of this machine.

    Kept in a file, it is a target for other machines of the same kind.
    """
    target = load_target()
    if as_json:
        print_json(target.to_dict())
        return
    click.echo("# Detected: the cores, the sizes of the caches, and the features switched off that")
    click.echo(f"# this CPU lacks. The rest is that of {target.name}; `tvmconv targets show`")
    click.echo("# prints it with the source of each number.")
    click.echo(to_toml(target.to_dict()), nl=False)
