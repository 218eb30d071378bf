"""The search and the ranker on spaces whose times are known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from tests.tune_fakes import TARGET, line, one_task, rugged
from tvmconv.autoschedule.ranker import Ranker, Samples
from tvmconv.autoschedule.search import Search, Space
from tvmconv.autoschedule.space import Candidate
from tvmconv.autoschedule.tuner import tune

SEEDS = range(8)


def test_finds_the_optimum_of_rugged_spaces(tmp_path: Path) -> None:
    near, untuned = 0, []
    for seed in SEEDS:
        candidates, times = rugged(seed)
        assert 2000 < len(candidates) <= 3000
        tools = one_task((candidates, times), noise=0.05)
        report = tune("net", TARGET, trials=120, log=tmp_path / str(seed), tools=tools)
        best = min(times.values())
        picked = times[tuple(report.tasks[0].knobs.items())]
        near += picked <= 1.03 * best
        untuned.append(times[candidates[0].knobs] / best)
        assert len(tools.bench.measured) <= 120
    assert min(untuned) > 1.2  # the model alone is not near
    assert near >= len(SEEDS) - 2


def test_trial_one_is_the_models_choice_then_its_next() -> None:
    space = Space(line(50, float)[0])
    search = Search(space, first=4)
    assert search.propose(4, space.log_cycles) == [0, 1, 2, 3]


def test_descent_goes_to_nearest_values() -> None:
    candidates = [
        Candidate((("x", x), ("y", y)), 1000.0 if (x, y) == (5, 5) else 2000.0)
        for x in range(10)
        for y in range(10)
    ]
    space = Space(sorted(candidates, key=lambda c: c.cycles))
    search = Search(space, first=1, seed=3)
    search.tell(0, 1.0)
    (row,) = search.propose(1, space.log_cycles)
    knobs = dict(space.candidates[row].knobs)
    assert max(abs(knobs["x"] - 5), abs(knobs["y"] - 5)) == 1


def test_proposes_everything_once_and_only_the_unknown() -> None:
    space = Space(line(100, float)[0])
    search = Search(space, patience=10**9)
    search.exclude(7)
    seen: list[int] = []
    while not search.done:
        rows = search.propose(8, space.log_cycles)
        assert rows
        seen += rows
        for row in rows:
            search.tell(row, 1.0 + row)
    assert sorted(seen) == [row for row in range(100) if row != 7]
    assert search.propose(8, space.log_cycles) == []


def test_ends_without_improvement() -> None:
    search = Search(Space(line(1000, float)[0]), first=4, patience=10)
    for row in range(11):
        assert not search.done
        search.tell(row, 100 - 0.01 * row)  # better, but by less than what counts
    assert search.done
    assert search.best == 10


def test_failures_are_never_leaders() -> None:
    search = Search(Space(line(10, float)[0]))
    assert search.leaders(3, 0.05) == []
    for row, time in enumerate((math.inf, 1.0, 1.02, 1.2, 1.01)):
        search.tell(row, time)
    assert search.leaders(3, 0.05) == [1, 4, 2]
    search.reject(1)
    assert search.leaders(3, 0.05) == [4, 2]
    assert search.best == 4
    for row in (2, 3, 4):
        search.reject(row)
    assert search.best_us == math.inf
    assert search.leaders(3, 0.05) == []


def test_same_log_same_choices() -> None:
    candidates, times = rugged(0, most=300)
    space = Space(candidates)
    found = []
    for _ in range(2):
        search = Search(space, seed=5)
        for row in range(30):
            search.tell(row, times[candidates[row].knobs])
        samples = Samples.of(columns(space), space.log_cycles, search.times)
        ranker = Ranker()
        ranker.fit(samples)
        found.append(search.propose(16, ranker.scores(columns(space), space.log_cycles)))
    assert found[0] == found[1]


def columns(space: Space) -> dict[str, np.ndarray]:
    knobs = {name: space.knobs[:, k].astype(float) for k, name in enumerate(space.names)}
    return {**knobs, "cycles": space.log_cycles}


def test_ranker_without_measurements_is_the_model() -> None:
    space = Space(rugged(0, most=100)[0])
    ranker = Ranker()
    ranker.fit(Samples.of(columns(space), space.log_cycles, np.full(len(space), np.nan)))
    assert np.array_equal(ranker.scores(columns(space), space.log_cycles), space.log_cycles)


@pytest.mark.parametrize("own", [0, 20])
def test_ranker_learns_across_workloads(own: int) -> None:
    candidates, _ = rugged(0)
    space = Space(candidates)
    wrong = np.where(space.knobs[:, 0] == 2, 0.5, 0.0)  # what the model does not know
    truth = np.exp(space.log_cycles + wrong)
    measured = np.full(len(space), np.nan)
    measured[::25] = truth[::25]
    other = Samples.of(columns(space), space.log_cycles, 3 * measured)  # three times the work
    mine = np.full(len(space), np.nan)
    mine[:own] = truth[:own]
    ranker = Ranker()
    ranker.fit(Samples.of(columns(space), space.log_cycles, mine), [other])
    learned = ranker.scores(columns(space), space.log_cycles) - space.log_cycles
    gap = learned[wrong > 0].mean() - learned[wrong == 0].mean()
    assert gap == pytest.approx(0.5, abs=0.15)
