"""`tvmconv tune`."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tvmconv.cli._files import check_files, json_file_option, page_option, write_json
from tvmconv.cli._options import (
    batch_option,
    debug_option,
    make_runner,
    precision_option,
    runner_option,
    target_option,
    tf32_option,
    threads_option,
    timeout_option,
)
from tvmconv.cli._output import show
from tvmconv.cli._suite import models_or_suite, sources
from tvmconv.errors import InputError
from tvmconv.report import require_report, write_tune_report
from tvmconv.target import load_target

if TYPE_CHECKING:
    from tvmconv.autoschedule.session import Event
    from tvmconv.autoschedule.tune_report import TuneReport
    from tvmconv.device import Runner

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smh]?)")


def _seconds(context: click.Context, parameter: click.Parameter, text: str | None) -> float | None:
    """Read a duration."""
    if text is None:
        return None
    match = _DURATION.fullmatch(text)
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not 0 < seconds < math.inf:
        raise click.BadParameter(f"{text!r} is no time such as 90s, 5m or 1h")
    return seconds


@click.command()
@models_or_suite
@target_option
@click.option(
    "--trials",
    metavar="N",
    type=click.IntRange(1),
    help="Candidates to measure in all, those of earlier runs on the same kernels included.",
)
@click.option(
    "--time-budget",
    metavar="TIME",
    callback=_seconds,
    help="Time to measure for, such as 90s, 5m or 1h, earlier runs included. With neither, it ends"
    " when nothing improves any more.",
)
@click.option(
    "--log",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder of the log; the user's own if not given.",
)
@click.option(
    "--jobs",
    metavar="N",
    type=click.IntRange(1),
    help="Cores to build candidates with; all if not given.",
)
@threads_option
@batch_option
@precision_option
@tf32_option
@runner_option
@timeout_option
@click.option("--rpc", metavar="H:P", help="Measure on the machine of a `tvmconv serve`.")
@click.option("--tracker", metavar="H:P", help="Measure on the boards of a tracker of TVM's.")
@click.option("--key", metavar="K", help="What the boards are called at the tracker.")
@click.option(
    "--static",
    is_flag=True,
    help="Estimate times by llvm-mca and the cost model, for a machine that is not at hand.",
)
@json_file_option
@page_option
@debug_option
def command(
    models: tuple[str, ...],
    suite_name: str | None,
    filter: str,
    target: str,
    trials: int | None,
    time_budget: float | None,
    log: Path | None,
    jobs: int | None,
    threads: int | None,
    batch: int | None,
    precision: str,
    allow_tf32: bool,
    runner: str | None,
    timeout: float | None,
    rpc: str | None,
    tracker: str | None,
    key: str | None,
    static: bool,
    json_file: Path | None,
    page: Path | None,
) -> None:
    """Find faster schedules for models or problems, and log them.

    Every measurement is kept: Ctrl-C loses nothing, and the same command goes on where it was.
    `tvmconv compile` uses the log.
    """
    from tvmconv.autoschedule.preflight import require_place

    found = sources(tuple(dict.fromkeys(models)), suite_name, filter)
    machine = load_target(target)
    ways = (runner, rpc, tracker, key)
    require_place(machine, elsewhere=any(way is not None for way in ways), static=static)
    elsewhere = _elsewhere(runner, timeout, rpc, tracker, key)
    check_files(JSON=json_file, report=page)
    if page is not None:
        require_report()
    from tvmconv.autoschedule.tuner import tune

    with _progress() as progress:
        report = tune(
            found,
            machine,
            trials=trials,
            time_budget=time_budget,
            log=log,
            jobs=jobs,
            progress=progress,
            threads=threads,
            batch=batch,
            precision=precision,
            allow_tf32=allow_tf32,
            runner=elsewhere,
            static=static,
        )
    write_json(report.to_json(), json_file, lambda: _print(report))
    if page is not None:
        write_tune_report(page, report)


def _elsewhere(
    command: str | None,
    timeout: float | None,
    rpc: str | None,
    tracker: str | None,
    key: str | None,
) -> Runner | None:
    """The one way to another machine that the options name; None without one."""
    if rpc is None and tracker is None and key is None:
        return make_runner(command, timeout)
    if command is not None:
        raise InputError("runner: is one way to another machine, --rpc and --tracker are others")
    from tvmconv.device import DEFAULT_TIMEOUT_S
    from tvmconv.device.rpc import rpc_runner

    return rpc_runner(server=rpc, tracker=tracker, key=key, timeout_s=timeout or DEFAULT_TIMEOUT_S)


def _print(report: TuneReport) -> None:
    for part in (*report.tables(), *report.lines()):
        show(part)


@contextmanager
def _progress() -> Iterator[Callable[[Event], None]]:
    """Show events on stderr: a bar on a terminal, else a line for each task that is done."""
    if not sys.stderr.isatty():
        yield _print_finished
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    text = TextColumn("{task.description}", markup=False)
    columns = (text, BarColumn(bar_width=20), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        line = bar.add_task("collecting kernels", total=None)

        def update(event: Event) -> None:
            total = 1.0 if event.share else None
            bar.update(line, description=status_line(event), completed=event.share, total=total)

        yield update


def status_line(event: Event) -> str:
    """Where tuning stands, as one line."""
    parts = [f"{event.phase} task {event.index} of {event.tasks}", f"{event.trials} trials"]
    if math.isfinite(event.best_us):
        parts.append(f"best {event.best_us:.1f} µs")
        if event.gflops:
            parts.append(f"{event.gflops:.0f} GFLOP/s")
        if event.peak_share:
            parts.append(f"{event.peak_share:.0%} of peak")
    if event.eta_s is not None:
        minutes, seconds = divmod(round(event.eta_s), 60)
        parts.append(f"{minutes}:{seconds:02} left")
    return ", ".join(parts)


def _print_finished(event: Event) -> None:
    result = event.result
    if result is None:
        return
    told = f"{result.untuned_us:.1f} → {result.tuned_us:.1f} µs, {result.trials} trials"
    if result.skipped:
        told = f"skipped: {result.skipped}"
    click.echo(f"[{event.index}/{event.tasks}] {event.task}: {told}", err=True)
