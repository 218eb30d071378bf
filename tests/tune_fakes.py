"""What the tests of tuning measure with: spaces with known times, noise, a clock of their own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from tvmconv.autoschedule.budget import Clock
from tvmconv.autoschedule.measure import Unmeasurable
from tvmconv.autoschedule.search import Space
from tvmconv.autoschedule.space import Candidate
from tvmconv.autoschedule.states import TaskState
from tvmconv.autoschedule.tasks import Task
from tvmconv.autoschedule.tuner import tune
from tvmconv.autoschedule.workload import alternatives
from tvmconv.bench.peak import PeakPoint
from tvmconv.kernel import KernelSpec, canonical_json
from tvmconv.layout import Layout
from tvmconv.problem import Problem
from tvmconv.target import targets

Knobs = tuple[tuple[str, int], ...]
Times = dict[Knobs, float]
TARGET = replace(targets()["znver3"], match=None, cores=1)
TRACE: list[Any] = [[], []]


def rugged(seed: int, rank: float = 0.12, most: int = 3000) -> tuple[list[Candidate], Times]:
    """A space of some 2500 candidates whose model is wrong by what pairs of knobs do together."""
    rng = np.random.default_rng(seed)
    sizes = {"slots": 8, "high": 4, "wide": 14, "order": 3, "chunk": 5, "fused": 3}
    pairs = [("order", "slots"), ("wide", "chunk"), ("fused", "order"), ("slots", "wide")]
    wrong = {pair: rng.normal(0, rank, (sizes[pair[0]], sizes[pair[1]])) for pair in pairs}
    found, times = [], {}
    for point in itertools.product(*map(range, sizes.values())):
        at = dict(zip(sizes, point, strict=True))
        slots, pixels = at["slots"] + 1, (at["high"] + 1) * (at["wide"] + 1)
        if slots * pixels + slots > 16 or len(found) == most:
            continue
        step = max(slots * pixels, pixels / 2 + slots, 4.5) / (slots * pixels)
        spills = 1.3 if 2 * slots * (pixels + 1) > 15 else 1.0
        cycles = 1e6 * step * spills * (1 + 0.2 / (at["chunk"] + 1)) * (1 + 0.05 * at["fused"])
        error = sum(table[at[a], at[b]] for (a, b), table in wrong.items())
        knobs = tuple(at.items())
        found.append(Candidate(knobs, cycles * math.exp(rng.normal(0, 0.02))))
        times[knobs] = cycles * math.exp(error + rng.normal(0, 0.02)) / 1e3
    return sorted(found, key=lambda candidate: candidate.cycles), times


def line(count: int, time_us: Callable[[int], float]) -> tuple[list[Candidate], Times]:
    """A space of one knob; the model prefers small values."""
    found = [Candidate((("x", x),), 1e5 + x) for x in range(count)]
    return found, {candidate.knobs: time_us(x) for x, candidate in enumerate(found)}


def conv(size: int = 8, channels: int = 16, kernel: int = 1) -> KernelSpec:
    """A direct workload."""
    text = f"conv2d:1x{channels}x{size}x{size}:{channels}x{kernel}x{kernel}:padding={kernel // 2}"
    problem = Problem.parse(text)
    spec = KernelSpec(
        "conv",
        canonical_json({"problem": problem.text}),
        (Layout(problem.input_shape, 16),),
        Layout(problem.output_shape, 16),
    )
    return alternatives(spec)[0]


class FakeClock(Clock):
    """Time passes only when something takes it."""

    def __init__(self) -> None:
        self.now = 0.0

    def seconds(self) -> float:
        return self.now

    def date(self) -> str:
        start = datetime(2025, 1, 31, tzinfo=timezone.utc)
        return (start + timedelta(seconds=int(self.now))).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class FakeBench:
    """Times of a table, with noise; remembers what it was asked for."""

    times: dict[str, Times]
    clock: FakeClock = field(default_factory=FakeClock)
    noise: float = 0.0
    statuses: dict[Knobs, str] = field(default_factory=dict)
    trial_s: float = 0.5
    measured: list[tuple[str, Knobs]] = field(default_factory=list)
    compared: list[list[Knobs]] = field(default_factory=list)
    stop_after: int = 10**9
    #: Workloads that cannot be measured, and cannot be compared.
    no_trials: dict[str, str] = field(default_factory=dict)
    no_finals: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(1)

    def measure(
        self, spec: KernelSpec, candidates: Sequence[Candidate], best_us: float = math.inf
    ) -> Iterator[Any]:
        if spec.text in self.no_trials:
            raise Unmeasurable(self.no_trials[spec.text])
        for candidate in candidates:
            if len(self.measured) == self.stop_after:
                raise KeyboardInterrupt
            self.measured.append((spec.text, candidate.knobs))
            self.clock.now += self.trial_s
            yield self._outcome(spec, candidate, self.noise, 1)

    def compare(
        self, spec_candidates: Sequence[tuple[KernelSpec, Candidate | list[Any]]], rounds: int = 5
    ) -> list[Any]:
        pairs = [(spec, c) for spec, c in spec_candidates if isinstance(c, Candidate)]
        for spec, _ in pairs:
            if spec.text in self.no_finals:
                raise Unmeasurable(self.no_finals[spec.text])
        self.compared.append([candidate.knobs for _, candidate in pairs])
        self.clock.now += self.trial_s
        return [self._outcome(*pair, self.noise / 5, rounds) for pair in pairs]

    def _outcome(self, spec: KernelSpec, candidate: Candidate, noise: float, count: int) -> Any:
        status = self.statuses.get(candidate.knobs, "ok")
        time = self.times[spec.text][candidate.knobs]
        times = [time * math.exp(abs(self.rng.normal(0, noise))) for _ in range(count)]
        return SimpleNamespace(
            candidate=candidate,
            status=status,
            trace=TRACE,
            times_us=tuple(times) if status == "ok" else (),
            message="" if status == "ok" else f"{status}: for a test",
        )


class FakeTools:
    """Stands for TVM and the measurer: tasks with given spaces."""

    def __init__(
        self, tasks: Sequence[Task], spaces: dict[str, list[Candidate]], bench: FakeBench
    ) -> None:
        self.tasks, self.spaces, self.bench = list(tasks), spaces, bench
        self.opened: list[int] = []

    @property
    def clock(self) -> Clock:
        return self.bench.clock

    def extract(self, sources: Sequence[Any], batch: int | None) -> tuple[list[Task], list[str]]:
        names = {name for task in self.tasks for name in task.networks}
        return [replace(task) for task in self.tasks], sorted(names)

    def space(self, spec: KernelSpec) -> Space:
        return Space(self.spaces[spec.text])

    def state(self, task: Task, patience: int) -> TaskState:
        spaces = [self.space(spec) for spec in task.specs]
        return TaskState(task, spaces, task.specs[0], TARGET, patience)

    def open_bench(self, cold_bytes: int) -> AbstractContextManager[FakeBench]:
        self.opened.append(cold_bytes)
        return nullcontext(self.bench)

    def peak(self, tasks: Sequence[Task]) -> PeakPoint:
        return PeakPoint(1, 100.0, 20.0, 15.0)


def one_task(
    space: tuple[list[Candidate], Times], spec: KernelSpec | None = None, **options: Any
) -> FakeTools:
    """A network of one workload that is run once."""
    spec = spec or conv()
    bench = FakeBench({spec.text: space[1]}, **options)
    return FakeTools([Task((spec,), networks={"net": 1})], {spec.text: space[0]}, bench)


LOG = f"{TARGET.name}/records.jsonl"


def run(tools: FakeTools, log: Path, **options: Any) -> Any:
    return tune("net", TARGET, log=log, tools=tools, shipped=False, **options)


def network(**sizes: int) -> FakeTools:
    """A network of 1×1 convolutions; the names' numbers are how often each runs."""
    spaces, times, tasks = {}, {}, []
    for seed, (name, size) in enumerate(sizes.items()):
        spec = conv(size)
        spaces[spec.text], times[spec.text] = rugged(seed, most=400)
        tasks.append(Task((spec,), networks={"net": int(name[1:])}))
    return FakeTools(tasks, spaces, FakeBench(times))


def to_text(report: Any) -> str:
    from rich.console import Console

    console = Console(width=200)
    with console.capture() as capture:
        for table in report.tables():
            console.print(table)
    return capture.get()
