"""What a benchmark found, as data and as tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from tvmconv.bench.harness import Protocol, Spread
from tvmconv.bench.machine import Machine
from tvmconv.bench.peak import Peak
from tvmconv.problem import FLOP_PER_MAC

#: Ratio up to which an A/A pair agrees on a quiet machine; calls below SHORT_MS scatter more.
QUIET, QUIET_SHORT, SHORT_MS = 1.10, 1.15, 0.3
NOISY = " NOISY: the machine does other work, measure again"


@dataclass(frozen=True)
class PeerResult:
    """How one library did on one model.

    Attributes
    ----------
    name : str
    time_ms : float or None
        Median; None if it refused.
    ratio : float or None
        Its time over ours: above 1 we are faster.
    blocks_ms : tuple of float
        Median of each block.
    problem : str or None
        Why it refused, or how its outputs differ from ours.
    """

    name: str
    time_ms: float | None = None
    ratio: float | None = None
    blocks_ms: tuple[float, ...] = ()
    problem: str | None = None


@dataclass(frozen=True)
class StepTime:
    """How long one step of our network takes.

    Attributes
    ----------
    name, kind : str
    time_us : float
        Median over the runs.
    share : float
        Of the sum of all steps.
    macs : int or None
    gflops : float or None
        10⁹ FLOP/s where the multiply-accumulates are known.
    """

    name: str
    kind: str
    time_us: float
    share: float
    macs: int | None = None
    gflops: float | None = None


@dataclass(frozen=True)
class ModelResult:
    """Everything that was measured on one model.

    Attributes
    ----------
    name : str
    time_ms : float
        Ours, the median.
    blocks_ms : tuple of float
    compile_s : float
    macs : int or None
    peers : tuple of PeerResult
    noise : Spread
        The A/A pair: our artifact loaded twice.
    steps : tuple of StepTime
        In the order of execution; empty unless asked for.
    """

    name: str
    time_ms: float
    blocks_ms: tuple[float, ...]
    compile_s: float
    macs: int | None
    peers: tuple[PeerResult, ...]
    noise: Spread
    steps: tuple[StepTime, ...] = ()

    @property
    def gflops(self) -> float | None:
        """Our speed in 10⁹ FLOP/s, where the multiply-accumulates are known."""
        return FLOP_PER_MAC * self.macs / self.time_ms / 1e6 if self.macs else None

    @property
    def noisy(self) -> bool:
        """Whether the A/A pair differs by more than two equal things should on a quiet machine."""
        limit = QUIET if self.time_ms >= SHORT_MS else QUIET_SHORT
        return not 1 / limit <= self.noise.ratio <= limit

    def peer(self, name: str) -> PeerResult | None:
        """Give the result of a library, or None if it took no part."""
        return next((p for p in self.peers if p.name == name), None)


@dataclass(frozen=True)
class BenchReport:
    """The results of a benchmark.

    Attributes
    ----------
    machine : Machine
    target : str
        Name of the target that our code was compiled for.
    protocol : Protocol
    peak : Peak
    models : tuple of ModelResult
    """

    machine: Machine
    target: str
    protocol: Protocol
    peak: Peak
    models: tuple[ModelResult, ...]

    @property
    def peer_names(self) -> list[str]:
        """Names of the libraries, in the order given."""
        return list(dict.fromkeys(p.name for m in self.models for p in m.peers))

    def geometric_mean(self, peer: str) -> float | None:
        """Geometric mean of a library's times over ours, where its outputs agree with ours."""
        found = [m.peer(peer) for m in self.models]
        return geometric_mean(p.ratio for p in found if p and p.ratio and not p.problem)

    @property
    def problems(self) -> list[str]:
        """Every refusal and every difference of outputs, a line each."""
        return [
            f"{m.name}: {p.name}: {p.problem}" for m in self.models for p in m.peers if p.problem
        ]

    @property
    def disagreements(self) -> list[str]:
        """The lines of `problems` about outputs that differ from ours."""
        timed = [
            (m, p) for m in self.models for p in m.peers if p.problem and p.time_ms is not None
        ]
        return [f"{m.name}: {p.name}: {p.problem}" for m, p in timed]

    def share_of_peak(self, gflops: float | None) -> float | None:
        """Give a speed's share of the FMA peak at the thread count used."""
        return None if gflops is None else gflops / self.peak.at(self.machine.threads).gflops

    def to_json(self) -> dict[str, Any]:
        """Give the whole report as JSON-able data."""
        models = []
        for m in self.models:
            extra = {"gflops": m.gflops, "share_of_peak": self.share_of_peak(m.gflops)}
            models.append({**asdict(m), **extra})
        return {
            "machine": self.machine.to_json(),
            "target": self.target,
            "protocol": self.protocol.to_json(),
            "peak": self.peak.to_json(),
            "models": models,
            "geometric_mean": {name: self.geometric_mean(name) for name in self.peer_names},
        }

    def tables(self) -> list[Table]:
        """Give the report as tables: the comparison, then the steps of each model that has them."""
        return [self._comparison(), *(self._steps(m) for m in self.models if m.steps)]

    def lines(self) -> list[str]:
        """Give what stands around the tables: machine, peak, method, noise, disagreements."""
        versions = ", ".join(f"{k} {v}" for k, v in self.machine.versions.items())
        at = self.peak.at(self.machine.threads)
        p = self.protocol
        return [
            f"{self.machine.cpu}, {self.machine.arch}, {self.machine.cores} cores,"
            f" {self.machine.threads} threads, {self.machine.system}; target {self.target}",
            versions,
            f"measured peak: {at.gflops:.0f} GFLOP/s, read {at.read_gb_s:.1f} GB/s,"
            f" triad {at.triad_gb_s:.1f} GB/s ({at.threads} threads)",
            f"{p.rounds} rounds of blocks of {p.block_s:g} s after {p.warmup} warm-up calls,"
            f" {p.pause_s:g} s pauses; median of medians; ×: the library's time over ours",
            *(f"A/A {m.name}: {m.noise}{NOISY if m.noisy else ''}" for m in self.models),
            *(f"note: {line}" for line in self.problems),
        ]

    def _comparison(self) -> Table:
        headings = ["tvmconv ms", "GFLOP/s", "of peak", "A/A", *self.peer_names, "compile s"]
        table = _table("", "model", headings)
        for m in self.models:
            share = self.share_of_peak(m.gflops)
            table.add_row(
                *(m.name, show(m.time_ms), show(m.gflops), percent(share), f"{m.noise.ratio:.2f}"),
                *(_peer_cell(m.peer(name)) for name in self.peer_names),
                f"{m.compile_s:.1f}",
            )
        if len(self.models) > 1 and self.peer_names:
            means = [self.geometric_mean(name) for name in self.peer_names]
            cells = ["" if mean is None else f"{mean:.2f}×" for mean in means]
            table.add_row("geometric mean", "", "", "", "", *cells, "")
        return table

    def _steps(self, model: ModelResult) -> Table:
        headings = ["kind", "µs", "share", "MMAC", "GFLOP/s", "of peak"]
        table = _table(f"steps of {model.name}", "step", headings)
        for s in model.steps:
            mmacs = None if s.macs is None else s.macs / 1e6
            speed = (show(s.gflops), percent(self.share_of_peak(s.gflops)))
            table.add_row(s.name, s.kind, f"{s.time_us:.1f}", percent(s.share), show(mmacs), *speed)
        return table


def _table(title: str, first: str, headings: Sequence[str]) -> Table:
    """Make a table whose first column is text and whose other columns are numbers."""
    name = Text(title, no_wrap=True, overflow="ignore", style="bold") if title else None
    table = Table(title=name, title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column(first, overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "kind" else "right")
    return table


def geometric_mean(values: Iterable[float]) -> float | None:
    """``(v1·v2·…·vn)^(1/n)``, or None of no values."""
    logs = [math.log(v) for v in values]
    return math.exp(sum(logs) / len(logs)) if logs else None


def show(value: float | None) -> str:
    """Write a number with three significant digits, or nothing for None."""
    if value is None:
        return ""
    digits = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:.{min(digits, 4)}f}"


def percent(share: float | None) -> str:
    """Write a share as a percentage, or nothing for None."""
    return "" if share is None else f"{100 * share:.0f}%"


def _peer_cell(peer: PeerResult | None) -> str:
    if peer is None or peer.time_ms is None:
        return "refused" if peer else ""
    return f"{show(peer.time_ms)} ms {peer.ratio:.2f}×" + (" (differs)" if peer.problem else "")
