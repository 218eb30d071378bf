"""Whole tuning runs: budget, resuming, faults, finals, the report."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.tune_fakes import (
    LOG,
    TARGET,
    FakeBench,
    FakeClock,
    FakeTools,
    conv,
    line,
    network,
    one_task,
    rugged,
    run,
    to_text,
)
from tvmconv.autoschedule.log import Database, Log
from tvmconv.autoschedule.session import Event
from tvmconv.autoschedule.tasks import Task
from tvmconv.autoschedule.workload import alternatives
from tvmconv.cli._output import to_json
from tvmconv.device import Runner
from tvmconv.errors import InputError


def test_trial_one_is_the_untuned_and_the_result_is_confirmed(tmp_path: Path) -> None:
    space, times = line(60, lambda x: 100.0 - x)
    tools = one_task((space, times))
    report = run(tools, tmp_path, trials=30)
    assert tools.bench.measured[0] == (conv().text, space[0].knobs)
    assert len({knobs for _, knobs in tools.bench.measured}) == 30
    (task,) = report.tasks
    assert task.untuned_us == 100
    assert task.tuned_us == times[tuple(task.knobs.items())] < 100
    assert task.confirmed
    assert (report.measured, report.known, report.compared) == (30, 0, 1)
    best = Database.open([tmp_path], TARGET, shipped=False).best(conv().text, TARGET, "warm")
    assert best is not None
    assert dict(best.knobs) == task.knobs
    assert best.round == 1


def test_each_outcome_is_logged_before_the_next_is_asked_for(tmp_path: Path) -> None:
    tools = one_task(line(40, lambda x: 100.0 - x))
    seen: list[int] = []

    def progress(event: Event) -> None:
        if event.phase == "tuning":
            records = Log(tmp_path / LOG).load().records
            seen.append(len(records))
            assert len(records) == len(tools.bench.measured)

    run(tools, tmp_path, trials=10, progress=progress)
    assert seen == list(range(1, 11))


def test_a_second_run_measures_nothing(tmp_path: Path) -> None:
    tools = network(x3=8, x1=16)
    first = run(tools, tmp_path, trials=60)
    before = (tmp_path / LOG).read_bytes()
    tools.bench.measured.clear(), tools.bench.compared.clear(), tools.opened.clear()
    second = run(tools, tmp_path, trials=60)
    assert (second.measured, second.known, second.compared) == (0, 60, 0)
    assert tools.bench.measured == tools.bench.compared == tools.opened == []
    assert (tmp_path / LOG).read_bytes() == before
    for one, other in zip(first.tasks, second.tasks, strict=True):
        assert (one.knobs, one.tuned_us, one.untuned_us) == (
            other.knobs,
            other.tuned_us,
            other.untuned_us,
        )
    more = run(tools, tmp_path, trials=80)
    assert (more.measured, more.known) == (20, 60)


def test_static_trials_and_measured_ones_do_not_mix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was estimated is measured all the same, and then is estimated no more."""
    monkeypatch.setattr("tvmconv.codegen.mca.peak", lambda target: 8.0)
    estimates = line(30, lambda x: 50.0 - x)
    report = run(one_task(estimates), tmp_path, trials=10, static=True)
    assert (report.method, report.measured) == ("static", 10)
    assert report.lines()[0].startswith("10 candidates estimated in ")
    assert {record.method for record in Log(tmp_path / LOG).load().records} == {"static"}
    assert run(one_task(estimates), tmp_path, trials=10, static=True).known == 10
    tools = one_task(line(30, lambda x: 100.0 + x))
    report = run(tools, tmp_path, trials=10)
    assert (report.method, report.measured, report.known) == ("measured", 10, 0)
    best = Database.open([tmp_path], TARGET, shipped=False).best(conv().text, TARGET, "warm")
    assert best is not None
    assert (best.method, best.time_us) == ("measured", 100)
    with pytest.raises(InputError, match="it was measured, and no estimate counts beside that"):
        run(one_task(estimates), tmp_path, trials=10, static=True)


def test_estimates_need_no_runner(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="static: estimates need no runner"):
        run(one_task(line(3, float)), tmp_path, static=True, runner=Runner("env"))


def test_a_second_run_of_a_time_budget_measures_nothing(tmp_path: Path) -> None:
    tools = network(x3=8, x1=16)
    first = run(tools, tmp_path, time_budget=60.0)
    assert 80 < first.measured < 125
    assert 50 < first.seconds < 65
    tools.bench.clock.now += 3600
    second = run(tools, tmp_path, time_budget=60.0)
    assert (second.measured, second.compared) == (0, 0)
    tools.bench.clock.now += 3600
    third = run(tools, tmp_path, time_budget=90.0)
    assert 20 < third.measured < 65


def test_without_a_budget_it_ends_by_itself(tmp_path: Path) -> None:
    tools = network(x3=8, x1=16)
    report = run(tools, tmp_path, patience=20)
    assert report.stopped == "no more gain"
    assert 60 < report.measured < 400
    assert run(tools, tmp_path, patience=20).measured == 0


def test_the_budget_goes_to_the_heavy_task(tmp_path: Path) -> None:
    report = run(network(x1=8, x40=16, x2=24), tmp_path, trials=70, patience=1000)
    heavy, *light = report.tasks
    assert heavy.networks == {"net": 40}
    assert heavy.trials > 2 * sum(task.trials for task in light)
    assert min(task.trials for task in light) >= 4


def test_every_network_counts_the_same(tmp_path: Path) -> None:
    tools = network(x100=8, x1=16)
    tools.tasks[1].networks = {"small": 1}
    report = run(tools, tmp_path, trials=100, patience=1000)
    assert min(task.trials for task in report.tasks) >= 30


def test_a_tiny_budget_measures_each_untuned_choice(tmp_path: Path) -> None:
    tools = network(x1=8, x2=16, x3=24)
    report = run(tools, tmp_path, trials=1)
    assert [task.trials for task in report.tasks] == [1, 1, 1]
    assert report.compared == 0
    assert run(tools, tmp_path, trials=1).measured == 0


def test_the_untuned_choice_wins_ties(tmp_path: Path) -> None:
    space, times = line(30, lambda x: 99.5 if x == 6 else 100.0 + x)
    tools = one_task((space, times))
    report = run(tools, tmp_path)
    assert tools.bench.compared
    assert report.tasks[0].knobs == {"x": 0}
    best = Database.open([tmp_path], TARGET, shipped=False).best(conv().text, TARGET, "warm")
    assert best is not None
    assert dict(best.knobs) == {"x": 0}
    again = run(tools, tmp_path)
    assert (again.measured, again.compared) == (0, 0)
    assert again.tasks[0].knobs == {"x": 0}


@pytest.fixture
def algorithms() -> FakeTools:
    """A 3×3 convolution: direct, a hopeless algorithm, and two that are faster."""
    specs = alternatives(conv(16, kernel=3))
    assert len(specs) == 4
    spaces, times = {}, {}
    for spec, scale in zip(specs, (100.0, 300.0, 50.0, 70.0), strict=True):
        found, known = rugged(3, most=300)
        spaces[spec.text] = found
        times[spec.text] = {knobs: time * scale / 100 for knobs, time in known.items()}
    bench = FakeBench(times)
    return FakeTools([Task(specs, cold_bytes=7, networks={"net": 2})], spaces, bench)


def test_algorithms_are_arms_of_one_task(tmp_path: Path, algorithms: FakeTools) -> None:
    report = run(algorithms, tmp_path, trials=100)
    (task,) = report.tasks
    assert task.algorithm == "winograd4"
    trials = {arm.algorithm: arm.trials for arm in task.arms}
    assert trials["direct"] == trials["winograd2"] == 4  # hopeless after the first trials
    assert trials["winograd4"] > trials["winograd6"]
    assert (task.cache, algorithms.opened) == ("cold", [7])
    records = Database.open([tmp_path], TARGET, shipped=False).records()
    assert {record.cache for record in records} == {"cold"}
    assert run(algorithms, tmp_path, trials=100).measured == 0


def test_one_candidate_is_no_task_but_counts_in_the_network(tmp_path: Path) -> None:
    tools = network(x3=8, x1=16)
    other = conv(32)
    tools.tasks.append(Task((other,), networks={"net": 2}))
    tools.spaces[other.text] = line(1, float)[0]
    report = run(tools, tmp_path, trials=20)
    assert len(report.tasks) == 2
    (net,) = report.networks
    assert net.tasks == 2
    assert net.other_us > 0
    total = sum(task.count * task.untuned_us for task in report.tasks)
    assert net.untuned_us == pytest.approx(total + net.other_us)
    assert net.tuned_us < net.untuned_us


def test_learns_from_other_workloads_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tvmconv.autoschedule import tuner

    lessons: list[int] = []
    session = tuner.Session

    def note(*arguments: Any, **options: Any) -> Any:
        lessons.append(sum(map(len, arguments[5])))
        return session(*arguments, **options)

    monkeypatch.setattr(tuner, "Session", note)
    tools = network(x3=8, x1=16)
    both = list(tools.tasks)
    for task in both:
        tools.tasks = [task]
        run(tools, tmp_path, trials=20)
    assert lessons == [0, 20]
    monkeypatch.setattr("tvmconv.codegen.mca.peak", lambda target: 8.0)
    run(tools, tmp_path / "static", trials=20, static=True)
    tools.tasks = both[:1]
    run(tools, tmp_path / "static", trials=20)
    assert lessons == [0, 20, 0, 0], "measurements are not learned from estimates"


def test_events_tell_where_it_stands(tmp_path: Path) -> None:
    events: list[Event] = []
    report = run(network(x3=8, x1=16), tmp_path, trials=40, progress=events.append)
    tuning = [event for event in events if event.phase == "tuning"]
    assert [event.trials for event in tuning] == list(range(1, 41))
    assert [event.share for event in tuning][-1] == 1
    assert all(event.eta_s is not None and event.eta_s >= 0 for event in events)
    assert tuning[0].gflops
    assert tuning[0].peak_share == pytest.approx(tuning[0].gflops / 100)
    finished = [event.result for event in events if event.result]
    assert finished == list(report.tasks)
    assert {event.index for event in events} == {1, 2}


def test_curves_fall_and_go_on_after_a_pause(tmp_path: Path) -> None:
    clock = FakeClock()
    tools = one_task(rugged(0, most=500), noise=0.05, clock=clock)
    run(tools, tmp_path, trials=20)
    clock.now += 10_000
    (task,) = run(tools, tmp_path, trials=40).tasks
    assert [point.trial for point in task.curve] == list(range(1, 41))
    best, seconds = ([getattr(p, name) for p in task.curve] for name in ("best_us", "seconds"))
    assert best == sorted(best, reverse=True)
    assert seconds == sorted(seconds)
    assert 15 < seconds[-1] < 30


def test_report(tmp_path: Path) -> None:
    report = run(network(x3=8, x1=16), tmp_path, trials=40)
    text = to_text(report)
    assert "conv2d:1x16x8x8:16x1x1" in text
    assert "net" in text
    assert f"log: {tmp_path / LOG}" in report.lines()
    assert re.fullmatch(r"gain: 1\.\d{3}× in geometric mean; 2 of 2 tasks", report.lines()[1])
    data = json.loads(to_json(report.to_json()))
    assert data["measured"] == 40
    assert data["tasks"][0]["trials"] == len(data["tasks"][0]["curve"])
    assert data["tasks"][0]["share_of_peak"] > 0
    assert (data["peak_gflops"], data["bandwidth_gb_s"]) == (100, 20)
