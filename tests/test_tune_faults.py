"""Tuning runs in which something goes wrong."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tune_fakes import (
    LOG,
    TARGET,
    conv,
    line,
    network,
    one_task,
    run,
    to_text,
)
from tvmconv.autoschedule.log import Database, Log
from tvmconv.autoschedule.session import Event
from tvmconv.autoschedule.tasks import Task
from tvmconv.cli._output import to_json
from tvmconv.errors import EnvironmentError_, InputError


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


def test_an_interrupted_run_keeps_its_records(tmp_path: Path) -> None:
    tools = one_task(line(200, lambda x: 300.0 - x), stop_after=17)
    with pytest.raises(KeyboardInterrupt):
        run(tools, tmp_path, trials=30)
    assert len(Log(tmp_path / LOG).load().records) == 17
    tools.bench.stop_after = 10**9
    report = run(tools, tmp_path, trials=30)
    assert (report.measured, report.known, report.compared) == (13, 17, 1)
    assert len(set(tools.bench.measured)) == len(tools.bench.measured) == 30
    assert [point.trial for point in report.tasks[0].curve] == list(range(1, 31))


@pytest.mark.parametrize("status", ["wrong", "crashed", "timeout", "build-failed"])
def test_what_is_not_right_is_never_picked(tmp_path: Path, status: str) -> None:
    space, times = line(30, lambda x: 100.0 - x)
    bad = {space[k].knobs: status for k in range(1, 30, 2)}
    tools = one_task((space, times), statuses=bad)
    report = run(tools, tmp_path)
    assert report.measured == 30
    assert report.tasks[0].statuses == {"ok": 15, status: 15}
    assert report.tasks[0].knobs == {"x": 28}
    assert all(not set(knobs) & set(bad) for knobs in tools.bench.compared)
    assert run(tools, tmp_path).measured == 0
    assert f"never chosen: 15 {status}" in "\n".join(report.lines())


def test_an_untuned_choice_that_fails_is_replaced(tmp_path: Path) -> None:
    space, times = line(9, lambda x: 100.0 - x)
    tools = one_task((space, times), statuses={space[0].knobs: "wrong"})
    report = run(tools, tmp_path)
    assert report.tasks[0].untuned_us == math.inf
    assert report.tasks[0].knobs == {"x": 8}
    assert "-" in to_text(report)
    assert json.loads(to_json(report.to_json()))["tasks"][0]["untuned_us"] is None


def test_nothing_that_runs_is_no_error(tmp_path: Path) -> None:
    space, times = line(3, float)
    tools = one_task((space, times), statuses={c.knobs: "crashed" for c in space})
    report = run(tools, tmp_path)
    assert report.tasks[0].tuned_us == math.inf
    assert to_text(report)
    assert run(tools, tmp_path).measured == 0


@pytest.mark.parametrize("wrong", [range(0), range(1, 20)])
def test_a_choice_that_the_space_no_longer_has_is_superseded(tmp_path: Path, wrong: range) -> None:
    """Even by the only candidate that is right."""
    space, times = line(30, lambda x: 100.0 - x)
    bad = {space[k].knobs: "wrong" for k in wrong}
    assert run(one_task((space, times), statuses=bad), tmp_path).tasks[0].knobs == {"x": 29}
    tools = one_task((space[:20], times), statuses=bad)
    x = 0 if wrong else 19
    assert run(tools, tmp_path).tasks[0].knobs == {"x": x}
    best = Database.open([tmp_path], TARGET, shipped=False).best(conv().text, TARGET, "warm")
    assert best is not None
    assert dict(best.knobs) == {"x": x}
    again = run(tools, tmp_path)
    assert (again.measured, again.compared) == (0, 0)


def test_what_fails_in_the_comparison_is_out(tmp_path: Path) -> None:
    space, times = line(20, lambda x: 100.0 - 5 * (x == 7) - 4 * (x == 9))
    tools = one_task((space, times))
    compare = tools.bench.compare

    def fail(pairs: Any, rounds: int = 5) -> list[Any]:
        tools.bench.statuses[space[7].knobs] = "wrong"
        return compare(pairs, rounds)

    tools.bench.compare = fail  # type: ignore[method-assign]
    report = run(tools, tmp_path)
    assert report.tasks[0].knobs == {"x": 9}
    assert run(tools, tmp_path).tasks[0].knobs == {"x": 9}
    database = Database.open([tmp_path], TARGET, shipped=False)
    best = database.best(conv().text, TARGET)
    assert best is not None
    assert dict(best.knobs) == {"x": 9}


def test_a_lucky_trial_does_not_win(tmp_path: Path) -> None:
    space, times = line(30, lambda x: 100.0 + x)
    tools = one_task((space, times))
    first = tools.bench.measure

    def lucky(spec: Any, candidates: Any, best_us: float = math.inf) -> Any:
        for outcome in first(spec, candidates, best_us):
            if outcome.candidate.knobs == space[3].knobs:
                outcome.times_us = (60.0,)
            yield outcome

    tools.bench.measure = lucky  # type: ignore[method-assign]
    report = run(tools, tmp_path)
    assert tools.bench.compared == [[space[0].knobs, space[3].knobs]]
    assert report.tasks[0].knobs == {"x": 0}
    best = Database.open([tmp_path], TARGET, shipped=False).best(conv().text, TARGET, "warm")
    assert best is not None
    assert dict(best.knobs) == {"x": 0}


def test_what_is_wrong_warm_is_not_tried_cold(tmp_path: Path) -> None:
    space, times = line(12, lambda x: 100.0 - x)
    tools = one_task((space, times), statuses={space[11].knobs: "wrong"})
    run(tools, tmp_path)
    tools.tasks[0].cold_bytes = 1
    tools.bench.measured.clear()
    run(tools, tmp_path)
    assert len(tools.bench.measured) == 11


WHY = "no reference to check candidates against: MemoryError"


def test_a_task_that_cannot_be_measured_is_skipped(tmp_path: Path) -> None:
    tools = network(x3=8, x1=16, x2=24)
    tools.bench.no_trials[conv(16).text] = WHY
    name = Task((conv(16),)).name
    events: list[Event] = []
    report = run(tools, tmp_path, trials=60, progress=events.append)
    tasks = {task.name: task for task in report.tasks}
    skipped = tasks.pop(name)
    assert (skipped.trials, skipped.confirmed, skipped.gflops) == (0, False, None)
    assert all(task.confirmed and not task.skipped for task in tasks.values())
    assert (report.measured, len(tasks)) == (60, 2)
    assert f"skipped: {name}: {WHY}" in report.lines()
    (net,) = report.networks
    assert net.tasks == 2
    assert 0 < net.other_us < net.tuned_us < net.untuned_us < math.inf
    assert [event.task for event in events if event.phase == "skipping"] == [name]
    finished = [event.task for event in events if event.result]
    assert sorted(finished) == sorted([name, *tasks])
    assert to_text(report)
    assert json.loads(to_json(report.to_json()))["networks"][0]["tuned_us"] > 0
    tools.bench.no_trials.clear()
    later = run(tools, tmp_path, trials=80)
    assert all(task.confirmed for task in later.tasks)


def test_a_task_that_cannot_be_compared_keeps_its_trials(tmp_path: Path) -> None:
    tools = network(x3=8, x1=16)
    tools.bench.no_finals[conv(8).text] = WHY
    report = run(tools, tmp_path, trials=40)
    skipped, other = report.tasks
    assert (skipped.skipped, skipped.confirmed, other.confirmed) == (WHY, False, True)
    assert skipped.tuned_us < skipped.untuned_us
    assert (report.measured, report.compared, report.networks[0].other_us) == (40, 1, 0)
    tools.bench.no_finals.clear()
    again = run(tools, tmp_path, trials=40)
    assert (again.measured, again.compared) == (0, 1)
    assert all(task.confirmed for task in again.tasks)


def test_nothing_that_can_be_measured_is_an_error(tmp_path: Path) -> None:
    tools = network(x3=8, x1=16)
    tools.bench.no_trials = {conv(size).text: WHY for size in (8, 16)}
    with pytest.raises(EnvironmentError_) as caught:
        run(tools, tmp_path, trials=40)
    assert str(caught.value) == f"{Task((conv(8),)).name}: {WHY}; and so for 1 more"
    assert not (tmp_path / LOG).exists()


def test_records_of_others_are_skipped_and_counted(tmp_path: Path) -> None:
    tools = one_task(line(30, lambda x: 100.0 - x))
    run(tools, tmp_path, trials=10)
    path = tmp_path / LOG
    record = Log(path).load().records[0]
    path.write_bytes(
        path.read_bytes()
        + b"null\n\xff\n"
        + replace(record, target="other").line()
        + replace(record, versions={"apache-tvm": "0"}).line()
        + path.read_bytes()[:50]
    )
    report = run(tools, tmp_path, trials=12)
    assert (report.measured, report.known) == (2, 10)
    assert sum(report.skipped.values()) == 5
    assert "1 another target" in "\n".join(report.lines())


def test_a_full_disk_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = one_task(line(30, lambda x: 1.0 + x))
    append = Log.append

    def full(self: Log, *records: Any) -> None:
        if len(tools.bench.measured) == 5:
            raise EnvironmentError_("records.jsonl: No space left on device")
        append(self, *records)

    monkeypatch.setattr(Log, "append", full)
    with pytest.raises(EnvironmentError_, match="No space left"):
        run(tools, tmp_path, trials=20)
    assert len(Log(tmp_path / LOG).load().records) == 4


def test_a_log_that_cannot_be_written_is_found_before(tmp_path: Path) -> None:
    tools = one_task(line(30, float))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is not a directory"):
        run(tools, tmp_path / "file")
    with pytest.raises(EnvironmentError_, match="/proc"):
        run(tools, Path("/proc/tune"))
    (tmp_path / LOG).mkdir(parents=True)
    with pytest.raises(InputError, match="not a regular file"):
        run(tools, tmp_path)
    assert tools.bench.measured == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": 0}, "trials: must be positive, is 0"),
        ({"time_budget": -1.0}, "time_budget: must be positive"),
        ({"time_budget": math.nan}, "time_budget: must be positive"),
        ({"jobs": 0}, "jobs: must be positive"),
        ({"threads": 4096}, "threads: 4096 is not 1 to"),
    ],
)
def test_bad_options(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(one_task(line(3, float)), tmp_path, **options)
    assert list(tmp_path.iterdir()) == []
