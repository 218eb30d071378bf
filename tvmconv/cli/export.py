"""`tvmconv export`."""

from __future__ import annotations

from pathlib import Path

import click

from tvmconv.cli._options import (
    BuildOptions,
    build_options,
    debug_option,
    json_option,
    model_source,
    output_option,
    target_option,
)
from tvmconv.cli._output import print_json, print_table, progress_bar
from tvmconv.runtime.inspect import DEFAULT_PREFIX
from tvmconv.target import load_target


@click.command()
@click.argument("model", metavar="MODEL.onnx|PROBLEM")
@target_option
@output_option("DIR", "The folder to make; it appears when it is whole.")
@click.option(
    "--prefix",
    metavar="NAME",
    default=DEFAULT_PREFIX,
    show_default=True,
    help="What the C functions begin with; with different ones two models fit into one program.",
)
@build_options
@json_option
@debug_option
def command(
    model: str,
    target: str,
    output: Path,
    prefix: str,
    as_json: bool,
    build: BuildOptions,
) -> None:
    """Write a folder to build a C program from: libraries, header, example, sample, README."""
    source = model_source(model)
    machine = load_target(target)
    from tvmconv.export.export import check_folder
    from tvmconv.export.texts import check_prefix

    check_prefix(prefix)
    check_folder(output)
    from tvmconv.export import export_model

    with progress_bar() as progress:
        report = export_model(
            source, output, machine, prefix=prefix, progress=progress, **build.arguments()
        )
    if as_json:
        print_json(report.to_json())
        return
    print_table(["file", "bytes"], list(report.files.items()))
    memory = f"peak memory {report.peak_memory_bytes / 1e6:.1f} MB"
    parts = f"weights {report.weights_bytes / 1e6:.1f} MB, arena {report.arena_bytes / 1e6:.1f} MB"
    click.echo(f"{output}: for {machine.name}; {memory}: {parts}")
