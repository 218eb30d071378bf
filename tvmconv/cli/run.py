"""`tvmconv run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tvmconv.cli._options import (
    debug_option,
    input_option,
    json_option,
    make_runner,
    runner_option,
    threads_option,
    timeout_option,
)
from tvmconv.cli._output import print_json, print_table
from tvmconv.errors import InputError
from tvmconv.files import make_output_dir

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.generic]


@click.command()
@click.argument("file", metavar="FILE.so", type=click.Path(path_type=Path))
@input_option
@click.option(
    "--seed",
    metavar="N",
    type=click.IntRange(0, 2**32 - 1),
    help="Random numbers for the inputs that no --input gives.",
)
@click.option(
    "--output-dir",
    metavar="D",
    type=click.Path(path_type=Path),
    help="Write each output there as NAME.npy.",
)
@threads_option
@runner_option
@timeout_option
@json_option
@debug_option
def command(
    file: Path,
    inputs: dict[str, Path],
    seed: int | None,
    output_dir: Path | None,
    threads: int | None,
    runner: str | None,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Run a compiled file on arrays, and print or keep its outputs."""
    elsewhere = make_runner(runner, timeout)
    from tvmconv.runtime.inspect import inspect_artifact

    facts = inspect_artifact(file)
    from tvmconv.cli._arrays import load_inputs, save_outputs, summary

    arrays = load_inputs(str(file), facts["inputs"], inputs, seed)
    if output_dir is not None:
        make_output_dir(output_dir)
    if elsewhere is None:
        from tvmconv.runtime.loader import load

        results = load(file, threads=threads)(arrays)
    else:
        from tvmconv.device.module import RemoteModule

        with RemoteModule(file, elsewhere, threads) as module:
            results = module(arrays)
    names = [output["name"] for output in facts["outputs"]]
    if len(names) != len(results):
        raise InputError(f"{file}: its metadata names {len(names)} outputs, not {len(results)}")
    rows: list[dict[str, Any]] = [
        summary(name, array) for name, array in zip(names, results, strict=True)
    ]
    if output_dir is not None:
        for row, path in zip(rows, save_outputs(output_dir, names, results), strict=True):
            row["file"] = str(path)
    if as_json:
        print_json(rows)
    else:
        print_table(list(rows[0]), [list(row.values()) for row in rows])
