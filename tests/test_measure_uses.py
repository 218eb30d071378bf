"""How candidates are shared out among uses of a runner that is slow, hangs or fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from tvmconv.autoschedule.measure import uses
from tvmconv.autoschedule.measure.uses import Uses
from tvmconv.device.runner import RunnerError, RunnerOverrun

LATE = RunnerOverrun("did not end within 9 s (--timeout)")


class Board:
    """A runner of which each use is noted; ``fault`` raises what goes wrong with it."""

    def __init__(
        self, fault: Callable[[Sequence[int], int], None], machines: int = 1, timeout_s: float = 9.0
    ) -> None:
        self._fault, self.noted = fault, list[list[int]]()
        self.given_up, self.late = False, set[int]()
        device: Any = SimpleNamespace(
            machines=machines, timeout_s=timeout_s, abandon=lambda: setattr(self, "given_up", True)
        )
        self._uses: Uses[str] = Uses(device, lambda: time.sleep(0.001))

    def run(self, count: int, *, in_turns: bool = False) -> list[int]:
        """The candidates of which something came; ``late`` has those that did not end."""
        found, self.late = self._uses.run(self._use, count, in_turns=in_turns)
        assert all(found[k] == f"result {k}" for k in found)
        assert not self.late & set(found)
        return sorted(found)

    def _use(self, positions: Sequence[int]) -> dict[int, str]:
        self.noted.append(list(positions))
        self._fault(positions, len(self.noted))
        return {k: f"result {k}" for k in positions}


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uses, "_PAUSE_S", 0.0)


def slow_with(*late: int) -> Callable[[Sequence[int], int], None]:
    """Does not end in time with these candidates."""

    def fault(positions: Sequence[int], number: int) -> None:
        if set(positions) & set(late):
            raise LATE

    return fault


def in_use(number: int, error: Exception) -> Callable[[Sequence[int], int], None]:
    """Fails in one use, the first being 1; if negative, in that one and all that follow."""

    def fault(positions: Sequence[int], current: int) -> None:
        if current == number or (number < 0 and current >= -number):
            raise error

    return fault


def test_one_use_is_enough() -> None:
    board = Board(lambda positions, number: None)
    assert board.run(5) == [0, 1, 2, 3, 4]
    assert board.noted == [[0, 1, 2, 3, 4]]


def test_a_batch_that_is_too_long_is_cut() -> None:
    def fault(positions: Sequence[int], number: int) -> None:
        time.sleep(0.02)  # too long for more of them
        if len(positions) > 2:
            raise LATE

    board = Board(fault, timeout_s=0.05)
    assert board.run(8) == list(range(8))
    assert [len(use) for use in board.noted] == [8, 0, 4, 0, 2, 2, 2, 2]
    board.noted.clear()
    assert board.run(4) == [0, 1, 2, 3]
    assert [len(use) for use in board.noted] == [2, 2]  # it has learnt


def test_a_candidate_that_does_not_end_is_the_only_one_missing() -> None:
    board = Board(slow_with(5))
    assert board.run(8) == [0, 1, 2, 3, 4, 6, 7]
    uses = [use for use in board.noted if use]
    assert uses == [[*range(8)], [0, 1, 2, 3], [4, 5, 6, 7], [4, 5], [4], [5], [6, 7]]
    board.noted.clear()
    assert board.run(4) == [0, 1, 2, 3]
    assert board.noted == [[0, 1, 2, 3]]  # it was not the number of them


def test_candidates_that_are_compared_stay_together() -> None:
    board = Board(in_use(1, LATE), machines=2)
    assert board.run(3, in_turns=True) == [0, 1, 2]
    assert board.noted == [[0, 1, 2], [], [0, 1, 2]]
    assert Board(slow_with(1), machines=2).run(3, in_turns=True) == [0, 2]


def test_a_runner_that_hangs_is_found_out_by_two_uses() -> None:
    board = Board(in_use(-2, LATE))
    assert board.run(4) == [0, 1, 2, 3]
    with pytest.raises(RunnerOverrun):
        board.run(4)
    assert board.noted[1:] == [[0, 1, 2, 3], []]
    assert board.given_up


def test_one_machine_of_two_hangs() -> None:
    """Its candidates go to the other one, and none of them is at fault."""
    hangs = iter([True, False])

    def fault(positions: Sequence[int], number: int) -> None:
        if 0 in positions and next(hangs, False):
            time.sleep(0.05)
            raise LATE

    board = Board(fault, machines=2)
    assert board.run(4) == [0, 1, 2, 3]
    assert sorted(board.noted) == [[0], [0, 1], [1], [2, 3]]  # something came: nothing to find out
    hangs = iter([True])
    assert Board(fault, machines=2).run(1) == [0]


def test_nothing_of_a_workload_ends() -> None:
    board = Board(slow_with(*range(8)))
    assert board.run(8) == []
    assert board.late == {0, 1, 2}  # the others were not tried
    assert len(board.noted) < 16
    assert not board.given_up  # other workloads may well be measured
    late = len(board.noted)
    assert board.run(8) == []
    assert [len(use) for use in board.noted[late:] if use] == [1, 1, 1]
    assert Board(slow_with(0, 1, 3, 4)).run(6) == [2, 5]


def test_what_ended_before_is_kept() -> None:
    board = Board(slow_with(3, 4, 5, 6, 7))
    assert board.run(8) == [0, 1, 2]
    assert board.late == {3, 4, 5}


@pytest.mark.parametrize("machines", [1, 2])
def test_failures_in_a_row_end_it(machines: int) -> None:
    board = Board(in_use(-2, RunnerError("exited with code 255")), machines=machines)
    assert board.run(1) == [0]
    with pytest.raises(RunnerError, match="code 255"):
        board.run(1)
    assert len(board.noted) == 1 + 3 * machines
    assert board.given_up


def test_a_failure_alone_does_not() -> None:
    def fault(positions: Sequence[int], number: int) -> None:
        if number % 3:
            raise RunnerError("exited with code 255")

    board = Board(fault)
    for _ in range(3):
        assert board.run(2) == [0, 1]
    assert len(board.noted) == 9
    assert not board.given_up
