"""What a benchmark found, as data."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tvmconv.bench.harness import Protocol, Spread, is_quiet
from tvmconv.bench.machine import Machine
from tvmconv.bench.peak import Peak
from tvmconv.problem import FLOP_PER_MAC

if TYPE_CHECKING:
    from rich.table import Table

#: Kinds of problems whose products are of bytes, which other instructions make than FMA.
BYTE_PRODUCTS = ("qconv", "depthwise_qconv")
#: Convolutions with less arithmetic than this are too short to say what share of peak is reached.
LARGE_FLOPS = 100_000_000
DIRECT = "direct"


@dataclass(frozen=True)
class PeerResult:
    """How one library did on one model.

    Attributes
    ----------
    name : str
    time_ms : float or None
        Median; None if it refused or failed.
    ratio : float or None
        Its time over ours: above 1 we are faster.
    blocks_ms : tuple of float
        Median of each block.
    problem : str or None
        Why it refused or failed, or how its outputs differ from ours.
    """

    name: str
    time_ms: float | None = None
    ratio: float | None = None
    blocks_ms: tuple[float, ...] = ()
    problem: str | None = None


@dataclass(frozen=True)
class Work:
    """What has to be done at least, known of single problems and of a network's operators.

    Attributes
    ----------
    kind : str
        The operator.
    macs : int or None
        Multiply-accumulates of the direct algorithm, where there are any.
    flops : int or None
        1 MAC = 2 FLOP; one a tap for pools.
    bytes : int or None
        Inputs, weights and outputs, each element once.
    algorithm : str
        How our kernel computes it: ``direct``, or the name of a Winograd algorithm.
    """

    kind: str = ""
    macs: int | None = None
    flops: int | None = None
    bytes: int | None = None
    algorithm: str = DIRECT


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
    work : Work
    """

    name: str
    kind: str
    time_us: float
    share: float
    macs: int | None = None
    gflops: float | None = None
    work: Work = Work()


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
    origin : str
        Network and layer that a row of a suite comes from.
    work : Work
        Of a single problem.
    """

    name: str
    time_ms: float
    blocks_ms: tuple[float, ...]
    compile_s: float
    macs: int | None
    peers: tuple[PeerResult, ...]
    noise: Spread
    steps: tuple[StepTime, ...] = ()
    origin: str = ""
    work: Work = Work()

    @property
    def gflops(self) -> float | None:
        """Our speed in 10⁹ FLOP/s, where the multiply-accumulates are known."""
        return FLOP_PER_MAC * self.macs / self.time_ms / 1e6 if self.macs else None

    @property
    def gb_s(self) -> float | None:
        """The bytes that have to be moved at least over our time, in 10⁹ bytes/s."""
        return self.work.bytes / self.time_ms / 1e6 if self.work.bytes else None

    @property
    def noisy(self) -> bool:
        """Whether the A/A pair differs by more than two equal things should on a quiet machine."""
        return not is_quiet(self.time_ms * 1e-3, self.noise.ratio)

    @property
    def fastest(self) -> PeerResult | None:
        """The fastest library whose outputs agree with ours."""
        agree = [p for p in self.peers if p.ratio and not p.problem]
        return min(agree, key=lambda p: p.ratio or math.inf, default=None)

    @property
    def large_direct(self) -> bool:
        """Whether this is a convolution computed directly with enough arithmetic to judge by."""
        direct = self.work.kind == "conv" and self.work.algorithm == DIRECT
        return direct and (self.work.flops or 0) >= LARGE_FLOPS

    def peer(self, name: str) -> PeerResult | None:
        """Give the result of a library, or None if it took no part."""
        return next((p for p in self.peers if p.name == name), None)


@dataclass(frozen=True)
class Failure:
    """A model that could not be measured.

    Attributes
    ----------
    name : str
    problem : str
        Why, in one line.
    """

    name: str
    problem: str

    def __str__(self) -> str:
        return f"{self.name}: {self.problem}"


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
    failures : tuple of Failure
        Of the models that are not among them.
    """

    machine: Machine
    target: str
    protocol: Protocol
    peak: Peak
    models: tuple[ModelResult, ...]
    failures: tuple[Failure, ...] = ()

    @property
    def peer_names(self) -> list[str]:
        """Names of the libraries, in the order given."""
        return list(dict.fromkeys(p.name for m in self.models for p in m.peers))

    def geometric_mean(self, peer: str) -> float | None:
        """Geometric mean of a library's times over ours, where its outputs agree with ours."""
        found = [m.peer(peer) for m in self.models]
        return geometric_mean(p.ratio for p in found if p and p.ratio and not p.problem)

    @property
    def fastest_mean(self) -> float | None:
        """Geometric mean over the models of the fastest library's time over ours."""
        found = [m.fastest for m in self.models]
        return geometric_mean(p.ratio for p in found if p and p.ratio)

    @property
    def ranking(self) -> list[ModelResult]:
        """The models that a library ran, that with our worst ratio to the fastest first."""
        return sorted((m for m in self.models if m.fastest), key=_advantage)

    @property
    def large_direct_share(self) -> float | None:
        """Median share of the FMA peak over the convolutions of `ModelResult.large_direct`."""
        shares = [self.share_of_peak(m.gflops) for m in self.models if m.large_direct]
        known = [share for share in shares if share is not None]
        return statistics.median(known) if known else None

    @property
    def problems(self) -> list[str]:
        """Every failure, every refusal and every difference of outputs, a line each."""
        peers = [(m, p) for m in self.models for p in m.peers if p.problem]
        return [*map(str, self.failures), *(f"{m.name}: {p.name}: {p.problem}" for m, p in peers)]

    @property
    def disagreements(self) -> list[str]:
        """The lines of `problems` about outputs that differ from ours."""
        timed = [
            (m, p) for m in self.models for p in m.peers if p.problem and p.time_ms is not None
        ]
        return [f"{m.name}: {p.name}: {p.problem}" for m, p in timed]

    @property
    def bandwidth_gb_s(self) -> float:
        """The machine's memory bandwidth at the thread count used, reading or mixed."""
        return self.peak.at(self.machine.threads).bandwidth_gb_s

    def share_of_peak(self, gflops: float | None, work: Work | None = None) -> float | None:
        """Give a speed's share of the FMA peak at the thread count used; none of bytes."""
        if gflops is None or (work is not None and work.kind in BYTE_PRODUCTS):
            return None
        return gflops / self.peak.at(self.machine.threads).gflops

    def share_of_bandwidth(self, gb_s: float | None) -> float | None:
        """Give a rate's share of the memory bandwidth; above 1 where the data lie in caches."""
        return None if gb_s is None else gb_s / self.bandwidth_gb_s

    def to_json(self) -> dict[str, Any]:
        """Give the whole report as JSON-able data."""
        models = []
        for m in self.models:
            extra = {
                "gflops": m.gflops,
                "share_of_peak": self.share_of_peak(m.gflops, m.work),
                "gb_s": m.gb_s,
                "share_of_bandwidth": self.share_of_bandwidth(m.gb_s),
                "noisy": m.noisy,
                "large_direct": m.large_direct,
                "fastest": None if m.fastest is None else asdict(m.fastest),
            }
            models.append({**asdict(m), **extra})
        return {
            "machine": self.machine.to_json(),
            "target": self.target,
            "protocol": self.protocol.to_json(),
            "peak": self.peak.to_json(),
            "models": models,
            "failures": [asdict(failure) for failure in self.failures],
            "geometric_mean": {name: self.geometric_mean(name) for name in self.peer_names},
            "fastest_mean": self.fastest_mean,
            "large_direct_share": self.large_direct_share,
            "lines": self.lines(),
        }

    def tables(self) -> list[Table]:
        """Give the report as tables: the comparison, then the steps of each model that has them."""
        from tvmconv.bench import tables

        return [tables.comparison(self), *(tables.steps(self, m) for m in self.models if m.steps)]

    def lines(self) -> list[str]:
        """Give what stands around the tables: machine, peak, method, noise, disagreements."""
        from tvmconv.bench import tables

        return tables.lines(self)


def _advantage(model: ModelResult) -> float:
    return (model.fastest.ratio if model.fastest else None) or math.inf


def geometric_mean(values: Iterable[float]) -> float | None:
    """``(v1·v2·…·vn)^(1/n)``, or None of no values."""
    logs = [math.log(v) for v in values]
    return math.exp(sum(logs) / len(logs)) if logs else None
