"""What the commands of ``tvmconv log`` do, without the command line."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvmconv.errors import InputError
from tvmconv.files import replacing
from tvmconv.target import Target, load_target

if TYPE_CHECKING:
    from tvmconv.autoschedule.log import Database
    from tvmconv.autoschedule.record import Record
    from tvmconv.autoschedule.space import Candidate
    from tvmconv.cli._output import Progress
    from tvmconv.device import Runner
    from tvmconv.kernel import KernelSpec


@dataclass(frozen=True)
class Entry:
    """What logs have of one workload."""

    name: str
    spec: KernelSpec
    records: list[Record]

    @property
    def best(self) -> list[Record]:
        """The records that are used: for weights in the cache, and for others."""
        from tvmconv.autoschedule.log import best_of

        found = [best_of(self.records, cache) for cache in ("warm", "cold")]
        unique = {id(record): record for record in found if record is not None}
        return list(unique.values())


@dataclass(frozen=True)
class Found:
    """What logs have of a target, and the lines that are of no use, by reason."""

    entries: list[Entry]
    skipped: Counter[str]


def machine(target: str, threads: int | None) -> Target:
    """The target of a name, with so many threads if they are given and it is a CPU."""
    return load_target(target).with_threads(threads)


def look_up(logs: Sequence[Path], target: Target) -> Found:
    """The records of a target by workload; workloads that are none are counted."""
    from tvmconv.autoschedule.log import Database, default_folder
    from tvmconv.autoschedule.tasks import describe
    from tvmconv.autoschedule.workload import parse

    database = Database.open(logs or [default_folder()], target, shipped=not logs)
    entries = []
    for text, records in _by_workload(database).items():
        try:
            spec = parse(text)
        except InputError:
            database.skipped["no workload of this version"] += len(records)
        else:
            entries.append(Entry(describe(spec), spec, records))
    return Found(sorted(entries, key=lambda entry: entry.name), database.skipped)


def _by_workload(database: Database) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in database.records():
        found.setdefault(record.workload, []).append(record)
    return found


def predicted_us(entry: Entry, target: Target) -> float | None:
    """Time of the best record's schedule by the cost model."""
    from tvmconv.codegen.kernels import candidates

    knobs = [record.knobs for record in entry.best[:1]]
    cycles = (c.cycles for c in candidates(entry.spec, target) if c.knobs in knobs)
    return next((count / target.frequency_ghz / 1e3 for count in cycles), None)


# --- checking


def checked(
    entries: Sequence[Entry],
    target: Target,
    every: bool = False,
    jobs: int | None = None,
    progress: Progress | None = None,
    device: Runner | None = None,
) -> list[dict[str, Any]]:
    """Build, verify and time records again; one row each.

    Parameters
    ----------
    entries : sequence of Entry
    target : Target
        This machine, or that of the device.
    every : bool
        Whether to check every schedule, not only those that are used.
    jobs : int, optional
        Kernels built at a time; one a core if left out.
    progress : callable, optional
    device : Runner, optional
        Runs what is built here.
    """
    chosen = [(entry, _to_check(entry, every, target.is_gpu)) for entry in entries]
    total = sum(len(records) for _, records in chosen)
    rows: list[dict[str, Any]] = []
    if not total:
        return rows
    from tvmconv.autoschedule.measure import Measurer

    jobs = jobs or len(os.sched_getaffinity(0))
    with Measurer(target, jobs=jobs, device=device) as measurer:
        for entry, records in chosen:
            choices, unknown = _choices(entry, records, target)
            rows += [_row(entry, record, "build-failed", why) for record, why in unknown]
            outcomes = measurer.measure(entry.spec, [choice for _, choice in choices])
            for (record, _), outcome in zip(choices, outcomes, strict=True):
                rows.append(_row(entry, record, outcome.status, outcome.message))
                if progress is not None:
                    progress("checking", len(rows), total)
    return rows


def _choices(
    entry: Entry, records: Iterable[Record], target: Target
) -> tuple[list[tuple[Record, Candidate | list[Any]]], list[tuple[Record, str]]]:
    """The schedules of records, and which records the design space does not have, and why."""
    from tvmconv.codegen.kernels import recorded

    choices = []
    unknown = []
    for record in records:
        try:
            choices.append((record, recorded(record, entry.spec, target)))
        except ValueError as error:
            unknown.append((record, str(error)))
    return choices, unknown


def _to_check(entry: Entry, every: bool, is_gpu: bool) -> list[Record]:
    """The records to check, one for each schedule."""
    records = [r for r in entry.records if r.status == "ok"] if every else entry.best
    return list({str(r.knobs if is_gpu else r.trace): r for r in records}.values())


def _row(entry: Entry, record: Record, status: str, message: str) -> dict[str, Any]:
    return {
        "workload": entry.name,
        "now": status,
        "logged_us": record.time_us,
        "cache": record.cache,
        "message": message,
    }


# --- merging


def merge_into(output: Path, logs: Sequence[Path]) -> tuple[int, Counter[str]]:
    """Add the records of some logs to one, each once.

    Returns
    -------
    int
        Records that it has then.
    Counter
        Lines that were left out, by reason.
    """
    from tvmconv.autoschedule.locked import locked

    # Whoever is tuning waits, and then goes on in the new file.
    guard: AbstractContextManager[Any] = locked(output) if output.exists() else nullcontext()
    with guard:
        lines, skipped = _merged([output, *logs])
        write(output, lines)
    return len(lines), skipped


def _merged(paths: Sequence[Path]) -> tuple[list[bytes], Counter[str]]:
    """The lines of some logs, each once, and why others were left out."""
    from tvmconv.autoschedule.log import Log, log_files
    from tvmconv.autoschedule.record import Record, intact

    lines: dict[bytes, None] = {}
    skipped: Counter[str] = Counter()
    for path in log_files(paths):
        for line in Log(path).lines():
            try:
                record = Record.parse(line)
            except ValueError as error:
                skipped[str(error)] += 1
                continue
            line = line.strip() + b"\n" if intact(line) else record.line()
            skipped["duplicate"] += line in lines
            lines[line] = None
    return list(lines), +skipped


def write(path: Path, lines: Iterable[bytes]) -> None:
    """Write a log, whole or not at all."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())
