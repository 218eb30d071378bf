"""One tuning run: first trials in turn, then where it gains most, then the finals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tvmconv.autoschedule.benches import Benches, MakeBench
from tvmconv.autoschedule.budget import Budget
from tvmconv.autoschedule.finals import winner
from tvmconv.autoschedule.measure import Unmeasurable
from tvmconv.autoschedule.ranker import Ranker, Samples
from tvmconv.autoschedule.record import Method, Record, target_key
from tvmconv.autoschedule.states import WARM_UP, Arm, Choice, TaskState, weights
from tvmconv.autoschedule.tune_report import TaskResult
from tvmconv.errors import EnvironmentError_
from tvmconv.problem import FLOP_PER_MAC
from tvmconv.target import Target
from tvmconv.versions import PINS

if TYPE_CHECKING:
    from tvmconv.autoschedule.log import Log
    from tvmconv.autoschedule.measure import Outcome

#: Candidates that are chosen at a time.
BATCH = 8
#: Share of a budget that the first trials of all tasks may take.
_WARM_UP_SHARE = 0.5
_ROUNDS = 5


@dataclass(frozen=True)
class Event:
    """Where a session stands.

    Attributes
    ----------
    phase : str
        ``tuning``, ``comparing`` or ``skipping``.
    task : str
        The task's name.
    index, tasks : int
        Which one it is, from 1, of how many.
    trials : int
        Of all tasks so far.
    best_us, untuned_us : float
        Of the task.
    gflops : float or None
        What the best reaches, where multiply-accumulates are counted.
    peak_share : float or None
        That, as a share of what the machine can do.
    elapsed_s : float
    eta_s : float or None
        Seconds to the end, where that is known.
    share : float
        Of the work that is done, 0 to 1; 0 where nobody can know.
    result : TaskResult or None
        Of a task that is finished, or skipped, with this event.
    """

    phase: str
    task: str
    index: int
    tasks: int
    trials: int
    best_us: float
    untuned_us: float
    gflops: float | None
    peak_share: float | None
    elapsed_s: float
    eta_s: float | None
    share: float
    result: TaskResult | None = None


Progress = Callable[[Event], None]


class Session:
    """One tuning run.

    Parameters
    ----------
    target : Target
    states : sequence of TaskState
        With what logs know.
    budget : Budget
        Started by :meth:`run`, with what was spent before.
    log : Log
        Every outcome is appended to it before the next is asked for.
    make_bench : callable
        ``make_bench(cold_bytes)`` opens what measures.
    teachers : sequence of Samples
        Measurements of other workloads.
    progress : callable, optional
    peak_gflops : float
        What the machine can do; 0 if that is not known.
    method : str
        How times come about, for the log.
    """

    def __init__(
        self,
        target: Target,
        states: Sequence[TaskState],
        budget: Budget,
        log: Log,
        make_bench: MakeBench,
        teachers: Sequence[Samples] = (),
        progress: Progress | None = None,
        peak_gflops: float = 0.0,
        method: Method = "measured",
    ) -> None:
        self.target, self.budget, self.log = target, budget, log
        self.all = list(states)
        self.states = [state for state in states if not state.fixed]
        self.teachers = teachers
        self.measured = self.compared = 0
        self.stopped = "no more gain"
        self._benches = Benches(make_bench)
        self._key = target_key(target)
        self.peak_gflops, self.method = peak_gflops, method
        self._progress = progress or (lambda event: None)

    def run(self, spent_trials: int = 0, spent_seconds: float = 0.0) -> None:
        """Tune everything; an exception leaves all that was measured in the log.

        Parameters
        ----------
        spent_trials : int
            Trials of earlier runs on these tasks that count against the budget.
        spent_seconds : float

        Raises
        ------
        EnvironmentError_
            If every task had to be skipped: nothing could be measured.
        """
        share = dict(zip(map(id, self.all), weights(self.all), strict=True))
        self.states.sort(key=lambda state: -share[id(state)])
        fresh = sum(share[id(state)] for state in self.states if not state.begun)
        with self._benches:
            if not all(state.settled for state in self.states):
                self._benches.get(self.states[0].task.cold_bytes)  # before the time begins
            settled = all(state.settled for state in self.states)
            self.budget.start(spent_trials, spent_seconds, fresh, settled)
            self._warm_up()
            self._search()
            for state in self.states:
                self._final(state)
        self._require_something()

    def _warm_up(self) -> None:
        """Give every task its untuned trial, and every arm its first ones as far as that goes."""
        waiting = [state for state in self.states if state.waiting]
        for position, state in enumerate(waiting):
            left = self.budget.trials_left(len(self.states)) * _WARM_UP_SHARE
            allowed = min(WARM_UP * len(state.arms), left / (len(waiting) - position))
            for arm in state.arms:
                if state.skipped:
                    break
                count = int(min(WARM_UP - arm.search.trials, allowed))
                rows = self._choose(arm, count) if count > 0 and not arm.search.done else []
                if arm is state.untuned.arm and not state.begun:
                    rows = list(dict.fromkeys([state.untuned.row, *rows]))[: max(1, count)]
                if rows:
                    allowed -= len(rows)
                    self._measure(state, arm, rows)

    def _search(self) -> None:
        """Measure batches of the task that is expected to gain most, while there is budget."""
        while open_ := [state for state in self.states if not state.done]:
            left = self.budget.trials_left(self._comparisons())
            if left < 1:
                self.stopped = "budget"
                return
            share = dict(zip(map(id, self.all), weights(self.all), strict=True))
            state = max(open_, key=lambda state: state.gain(share[id(state)]))
            arm = state.next_arm()
            self._measure(state, arm, self._choose(arm, int(min(BATCH, left))))

    def _choose(self, arm: Arm, count: int) -> list[int]:
        """Rows of an arm to measure next."""
        ranker = Ranker()
        if arm.search.begun:
            arms = (other for state in self.states for other in state.arms)
            others = [a.samples() for a in arms if a is not arm and a.spec.op == arm.spec.op]
            ranker.fit(arm.samples(), [*others, *self.teachers])
        return arm.search.propose(count, ranker.scores(arm.columns, arm.space.log_cycles))

    def _measure(self, state: TaskState, arm: Arm, rows: Sequence[int]) -> None:
        """Measure candidates of an arm, or find out that the task is to be skipped."""
        candidates = [arm.space.candidates[row] for row in rows]
        bench = self._benches.get(state.task.cold_bytes)
        try:
            self._take(state, arm, rows, bench.measure(arm.spec, candidates, state.best_us))
        except Unmeasurable as why:
            self._skip(state, str(why))

    def _take(
        self, state: TaskState, arm: Arm, rows: Sequence[int], outcomes: Iterator[Outcome]
    ) -> None:
        """Enter outcomes; each is in the log before the next is asked for."""
        for row, outcome in zip(rows, outcomes, strict=False):
            record = self._record(state, Choice(arm, row), outcome)
            self.log.append(record)
            self.measured += 1
            self.budget.spend()
            state.tell(Choice(arm, row), record.time_us, record.status, self.budget.spent_s)
            self._tell("tuning", state)
            if self.budget.trials_left() <= 0 and state.begun:
                break
        close = getattr(outcomes, "close", None)
        if close is not None:
            close()  # a generator that was left early gives up what it builds ahead

    def _final(self, state: TaskState) -> None:
        """Compare a task's leaders with its untuned choice, unless that is settled."""
        finalists = state.finalists() if state.to_compare else []
        if finalists:
            self._tell("comparing", state)
            try:
                self._compare(state, finalists)
            except Unmeasurable as why:
                self._skip(state, str(why))
            else:
                self.compared += 1
        if not state.skipped:
            self._tell("comparing", state, TaskResult.of(state))

    def _skip(self, state: TaskState, why: str) -> None:
        """Give a task up; the others go on."""
        state.skipped = why
        self._tell("skipping", state, TaskResult.of(state))

    def _require_something(self) -> None:
        """Raise what the first task failed of, if all of them did."""
        if self.states and not self.measured and all(state.skipped for state in self.states):
            first, *others = self.states
            more = f"; and so for {len(others)} more" if others else ""
            raise EnvironmentError_(f"{first.task.name}: {first.skipped}{more}")

    def _compare(self, state: TaskState, finalists: Sequence[Choice]) -> None:
        """Measure finalists in turns, log it, and enter who won: the first if none beats it."""
        bench = self._benches.get(state.task.cold_bytes)
        pairs = [(choice.arm.spec, choice.candidate) for choice in finalists]
        number = state.rounds + 1
        records = {
            choice: self._record(state, choice, outcome, number)
            for choice, outcome in zip(finalists, bench.compare(pairs, _ROUNDS), strict=True)
        }
        for choice, record in records.items():
            if record.status != "ok":
                choice.arm.search.reject(choice.row)
        first = finalists[0]
        pick = winner(records, first)
        lines = list(records.values())
        if any(record.time_us < records[pick].time_us for record in lines):
            # Another is faster by no more than noise. A log's last round decides.
            lines.append(replace(records[pick], round=number + 1))
        self.log.append(*lines)
        state.rounds = lines[-1].round
        untuned_us = records[first].time_us if first == state.untuned else None
        state.settle(pick, records[pick].time_us, untuned_us)

    def _record(
        self, state: TaskState, choice: Choice, outcome: Outcome, number: int = 0
    ) -> Record:
        """An outcome as the log keeps it."""
        return Record(
            workload=choice.arm.spec.text,
            target=self._key,
            versions=dict(PINS),
            status=outcome.status,
            knobs=choice.candidate.knobs,
            trace=outcome.trace,
            times_us=outcome.times_us,
            cache=state.task.cache,
            method=self.method,
            round=number,
            message=outcome.message,
            date=self.budget.clock.date(),
        )

    def _comparisons(self) -> int:
        """How many tasks will have to be compared at the end."""
        return sum(state.to_compare for state in self.states)

    def _tell(self, phase: str, state: TaskState, result: TaskResult | None = None) -> None:
        best = state.tuned_us
        macs, peak = state.task.macs, self.peak_gflops
        gflops = FLOP_PER_MAC * macs / best / 1e3 if macs else None
        self._progress(
            Event(
                phase=phase,
                task=state.task.name,
                index=self.states.index(state) + 1,
                tasks=len(self.states),
                trials=sum(len(s.curve) for s in self.states),
                best_us=best,
                untuned_us=state.untuned_us,
                gflops=gflops,
                peak_share=gflops / peak if gflops and peak else None,
                elapsed_s=self.budget.elapsed_s,
                eta_s=self.budget.eta_s(self._comparisons()),
                share=self.budget.share,
                result=result,
            )
        )
