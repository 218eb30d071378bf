"""Benchmarks without the machine: the hot loop of each kernel on LLVM's model of the core."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvmconv.errors import InputError
from tvmconv.target import Target

if TYPE_CHECKING:
    from tvmconv.autoschedule.choose import Chooser
    from tvmconv.autoschedule.tasks import Task
    from tvmconv.kernel import KernelSpec

COLUMNS = ("kernel", "algorithm", "times", "FMAs", "cycles", "share of peak", "spills")


@dataclass(frozen=True)
class StaticScore:
    """The hot loop of one kernel.

    Attributes
    ----------
    kernel, algorithm : str
    times : int
        How often all the models together run it.
    fmas, instructions, spills : int
        Of one iteration of the loop.
    cycles : float
        Of one iteration, by the model.
    share : float
        Of the model's peak of multiply-adds.
    """

    kernel: str
    algorithm: str
    times: int
    fmas: int
    instructions: int
    cycles: float
    share: float
    spills: int

    def row(self) -> tuple[object, ...]:
        """What a table shows of it, as in :data:`COLUMNS`."""
        share = f"{100 * self.share:.0f}%"
        return (self.kernel, self.algorithm, self.times, self.fmas, self.cycles, share, self.spills)


@dataclass(frozen=True)
class StaticReport:
    """The scores of all kernels that multiply and add in a loop."""

    target: str
    scores: tuple[StaticScore, ...]

    @property
    def median_share(self) -> float:
        """Median share of the peak; 0 if there is nothing to score."""
        return statistics.median([score.share for score in self.scores] or [0.0])

    def summary(self) -> str:
        """One line for people."""
        spills = sum(score.spills > 0 for score in self.scores)
        return (
            f"{len(self.scores)} hot loops for {self.target} on llvm-mca's model: median"
            f" {100 * self.median_share:.0f}% of its peak, {spills} with spills"
        )

    def to_json(self) -> dict[str, Any]:
        """The report as JSON-able data."""
        scores = [asdict(score) for score in self.scores]
        return {"target": self.target, "median_share": self.median_share, "kernels": scores}


def static_report(
    sources: Sequence[Any],
    *,
    target: Target,
    threads: int | None = None,
    batch: int | None = None,
    log: Sequence[Path] = (),
    tuned: bool = True,
    exact: bool = False,
) -> StaticReport:
    """Compile models and problems for a target, and score the hot loop of each kernel.

    Parameters
    ----------
    sources : sequence of path, ModelProto, problem text or Layer
    target : Target
    threads, batch : int, optional
    log : sequence of Path
        Folders of tuning logs besides the usual ones.
    tuned : bool
        Whether logs are used at all.
    exact : bool
        Whether convolutions are direct only, never on transformed tiles.

    Raises
    ------
    InputError
        If a model or problem cannot be compiled, or the target is a GPU.
    EnvironmentError_
        As :func:`tvmconv.codegen.mca.score`.
    """
    from tvmconv.autoschedule.choose import Chooser
    from tvmconv.autoschedule.tasks import extract
    from tvmconv.compiler import open_logs

    if target.is_gpu:
        raise InputError(f"{target.name}: llvm-mca scores kernels for CPUs only")
    machine = target.with_threads(threads)
    database = open_logs(log, machine) if tuned else None
    tasks, _ = extract(sources, machine, batch)
    scores = (_score(task, Chooser(machine, database, exact, task.cold_bytes)) for task in tasks)
    return StaticReport(target.name, tuple(score for score in scores if score is not None))


def _score(task: Task, chooser: Chooser) -> StaticScore | None:
    """The score of a task's kernel; None if it does not multiply and add in a loop."""
    from tvmconv.autoschedule.workload import algorithm
    from tvmconv.codegen import mca
    from tvmconv.codegen.loops import hot_loop

    spec = chooser.chosen(task.specs[0])
    loop = hot_loop(_assembly(spec, chooser), chooser.target.arch)
    if loop is None:
        return None
    found = mca.score(loop, chooser.target)
    return StaticScore(
        kernel=task.name,
        algorithm=algorithm(spec),
        times=task.count,
        fmas=loop.fmas,
        instructions=len(loop.instructions),
        cycles=found.cycles,
        share=found.share,
        spills=loop.spills,
    )


def _assembly(spec: KernelSpec, chooser: Chooser) -> str:
    """The code of a kernel with the log's best schedule, or else the model's."""
    from tvmconv.codegen.kernels import build, scheduled

    record = chooser.record(spec)
    trace = list(record.trace) if record is not None else None
    func = scheduled(spec, "kernel", chooser.target, trace)
    return str(build(func, "kernel", chooser.target).inspect_source("asm"))
