"""`tvmconv tune`, which notes in a file each record that is logged: for a program that kills it.

Arguments: the file, the folder of the log, the trials, and problems; without a problem, it measures
faulty candidates, of which it needs no TVM to build.
"""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.faults.harness import candidate, measuring, relu
from tests.tune_fakes import FakeTools, run
from tvmconv.autoschedule import tuner
from tvmconv.autoschedule.budget import Clock
from tvmconv.autoschedule.log import Log
from tvmconv.autoschedule.tasks import Task
from tvmconv.cli import main
from tvmconv.kernel import KernelSpec
from tvmconv.layout import Layout

#: Sizes of the workloads, and candidates of each that are right; every third is not.
_SIZES, _RIGHT = range(4, 12), 200
_FAULTS = ("RIGHT", "RIGHT", "ONE_WRONG", "RIGHT", "RIGHT", "SEGFAULT")


class FaultyTools(FakeTools):
    """Tasks of candidates that some things are wrong with, and what really measures them."""

    def __init__(self) -> None:
        layouts = [Layout((1, 32, size, size), 16) for size in _SIZES]
        specs = [KernelSpec("elementwise", relu().attrs_json, (v,), v) for v in layouts]
        faults = [_FAULTS[number % len(_FAULTS)] for number in range(_RIGHT)]
        space = [candidate(fault, number=number) for number, fault in enumerate(faults)]
        bench: Any = SimpleNamespace(clock=Clock())
        tasks = [Task((spec,), networks={"net": 1}) for spec in specs]
        super().__init__(tasks, {spec.text: space for spec in specs}, bench)

    def open_bench(self, cold_bytes: int) -> AbstractContextManager[Any]:
        return measuring()


def note_records(path: Path) -> None:
    """Have each record written to a file, when and as it has been logged."""
    file, append = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), Log.append

    def append_and_note(self: Log, *records: Any) -> None:
        append(self, *records)
        os.write(file, b"".join(record.line() for record in records))

    Log.append = append_and_note  # type: ignore[method-assign]


def tune_faulty(models: Any, target: Any, *, log: Path, **options: Any) -> Any:
    """Stand for ``tune``."""
    return run(FaultyTools(), log, patience=10_000, **options)


if __name__ == "__main__":
    noted, log, trials, *problems = sys.argv[1:]
    note_records(Path(noted))
    if not problems:
        tuner.tune = tune_faulty  # type: ignore[assignment]
    found = problems or ["conv2d:1x3x8x8:4x3x3"]
    sys.exit(main(["tune", *found, "--trials", trials, "--log", log]))
