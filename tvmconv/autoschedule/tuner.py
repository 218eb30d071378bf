"""Tuning from end to end: models in, records in the log and a report out."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvmconv.autoschedule.budget import Budget, Clock
from tvmconv.autoschedule.past import Past
from tvmconv.autoschedule.preflight import (
    require_place,
    require_precision,
    require_threads,
    require_writable,
)
from tvmconv.autoschedule.record import Method
from tvmconv.autoschedule.search import PATIENCE, Space
from tvmconv.autoschedule.session import Progress, Session
from tvmconv.autoschedule.states import TaskState
from tvmconv.autoschedule.tune_report import NetworkResult, TaskResult, TuneReport
from tvmconv.autoschedule.workload import algorithm
from tvmconv.bench.machine import usable_cores
from tvmconv.codegen import mca
from tvmconv.codegen.link import static_triple
from tvmconv.errors import InputError
from tvmconv.host import require_runnable
from tvmconv.runtime.cuda import gpu_for
from tvmconv.target import Target, load_target

if TYPE_CHECKING:
    from tvmconv.autoschedule.benches import Bench
    from tvmconv.autoschedule.space import Candidate
    from tvmconv.autoschedule.tasks import Task
    from tvmconv.bench.peak import PeakPoint
    from tvmconv.device import Runner
    from tvmconv.kernel import KernelSpec


def tune(
    models: Any,
    target: str | Path | Target = "host",
    *,
    trials: int | None = None,
    time_budget: float | None = None,
    log: Path | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
    threads: int | None = None,
    batch: int | None = None,
    precision: str = "float32",
    allow_tf32: bool = False,
    shipped: bool = True,
    patience: int = PATIENCE,
    tools: Tools | None = None,
    runner: Runner | None = None,
    static: bool = False,
) -> TuneReport:
    """Find faster schedules for networks and problems, and keep them in a log.

    Parameters
    ----------
    models : path, ModelProto, problem text, Layer, or a sequence of these
    target : str, Path or Target
        This machine, its GPU, or the runner's machine must be able to run it.
    trials : int, optional
        Candidates to measure in all; those that the log has of the same tasks count. Each task
        gets at least one.
    time_budget : float, optional
        Seconds to measure for; those of earlier runs on the same tasks count. With neither, it
        goes on until no task has improved for long.
    log : Path, optional
        Folder of the log.
    jobs : int, optional
        Cores to build candidates with; all if left out.
    progress : callable, optional
        ``progress(event)`` after each trial and each task: see
        :class:`~tvmconv.autoschedule.session.Event`.
    threads : int, optional
        Threads to run with; the target's cores, as far as this machine has them, if left out. Of no
        concern to a GPU.
    batch : int, optional
        Extent of a symbolic first axis.
    precision : {"float32", "float16"}
        What models are stored in; float16 for GPUs only.
    allow_tf32 : bool
        Whether a GPU's tensor cores may round float32 to TF32.
    shipped : bool
        Whether to begin from the records that come with the package.
    patience : int
        Trials without an improvement after which a search is over.
    tools : Tools, optional
        Instead of TVM, the measurer and the clock.
    runner : Runner, optional
        Measures elsewhere what is built here.
    static : bool
        Estimate times, for a machine that is not at hand: see
        :class:`~tvmconv.autoschedule.measure.static.Estimator`. Such records are marked in the log,
        and count only where nothing was measured.

    Returns
    -------
    TuneReport

    Raises
    ------
    InputError
        If a model, the target, the threads or the budget cannot be accepted.
    EnvironmentError_
        If a tool is missing, the log cannot be written, or nothing can be measured. A task that
        cannot be measured is skipped, and the report says so.
    """
    from tvmconv.autoschedule.log import Log, default_folder

    machine = load_target(target)
    _check(trials, time_budget, jobs)
    require_precision(machine, precision)
    require_place(machine, elsewhere=runner is not None, static=static)
    if machine.is_gpu:
        gpu_for(machine)
        threads = machine.cores
    elif static:
        mca.peak(machine)  # there is a model of the core
    elif runner is None:
        require_runnable(machine)
        threads = threads or min(machine.cores, usable_cores())
        require_threads(threads)
    else:
        static_triple(machine.zig.triple)  # without one there are no programs for it
    machine = machine.with_threads(threads)
    log_file = Log((log or default_folder()) / machine.name / "records.jsonl")
    require_writable(log_file.path)
    tools = tools or Tools(
        machine,
        jobs or usable_cores(),
        device=runner,
        precision=precision,
        allow_tf32=allow_tf32,
        static=static,
    )
    is_one = isinstance(models, (str, os.PathLike)) or not isinstance(models, Sequence)
    tasks, networks = tools.extract([models] if is_one else list(models), batch)
    if not tasks:
        raise InputError(f"{', '.join(networks)}: no kernels to tune")
    method: Method = "static" if static else "measured"
    past = Past.read(log_file.path, tasks, machine, shipped, method)
    states = [tools.state(task, patience) for task in tasks]
    for state in states:
        state.replay(past.of(state.task), past.seconds_at)
        if past.outdone(state.task):
            state.skipped = "it was measured, and no estimate counts beside that"
    skipped = [state.skipped for state in states if state.skipped]
    if skipped and all(state.skipped or state.fixed for state in states):
        raise InputError(f"{', '.join(networks)}: {skipped[0]}")
    known = sum(len(state.curve) for state in states)
    peak = tools.peak(tasks)
    session = Session(
        machine,
        states,
        Budget(trials, time_budget, tools.clock),
        log_file,
        tools.open_bench,
        past.lessons(tools, {spec.op for task in tasks for spec in task.specs}),
        progress,
        peak.gflops,
        method,
    )
    session.run(past.trials, past.seconds)
    return _report(session, networks, known, past.skipped, peak.bandwidth_gb_s)


def _check(trials: int | None, time_budget: float | None, jobs: int | None) -> None:
    """Refuse a budget or a number of jobs that is none."""
    for name, value in (("trials", trials), ("time_budget", time_budget), ("jobs", jobs)):
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"{name}: must be positive, is {value}")


@dataclass
class Tools:
    """What tuning needs of the rest: TVM, the measurer, the machine's peak, the clock.

    Attributes
    ----------
    target : Target
    jobs : int
        Cores to build with.
    clock : Clock
    device : Runner, optional
        What measures elsewhere.
    precision : str
        What models are stored in.
    allow_tf32 : bool
        Whether a GPU's tensor cores may round float32 to TF32.
    builder : str
        The module that builds candidates, if not the target's own.
    static : bool
        Whether times are estimated.
    """

    target: Target
    jobs: int
    clock: Clock = field(default_factory=Clock)
    device: Runner | None = None
    precision: str = "float32"
    allow_tf32: bool = False
    builder: str = ""
    static: bool = False
    _spaces: dict[str, Space] = field(default_factory=dict)

    def extract(self, sources: Sequence[Any], batch: int | None) -> tuple[list[Task], list[str]]:
        """Collect the kernels of models and problems."""
        from tvmconv.autoschedule.tasks import extract

        return extract(sources, self.target, batch, self.precision, self.allow_tf32)

    def candidates(self, spec: KernelSpec) -> list[Candidate]:
        """A workload's design space, the model's favourite first."""
        from tvmconv.codegen.kernels import candidates

        return candidates(spec, self.target)

    def space(self, spec: KernelSpec) -> Space:
        """A workload's design space as arrays; kept."""
        if spec.text not in self._spaces:
            self._spaces[spec.text] = Space(self.candidates(spec))
        return self._spaces[spec.text]

    def untuned(self, task: Task) -> KernelSpec:
        """The alternative that is compiled when no log knows better."""
        from tvmconv.autoschedule.choose import Chooser

        if task.untuned in task.specs:
            return task.untuned
        if len(task.specs) == 1:
            return task.specs[0]
        chosen = Chooser(self.target, cold_bytes=task.cold_bytes).algorithm(task.specs[0])
        return next(spec for spec in task.specs if algorithm(spec) == chosen)

    def state(self, task: Task, patience: int) -> TaskState:
        """A task with nothing measured."""
        spaces = [self.space(spec) for spec in task.specs]
        return TaskState(task, spaces, self.untuned(task), self.target, patience)

    def open_bench(self, cold_bytes: int) -> AbstractContextManager[Bench]:
        """Open what measures."""
        from tvmconv.autoschedule.measure import Measurer

        if self.static:
            from tvmconv.autoschedule.measure.static import Estimator

            return Estimator(self.target, jobs=self.jobs, cold_bytes=cold_bytes)
        return Measurer(
            self.target,
            jobs=self.jobs,
            cache="cold" if cold_bytes else "warm",
            cold_bytes=cold_bytes,
            device=self.device,
            builder=self.builder,
        )

    def peak(self, tasks: Sequence[Task]) -> PeakPoint:
        """What the machine reaches with the target's threads, or should if it is elsewhere."""
        from tvmconv.bench.peak import arithmetic, measure_peak, nominal_peak

        if self.device is not None or self.static or self.target.is_gpu:
            attrs = [task.specs[0].attrs for task in tasks if task.macs]
            kinds = {arithmetic(found["problem"], found.get("tf32", False)) for found in attrs}
            return nominal_peak(self.target, kinds).at(self.target.cores)
        return measure_peak(self.target.cores).at(self.target.cores)


def _report(
    session: Session,
    networks: Sequence[str],
    known: int,
    skipped: Mapping[str, int],
    bandwidth_gb_s: float,
) -> TuneReport:
    """Sum up a session."""
    return TuneReport(
        target=session.target.name,
        threads=session.target.cores,
        log=str(session.log.path),
        seconds=session.budget.elapsed_s,
        measured=session.measured,
        known=known,
        compared=session.compared,
        stopped=session.stopped,
        peak_gflops=session.peak_gflops,
        bandwidth_gb_s=bandwidth_gb_s,
        tasks=tuple(TaskResult.of(state) for state in session.states),
        networks=tuple(NetworkResult.of(name, session.all) for name in networks),
        skipped=dict(skipped),
        method=session.method,
    )
