"""`tvmconv log`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tvmconv.cli._logs import Entry, checked, look_up, machine, merge_into, predicted_us, write
from tvmconv.cli._options import (
    debug_option,
    json_option,
    make_runner,
    runner_option,
    target_option,
    threads_option,
    timeout_option,
)
from tvmconv.cli._output import print_json, print_table, progress_bar
from tvmconv.errors import VerificationError
from tvmconv.files import check_output_file
from tvmconv.host import require_runnable

if TYPE_CHECKING:
    from tvmconv.autoschedule.record import Record

_Function = TypeVar("_Function", bound=Callable[..., Any])

_PATH = click.Path(exists=True, path_type=Path)
_logs = click.argument("logs", metavar="[FILE|DIR]...", nargs=-1, type=_PATH)


def _looking_up(function: _Function) -> _Function:
    """The arguments of the commands that look into logs for a target."""
    for option in (debug_option, json_option, threads_option, target_option, _logs):
        function = option(function)
    return function


@click.group(no_args_is_help=False)
@debug_option
def command() -> None:
    """List, merge and check logs of tuned schedules.

    A log is a .jsonl file, or a folder of them, also in folders that are called as targets are.
    Without one, the user's own log and those that ship with the package are meant.
    """


@command.command(name="list")
@click.option("--predict", is_flag=True, help="Add what the cost model expects of the best.")
@_looking_up
def list_(
    logs: tuple[Path, ...], target: str, threads: int | None, predict: bool, as_json: bool
) -> None:
    """Tell what is known of each workload of a target."""
    described = machine(target, threads)
    found = look_up(logs, described)
    rows = [_summary(entry) for entry in found.entries]
    if predict:
        for row, entry in zip(rows, found.entries, strict=True):
            row["predicted_us"] = predicted_us(entry, described)
    _print("workloads", rows, found.skipped, as_json)


@command.command()
@click.argument("logs", metavar="FILE|DIR...", nargs=-1, required=True, type=_PATH)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    required=True,
    type=click.Path(path_type=Path),
    help="The log to write; records that it has stay in it.",
)
@json_option
@debug_option
def merge(logs: tuple[Path, ...], output: Path, as_json: bool) -> None:
    """Put the records of several logs into one, each once.

    Lines that are no records are left out and counted. Targets and versions do not matter.
    """
    check_output_file(output)
    count, skipped = merge_into(output, logs)
    _print_written(output, count, skipped, as_json)


@command.command()
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write them to a log of their own, such as ships with the package.",
)
@_looking_up
def best(
    logs: tuple[Path, ...],
    target: str,
    threads: int | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """List the records that a compilation would use."""
    if output is not None:
        check_output_file(output)
    found = look_up(logs, machine(target, threads))
    chosen = [record for entry in found.entries for record in entry.best]
    if output is not None:
        write(output, [record.line() for record in chosen])
        _print_written(output, len(chosen), found.skipped, as_json)
        return
    rows = [
        {"workload": entry.name, **_facts(record)}
        for entry in found.entries
        for record in entry.best
    ]
    _print("records", rows, found.skipped, as_json)


@command.command()
@click.option("--all", "every", is_flag=True, help="Every record, not only those that are used.")
@click.option("--jobs", metavar="N", type=click.IntRange(1), help="Kernels built at a time.")
@runner_option
@timeout_option
@_looking_up
def check(
    logs: tuple[Path, ...],
    target: str,
    threads: int | None,
    every: bool,
    jobs: int | None,
    runner: str | None,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Build what the records say, and compare its results with the reference.

    Exits with 1 if a record's schedule cannot be built, fails, or computes something else.
    """
    from tvmconv.autoschedule.preflight import require_place

    described = machine(target, threads)
    require_place(described, elsewhere=runner is not None)
    device = make_runner(runner, timeout)
    found = look_up(logs, described)
    if device is None and found.entries:
        require_runnable(described)
    with progress_bar() as progress:
        rows = checked(found.entries, described, every, jobs, progress, device)
    _print("records", rows, found.skipped, as_json)
    bad = [row for row in rows if row["now"] != "ok"]
    if bad:
        raise VerificationError(
            f"{len(bad)} of {len(rows)} records are not right; the first is of "
            f"{bad[0]['workload']}: {bad[0]['now']}: {bad[0]['message']}"
        )


# --- printing


def _summary(entry: Entry) -> dict[str, Any]:
    counts = Counter(record.status for record in entry.records)
    times = {record.cache: record.time_us for record in entry.best}
    methods = {record.method for record in entry.best}
    return {
        "workload": entry.name,
        "records": len(entry.records),
        "failed": {status: n for status, n in sorted(counts.items()) if status != "ok"},
        "warm_us": times.get("warm"),
        "cold_us": times.get("cold"),
        "method": " ".join(sorted(methods)) or None,
    }


def _facts(record: Record) -> dict[str, Any]:
    return {
        "time_us": record.time_us,
        "cache": record.cache,
        "method": record.method,
        "round": record.round,
        "date": record.date,
        "knobs": dict(record.knobs),
    }


def _print(name: str, rows: Sequence[dict[str, Any]], skipped: Counter[str], as_json: bool) -> None:
    if as_json:
        print_json({name: list(rows), "skipped": dict(skipped)})
        return
    if rows:
        print_table(list(rows[0]), [[_cell(value) for value in row.values()] for row in rows])
    else:
        click.echo(f"no {name}")
    _print_skipped(skipped)


def _print_written(path: Path, count: int, skipped: Counter[str], as_json: bool) -> None:
    if as_json:
        print_json({"file": str(path), "records": count, "skipped": dict(skipped)})
        return
    click.echo(f"{path}: {count} records, {path.stat().st_size / 1e6:.1f} MB")
    _print_skipped(skipped)


def _print_skipped(skipped: Counter[str]) -> None:
    if skipped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items()))
        click.echo(f"skipped lines: {reasons}")


def _cell(value: object) -> object:
    if isinstance(value, dict):
        return " ".join(f"{key}={item}" for key, item in value.items())
    return "" if value is None else value
