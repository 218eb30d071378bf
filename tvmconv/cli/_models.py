"""`python -m tvmconv.models` and `python -m tvmconv.blocks`: ONNX models with random weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tvmconv.blocks import BLOCKS, block_model
from tvmconv.cli._options import debug_option
from tvmconv.files import make_output_dir, replacing
from tvmconv.models import light_model, light_models

if TYPE_CHECKING:
    import onnx

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _writer(name: str, models: Sequence[str]) -> Callable[[_Function], click.Command]:
    """A command that writes models, chosen by their names, to a folder."""

    def command(function: _Function) -> click.Command:
        for option in (
            debug_option,
            click.option(
                "--seed", type=click.IntRange(min=0), default=0, help="Of the random weights."
            ),
            click.argument("names", nargs=-1, metavar="[NAME]...", type=click.Choice(models)),
            click.argument("directory", type=click.Path(file_okay=False, path_type=Path)),
        ):
            function = option(function)
        settings = {"help_option_names": ["-h", "--help"]}
        return click.command(name, context_settings=settings)(function)

    return command


@_writer("python -m tvmconv.models", light_models())
@click.option("--weights", type=click.Choice(["random", "constant"]), default="random")
@click.option("--batch", type=click.IntRange(1, 2**20), help="Instead of the model's own.")
def networks(
    directory: Path, names: Sequence[str], weights: str, seed: int, batch: int | None
) -> None:
    """Write the light networks as ONNX files: all, or those that are named."""
    chosen = names or light_models()
    _write(directory, chosen, lambda name: light_model(name, weights, seed, batch))


@_writer("python -m tvmconv.blocks", list(BLOCKS))
@click.option("--small", is_flag=True, help="In sizes for tests.")
def blocks(directory: Path, names: Sequence[str], small: bool, seed: int) -> None:
    """Write blocks of networks as ONNX files: all, or those that are named."""
    _write(directory, names or list(BLOCKS), lambda name: block_model(name, small, seed))


def _write(folder: Path, names: Sequence[str], make: Callable[[str], onnx.ModelProto]) -> None:
    """Make models by their names, write them to a folder, and print their paths."""
    make_output_dir(folder)
    for name in names:
        model, path = make(name), folder / f"{name}.onnx"
        with replacing(path) as temporary:
            temporary.write_bytes(model.SerializeToString())
        print(path)
