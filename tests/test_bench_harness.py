"""The timing protocol, seen through a clock that the test moves."""

from __future__ import annotations

import gc
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from tvmconv.bench.harness import (
    Clock,
    Contender,
    Protocol,
    Timing,
    compare,
    difference,
    measure,
    measure_in_quiet,
    order,
    run_block,
    spread,
)


class World:
    """A clock and contenders whose calls take a known time."""

    def __init__(self) -> None:
        self.time = 0.0
        self.log: list[str] = []
        self.clock = Clock(now=lambda: self.time, sleep=self.sleep)

    def sleep(self, seconds: float) -> None:
        self.time += seconds
        self.log.append(f"sleep {seconds:g}")

    def contender(self, name: str, *durations: float) -> Contender:
        turns = iter(range(10**9))

        def run() -> list[np.ndarray]:
            self.time += durations[next(turns) % len(durations)]
            self.log.append(name)
            return [np.ones(3, np.float32)]

        return Contender(name, run)


def test_defaults_are_the_published_protocol() -> None:
    assert Protocol() == Protocol(rounds=6, block_s=0.2, pause_s=0.1, warmup=2)


def test_a_block_runs_alone_after_its_warm_up_until_its_time_is_over() -> None:
    world = World()
    seconds = run_block(world.contender("a", 0.06), Protocol(), world.clock)
    assert seconds == pytest.approx([0.06] * 4)
    assert world.log == ["a"] * 6


def test_a_slow_call_is_timed_once_a_block() -> None:
    world = World()
    assert run_block(world.contender("a", 3.0), Protocol(), world.clock) == pytest.approx([3.0])


def test_nobody_always_follows_the_same() -> None:
    rounds = [order(turn, 4) for turn in range(6)]
    assert all(sorted(turn) == [0, 1, 2, 3] for turn in rounds)
    assert {turn[0] for turn in rounds} == {0, 1, 2, 3}
    sequence = [index for turn in rounds for index in turn]
    for index in range(4):
        before = {a for a, b in pairwise(sequence) if b == index}
        assert len(before) > 1


def test_order_rotates_and_every_block_has_a_pause_before_it() -> None:
    world = World()
    contenders = [world.contender(name, 1.0) for name in "abc"]
    measure(contenders, Protocol(rounds=4, warmup=0), clock=world.clock)
    assert "".join(world.log[1::2]) == "abc" + "bac" + "cab" + "acb"
    assert set(world.log[::2]) == {"sleep 0.1"}


def test_time_is_the_median_of_the_blocks_medians() -> None:
    world = World()
    # Blocks of three calls; the medians are 0.1, 0.3 and 0.1 although the mean is much larger.
    durations = (0.1, 0.1, 9.0, 0.3, 0.3, 0.2, 0.1, 0.1, 0.7)
    protocol = Protocol(rounds=3, block_s=0.8, warmup=0)
    (timing,) = measure([world.contender("a", *durations)], protocol, clock=world.clock)
    assert timing.blocks_s == pytest.approx((0.1, 0.3, 0.1))
    assert timing.time_s == pytest.approx(0.1)
    assert timing.calls == 9


def test_progress_names_round_and_contender() -> None:
    world, lines = World(), []
    pair = [world.contender("a", 1.0), world.contender("b", 1.0)]
    measure(pair, Protocol(rounds=2), clock=world.clock, progress=lines.append)
    assert lines == ["round 1/2: a", "round 1/2: b", "round 2/2: b", "round 2/2: a"]


def test_garbage_is_not_collected_during_timing_and_is_afterwards() -> None:
    world, seen = World(), []
    base = world.contender("a", 1.0)
    watched = Contender("a", lambda: (seen.append(gc.isenabled()), base.run())[1])
    measure([watched], Protocol(rounds=1), clock=world.clock)
    assert not any(seen)
    assert gc.isenabled()


def test_a_failing_contender_leaves_the_collector_on() -> None:
    def fail() -> list[np.ndarray]:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        measure([Contender("a", fail)], clock=World().clock)
    assert gc.isenabled()


def test_spread_of_an_a_a_pair() -> None:
    noise = spread(Timing((1.0, 2.0, 4.0), 3), Timing((1.5, 2.2, 2.0), 3))
    assert (noise.ratio, noise.lowest, noise.highest) == pytest.approx((1.0, 0.5, 1.5))
    assert str(noise) == "1.000 (0.50 … 1.50 by round)"


def array(*values: float) -> list[np.ndarray]:
    return [np.array(values, np.float32)]


@pytest.mark.parametrize(
    ("got", "expected", "says"),
    [
        (array(1, 2), array(1, 2), None),
        (array(1.0009, 0), array(1, 0.000009), None),
        (array(1.002, 2), array(1, 2), "1 of 2 differ, by up to 0.002"),
        (array(1000.0, 0.035), array(1000.0, 0.01), None),  # rounding of the large one
        (array(1000.0, 0.05), array(1000.0, 0.01), "1 of 2 differ"),
        (array(np.nan, 2), array(1, 2), "1 of 2 differ"),
        (array(np.nan, 2), array(np.nan, 2), "1 of 2 differ"),
        (array(1, 2), array(1), "shape (2,) instead of (1,)"),
        (array(1) + array(2), array(1), "2 outputs instead of 1"),
        ([np.array([3])], [np.array([3])], None),
        ([np.array([3])], [np.array([4])], "1 of 1 differ"),
    ],
)
def test_difference(got: list[np.ndarray], expected: list[np.ndarray], says: str | None) -> None:
    found = difference(got, expected)
    assert found is None if says is None else says in (found or "")


def test_compare_is_with_the_first_and_copies_what_the_next_call_overwrites() -> None:
    buffer = np.zeros(2, np.float32)

    def writes(value: float) -> Contender:
        def run() -> list[np.ndarray]:
            buffer[:] = value
            return [buffer]

        return Contender(f"{value:g}", run)

    differences = compare([writes(1), writes(1.5)])
    assert differences["1"] is None
    assert "2 of 2 differ, by up to 0.5" in str(differences["1.5"])


class _Scripted:
    """A clock, and two equal contenders whose calls take what a script says, run by run."""

    def __init__(self, *ratios: float) -> None:
        self.time, self.ratios, self.calls = 0.0, list(ratios), 0
        protocol = Protocol(rounds=1, block_s=0.5, pause_s=0.0, warmup=0)
        contenders = [Contender("a", self.first), Contender("a again", self.second)]
        clock = Clock(now=lambda: self.time, sleep=lambda seconds: None)
        self.timings = measure_in_quiet(contenders, protocol, clock=clock)

    def first(self) -> list[Any]:
        """A call of one second."""
        self.time += 1.0
        return []

    def second(self) -> list[Any]:
        """A call of so many seconds as the script says."""
        self.time += self.ratios[self.calls]
        self.calls += 1
        return []


@pytest.mark.parametrize(
    ("ratios", "calls", "kept"),
    [
        ((1.05,), 1, 1.05),
        ((1.5, 0.95), 2, 0.95),
        ((1.5, 0.8, 1.2), 3, 1.2),
        ((1.2, 0.7, 1.3), 3, 1.2),
    ],
)
def test_pairs_that_disagree_are_timed_again(
    ratios: tuple[float, ...], calls: int, kept: float
) -> None:
    """At most three times; of these, the run in which they differ least counts."""
    found = _Scripted(*ratios)
    assert found.calls == calls
    assert found.timings[1].time_s == pytest.approx(kept)
