"""The roofline of a target: how long work must take at the least.

References
----------
Williams, Waterman and Patterson, Roofline: an insightful visual performance model for multicore
architectures, CACM 52(4), 2009.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvmconv.explain.text import Section, count, digits, duration
from tvmconv.ops import Family
from tvmconv.problem import FLOP_PER_MAC
from tvmconv.target import Target

#: Share of the last cache that data may fill and still stay in it, as the cost models have it.
_FILL = 0.8


@dataclass(frozen=True)
class Roof:
    """One limit of a machine.

    Attributes
    ----------
    name : str
    rate : float
        What it does in a second: FLOP, or bytes.
    unit : str
        ``"GFLOP/s"`` or ``"GB/s"``.
    how : str
        The facts of the target that make the rate.
    """

    name: str
    rate: float
    unit: str
    how: str

    def seconds(self, amount: float) -> float:
        """Time for so many FLOP or bytes."""
        return amount / self.rate


@dataclass(frozen=True)
class Bound:
    """The least time of some work.

    Attributes
    ----------
    seconds : float
    limit : str
        Name of the roof that takes longest.
    """

    seconds: float
    limit: str


#: Products of bytes in a lane of 32 bits, of each instruction.
_PRODUCTS = {"vpdpbusd": 4, "pmaddwd": 2}


def compute_roof(target: Target, family: Family | None = None) -> Roof:
    """Peak of the target's cores: FMA for products, one operation a lane for means and maxima.

    Products of bytes may be several in a lane.
    """
    vector = target.vector
    fused = family is None or family.arithmetic == "multiply-add"
    flop = FLOP_PER_MAC if fused else 1
    done = "FMA × 2 FLOP" if fused else "operations"
    if fused and family is not None and family.dtypes is not None:
        name, _, _ = target.byte_dot.partition(".")
        products = _PRODUCTS.get(name, 1)
        flop *= products
        done = f"{name} × {products} products × 2 FLOP"
    rate = target.cores * target.frequency_ghz * 1e9
    rate *= vector.f32_lanes * vector.fma_per_cycle * flop
    how = (
        f"{target.cores} cores × {target.frequency_ghz:g} GHz × {vector.f32_lanes} lanes"
        f" × {vector.fma_per_cycle:g} {done}"
    )
    return Roof("multiply-adds" if fused else "arithmetic", rate, "GFLOP/s", how)


def memory_roof(target: Target) -> Roof:
    """Main memory, as if every core had the bandwidth that one has alone: none can have more."""
    return _memory(target, "main memory", target.caches.dram_bytes_per_cycle)


def cache_roof(target: Target, nbytes: int) -> Roof | None:
    """The last cache, if so many bytes stay in it."""
    if nbytes > _FILL * target.caches.l3_bytes:
        return None
    return _memory(target, "L3 cache", target.caches.l3_bytes_per_cycle)


def _memory(target: Target, name: str, bytes_per_cycle: float) -> Roof:
    rate = target.cores * target.frequency_ghz * 1e9 * bytes_per_cycle
    how = f"{target.cores} cores × {target.frequency_ghz:g} GHz × {bytes_per_cycle:g} bytes a cycle"
    return Roof(name, rate, "GB/s", how)


def bound(target: Target, flops: int, nbytes: int, family: Family | None = None) -> Bound:
    """The least time of work whose data come from main memory."""
    compute, memory = compute_roof(target, family), memory_roof(target)
    times = {compute.name: compute.seconds(flops), memory.name: memory.seconds(nbytes)}
    limit = max(times, key=lambda name: times[name])
    return Bound(times[limit], limit)


def section(
    target: Target, flops: int, nbytes: int, family: Family, notes: tuple[str, ...] = ()
) -> Section:
    """The roofline of a target with the time that some work takes at each roof."""
    compute, memory = compute_roof(target, family), memory_roof(target)
    cache = cache_roof(target, nbytes)
    rows = []
    for roof in (compute, memory, *([cache] if cache else [])):
        amount, what = (flops, "FLOP") if roof is compute else (nbytes, "bytes")
        time = f"{duration(roof.seconds(amount))} for {count(amount)} {what}"
        rows.append((roof.name, f"{digits(roof.rate / 1e9)} {roof.unit}", roof.how, time))
    least = bound(target, flops, nbytes, family)
    ridge = compute.rate / memory.rate
    lines = [
        f"at least {duration(least.seconds)}, bound by {least.limit};"
        f" the roofs meet at {digits(ridge)} FLOP a byte",
    ]
    if cache is not None and least.limit == memory.name:
        warm = max(compute.seconds(flops), cache.seconds(nbytes))
        lines.append(f"at least {duration(warm)} where the data lie in the L3 cache already")
    columns = ("roof", "rate", "from", "time")
    return Section(f"roofline on {target.name}", tuple(lines), columns, tuple(rows), notes)
