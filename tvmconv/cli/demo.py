"""`tvmconv demo`."""

from __future__ import annotations

from pathlib import Path

import click

from tvmconv.cli._options import debug_option, threads_option
from tvmconv.files import make_output_dir


@click.command()
@click.option(
    "--output-dir",
    metavar="D",
    default="tvmconv-demo",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Where the compiled files go.",
)
@threads_option
@debug_option
def command(output_dir: Path, threads: int | None) -> None:
    """Compile, run, check and time two networks.

    A trained classifier of handwritten digits, and a ResNet-50 with random weights.
    """
    make_output_dir(output_dir)
    from tvmconv.demo import run_demo

    run_demo(output_dir, threads=threads)
