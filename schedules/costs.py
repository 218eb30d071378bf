"""What a CPU spends besides its multiply-adds, and how fast it reads: the terms of cost models."""

from __future__ import annotations

from tvmconv.target import Target

#: Cycles to start a parallel loop and to wait for its last thread. A judgement between two cases:
#: little if the threads still spin from the loop before, far more if one has gone to sleep.
LAUNCH_CYCLES = 10000.0
#: Cycles by which a chain of sums that just hides its latency falls short of it.
CHAIN_CYCLES = 0.5
#: Cycles of a tile besides its multiply-adds: loop control, addresses, the first loads.
TILE_CYCLES = 30.0
#: Cycles for each register of sums: set to zero, bias, activation, store.
SUM_CYCLES = 3.0
#: Cycles of loop control for one trip of the loop over the inner input channels.
TRIP_CYCLES = 2.0
#: Elements of a map below which one thread is faster than two.
SERIAL_ELEMENTS = 16384
#: Bytes of an element.
BYTES = 4


def vectors(lanes: int, target: Target) -> int:
    """Vector registers that hold one slot's lanes."""
    return max(1, lanes * BYTES * 8 // target.vector.bits)


def room(weights: int, target: Target, dots: bool = False) -> int:
    """How many vectors of weights' worth of sums fit the registers beside ``weights`` of them."""
    if dots and _two_steps(target):  # both halves of the weights and of an input, and a product
        return max(1, (target.vector.registers - 2 * weights - 3) // weights)
    found = (target.vector.registers - weights - 1) // weights
    return found + (target.vector.embedded_broadcast and weights == 1)


def _two_steps(target: Target) -> bool:
    """Whether a dot product of four bytes is two products and two sums."""
    return not target.byte_dot.startswith("vpdpbusd")


def step_cycles(sums: int, loads: float, target: Target, dots: bool = False) -> float:
    """Cycles of one step of a reduction: so many multiply-adds and loads, a chain of sums each."""
    core = target.vector
    products = 2 * sums if dots and _two_steps(target) else sums
    return max(
        products / core.fma_per_cycle,
        loads / core.loads_per_cycle,
        core.fma_latency + CHAIN_CYCLES,
    )


def overlapped(compute: float, memory: float) -> float:
    """Time of work whose loads the hardware prefetches while it computes."""
    return max(compute, memory) + 0.1 * min(compute, memory)
