"""The machine's measured limits: FMA throughput and memory bandwidth.

A share of peak says more than a time: it is the same question on every machine. The limits come
from ``peak.c`` beside this file, compiled for the machine by zig and run once a process.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tvmconv.autoschedule.measure.folder import temporary_folder
from tvmconv.bench.machine import last_cache_bytes
from tvmconv.codegen.link import zig
from tvmconv.errors import EnvironmentError_
from tvmconv.problem import FLOP_PER_MAC, Problem
from tvmconv.target import Target

SOURCE = Path(__file__).with_name("peak.c")
FLAGS = ("-mcpu=native", "-O3", "-ffp-contract=fast", "-g0", "-s")
RUN_LIMIT_S = 60.0
MAX_ARRAY_BYTES = 256 * 2**20


@dataclass(frozen=True)
class PeakPoint:
    """What `threads` threads reach together.

    Attributes
    ----------
    threads : int
    gflops : float
        Fused multiply-adds on float32 vectors in registers, in 10⁹ FLOP/s (1 MAC = 2 FLOP).
    read_gb_s : float
        Sequential reads of an array far larger than the last cache, in 10⁹ bytes/s.
    triad_gb_s : float
        ``a = b + q·c``: the bytes of three arrays over the time, in 10⁹ bytes/s.
    """

    threads: int
    gflops: float
    read_gb_s: float
    triad_gb_s: float

    @property
    def bandwidth_gb_s(self) -> float:
        """The memory bandwidth, reading or mixed, whichever is more."""
        return max(self.read_gb_s, self.triad_gb_s)


@dataclass(frozen=True)
class Peak:
    """The limits of a machine at 1, 2, 4 … threads.

    Attributes
    ----------
    vector_bytes : int
        Width of the vectors that were used.
    points : tuple of PeakPoint
        By increasing thread count.
    measured : bool
        Whether it was measured, or follows from a target's numbers.
    """

    vector_bytes: int
    points: tuple[PeakPoint, ...]
    measured: bool = True

    def at(self, threads: int) -> PeakPoint:
        """Give the point with `threads` threads, or the nearest one with more, or the last."""
        return next((p for p in self.points if p.threads >= threads), self.points[-1])

    def better(self, other: Peak) -> Peak:
        """Take the better of each figure of two measurements with the same threads."""
        points = tuple(
            PeakPoint(
                a.threads,
                max(a.gflops, b.gflops),
                max(a.read_gb_s, b.read_gb_s),
                max(a.triad_gb_s, b.triad_gb_s),
            )
            for a, b in zip(self.points, other.points, strict=True)
        )
        return Peak(self.vector_bytes, points)

    def to_json(self) -> dict[str, Any]:
        """Give the limits as JSON-able data."""
        return asdict(self)


def arithmetic(problem: str, tf32: bool) -> str:
    """What a kernel multiplies: "tf32", or what its problem's text says."""
    return "tf32" if tf32 else Problem.parse(problem).dtype


def arithmetic_of_steps(metadata: Mapping[str, Any]) -> set[str]:
    """What the kernels of a compiled model multiply."""
    return {
        arithmetic(step["problem"], step.get("algorithm") == "tf32")
        for step in metadata["steps"]
        if step.get("macs") and "problem" in step
    }


def nominal_peak(target: Target, kinds: Collection[str] = ()) -> Peak:
    """The limits of a machine that is not at hand, from its target's numbers.

    Parameters
    ----------
    target : Target
    kinds : collection of str
        What kernels multiply (:func:`arithmetic`): a GPU's peak is that of the fastest of them, or
        of float32.
    """
    cores, hertz = target.cores, target.frequency_ghz
    vector = target.vector
    gflops = FLOP_PER_MAC * vector.f32_lanes * vector.fma_per_cycle * hertz * cores
    bandwidth = target.caches.dram_bytes_per_cycle * hertz
    if target.is_gpu:
        bandwidth = target.gpu.dram_gb_s
        gflops = 1e3 * max(map(target.gpu.tflops, kinds or ("float32",)))
    return Peak(vector.bits // 8, (PeakPoint(cores, gflops, bandwidth, bandwidth),), False)


_measured: dict[int, Peak] = {}


def measure_peak(threads: int, *, again: bool = False) -> Peak:
    """Measure FMA throughput and memory bandwidth at 1, 2, 4 … `threads` threads; about a second.

    The result is kept for the life of the process. On a machine that others use too, one
    measurement can be far too low.

    Parameters
    ----------
    threads : int
        The most threads to measure with.
    again : bool
        Measure even if it has been done before, and keep the better of each figure.

    Returns
    -------
    Peak

    Raises
    ------
    EnvironmentError_
        If zig is not installed, or the program cannot be compiled or run.
    """
    before = _measured.get(threads)
    if before is None or again:
        now = _measure(threads)
        _measured[threads] = before.better(now) if before else now
    return _measured[threads]


def _measure(threads: int) -> Peak:
    """Compile the program and run it."""
    with temporary_folder() as folder:
        program = folder / "peak"
        command = ["cc", *FLAGS, "-o", str(program), str(SOURCE), "-lpthread"]
        zig(command, folder, "compile peak.c")
        array_bytes = min(max(2 * last_cache_bytes(), 64 * 2**20), MAX_ARRAY_BYTES)
        return parse_peak(_run([str(program), str(threads), str(array_bytes)]))


def parse_peak(text: str) -> Peak:
    """Read what ``peak.c`` prints.

    Raises
    ------
    EnvironmentError_
        If it is not what the program prints.
    """
    try:
        found = json.loads(text)
        points = tuple(PeakPoint(**point) for point in found["threads"])
        peak = Peak(int(found["vector_bytes"]), points)
    except (ValueError, KeyError, TypeError) as error:
        raise EnvironmentError_(f"peak.c printed something unexpected: {text[:80]!r}") from error
    if not points:
        raise EnvironmentError_("peak.c measured no thread count")
    return peak


def _run(command: list[str]) -> str:
    """Run the program and give its standard output; any failure is one line."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=RUN_LIMIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnvironmentError_(f"cannot run peak.c: {error}") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise EnvironmentError_(f"cannot run peak.c: {lines[-1]}")
    return done.stdout
