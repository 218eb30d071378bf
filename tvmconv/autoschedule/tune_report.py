"""What a tuning run found, for people, programs and the HTML report."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from tvmconv.problem import FLOP_PER_MAC

if TYPE_CHECKING:
    from rich.table import Table

    from tvmconv.autoschedule.states import Arm, Point, TaskState

#: What was done with candidates, by the method.
DONE = {"measured": "measured", "static": "estimated"}


@dataclass(frozen=True)
class ArmResult:
    """One algorithm of a task.

    Attributes
    ----------
    algorithm : str
        ``direct`` or another name.
    workload : str
        Its key in the log.
    candidates, trials : int
        Size of the space, and how many of it were measured.
    best_us : float
        Infinite if none is right.
    """

    algorithm: str
    workload: str
    candidates: int
    trials: int
    best_us: float

    @classmethod
    def of(cls, arm: Arm) -> ArmResult:
        """Take what counts from an arm."""
        size, search = len(arm.space), arm.search
        return cls(arm.algorithm, arm.spec.text, size, search.trials, search.best_us)


@dataclass(frozen=True)
class TaskResult:
    """One task.

    Attributes
    ----------
    name : str
        The workload for people.
    networks : mapping of str to int
        How often each network runs it.
    macs : int
        Of the direct algorithm.
    cache : str
        ``warm`` or ``cold``: how it was measured.
    untuned_us, tuned_us : float
        From the last comparison in turns; without one from the trials.
    algorithm : str
        Of the choice.
    knobs : mapping of str to int
        Of the choice.
    confirmed : bool
        Whether the choice was compared with the untuned one, or is that itself.
    arms : tuple of ArmResult
    statuses : mapping of str to int
        How many trials ended how: ``ok``, ``wrong``, ``crashed``, …
    curve : tuple of Point
        Every trial in order, those of earlier runs first.
    skipped : str
        Why this run has not measured it to the end; empty if it has.
    """

    name: str
    networks: Mapping[str, int]
    macs: int
    cache: str
    untuned_us: float
    tuned_us: float
    algorithm: str
    knobs: Mapping[str, int]
    confirmed: bool
    arms: tuple[ArmResult, ...]
    statuses: Mapping[str, int]
    curve: tuple[Point, ...]
    skipped: str = ""

    @classmethod
    def of(cls, state: TaskState) -> TaskResult:
        """Take what counts from a task's state."""
        return cls(
            name=state.task.name,
            networks=dict(state.task.networks),
            macs=state.task.macs,
            cache=state.task.cache,
            untuned_us=state.untuned_us,
            tuned_us=state.tuned_us,
            algorithm=state.pick.arm.algorithm,
            knobs=dict(state.pick.candidate.knobs),
            confirmed=state.settled,
            arms=tuple(ArmResult.of(arm) for arm in state.arms),
            statuses=dict(state.statuses),
            curve=tuple(state.curve),
            skipped=state.skipped,
        )

    @property
    def count(self) -> int:
        """How often all networks together run it."""
        return sum(self.networks.values())

    @property
    def trials(self) -> int:
        """Measured candidates, those of earlier runs too."""
        return len(self.curve)

    @property
    def gain(self) -> float:
        """Untuned over tuned time."""
        return self.untuned_us / self.tuned_us if self.tuned_us > 0 else math.nan

    @property
    def gflops(self) -> float | None:
        """Speed of the choice in 10⁹ FLOP/s, where it runs and multiply-accumulates are counted."""
        runs = self.macs and math.isfinite(self.tuned_us)
        return FLOP_PER_MAC * self.macs / self.tuned_us / 1e3 if runs else None


@dataclass(frozen=True)
class NetworkResult:
    """The kernels of one network or problem, summed.

    Attributes
    ----------
    name : str
    tasks : int
        Distinct workloads that are tuned, but for those that could not be measured.
    untuned_us, tuned_us : float
        Kernels with a choice as measured, others as predicted.
    other_us : float
        How much of both is predicted, for kernels without a choice or a measurement.
    """

    name: str
    tasks: int
    untuned_us: float
    tuned_us: float
    other_us: float

    @classmethod
    def of(cls, name: str, states: Sequence[TaskState]) -> NetworkResult:
        """Sum the kernels that a network runs."""
        tasks, sums = 0, [0.0, 0.0, 0.0]
        for state in states:
            count = state.task.networks.get(name, 0)
            tasks += count > 0 and not state.only_predicted
            untuned = state.untuned_us if math.isfinite(state.untuned_us) else state.time_us
            times = (untuned, state.tuned_us, 0.0)
            if state.only_predicted:
                times = (state.predicted_us,) * 3
            sums = [total + count * time for total, time in zip(sums, times, strict=True)]
        return cls(name, tasks, *sums)


@dataclass(frozen=True)
class TuneReport:
    """The result of a tuning run.

    Attributes
    ----------
    target : str
    threads : int
    log : str
        The file with the records.
    seconds : float
        From the first measurement on.
    measured, known, compared : int
        Candidates measured by this run, candidates that logs knew, tasks whose leaders were
        compared.
    skipped : mapping of str to int
        Lines of logs that were not used, by reason.
    stopped : str
        Why it ended: ``budget`` or ``no more gain``.
    peak_gflops, bandwidth_gb_s : float
        What the machine reaches with so many threads: arithmetic, and memory.
    tasks : tuple of TaskResult
        The heaviest first.
    networks : tuple of NetworkResult
    method : str
        How times came about: ``measured``, or ``static``.
    """

    target: str
    threads: int
    log: str
    seconds: float
    measured: int
    known: int
    compared: int
    stopped: str
    peak_gflops: float
    bandwidth_gb_s: float
    tasks: tuple[TaskResult, ...]
    networks: tuple[NetworkResult, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)
    method: str = "measured"

    def share_of_peak(self, gflops: float | None) -> float | None:
        """Give a speed's share of the FMA peak."""
        return None if gflops is None or not self.peak_gflops else gflops / self.peak_gflops

    def to_json(self) -> dict[str, Any]:
        """Give the whole report as JSON-able data; infinite and missing times are for JSON null."""
        data = asdict(self)
        for task, entry in zip(self.tasks, data["tasks"], strict=True):
            share = self.share_of_peak(task.gflops)
            entry |= {"count": task.count, "trials": task.trials, "gain": task.gain}
            entry |= {"gflops": task.gflops, "share_of_peak": share}
        return data

    def lines(self) -> list[str]:
        """Give what stands under the tables."""
        found = [
            f"{self.measured} candidates {DONE[self.method]} in {self.seconds:.0f} s,"
            f" {self.known} known before, {self.compared} tasks' leaders compared in turns;"
            f" ended by {self.stopped}"
        ]
        gains = [task.gain for task in self.tasks if 0 < task.gain < math.inf]
        if gains:
            mean, better = statistics.geometric_mean(gains), sum(gain > 1 for gain in gains)
            found.append(f"gain: {mean:.3f}× in geometric mean; {better} of {len(gains)} tasks")
        failures: dict[str, int] = {}
        for task in self.tasks:
            for status, count in task.statuses.items():
                if status != "ok":
                    failures[status] = failures.get(status, 0) + count
        found += [f"skipped: {task.name}: {task.skipped}" for task in self.tasks if task.skipped]
        if failures:
            found.append(f"never chosen: {_counts(failures)} (tvmconv log list {self.log})")
        if self.skipped:
            found.append(f"lines of logs not used: {_counts(self.skipped)}")
        return [*found, f"log: {self.log}"]

    def tables(self) -> list[Table]:
        """Give the report as tables: the tasks, then the networks."""
        from rich.table import Table

        tasks = Table(box=None, pad_edge=False, header_style="bold")
        tasks.add_column("workload", overflow="fold")
        for head in ("×", "untuned µs", "tuned µs", "gain", "algorithm", "peak", "trials"):
            tasks.add_column(head, justify="right", no_wrap=True)
        for task in self.tasks:
            share = self.share_of_peak(task.gflops)
            tasks.add_row(
                task.name,
                str(task.count),
                _us(task.untuned_us),
                _us(task.tuned_us),
                _gain(task.gain),
                task.algorithm,
                "" if share is None else f"{share:.0%}",
                str(task.trials),
            )
        networks = Table(box=None, pad_edge=False, header_style="bold")
        networks.add_column("sum of kernels", overflow="fold")
        for head in ("tasks", "untuned µs", "tuned µs", "gain"):
            networks.add_column(head, justify="right", no_wrap=True)
        for n in self.networks:
            gain = n.untuned_us / n.tuned_us if n.tuned_us > 0 else math.nan
            times = (_us(n.untuned_us), _us(n.tuned_us), _gain(gain))
            networks.add_row(n.name, str(n.tasks), *times)
        return [tasks, networks]


def _us(time: float) -> str:
    return f"{time:.1f}" if math.isfinite(time) else "-"


def _gain(gain: float) -> str:
    return f"{gain:.2f}×" if math.isfinite(gain) else "-"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
