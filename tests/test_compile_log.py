"""Compiling with a log: its schedules are used if they fit, and never needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tvmconv
from tests.kernels import host
from tvmconv.accuracy import trial
from tvmconv.autoschedule.choose import Chooser
from tvmconv.autoschedule.log import Database, Log
from tvmconv.autoschedule.record import Record, target_key
from tvmconv.autoschedule.space import space_for
from tvmconv.autoschedule.trace import to_json
from tvmconv.autoschedule.workload import alternatives
from tvmconv.codegen.kernels import prim_func
from tvmconv.compiler import lower_graph
from tvmconv.frontend import load
from tvmconv.kernel import KernelSpec
from tvmconv.problem import Problem
from tvmconv.versions import PINS

PROBLEM = Problem.parse("conv2d:1x32x12x12:48x3x3:padding=1:bias=true:activation=relu")
TRIAL = trial(PROBLEM)
PARAMS = {name: array for name, array in TRIAL.arrays.items() if name != "x"}


def workloads() -> dict[str, KernelSpec]:
    """Those of the problem's convolution, by algorithm."""
    lowered = lower_graph(load(PROBLEM.text, params=PARAMS), host())
    (spec,) = lowered.kernels.values()
    names = ("direct", "winograd2", "winograd4", "winograd6", "winograd4_online")
    return dict(zip(names, alternatives(spec), strict=True))


def record(spec: KernelSpec, rank: int, time_us: float = 10.0, **changes: Any) -> Record:
    """A record of the candidate at a rank of the model's."""
    func, space = prim_func(spec, "main"), space_for(host())
    candidate = space.candidates(func, host())[rank]
    fields: Mapping[str, Any] = {
        "workload": spec.text,
        "target": target_key(host()),
        "versions": PINS,
        "status": "ok",
        "knobs": candidate.knobs,
        "trace": to_json(space.schedule(func, host(), candidate)),
        "times_us": (time_us,),
        "cache": "warm",
        "date": "2026-01-31T12:00:00Z",
    }
    return Record(**{**fields, **changes})


def compiled(path: Path, *records: Record, **options: Any) -> tuple[int, str]:
    """Compile with a log; how many kernels it scheduled, and by which algorithm. Must be right."""
    Log(path).append(*records)
    module = tvmconv.compile(PROBLEM.text, host(), log=path, params=PARAMS, **options)
    (step,) = (s for s in module.metadata["steps"] if s["kind"] == "conv")
    name = step.get("algorithm", "direct")
    report = TRIAL.check(module(np.asarray(TRIAL.arrays["x"]))[0], name)
    assert report.passed, report.message
    return module.metadata["tuned_kernels"], name


def test_the_fastest_record_decides(tmp_path: Path) -> None:
    found = workloads()
    records = [record(found["direct"], 3, 9.0), record(found["winograd2"], 1, 8.0)]
    assert compiled(tmp_path / "a.jsonl", *records) == (1, "winograd2")
    assert compiled(tmp_path / "b.jsonl", records[0]) == (1, "direct")


def test_a_later_round_decides(tmp_path: Path) -> None:
    """Times of one round were taken in turns, and those of an earlier one were not."""
    found = workloads()
    records = [record(found["direct"], 3, 9.0, round=1), record(found["winograd2"], 1, 8.0)]
    assert compiled(tmp_path / "log.jsonl", *records) == (1, "direct")


def test_a_measured_record_wins_over_a_static_one(tmp_path: Path) -> None:
    """Whatever the estimate: of the same kernel, and of another algorithm."""
    found = workloads()
    guess = record(found["winograd2"], 1, 0.1, round=2, method="static")
    assert compiled(tmp_path / "a.jsonl", guess) == (1, "winograd2")
    measured = record(found["direct"], 3, 9.0)
    assert compiled(tmp_path / "a.jsonl", measured) == (1, "direct")
    chooser = Chooser(host(), Database.open([tmp_path / "a.jsonl"], host(), shipped=False))
    assert chooser.together(found["direct"], (found["direct"],) * 2)
    assert not chooser._logged_us([found["direct"], found["winograd2"]])
    path = tmp_path / "b.jsonl"
    Log(path).append(record(found["direct"], 2, 0.1, method="static"), measured)
    best = Database.open([path], host()).best(found["direct"].text, host())
    assert best == measured


def test_what_is_by_estimates_is_told(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    Log(path).append(record(workloads()["direct"], 3, method="static"))
    database = Database.open([path], host(), shipped=False)
    module = tvmconv.compile(PROBLEM.text, host(), log=database, params=PARAMS)
    assert (module.metadata["tuned_kernels"], module.metadata["static_kernels"]) == (1, 1)
    assert database.used == {"static": 1}


def test_exact_and_untuned(tmp_path: Path) -> None:
    path, fast = tmp_path / "log.jsonl", record(workloads()["winograd4"], 0)
    assert compiled(path, fast) == (1, "winograd4")
    assert compiled(path, exact=True) == (0, "direct")
    assert compiled(path, tuned=False)[0] == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"target": target_key(replace(host(), cores=64))},
        {"versions": {**PINS, "apache-tvm": "0.26.0"}},
        {"status": "wrong", "times_us": (), "trace": [], "message": "got 1 for 2"},
        {"trace": [[], []]},
        {"trace": [[["GetSBlock", [], ["nosuch", "main"], ["b0"]]], []]},
    ],
)
def test_what_is_of_no_use_is_passed_over(tmp_path: Path, changes: dict[str, Any]) -> None:
    bad = record(workloads()["direct"], 2, **changes)
    tuned, _ = compiled(tmp_path / "log.jsonl", bad)
    # An empty trace is a schedule too, a slow one.
    assert tuned == (changes.get("trace") == [[], []])


def test_the_next_best_stands_in_for_a_trace_that_does_not_fit(tmp_path: Path) -> None:
    spec = workloads()["direct"]
    trace = [[["GetSBlock", [], ["nosuch", "main"], ["b0"]]], []]
    logs = tmp_path / "log.jsonl"
    Log(logs).append(record(spec, 2, 1.0, trace=trace), record(spec, 3, 2.0))
    database = Database.open([logs], host())
    module = tvmconv.compile(PROBLEM.text, host(), log=database, params=PARAMS)
    assert module.metadata["tuned_kernels"] == 1
    assert database.skipped["trace does not fit its workload"] == 1


def test_the_users_own_log_counts(tmp_path: Path) -> None:
    path = tmp_path / "data" / "tvmconv" / "tune_logs" / host().name / "records.jsonl"
    path.parent.mkdir(parents=True)
    Log(path).append(record(workloads()["direct"], 4))
    module = tvmconv.compile(PROBLEM.text, host(), params=PARAMS)
    assert module.metadata["tuned_kernels"] == 1
