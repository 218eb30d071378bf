"""`tvmconv bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tvmconv.cli._files import check_files, json_file_option, page_option, write_json
from tvmconv.cli._options import (
    batch_option,
    debug_option,
    log_option,
    make_runner,
    precision_option,
    runner_option,
    target_option,
    tf32_option,
    threads_option,
    timeout_option,
    untuned_option,
)
from tvmconv.cli._output import print_table, progress_bar, show
from tvmconv.cli._suite import models_or_suite, sources
from tvmconv.errors import InputError, VerificationError
from tvmconv.report import require_report, write_bench_report
from tvmconv.target import load_target

if TYPE_CHECKING:
    from tvmconv.bench import BenchReport
    from tvmconv.bench.static import StaticReport
    from tvmconv.bench.static_gpu import GpuStaticReport


def _names(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))


@click.command()
@models_or_suite
@target_option
@click.option(
    "--against",
    metavar="PEERS",
    default="",
    callback=_names,
    help="Libraries to compare with: onnxruntime,openvino,ncnn,torch,torch-channels-last.",
)
@threads_option
@click.option(
    "--rounds",
    metavar="N",
    type=click.IntRange(1, 1000),
    default=6,
    show_default=True,
    help="Blocks of runs for each contender, in turns.",
)
@batch_option
@precision_option
@tf32_option
@click.option("--layers", is_flag=True, help="Also time each layer of a network.")
@click.option(
    "--static",
    is_flag=True,
    help="Run nothing, for a target not at hand: score each kernel's hot loop by llvm-mca, or the"
    " kernels of a GPU by the cost model.",
)
@log_option
@untuned_option
@runner_option
@timeout_option
@json_file_option
@page_option
@debug_option
def command(
    models: tuple[str, ...],
    suite_name: str | None,
    filter: str,
    target: str,
    against: tuple[str, ...],
    threads: int | None,
    rounds: int,
    batch: int | None,
    precision: str,
    allow_tf32: bool,
    layers: bool,
    static: bool,
    log: tuple[Path, ...],
    untuned: bool,
    runner: str | None,
    timeout: float | None,
    json_file: Path | None,
    page: Path | None,
) -> None:
    """Time models or problems, and the libraries one would use instead.

    Each contender runs alone in blocks with pauses between them; the same one runs twice, and the
    spread between the two is printed as the noise.
    """
    found = sources(models, suite_name, filter)
    machine = load_target(target)
    elsewhere = make_runner(runner, timeout)
    if elsewhere is not None and against:
        raise InputError("against: other libraries run on this machine, not by a runner")
    check_files(JSON=json_file, report=page)
    if static:
        if against or layers or page is not None or elsewhere is not None:
            others = "--against, --layers, --report, --runner"
            raise InputError(f"--static runs nothing: it goes with no {others}")
        options: dict[str, Any] = {"target": machine, "threads": threads, "batch": batch}
        options |= {"precision": precision, "allow_tf32": allow_tf32}
        options |= {"log": log, "tuned": not untuned}
        _static(found, json_file, options)
        return
    if page is not None:
        require_report()
    options = {
        "target": machine,
        "threads": threads,
        "rounds": rounds,
        "layers": layers,
        "batch": batch,
        "precision": precision,
        "allow_tf32": allow_tf32,
        "log": log,
        "tuned": not untuned,
    }
    with progress_bar() as progress:
        options["progress"] = (lambda line: progress(line, 0, 0)) if progress else None
        if elsewhere is None:
            from tvmconv.bench import bench_models

            report = bench_models(found, against=against, **options)
        else:
            from tvmconv.bench.device import bench_on_device

            report = bench_on_device(found, runner=elsewhere, **options)
    write_json(report.to_json(), json_file, lambda: _print(report))
    if page is not None:
        write_bench_report(page, report)
    if wrong := [*map(str, report.failures), *report.disagreements]:
        raise VerificationError("; ".join(wrong))


def _static(found: list[Any], json_file: Path | None, options: dict[str, Any]) -> None:
    """Score kernels without running them: by llvm-mca, or for a GPU by the cost model."""
    scored: StaticReport | GpuStaticReport
    columns: tuple[str, ...]
    target = options["target"]
    if options["allow_tf32"]:
        target.require_tf32()
    if target.is_gpu:
        from tvmconv.bench.static_gpu import COLUMNS, gpu_static_report

        del options["threads"]
        columns, scored = COLUMNS, gpu_static_report(found, **options)
    else:
        from tvmconv.autoschedule.preflight import require_precision
        from tvmconv.bench import static

        require_precision(target, options.pop("precision"), "scored")
        del options["allow_tf32"]
        columns, scored = static.COLUMNS, static.static_report(found, **options)
    rows = [score.row() for score in scored.scores]
    write_json(scored.to_json(), json_file, lambda: print_table(columns, rows))
    click.echo(scored.summary(), err=True)


def _print(report: BenchReport) -> None:
    for part in (*report.lines(), *report.tables()):
        show(part)
