"""What a multiprocessor spends and how many blocks of threads it holds: terms of cost models."""

from __future__ import annotations

import math

from tvmconv.gpu import Device

#: Cycles of a launch in a graph of launches, before its first block runs and after its last.
LAUNCH_CYCLES = 2500.0
#: Cycles until an element arrives that lies in the second cache level or further away.
LATENCY_CYCLES = 600.0
#: Cycles in which the threads of a block wait for one another.
BARRIER_CYCLES = 40.0
#: Cycles of a block besides its slices: its addresses, the first loads, the last stores.
BLOCK_CYCLES = 900.0
#: Registers of a thread besides the operands of its sums: addresses and counters.
ADDRESS_REGISTERS = 30
#: What the smaller of two times that overlap adds to the larger.
OVERLAP = 0.15
#: Share of the peak bandwidth of the memory that kernels reach.
DRAM_SHARE = 0.85
#: Shared memory that a kernel can declare; what is more it has to be given at the launch.
STATIC_SHARED_BYTES = 48 * 1024
#: Bytes of an element.
BYTES = 4


def round_up(value: int, unit: int) -> int:
    """The next multiple of a unit."""
    return -(-value // unit) * unit


def occupancy(device: Device, threads: int, registers: int, shared_bytes: int) -> int:
    """Blocks of threads that a multiprocessor holds; 0 if none fits."""
    warps = -(-threads // device.warp_threads)
    per_warp = round_up(registers * device.warp_threads, device.register_unit)
    shared = round_up(shared_bytes + device.shared_reserved_bytes, device.shared_unit_bytes)
    if registers > device.registers_per_thread or shared_bytes > device.shared_bytes_per_block:
        return 0
    return min(
        device.threads_per_sm // (warps * device.warp_threads),
        device.registers_per_sm // (per_warp * warps),
        device.shared_bytes_per_sm // shared,
        device.blocks_per_sm,
    )


def overlapped(*times: float) -> float:
    """Time of work of several units that go on side by side."""
    longest = max(times)
    return longest + OVERLAP * (sum(times) - longest)


def dram_cycles(device: Device, data: float) -> float:
    """Cycles in which bytes come from memory, or go there, with all multiprocessors at it."""
    return data / (DRAM_SHARE * device.dram_bytes_per_cycle * device.multiprocessors)


def traffic_cycles(device: Device, data: float) -> float:
    """Cycles in which bytes that another launch has just written are read."""
    if 2 * data > device.l2_bytes:
        return dram_cycles(device, data)
    return data / (device.l2_bytes_per_cycle * device.multiprocessors)


def partial_cycles(
    device: Device, parts: int, rows: tuple[int, int], columns: tuple[int, int]
) -> float:
    """Cycles to write partial sums and to add them up in a launch of its own.

    Parameters
    ----------
    device : Device
    parts : int
    rows, columns : tuple of int
        Of the result, and of the tile to multiples of which they are padded.
    """
    data = parts * round_up(*rows) * round_up(*columns) * BYTES
    return traffic_cycles(device, 2 * data) + LAUNCH_CYCLES + LATENCY_CYCLES


def map_cycles(device: Device, elements: float, data: float, terms: float) -> float:
    """Cycles of a launch whose threads have so many elements, each a sum of so many terms."""
    arithmetic = elements * terms / (device.f32_lanes * device.multiprocessors)
    # A thread's loads follow one another in batches, so that a long sum waits for each.
    waits = LATENCY_CYCLES * max(1.0, math.sqrt(terms) / 4)
    return LAUNCH_CYCLES + waits + overlapped(arithmetic, traffic_cycles(device, data))
