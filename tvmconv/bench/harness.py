"""Timing in turns of blocks, and the comparison of outputs that comes before it.

Single calls of several libraries must not alternate: a library's idle threads spin for a while
after a run and take the next one's core. So each contender runs alone for a block of about 0.2 s
after two warm-up calls, with a pause of 0.1 s between blocks; six rounds in rotated order, every
other one backwards; the median of a block, then the median over the rounds. An A/A pair (the first
contender twice, as two independent instances) shows how much of a difference is noise.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tvmconv.accuracy import NETWORK_ATOL, NETWORK_RTOL

Array = npt.NDArray[Any]

TWIN = " (again)"

#: Runs of a device that wait to be started, in one block.
_MOST_REPLAYS = 10_000

#: Allowed difference, relative to the largest output. Any contender may compute on transformed
#: tiles: Winograd's F(6,3) rounds up to 1e-5 of it. Half precision rounds by 3e-4 and more.
ATOL = 3 * NETWORK_ATOL
#: Ratio up to which an A/A pair agrees on a quiet machine; calls below SHORT_S scatter more.
QUIET, QUIET_SHORT, SHORT_S = 1.10, 1.15, 0.3e-3
#: How often contenders are timed at most, for a run in which the A/A pair agrees.
TRIES = 3


@dataclass(frozen=True)
class Contender:
    """One implementation of one model, ready to run: inputs bound, weights packed.

    Attributes
    ----------
    name : str
        What the report calls it.
    run : callable
        One inference; returns the outputs in the model's order, NCHW. Outputs may be overwritten by
        the next call.
    close : callable
        Frees what the contender holds.
    version : str
        Version of the library behind it.
    replay : callable, optional
        ``replay(runs)``: seconds of one of so many runs in a row by the clock of the device that it
        runs on; its times are these, and not those of calls.
    """

    name: str
    run: Callable[[], Sequence[Array]]
    close: Callable[[], None] = lambda: None
    version: str = ""
    replay: Callable[[int], float] | None = None


@dataclass(frozen=True)
class Protocol:
    """How the blocks are laid out; the defaults are those of every published number.

    Attributes
    ----------
    rounds : int
        Blocks per contender.
    block_s : float
        A block ends with the first call that passes this time, in seconds.
    pause_s : float
        Sleep before each block, in seconds, for other libraries' threads to stop spinning.
    warmup : int
        Untimed calls at the start of each block.
    """

    rounds: int = 6
    block_s: float = 0.2
    pause_s: float = 0.1
    warmup: int = 2

    def to_json(self) -> dict[str, Any]:
        """Give the settings as JSON-able data."""
        return asdict(self)


@dataclass(frozen=True)
class Timing:
    """The times of one contender.

    Attributes
    ----------
    blocks_s : tuple of float
        Median seconds per call of each block, in the order of the rounds.
    calls : int
        Timed calls in all blocks together.
    """

    blocks_s: tuple[float, ...]
    calls: int

    @property
    def time_s(self) -> float:
        """Median over the blocks, in seconds per call."""
        return statistics.median(self.blocks_s)


@dataclass(frozen=True)
class Spread:
    """What the A/A pair says of the noise: 1 is no difference.

    Attributes
    ----------
    ratio : float
        Time of the second instance over the first's.
    lowest, highest : float
        The extremes of the same ratio within one round.
    """

    ratio: float
    lowest: float
    highest: float

    def __str__(self) -> str:
        return f"{self.ratio:.3f} ({self.lowest:.2f} … {self.highest:.2f} by round)"


@dataclass
class Clock:
    """Where time comes from; a test puts its own here."""

    now: Callable[[], float] = field(default=time.perf_counter)
    sleep: Callable[[float], None] = field(default=time.sleep)


def run_block(contender: Contender, protocol: Protocol, clock: Clock) -> list[float]:
    """Run one block and return the seconds of each timed call (at least one)."""
    run, replay = contender.run, contender.replay
    if replay is not None:
        runs = int(protocol.block_s / max(replay(protocol.warmup), 1e-6))
        return [replay(max(1, min(runs, _MOST_REPLAYS)))]
    for _ in range(protocol.warmup):
        run()
    seconds: list[float] = []
    begin = clock.now()
    while True:
        start = clock.now()
        run()
        end = clock.now()
        seconds.append(end - start)
        if end - begin >= protocol.block_s:
            return seconds


def order(turn: int, count: int) -> list[int]:
    """Give the order of a round: each starts one contender later, and every other runs backwards.

    So none is always first, and none always follows the same.
    """
    step = -1 if turn % 2 else 1
    return [(turn + step * place) % count for place in range(count)]


def measure(
    contenders: Sequence[Contender],
    protocol: Protocol | None = None,
    *,
    clock: Clock | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[Timing]:
    """Time the contenders in turns of blocks.

    Parameters
    ----------
    contenders : sequence of Contender
        All are ready to run.
    protocol : Protocol, optional
    clock : Clock, optional
    progress : callable, optional
        Called before each block with a line of text.

    Returns
    -------
    list of Timing
        In the order of `contenders`.
    """
    protocol, clock = protocol or Protocol(), clock or Clock()
    medians: list[list[float]] = [[] for _ in contenders]
    calls = [0] * len(contenders)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(protocol.rounds):
            for index in order(turn, len(contenders)):
                if progress:
                    progress(f"round {turn + 1}/{protocol.rounds}: {contenders[index].name}")
                clock.sleep(protocol.pause_s)
                seconds = run_block(contenders[index], protocol, clock)
                medians[index].append(statistics.median(seconds))
                calls[index] += len(seconds)
    finally:
        if collecting:
            gc.enable()
    return [Timing(tuple(m), n) for m, n in zip(medians, calls, strict=True)]


def spread(first: Timing, second: Timing) -> Spread:
    """Compare the two instances of an A/A pair."""
    by_round = [b / a for a, b in zip(first.blocks_s, second.blocks_s, strict=True)]
    return Spread(second.time_s / first.time_s, min(by_round), max(by_round))


def is_quiet(time_s: float, ratio: float) -> bool:
    """Whether an A/A pair differs by no more than two equal things should on a quiet machine."""
    limit = QUIET if time_s >= SHORT_S else QUIET_SHORT
    return 1 / limit <= ratio <= limit


def measure_in_quiet(
    contenders: Sequence[Contender],
    protocol: Protocol | None = None,
    *,
    clock: Clock | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[Timing]:
    """Time as :func:`measure`, again if the first two, an A/A pair, disagree.

    Where they never agree, the run in which they differ least is given.
    """
    best: list[Timing] = []
    least = math.inf
    for _ in range(TRIES):
        timings = measure(contenders, protocol, clock=clock, progress=progress)
        ratio = spread(timings[0], timings[1]).ratio
        if abs(math.log(ratio)) < least:
            best, least = timings, abs(math.log(ratio))
        if is_quiet(timings[0].time_s, ratio):
            break
    return best


def difference(got: Sequence[Array], expected: Sequence[Array]) -> str | None:
    """Say in one line how outputs differ, or None if they agree.

    They agree where ``|got − expected| ≤ 3e-5·max(1, max|expected|) + 1e-3·|expected|`` everywhere
    and nothing is NaN.
    """
    if len(got) != len(expected):
        return f"{len(got)} outputs instead of {len(expected)}"
    for number, (a, b) in enumerate(zip(got, expected, strict=True)):
        if a.shape != b.shape:
            return f"output {number} has shape {a.shape} instead of {b.shape}"
        if np.issubdtype(b.dtype, np.integer):
            wrong = np.asarray(a != b)
        else:
            size = np.abs(b)
            wrong = ~(
                np.abs(a - b) <= ATOL * max(1.0, float(size.max(initial=0))) + NETWORK_RTOL * size
            )
        if wrong.any():
            worst = float(np.nanmax(np.abs(a.astype(np.float64) - b)))
            return (
                f"output {number}: {int(wrong.sum())} of {wrong.size} differ, by up to {worst:.3g}"
            )
    return None


def compare(contenders: Sequence[Contender]) -> Mapping[str, str | None]:
    """Run every contender once and compare its outputs with the first one's.

    Returns
    -------
    mapping
        Contender's name to None, or to one line that says what differs.
    """
    expected = [np.array(y) for y in contenders[0].run()]
    return {c.name: difference([np.array(y) for y in c.run()], expected) for c in contenders}
