"""A benchmark's report as text: the lines around the tables, and the tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from tvmconv.bench.report import LARGE_FLOPS, BenchReport, ModelResult, PeerResult

NOISY = " NOISY: the machine does other work"
#: Ratio of the fastest library's time to ours below which a row is called slower, not level.
LEVEL = 0.95
#: With more models than this, only the noisy ones have a line of their own; the table has them all.
FEW, WORST = 12, 5


def lines(report: BenchReport) -> list[str]:
    """Say what the tables do not: machine, peak, method, noise, summary, disagreements."""
    machine, p = report.machine, report.protocol
    versions = ", ".join(f"{k} {v}" for k, v in machine.versions.items())
    at = report.peak.at(machine.threads)
    known = "measured" if report.peak.measured else "nominal"
    noise = [m for m in report.models if m.noisy or len(report.models) <= FEW]
    threads = "" if machine.gpu else f" {machine.threads} threads,"
    return [
        *([machine.gpu] if machine.gpu else ()),
        f"{machine.cpu}, {machine.arch}, {machine.cores} cores,"
        f"{threads} {machine.system}; target {report.target}",
        versions,
        f"{known} peak: {at.gflops:.0f} GFLOP/s, read {at.read_gb_s:.1f} GB/s"
        + (f", triad {at.triad_gb_s:.1f} GB/s ({at.threads} threads)" if not machine.gpu else ""),
        f"{p.rounds} rounds of blocks of {p.block_s:g} s after {p.warmup} warm-up calls,"
        f" {p.pause_s:g} s pauses; median of medians; ×: the library's time over ours",
        *(f"A/A {m.name}: {m.noise}{NOISY if m.noisy else ''}" for m in noise),
        *_summary(report),
        *(f"note: {line}" for line in report.problems),
    ]


def _summary(report: BenchReport) -> list[str]:
    """Sum a suite up in two or three lines; nothing of a single model."""
    found, mean, share = [], report.fastest_mean, report.large_direct_share
    ranking = report.ranking
    if len(ranking) > 1 and mean is not None:
        below = sum(ratio(m) < LEVEL for m in ranking)
        found += [
            f"fastest library over ours: geometric mean {mean:.2f}× of {len(ranking)},"
            f" {below} below {LEVEL}×",
            "worst: " + ", ".join(f"{label(m)} {ratio(m):.2f}×" for m in ranking[:WORST]),
        ]
    if len(report.models) > 1 and share is not None:
        count = sum(m.large_direct for m in report.models)
        found.append(
            f"share of the FMA peak: median {percent(share)} of {count} direct convolutions"
            f" with at least {LARGE_FLOPS / 1e6:.0f} MFLOP"
        )
    return found


def comparison(report: BenchReport) -> Table:
    """One row a model, one column a library."""
    names, suite = report.peer_names, any(m.origin for m in report.models)
    headings = ["tvmconv ms", "GFLOP/s", "of peak", "of memory", "A/A", *names]
    headings += ["fastest"] * (len(names) > 1)
    table = _table("", "layer" if suite else "model", [*headings, "compile s"])
    for m in report.models:
        shares = (report.share_of_peak(m.gflops, m.work), report.share_of_bandwidth(m.gb_s))
        speed = (show(m.time_ms), show(m.gflops), *map(percent, shares), f"{m.noise.ratio:.2f}")
        peers = [_peer_cell(m.peer(name)) for name in names]
        if len(names) > 1:
            peers.append(f"{ratio(m):.2f}×" if m.fastest else "")
        first = f"{m.origin}  {m.name}" if m.origin else m.name
        table.add_row(first, *speed, *peers, f"{m.compile_s:.1f}")
    if len(report.models) > 1 and names:
        means = [report.geometric_mean(name) for name in names]
        means += [report.fastest_mean] * (len(names) > 1)
        cells = ["" if mean is None else f"{mean:.2f}×" for mean in means]
        table.add_row("geometric mean", "", "", "", "", "", *cells, "")
    return table


def steps(report: BenchReport, model: ModelResult) -> Table:
    """One row a step of a network."""
    headings = ["kind", "µs", "share", "MMAC", "GFLOP/s", "of peak"]
    table = _table(f"steps of {model.name}", "step", headings)
    for s in model.steps:
        mmacs = None if s.macs is None else s.macs / 1e6
        speed = (show(s.gflops), percent(report.share_of_peak(s.gflops, s.work)))
        table.add_row(s.name, s.kind, f"{s.time_us:.1f}", percent(s.share), show(mmacs), *speed)
    return table


def ratio(model: ModelResult) -> float:
    """Time of the fastest library over ours."""
    return (model.fastest.ratio if model.fastest else None) or math.nan


def label(model: ModelResult) -> str:
    """What a model is called where there is little room."""
    return model.origin or model.name


def _table(title: str, first: str, headings: Sequence[str]) -> Table:
    """Make a table whose first column is text and whose other columns are numbers."""
    name = Text(title, no_wrap=True, overflow="ignore", style="bold") if title else None
    table = Table(title=name, title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column(first, overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "kind" else "right")
    return table


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
