"""`tvmconv compile`."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import get_args

import click

from tvmconv.cli._options import (
    BuildOptions,
    build_options,
    debug_option,
    libc_option,
    model_source,
    output_option,
    precision_option,
    target_option,
    tf32_option,
)
from tvmconv.cli._output import progress_bar
from tvmconv.compiler import Format
from tvmconv.errors import InputError
from tvmconv.files import check_output_file
from tvmconv.target import load_target

#: What can be dumped, and the suffix of the file beside the output.
DUMPS = {
    "asm": ".s",
    "c": ".plan.c",
    "cuda": ".cu",
    "ptx": ".ptx",
    "relax": ".relax.py",
    "tir": ".tir.py",
}


@click.command()
@click.argument("model", metavar="MODEL.onnx|PROBLEM")
@target_option
@output_option("FILE", "The file to write; it appears when it is whole.")
@libc_option
@click.option(
    "--format",
    "form",
    type=click.Choice(get_args(Format)),
    default="shared",
    show_default=True,
    help="A .so or a .a with a plain C interface, or a .so for TVM's own runtime.",
)
@click.option(
    "--dump",
    multiple=True,
    type=click.Choice(list(DUMPS)),
    help="Also write beside FILE the assembly, the plan in C, a GPU's CUDA source or PTX, the graph"
    " or the scheduled TIR.",
)
@click.option(
    "--nvcc",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="For a GPU: compile with this nvcc instead of NVRTC.",
)
@build_options
@click.option(
    "--split-separable",
    is_flag=True,
    help="Split convolutions whose weights are exactly of low rank (Sobel, Gauss) into two.",
)
@precision_option
@tf32_option
@debug_option
def command(
    model: str,
    target: str,
    output: Path,
    libc: str | None,
    form: Format,
    dump: tuple[str, ...],
    nvcc: Path | None,
    split_separable: bool,
    precision: str,
    allow_tf32: bool,
    build: BuildOptions,
) -> None:
    """Compile a model, or one problem, to a file that runs by itself."""
    source = model_source(model)
    machine = load_target(target).with_libc(libc)
    dumps = {kind: output.with_suffix(DUMPS[kind]) for kind in dump}
    for kind, path in dumps.items():
        if path == output:
            raise InputError(f"{path}: the output would replace the dump of {kind}")
    for path in (output, *dumps.values()):
        check_output_file(path)
        if isinstance(source, Path) and source.exists() and path.exists() and path.samefile(source):
            raise InputError(f"{path}: the output would replace the model")
    from tvmconv.autoschedule.log import OTHER_TARGET
    from tvmconv.compiler import compile_to_file, open_logs

    images = None
    if nvcc is not None:
        from tvmconv.codegen.cuda.build import image_builder

        images = image_builder(machine, nvcc)
    logs = None if build.untuned else open_logs(build.log, machine.with_threads(build.threads))
    start = time.perf_counter()
    with progress_bar() as progress:
        written = compile_to_file(
            source,
            output,
            target=machine,
            format=form,
            dump=dumps,
            precision=precision,
            allow_tf32=allow_tf32,
            split_separable=split_separable,
            progress=progress,
            images=images,
            **{**build.arguments(), "log": logs},
        )
    seconds = time.perf_counter() - start
    size = written.stat().st_size / 1e6
    click.echo(f"{written}: {size:.1f} MB for {machine.name}, compiled in {seconds:.1f} s")
    used = logs.used if logs else Counter()
    if used["static"]:
        click.echo(f"log: {used['static']} of {used.total()} schedules are by estimates alone")
    for reason, count in logs.skipped.most_common() if logs else ():
        if reason != OTHER_TARGET:  # a folder may well hold those of several
            click.echo(f"log: {count} records skipped: {reason}", err=True)
