"""How long compiled code takes by LLVM's model of a core, loops and all, but without its memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvmconv.codegen import mca
from tvmconv.codegen.loops import Loop, loops
from tvmconv.codegen.trips import Trips, trips
from tvmconv.target import Target

#: How a function begins that is one thread's share of a parallel loop.
_PARALLEL = " i32 @__tvm_parallel_lambda"
#: Loops with less than this share of the instructions that are run take as long for each of them as
#: the others: to simulate all takes as long as to compile them.
_LEAST_SHARE = 0.02


@dataclass(frozen=True)
class Estimate:
    """What code does, with every load in the first cache level.

    Attributes
    ----------
    cycles : float
        Of the thread that does most.
    launches : int
        Loops that are shared among the threads.
    """

    cycles: float
    launches: int


def estimate(assembly: str, ir: str, target: Target) -> Estimate:
    """Sum up all loops: cycles of an iteration times the iterations of them all.

    Code of which only one branch runs counts with both, and code outside of loops not at all.

    Parameters
    ----------
    assembly, ir : str
        Of the same module, the latter after LLVM's optimisations.
    target : Target

    Raises
    ------
    ValueError
        If how often a loop is run through cannot be told, or there are none.
    EnvironmentError_
        As :func:`tvmconv.codegen.mca.score`.
    """
    found = loops(assembly, target.arch)
    runs = _runs(found, trips(ir, target.cores))
    counts = [run * len(loop.instructions) for loop, run in zip(found, runs, strict=True)]
    if not any(counts):
        raise ValueError("it has no loops")
    whole = sum(counts)
    least = min(_LEAST_SHARE * whole, max(counts))
    hot = [k for k, count in enumerate(counts) if count >= least]
    each = mca.iteration_cycles([found[k] for k in hot], target)
    cycles = sum(one * runs[k] for k, one in zip(hot, each, strict=True))
    simulated = sum(counts[k] for k in hot)
    return Estimate(cycles * whole / simulated, ir.count(_PARALLEL))


def _runs(found: Sequence[Loop], counts: Sequence[Trips]) -> list[int]:
    """How often each loop is run through in all."""
    if [loop.depth for loop in found] != [count.depth for count in counts]:
        raise ValueError("the loops of the assembly are not those of LLVM's IR")
    runs, around = [], [1]
    for loop in counts:
        if loop.count is None:
            raise ValueError("a loop has no constant number of trips")
        around[loop.depth + 1 :] = [around[loop.depth] * loop.count]
        runs.append(around[-1])
    return runs
