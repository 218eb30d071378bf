"""The device of a GPU target: what its schedules and cost models have to know.

Limits are those of the compute capability; counts, clocks and rates those of one product of it,
which the target's file names.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from tvmconv.records import require

FLOP_PER_FMA = 2


@dataclass(frozen=True)
class Device:
    """One GPU.

    Attributes
    ----------
    sm : int
        Compute capability that kernels are scheduled for, 90 for 9.0: no instruction of a later one
        is used.
    cubins : tuple of int
        Compute capabilities for which the file holds machine code.
    ptx : bool
        Whether the file also holds PTX, which later devices compile when they load it.
    multiprocessors : int
    clock_ghz : float
        The clock for which the peak rates are stated.
    warp_threads : int
    registers_per_sm : int
        Of 32 bits.
    registers_per_thread : int
    register_unit : int
        Registers are given to a warp in multiples of it.
    threads_per_sm, threads_per_block, blocks_per_sm : int
    shared_bytes_per_sm, shared_bytes_per_block : int
        The latter is what a kernel gets that asks for more than the 48 KiB that each has.
    shared_reserved_bytes : int
        What the system takes of each block's shared memory.
    shared_unit_bytes : int
        Shared memory is given to a block in multiples of it.
    line_bytes : int
    l2_bytes : int
    f32_lanes : int
        Multiply-adds of float32 that a multiprocessor starts in a cycle.
    fma_latency : int
        Cycles from one accumulation into a register to the next into the same.
    shared_bytes_per_cycle, l2_bytes_per_cycle : float
        Read by a multiprocessor.
    dram_gb_s : float
    f16_tflops, bf16_tflops, tf32_tflops : float
        Dense, on tensor cores, with sums in float32; 0 where there are none.
    """

    sm: int
    cubins: tuple[int, ...]
    ptx: bool
    multiprocessors: int
    clock_ghz: float
    warp_threads: int
    registers_per_sm: int
    registers_per_thread: int
    register_unit: int
    threads_per_sm: int
    threads_per_block: int
    blocks_per_sm: int
    shared_bytes_per_sm: int
    shared_bytes_per_block: int
    shared_reserved_bytes: int
    shared_unit_bytes: int
    line_bytes: int
    l2_bytes: int
    f32_lanes: int
    fma_latency: int
    shared_bytes_per_cycle: float
    l2_bytes_per_cycle: float
    dram_gb_s: float
    f16_tflops: float
    bf16_tflops: float
    tf32_tflops: float

    def __post_init__(self) -> None:
        """Check the ranges."""
        may_be_zero = ("shared_reserved_bytes", "f16_tflops", "bf16_tflops", "tf32_tflops")
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, (int, float)) and field.name != "ptx":
                least = value >= 0 if field.name in may_be_zero else value > 0
                require(least, f"device.{field.name}", "must be positive")
        require(bool(self.cubins) or self.ptx, "device.cubins", "is empty, and ptx is false")
        for sm in self.cubins:
            require(sm >= self.sm, "device.cubins", f"{sm} is older than sm {self.sm}")
        require(
            self.shared_bytes_per_block + self.shared_reserved_bytes <= self.shared_bytes_per_sm,
            "device.shared_bytes_per_block",
            "is more than a multiprocessor has",
        )

    @property
    def f32_tflops(self) -> float:
        """Peak of float32 without tensor cores."""
        lanes = self.multiprocessors * self.f32_lanes
        return lanes * FLOP_PER_FMA * self.clock_ghz / 1e3

    def tflops(self, kind: str) -> float:
        """Peak of "float32", "tf32", "float16" or "bfloat16", on tensor cores where there are."""
        rates = {"tf32": self.tf32_tflops, "float16": self.f16_tflops, "bfloat16": self.bf16_tflops}
        return rates.get(kind) or self.f32_tflops

    @property
    def dram_bytes_per_cycle(self) -> float:
        """A multiprocessor's share of the memory's bandwidth."""
        return self.dram_gb_s / self.clock_ghz / self.multiprocessors
