"""`tvmconv verify`."""

from __future__ import annotations

import click

from tvmconv.cli._options import (
    BuildOptions,
    build_options,
    debug_option,
    json_option,
    make_runner,
    model_source,
    precision_option,
    runner_option,
    target_option,
    tf32_option,
    timeout_option,
)
from tvmconv.cli._output import print_json, progress_bar, show
from tvmconv.errors import VerificationError
from tvmconv.target import load_target


@click.command()
@click.argument("model", metavar="MODEL.onnx|PROBLEM")
@target_option
@click.option("--bisect", is_flag=True, help="Name the first node whose output is wrong.")
@click.option("--emulate", is_flag=True, help="Run a GPU's kernels on this CPU, with checks.")
@build_options
@precision_option
@tf32_option
@runner_option
@timeout_option
@json_option
@debug_option
def command(
    model: str,
    target: str,
    bisect: bool,
    emulate: bool,
    precision: str,
    allow_tf32: bool,
    runner: str | None,
    timeout: float | None,
    as_json: bool,
    build: BuildOptions,
) -> None:
    """Compile, run, and compare every output with the NumPy reference."""
    source = model_source(model)
    machine = load_target(target)
    elsewhere = make_runner(runner, timeout)
    from tvmconv.verify import verify

    with progress_bar() as progress:
        report = verify(
            source,
            target=machine,
            bisect=bisect,
            emulate=emulate,
            precision=precision,
            allow_tf32=allow_tf32,
            progress=progress,
            runner=elsewhere,
            **build.arguments(),
        )
    if as_json:
        print_json(report.to_json())
    else:
        show(report.table())
    if not report.ok:
        raise VerificationError(f"{model}: {report.fault}")
