"""Tuning and timing on a GPU: on the emulated one, whose clock is this machine's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.kernels import problem_spec
from tvmconv.autoschedule.log import Log
from tvmconv.autoschedule.measure import Measurer
from tvmconv.autoschedule.record import Record
from tvmconv.autoschedule.tuner import Tools, tune
from tvmconv.autoschedule.workload import canonical
from tvmconv.codegen.kernels import candidates
from tvmconv.compiler import compile
from tvmconv.cuda_emulator.emulation import emulated_images, emulation, on_this_host
from tvmconv.kernel import KernelSpec
from tvmconv.problem import Problem
from tvmconv.target import Target, load_target

BUILDER = "tvmconv.cuda_emulator.builder"
PROBLEM = "conv2d:1x16x6x6:16x3x3:padding=1:bias=true:activation=relu"


def spec_of(text: str, **options: Any) -> KernelSpec:
    return canonical(problem_spec(Problem.parse(text), **options))


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    made = on_this_host(load_target("a100"))
    with emulation(made):
        yield made


@pytest.fixture(scope="module")
def measurer(target: Target) -> Iterator[Measurer]:
    with Measurer(target, jobs=2, run_timeout_s=60.0, builder=BUILDER) as made:
        yield made


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_candidates_are_verified_and_timed(measurer: Measurer, target: Target, dtype: str) -> None:
    spec = spec_of(f"{PROBLEM}:dtype={dtype}")
    space = candidates(spec, target)
    chosen = [space[0], space[len(space) // 2]]
    outcomes = list(measurer.measure(spec, chosen))
    assert [(o.status, o.message) for o in outcomes] == [("ok", "")] * 2
    assert all(time > 0 for o in outcomes for time in o.times_us)
    assert 0 < outcomes[0].error_ratio <= 1


def test_tuning(target: Target, tmp_path: Path) -> None:
    tools = Tools(target, 2, builder=BUILDER)
    report = tune(PROBLEM, target, trials=3, log=tmp_path, tools=tools)
    (log,) = tmp_path.glob("*/records.jsonl")
    records = [Record.parse(line) for line in Log(log).lines()]
    assert log.parent.name == target.name
    assert report.measured == 3
    assert {record.status for record in records} == {"ok"}
    x = np.ones((1, 16, 6, 6), np.float32)
    with compile(PROBLEM, target, log=tmp_path, images=emulated_images) as module:
        assert module.metadata["tuned_kernels"] == 1
