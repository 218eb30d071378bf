"""Where the budget goes, and which of the finalists wins."""

from __future__ import annotations

import math

import pytest

from tests.tune_fakes import TRACE, FakeClock, conv
from tvmconv.autoschedule.budget import Budget, expected_gain, seconds_spent
from tvmconv.autoschedule.finals import beats, winner
from tvmconv.autoschedule.record import Record


def test_gain_is_weight_times_rate() -> None:
    falling, flat = [100.0 - k for k in range(30)], [100.0] * 30
    assert expected_gain(0.5, falling) == pytest.approx(5 * expected_gain(0.1, falling))
    assert expected_gain(0.5, falling) > expected_gain(0.5, flat)
    assert expected_gain(0.1, falling) > expected_gain(0.1, flat[:20])
    assert expected_gain(0.5, flat[:5]) > expected_gain(0.5, flat)
    assert expected_gain(0.5, []) == math.inf
    assert math.isfinite(expected_gain(0.5, [math.inf, math.inf, 3.0]))


def test_time_of_earlier_runs_is_without_the_pauses() -> None:
    dates = [f"2025-01-31T12:00:{s:02}Z" for s in (0, 3, 10)] + ["2025-01-31T13:00:00Z"]
    dates += ["2025-01-31T13:00:05Z", "", "yesterday"]
    assert seconds_spent(dates) == 15
    assert seconds_spent([]) == 0


def test_trials_and_time_run_out() -> None:
    clock = FakeClock()
    budget = Budget(10, 20.0, clock)
    budget.start(spent_trials=4)
    assert budget.trials_left() == 6
    for _ in range(2):
        clock.now += 5
        budget.spend()
    assert budget.trials_left() == pytest.approx(10 / budget.trial_s)
    assert budget.share == 0.6
    assert budget.eta_s(0) == pytest.approx(10)
    clock.now += 10
    assert budget.trials_left() <= 0
    assert Budget(None, None, clock).trials_left() == math.inf
    assert Budget(None, None, clock).eta_s(3) is None


def test_time_is_kept_for_comparisons() -> None:
    budget = Budget(None, 100.0, FakeClock())
    assert 0 < budget.reserve_s(1) < budget.reserve_s(1000) == 25
    assert budget.trials_left(1000) < budget.trials_left()


def test_new_tasks_have_their_share_of_a_spent_budget() -> None:
    budget = Budget(100, None, FakeClock())
    budget.start(spent_trials=100)
    assert budget.trials_left() == 0
    budget.start(spent_trials=100, fresh=0.25)
    assert budget.trials_left() == 25
    budget.start(spent_trials=10, fresh=0.25)
    assert budget.trials_left() == 90


@pytest.mark.parametrize(
    ("spent", "settled", "left"), [(95, True, 0), (95, False, 5), (50, True, 50)]
)
def test_a_whole_run_is_over(spent: float, settled: bool, left: float) -> None:
    budget = Budget(None, 100.0, FakeClock())
    budget.start(spent_seconds=spent, settled=settled)
    assert budget.trials_left() * budget.trial_s == pytest.approx(left)


def timed(*times_us: float) -> Record:
    return Record(
        workload=conv().text,
        target="target",
        versions={"apache-tvm": "1"},
        status="ok" if times_us else "wrong",
        knobs=(),
        trace=TRACE,
        times_us=times_us,
        cache="warm",
    )


@pytest.mark.parametrize(
    ("one", "other", "wins"),
    [
        ((90, 91, 90, 92, 90), (100, 101, 100, 99, 100), True),
        ((100, 101, 100, 99, 100), (90, 91, 90, 92, 90), False),
        ((99.5, 99.5, 99.5, 99.5, 99.5), (100, 100, 100, 100, 100), False),  # within noise
        ((90, 90, 90, 120, 120, 120), (100, 100, 95, 100, 100, 100), False),  # half of the rounds
        ((98, 98, 98, 400, 98), (100, 100, 100, 100, 100), True),  # one block was disturbed
        ((), (100, 100), False),
        ((100, 100), (), True),
        ((), (), False),
    ],
)
def test_beats(one: tuple[float, ...], other: tuple[float, ...], wins: bool) -> None:
    assert beats(timed(*one), timed(*other)) is wins


def test_winner() -> None:
    untuned, near, wrong = timed(100, 100, 100), timed(99.5, 99.5, 99.5), timed()
    fast, faster = timed(90, 90, 90), timed(80, 80, 80)
    assert winner({"u": untuned, "near": near, "wrong": wrong}, "u") == "u"
    assert winner({"u": untuned, "fast": fast, "faster": faster}, "u") == "faster"
    assert winner({"u": wrong, "near": near, "fast": fast}, "u") == "fast"
