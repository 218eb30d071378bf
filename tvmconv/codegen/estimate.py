"""How long compiled code takes by LLVM's model of a core, loops and all, but without its memory."""

from __future__ import annotations

from dataclasses import dataclass

from tvmconv.codegen import mca
from tvmconv.codegen.loops import loops
from tvmconv.codegen.trips import trips
from tvmconv.target import Target

_PARALLEL = "@__tvm_parallel_lambda"


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
        If how often a loop is run through cannot be told.
    EnvironmentError_
        As :func:`tvmconv.codegen.mca.score`.
    """
    found, counts = loops(assembly, target.arch), trips(ir, target.cores)
    if [loop.depth for loop in found] != [count.depth for count in counts]:
        raise ValueError("the loops of the assembly are not those of LLVM's IR")
    total, around = 0.0, [1]
    for loop, known, cycles in zip(found, counts, mca.iteration_cycles(found, target), strict=True):
        if known.count is None:
            raise ValueError("a loop has no constant number of trips")
        around[loop.depth + 1 :] = [around[loop.depth] * known.count]
        total += around[-1] * cycles
    return Estimate(total, ir.count(f" i32 {_PARALLEL}"))
