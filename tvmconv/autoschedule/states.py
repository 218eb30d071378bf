"""What is known of a task while it is tuned: its arms, their searches, the curve of its best."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvmconv.autoschedule.budget import expected_gain
from tvmconv.autoschedule.ranker import Samples, features
from tvmconv.autoschedule.search import PATIENCE, Search, Space
from tvmconv.autoschedule.space import Candidate
from tvmconv.autoschedule.tasks import Task, moved_bytes
from tvmconv.autoschedule.workload import algorithm
from tvmconv.kernel import KernelSpec
from tvmconv.target import Target

if TYPE_CHECKING:
    from tvmconv.autoschedule.record import Record

#: Trials that each arm gets before any is given up, and each task before the budget is steered.
WARM_UP = 4
#: An arm that is slower than the best one by more than this factor after that gets no more.
_HOPELESS = 1.5
#: Finalists: how much slower than the best they may be, and how many there are besides the
#: untuned choice.
_FINALIST_WITHIN, _FINALISTS = 0.05, 4


@dataclass(frozen=True)
class Point:
    """One trial on the curve of a task.

    Attributes
    ----------
    trial : int
        From 1.
    seconds : float
        Since the tuning of all tasks began.
    time_us : float
        Infinite for a candidate that is not right or did not run.
    best_us : float
        So far.
    """

    trial: int
    seconds: float
    time_us: float
    best_us: float


class Arm:
    """One of the ways to compute a task, with the search in its space."""

    def __init__(self, spec: KernelSpec, space: Space, *, patience: int, seed: int) -> None:
        self.spec, self.space = spec, space
        self.search = Search(space, patience=patience, seed=seed)
        self.columns = features(spec, space)

    @property
    def algorithm(self) -> str:
        """``direct`` or another name."""
        return algorithm(self.spec)

    def samples(self) -> Samples:
        """What its measurements teach."""
        return Samples.of(self.columns, self.space.log_cycles, self.search.times)


@dataclass(frozen=True)
class Choice:
    """A candidate of an arm."""

    arm: Arm
    row: int

    @property
    def candidate(self) -> Candidate:
        """The candidate itself."""
        return self.arm.space.candidates[self.row]

    @property
    def time_us(self) -> float:
        """Its trial's time; infinite if it has none."""
        time = float(self.arm.search.times[self.row])
        return time if time > 0 else math.inf


class TaskState:
    """A task with all that was measured of it.

    Parameters
    ----------
    task : Task
    spaces : sequence of Space
        One for each of the task's specs.
    untuned : KernelSpec
        The spec that is compiled when there is no log; its space's first candidate is the untuned
        choice.
    target : Target
    patience : int
        Trials without an improvement after which an arm is done.

    Attributes
    ----------
    skipped : str
        Why it cannot be measured; empty if it can, as far as anybody knows.
    """

    def __init__(
        self,
        task: Task,
        spaces: Sequence[Space],
        untuned: KernelSpec,
        target: Target,
        patience: int = PATIENCE,
    ) -> None:
        self.task = task
        self.arms = [
            Arm(spec, space, patience=patience, seed=seed)
            for seed, (spec, space) in enumerate(zip(task.specs, spaces, strict=True))
        ]
        self.arms.sort(key=lambda arm: arm.spec != untuned)
        self.untuned = Choice(self.arms[0], 0)
        self.curve: list[Point] = []
        self.statuses: Counter[str] = Counter()
        self.rounds = 0
        self.skipped = ""
        self.untuned_us = math.inf
        self._result: tuple[Choice, float] | None = None
        self.predicted_us = _predicted_us(self.untuned, target)

    @property
    def fixed(self) -> bool:
        """Whether there is nothing to choose."""
        return sum(len(arm.space) for arm in self.arms) == 1

    @property
    def only_predicted(self) -> bool:
        """Whether nobody has measured it, because there is no choice or no way."""
        return self.fixed or (bool(self.skipped) and not self.curve)

    @property
    def best_us(self) -> float:
        """Shortest time of a trial; infinite before there is one."""
        return min(arm.search.best_us for arm in self.arms)

    @property
    def time_us(self) -> float:
        """What one run takes now: measured, or predicted before it is."""
        return self.best_us if math.isfinite(self.best_us) else self.predicted_us

    @property
    def begun(self) -> bool:
        """Whether the untuned choice was tried."""
        return self.untuned.arm.search.knows(self.untuned.row)

    @property
    def waiting(self) -> bool:
        """Whether there are first trials to make."""
        arms = (arm for arm in self.arms if not arm.search.done)
        if self.skipped:
            return False
        return not self.begun or any(arm.search.trials < WARM_UP for arm in arms)

    @property
    def confirmed(self) -> bool:
        """Whether the leaders were compared after the last trial."""
        return self._result is not None

    @property
    def settled(self) -> bool:
        """Whether there is nothing to compare, or it was done."""
        return self.fixed or self.confirmed or (self.begun and not self.finalists())

    @property
    def to_compare(self) -> bool:
        """Whether its leaders are to be compared at the end."""
        return not self.settled and not self.skipped

    @property
    def pick(self) -> Choice:
        """The choice: of the comparison, or without one of the trials."""
        if self._result is not None:
            return self._result[0]
        leaders = [Choice(arm, row) for arm in self.arms for row in arm.search.leaders(1, 0.0)]
        return min([self.untuned, *leaders], key=lambda choice: choice.time_us)

    @property
    def tuned_us(self) -> float:
        """Time of :attr:`pick`."""
        return self.best_us if self._result is None else self._result[1]

    @property
    def live(self) -> list[Arm]:
        """Arms that may still win and are not exhausted, the fastest first."""
        found = [arm for arm in self.arms if not (arm.search.done or self._hopeless(arm))]
        return sorted(found, key=lambda arm: arm.search.best_us)

    @property
    def done(self) -> bool:
        """Whether no more trials are worth it."""
        return self.fixed or bool(self.skipped) or not self.live

    def _hopeless(self, arm: Arm) -> bool:
        return arm.search.trials >= WARM_UP and arm.search.best_us > _HOPELESS * self.best_us

    def gain(self, weight: float) -> float:
        """What the next trial is expected to save, as a share of all networks' time."""
        return expected_gain(weight, [point.best_us for point in self.curve])

    def next_arm(self) -> Arm:
        """The arm to try next: one without its first trials, or else the fastest."""
        cold = [arm for arm in self.arms if arm in self.live and arm.search.trials < WARM_UP]
        return cold[0] if cold else self.live[0]

    def tell(self, choice: Choice, time_us: float, status: str, seconds: float) -> None:
        """Enter a trial."""
        choice.arm.search.tell(choice.row, time_us)
        self.statuses[status] += 1
        if choice == self.untuned:
            self.untuned_us = time_us
        self._result = None
        self.curve.append(Point(len(self.curve) + 1, seconds, time_us, self.best_us))

    def finalists(self) -> list[Choice]:
        """What is to be compared, the untuned choice first if it runs.

        Nothing if that is fastest, unless an earlier comparison says otherwise.
        """
        limit = self.best_us * (1 + _FINALIST_WITHIN)
        leaders = [
            Choice(arm, row)
            for arm in self.arms
            for row in arm.search.leaders(_FINALISTS, _FINALIST_WITHIN)
        ]
        leaders = [c for c in leaders if c != self.untuned and c.time_us <= limit]
        leaders = sorted(leaders, key=lambda choice: choice.time_us)[:_FINALISTS]
        # A trial may have been lucky: the best of every arm is heard again.
        rivals = [
            Choice(arm, row)
            for arm in self.arms
            if not self._hopeless(arm)
            for row in arm.search.leaders(1, 0.0)
        ]
        leaders += [c for c in rivals if c not in (*leaders, self.untuned)]
        if math.isfinite(self.untuned.time_us):
            leaders.insert(0, self.untuned)
        if self.rounds:
            return leaders
        return leaders if len(leaders) > 1 and self.pick != self.untuned else []

    def settle(self, pick: Choice, tuned_us: float, untuned_us: float | None) -> None:
        """Enter the result of the comparison."""
        self._result = pick, tuned_us
        self.untuned_us = untuned_us or self.untuned_us

    def replay(self, records: Iterable[Record], seconds: Callable[[str], float]) -> None:
        """Enter what a log knows, in the order in which it was measured.

        Parameters
        ----------
        records : iterable of Record
            Of the task's workloads, for its target.
        seconds : callable
            ``seconds(date)``: when in the tuning that was.
        """
        arms = {arm.spec.text: arm for arm in self.arms}
        compared: list[tuple[Record, Choice]] = []
        foreign = 0  # last round of a comparison with a candidate that the space no longer has
        # A comparison comes after the trials of the same second.
        for record in sorted(records, key=lambda record: (record.date, record.round)):
            arm = arms[record.workload]
            row = arm.space.row(record.knobs)
            if row is None:
                if record.cache == self.task.cache:
                    foreign = max(foreign, record.round)
                continue
            choice = Choice(arm, row)
            if record.cache != self.task.cache:
                if record.status != "ok":  # what is wrong warm is wrong cold
                    arm.search.exclude(row)
                continue
            if not arm.search.knows(row):
                self.tell(choice, record.time_us, record.status, seconds(record.date))
            if record.status != "ok":
                arm.search.reject(row)
            if record.round:
                compared.append((record, choice))
                self._settle_by(compared)
        if foreign >= self.rounds:
            self.rounds, self._result = foreign, None

    def _settle_by(self, compared: Sequence[tuple[Record, Choice]]) -> None:
        """Enter the result of the comparisons of a log: the last round decides."""
        self.rounds = max(record.round for record, _ in compared)
        last = [entry for entry in compared if entry[0].round == self.rounds]
        record, pick = min(last, key=lambda entry: entry[0].time_us)
        untuned = [r.time_us for r, choice in compared if choice == self.untuned]
        self.settle(pick, record.time_us, untuned[-1] if untuned else None)


def _predicted_us(choice: Choice, target: Target) -> float:
    """The model's time, or where it has none the time to move the activations, in microseconds."""
    per_cycle = target.caches.l3_bytes_per_cycle * target.cores
    cycles = max(choice.candidate.cycles, moved_bytes(choice.arm.spec) / per_cycle)
    return cycles / (target.frequency_ghz * 1e3)


def weights(states: Sequence[TaskState]) -> list[float]:
    """Share of each task in the time of the networks, each of which counts the same."""
    totals: dict[str, float] = {}
    for state in states:
        for network, count in state.task.networks.items():
            totals[network] = totals.get(network, 0.0) + count * state.time_us
    return [
        sum(count * state.time_us / totals[network] for network, count in networks.items())
        / max(1, len(totals))
        for state in states
        for networks in (state.task.networks,)
    ]
