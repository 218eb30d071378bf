"""A plan that would lead the runtime out of its memory is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tvmconv.codegen.plan import (
    BlockedTensor,
    BorderStep,
    CopyStep,
    KernelStep,
    PackStep,
    Plan,
    Port,
    TensorArgument,
)
from tvmconv.codegen.plan_check import check_plan

GOOD = TensorArgument("arena", (16,))
BAD_PLANS: dict[str, tuple[Plan, int]] = {
    r"step 0 \(k\): .* ends outside its 63": (Plan(63, [], [], [KernelStep("k", (GOOD,))]), 0),
    "aligned memory": (Plan(640, [], [], [KernelStep("k", (replace(GOOD, offset=32),))]), 0),
    "aligned memory, not .*input": (
        Plan(
            64,
            [Port("x", (16,))],
            [],
            [KernelStep("k", (replace(GOOD, space="input", offset=4),))],
        ),
        0,
    ),
    "is not a name": (Plan(64, [], [], [KernelStep("a-b", (GOOD,))]), 0),
    "'main' is not a name": (Plan(64, [], [], [KernelStep("main", (GOOD,))]), 0),
    "sizes of .* differ": (
        Plan(64, [Port("x", (15,))], [], [CopyStep(TensorArgument("input", (15,)), GOOD)]),
        0,
    ),
    "weights.* ends outside its 4 bytes": (
        Plan(64, [], [], [CopyStep(replace(GOOD, space="weights"), GOOD)]),
        4,
    ),
    "index=1.* ends outside its -1": (
        Plan(64, [Port("x", (16,))], [], [CopyStep(replace(GOOD, space="input", index=1), GOOD)]),
        0,
    ),
    "do not hold the same": (
        Plan(
            1 << 20,
            [Port("x", (1, 3, 4, 4))],
            [],
            [PackStep(TensorArgument("input", (1, 3, 4, 4)), BlockedTensor((1, 4, 4, 4)))],
        ),
        0,
    ),
    "border.* ends outside": (
        Plan(100, [], [], [BorderStep(BlockedTensor((1, 3, 4, 4), block=4))]),
        0,
    ),
    "without elements": (Plan(0, [Port("x", (1, 0))], [], []), 0),
    "dtype 'complex64'": (Plan(0, [Port("x", (1,), "complex64")], [], []), 0),
    "more than 256": (Plan(0, [Port(str(k), (1,)) for k in range(257)], [], []), 0),
}


@pytest.mark.parametrize("message", BAD_PLANS)
def test_an_inconsistent_plan_is_refused(message: str) -> None:
    plan, weight_bytes = BAD_PLANS[message]
    with pytest.raises(ValueError, match=message):
        check_plan(plan, weight_bytes)
