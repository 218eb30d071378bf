"""Random problems of the whole family, compiled as users do it: few of what the benchmark draws.

What once was wrong is a case of its own here, or a bad case of its operator.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tests.benchmarks.random_problems import BATCH, MAX_FLOPS, Drawn, outcomes
from tests.kernels import trials
from tests.strategies import OTHER_MEANINGS, random_member
from tvmconv import ops
from tvmconv.problem import Problem

PAST = [
    # Halves between two kernels were rounded once more than the problem says.
    "separable_conv1d:1x16x24:32x3:padding=2:inner_activation=hard_sigmoid:dtype=float16",
    "separable_conv2d:2x5x9x5:4x1x7:padding=0,2,2,0:inner_activation=sigmoid:dtype=bfloat16",
    "gated_conv2d:1x24x11x11:3x3x1:stride=1,2:bias=true:activation=elu:dtype=bfloat16",
    # The third root as the power of 1/3 in float32 was off by more than the sum of one term may be.
    "lp_pool2d:1x16x64x64:1x1:p=3",
]


@pytest.mark.parametrize("part", range(2))
def test_of_all_operators(part: int) -> None:
    """Numbers that the benchmark does not reach; Winograd may be refused, and nothing else."""
    drawn = [Drawn.of(10_000 + part * BATCH + k, 0) for k in range(BATCH)]
    found = list(zip((d.problem for d in drawn), outcomes(drawn), strict=True))
    assert not [(p.text, told) for p, (kind, told) in found if kind not in ("passed", "refused")]
    refused = [p for p, (kind, _) in found if kind == "refused"]
    assert all(p.option("algorithm").startswith("winograd") for p in refused)
    assert len(refused) < BATCH // 4


def test_what_once_was_wrong() -> None:
    drawn = []
    for number, problem in enumerate(map(Problem.parse, PAST)):
        names = tuple(name for name in problem.inputs if name != "x")
        drawn.append(Drawn(number, problem, trials(problem)[-1:], names))
    assert outcomes(drawn) == [("passed", "")] * len(PAST)


def test_the_draws_are_of_all_there_is() -> None:
    rng = np.random.default_rng(3)
    drawn = [random_member(rng, MAX_FLOPS) for _ in range(1000)]
    assert {p.op for p in drawn} == {o.name for o in ops.operators().values() if o.family}
    seen: dict[str, Counter[object]] = {
        name: Counter(p.option(name) for p in drawn)
        for name in ("padding_mode", "algorithm", "dtype", "mode", "coordinates", "flipped")
    }
    assert [len(counts) for counts in seen.values()] == [6, 7, 5, 4, 7, 3]
    assert all(count >= 2 for counts in seen.values() for count in counts.values())
    assert sum(p.op in OTHER_MEANINGS for p in drawn) > 100
