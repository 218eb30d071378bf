"""Measuring what TVM builds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernels import host
from tests.workloads import WORKLOADS, workload
from tvmconv.autoschedule.measure import Measurer
from tvmconv.autoschedule.space import Candidate, space_for
from tvmconv.codegen.kernels import prim_func
from tvmconv.kernel import KernelSpec


def candidates(spec: KernelSpec) -> list[Candidate]:
    return space_for(host()).candidates(prim_func(spec, "main"), host())


@pytest.fixture(scope="module")
def measurer() -> Iterator[Measurer]:
    with Measurer(host(), jobs=2, run_timeout_s=30.0) as made:
        yield made


def test_every_kind_of_workload(measurer: Measurer) -> None:
    """What the model ranks first is right, and timed as often as it was asked."""
    pairs: list[tuple[KernelSpec, Any]] = [(s, candidates(s)[0]) for s in WORKLOADS.values()]
    outcomes = measurer.compare(pairs, rounds=2)
    for name, outcome in zip(WORKLOADS, outcomes, strict=True):
        assert (name, outcome.status, outcome.error_ratio <= 1) == (name, "ok", True)
        assert len(outcome.times_us) == 2


def test_outcomes_come_in_order(measurer: Measurer) -> None:
    spec = WORKLOADS["convolution with bias"]
    space = candidates(spec)
    chosen = [space[0], space[len(space) // 2], space[-1], space[0]]
    outcomes = list(measurer.measure(spec, chosen))
    assert [outcome.candidate for outcome in outcomes] == chosen
    assert [outcome.status for outcome in outcomes] == ["ok"] * len(chosen)
    assert all(0 < time_us < math.inf for o in outcomes for time_us in o.times_us)
    assert outcomes[0].trace == outcomes[3].trace != outcomes[2].trace
    assert 0 < outcomes[0].error_ratio <= 1


def test_a_trace_builds_what_it_came_from(measurer: Measurer) -> None:
    spec = WORKLOADS["residual"]
    (first,) = measurer.measure(spec, candidates(spec)[:1])
    (again,) = measurer.measure(spec, [first.trace])
    assert (again.status, again.trace, again.candidate) == ("ok", first.trace, first.trace)


def test_a_trace_of_another_workload(measurer: Measurer) -> None:
    (first,) = measurer.measure(WORKLOADS["mean"], candidates(WORKLOADS["mean"])[:1])
    (other,) = measurer.measure(WORKLOADS["winograd"], [first.trace])
    assert other.status != "ok"
    assert other.message
    assert "\n" not in other.message


def test_algorithms_against_each_other(measurer: Measurer) -> None:
    problem = "conv2d:1x32x12x12:32x3x3:padding=1"
    specs = [workload(problem), workload(f"{problem}:algorithm=winograd2")]
    outcomes = measurer.compare([(spec, candidates(spec)[0]) for spec in specs], rounds=3)
    assert [(o.status, len(o.times_us)) for o in outcomes] == [("ok", 3)] * 2


def test_what_is_far_from_the_best_is_timed_shortly(measurer: Measurer) -> None:
    spec = WORKLOADS["residual"]
    (short,) = measurer.measure(spec, candidates(spec)[:1], best_us=1e-3)
    (whole,) = measurer.measure(spec, candidates(spec)[:1], best_us=1e6)
    assert 0 < len(short.times_us) < len(whole.times_us)


def test_the_process_that_forks_has_one_thread(measurer: Measurer) -> None:
    """TVM has been imported there and has compiled; a fork copies the calling thread only."""
    spec = WORKLOADS["residual"]
    assert [o.status for o in measurer.measure(spec, candidates(spec)[:1])] == ["ok"]
    assert len(list(Path(f"/proc/{measurer._station().crew.pid}/task").iterdir())) == 1


def test_a_build_without_memory() -> None:
    """TVM alone has more than that in its address space."""
    spec = WORKLOADS["residual"]
    with Measurer(host(), jobs=1, memory_bytes=300 << 20) as small:
        (outcome,) = small.measure(spec, candidates(spec)[:1])
    assert (outcome.status, outcome.times_us) == ("out-of-memory", ())


def test_nothing_to_measure(measurer: Measurer) -> None:
    assert list(measurer.measure(WORKLOADS["residual"], [])) == []
    assert measurer.compare([]) == []


def test_cold_weights() -> None:
    spec = WORKLOADS["dense"]
    with Measurer(host(), jobs=1, cache="cold", cold_bytes=1 << 16) as cold:
        (outcome,) = cold.measure(spec, candidates(spec)[:1])
    assert outcome.status == "ok"
