"""Which algorithm and schedule a kernel gets: the log's best, or what the model ranks first."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tvmconv.autoschedule.workload import algorithm, alternatives, canonical, weight_bytes
from tvmconv.kernel import KernelSpec
from tvmconv.target import Target

if TYPE_CHECKING:
    from tvmconv.autoschedule.log import Database
    from tvmconv.autoschedule.record import Record

#: The model's time of another algorithm has to be this much below that of the direct one: its own
#: error, and what a network's cold weights cost, are of that size.
_MARGIN = 0.85


@dataclass
class Chooser:
    """Chooses for one compilation.

    Attributes
    ----------
    target : Target
    database : Database, optional
        Without it the model decides everything.
    exact : bool
        Whether only the direct algorithm may be used.
    cold_bytes : int
        Bytes of weights that are read between two uses of a kernel's own: those of the whole
        network; 0 if the kernel runs alone.
    """

    target: Target
    database: Database | None = None
    exact: bool = False
    cold_bytes: int = 0
    _algorithms: dict[str, str] = field(default_factory=dict)

    @property
    def cache(self) -> str:
        """Which measurements count first: with the weights in cache, or not."""
        return "cold" if self.cold_bytes else "warm"

    def algorithm(self, spec: KernelSpec) -> str:
        """Name of the algorithm for a kernel: "direct" or one of its alternatives.

        Measured times are compared with one another only: alternatives without a record are out
        if one has a record.
        """
        direct, *others = alternatives(spec, network=bool(self.cold_bytes))
        if self.exact or not others:
            return "direct"
        if direct.text not in self._algorithms:
            best = self._measured([direct, *others]) or self._predicted(direct, others)
            self._algorithms[direct.text] = algorithm(best)
        return self._algorithms[direct.text]

    def _measured(self, specs: list[KernelSpec]) -> KernelSpec | None:
        found = [(record, spec) for spec in specs if (record := self.record(spec)) is not None]
        # A later round compared in turns what was left of earlier ones.
        best = min(found, key=lambda pair: (-pair[0].round, pair[0].time_us), default=None)
        return best[1] if best else None

    def _predicted(self, direct: KernelSpec, others: list[KernelSpec]) -> KernelSpec:
        times = {spec: self._cycles(spec) / _MARGIN for spec in others}
        times[direct] = self._cycles(direct)
        return min(times, key=lambda spec: times[spec])

    def _cycles(self, spec: KernelSpec) -> float:
        """The model's time, or that in which the weights arrive, if they have been displaced."""
        cycles = predicted_cycles(spec, self.target)
        if not self.cold_bytes:
            return cycles
        speed = self.target.caches.bytes_per_cycle(self.cold_bytes) * self.target.cores
        return max(cycles, weight_bytes(spec) / speed)

    def record(self, spec: KernelSpec) -> Record | None:
        """The log's best record for a kernel, or None: the model decides."""
        if self.database is None:
            return None
        return self.database.best(canonical(spec).text, self.target, self.cache)

    def reject(self, record: Record) -> None:
        """Forget a record whose trace makes no kernel."""
        if self.database is not None:
            self.database.reject(record, "trace does not fit its workload")


def predicted_cycles(spec: KernelSpec, target: Target) -> float:
    """What the model expects of a kernel's best schedule, in cycles of one core."""
    from tvmconv.autoschedule.space import space_for
    from tvmconv.codegen.kernels import prim_func

    return space_for(target).candidates(prim_func(spec, "kernel"), target)[0].cycles
