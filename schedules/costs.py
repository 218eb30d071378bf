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
#: Instructions of a step besides its loads and multiply-adds; in a loop of single steps, which
#: load one element of each pixel, and those for the address of each element.
_LOOP_INSTRUCTIONS, _SINGLE_STEP_INSTRUCTIONS, _ADDRESS_INSTRUCTIONS = 1, 8, 0.25
#: Elements of a map below which one thread is faster than two.
SERIAL_ELEMENTS = 16384
#: Bytes of an element.
BYTES = 4
#: Share of the shorter one of arithmetic and memory that the other does not hide.
_NOT_HIDDEN = 0.1


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


def reads_memory(target: Target) -> bool:
    """Whether a multiply-add can read an operand from memory."""
    return target.arch == "x86_64"


def lane_steps(extent: int, target: Target) -> int:
    """Steps of a reduction over so many channels whose elements vector loads bring; 1 is none.

    All of two vectors' worth, because LLVM unrolls a loop of two trips; else one vector's worth.
    """
    lanes = target.vector.f32_lanes
    if not target.vector.lane_operand or extent % lanes:
        return 1
    return extent if extent <= 2 * lanes else lanes


def elements_a_load(steps: int, target: Target) -> int:
    """Elements of the input that one load brings, where so many steps are unrolled."""
    return min(steps, target.vector.f32_lanes)


def fits(pixels: int, weights: int, steps: int, target: Target) -> bool:
    """Whether registers hold the sums, one step's weights and the pixels' elements of all steps."""
    vectors = pixels * steps // target.vector.f32_lanes
    return steps > 1 and pixels * weights + weights + vectors <= target.vector.registers


def step_cycles(
    sums: int, loads: float, target: Target, dots: bool = False, elements: int = 0
) -> float:
    """Cycles of one step of a reduction: so many multiply-adds and loads, a chain of sums each.

    A core that issues in order waits for each load of a vector before it goes on multiplying. So
    many ``elements`` of the loads are of single elements, where each step is a trip of a loop.
    """
    core = target.vector
    products = 2 * sums if dots and _two_steps(target) else sums
    arithmetic, memory = products / core.fma_per_cycle, loads / core.loads_per_cycle
    work = arithmetic + memory if target.in_order else max(arithmetic, memory)
    if core.issue_width:
        others = loads + _LOOP_INSTRUCTIONS
        if elements and core.lane_operand:
            others = loads + _SINGLE_STEP_INSTRUCTIONS + elements * _ADDRESS_INSTRUCTIONS
        work = max(work, (products + others) / core.issue_width)
    return max(work, core.fma_latency + CHAIN_CYCLES)


def overlapped(compute: float, memory: float) -> float:
    """Time of work whose loads the hardware prefetches while it computes."""
    return max(compute, memory) + _NOT_HIDDEN * min(compute, memory)


def memory_in(total: float, compute: float) -> float:
    """What memory takes of a time by :func:`overlapped`."""
    if total > (1 + _NOT_HIDDEN) * compute:
        return total - _NOT_HIDDEN * compute
    return (total - compute) / _NOT_HIDDEN
