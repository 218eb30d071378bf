"""Which algorithm and schedule a kernel gets: the log's best, or what the model ranks first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tvmconv.autoschedule.workload import algorithm, alternatives, canonical, weight_bytes
from tvmconv.kernel import KernelSpec
from tvmconv.target import Target

if TYPE_CHECKING:
    from tvmconv.autoschedule.log import Database
    from tvmconv.autoschedule.record import Record
    from tvmconv.autoschedule.space import Candidate

#: The model's time of another algorithm has to be this much below that of the direct one: its own
#: error, and what a network's cold weights cost, are of that size.
_MARGIN = 0.85
#: Operators whose weights may take longer to arrive than the arithmetic takes.
_WEIGHTY = ("conv", "gated_conv", "separable_conv")
#: Of the bandwidth for reading, what a conversion between blocks and planes reaches.
_CONVERSION_SHARE = 0.5
#: Cycles of a conversion besides: to start it and to wait for its last thread.
_CONVERSION_CYCLES = 10000.0


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
    blocks_only : bool
        Whether no kernel may work on planes.
    allow_tf32 : bool
        Whether tensor cores may round float32 to TF32.
    """

    target: Target
    database: Database | None = None
    exact: bool = False
    cold_bytes: int = 0
    blocks_only: bool = False
    allow_tf32: bool = False
    _algorithms: dict[str, str] = field(default_factory=dict)
    _predictions: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, target: Target, database: Database | None = None, exact: bool = False) -> Chooser:
        """The chooser of a target: a GPU's kernels are direct, and on blocks."""
        gpu = target.is_gpu
        return cls(target, database, exact or gpu, blocks_only=gpu)

    @property
    def cache(self) -> str:
        """Which measurements count first: with the weights in cache, or not."""
        return "cold" if self.cold_bytes else "warm"

    def algorithm(self, spec: KernelSpec) -> str:
        """Name of the algorithm for a kernel: "direct" or one of its alternatives.

        Times of logs are compared with one another only, measured ones if there are any:
        alternatives without such a record are out if one has it.
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
        measured = [pair for pair in found if pair[0].method == "measured"]
        # A later round compared in turns what was left of earlier ones.
        order = sorted(measured or found, key=lambda pair: (-pair[0].round, pair[0].time_us))
        return order[0][1] if order else None

    def _predicted(self, direct: KernelSpec, others: list[KernelSpec]) -> KernelSpec:
        times = {spec: self._cycles(spec) / _MARGIN for spec in others}
        times[direct] = self._cycles(direct)
        return min(times, key=lambda spec: times[spec])

    def _cycles(self, spec: KernelSpec) -> float:
        """The model's time, or that in which the weights arrive, if they have been displaced."""
        if spec.text not in self._predictions:
            self._predictions[spec.text] = predicted_cycles(spec, self.target)
        arrival = weights_cycles(spec, self.target, self.cold_bytes)
        return max(self._predictions[spec.text], arrival)

    def forms(self, blocks: KernelSpec, planes: KernelSpec) -> tuple[float, float]:
        """Seconds of a kernel on blocks and on planes: by logs, or by the model."""
        if self.blocks_only:
            return 0.0, math.inf
        specs = self.chosen(blocks), planes
        one, two = self._logged_us(specs) or [self._model_us(spec) for spec in specs]
        return one * 1e-6, two * 1e-6

    def together(self, one: KernelSpec, two: tuple[KernelSpec, KernelSpec]) -> bool:
        """Whether a kernel takes less time than two: by logs, or by the model."""
        specs = (one, *map(self.chosen, two))
        times = self._logged_us(specs) or [self._model_us(spec) for spec in specs]
        return times[0] < sum(times[1:])

    def _logged_us(self, specs: Sequence[KernelSpec]) -> list[float]:
        """What logs have of kernels, if they have all of them by one method; else nothing."""
        found = [record for record in map(self.record, specs) if record is not None]
        whole = len(found) == len(specs) and len({record.method for record in found}) == 1
        return [record.time_us for record in found] if whole else []

    def _model_us(self, spec: KernelSpec) -> float:
        return self._cycles(spec) / (self.target.frequency_ghz * 1e3)

    def chosen(self, spec: KernelSpec) -> KernelSpec:
        """A kernel with the algorithm that it will have."""
        name = self.algorithm(spec)
        return next(other for other in alternatives(spec) if algorithm(other) == name)

    def conversion(self, nbytes: int) -> float:
        """Seconds to bring a tensor from blocks to planes or back."""
        speed = self.target.caches.bytes_per_cycle(2 * nbytes) * self.target.cores
        cycles = 2 * nbytes / (_CONVERSION_SHARE * speed) + _CONVERSION_CYCLES
        return cycles / (self.target.frequency_ghz * 1e9)

    def record(self, spec: KernelSpec) -> Record | None:
        """The log's best record for a kernel, or None: the model decides."""
        if self.database is None:
            return None
        return self.database.best(canonical(spec).text, self.target, self.cache)

    def schedule(self, spec: KernelSpec) -> Candidate:
        """A GPU's schedule of a kernel: that of the log's best record that is one, or the model's.

        Records that the design space does not have any more are rejected, as in a compilation.
        """
        from tvmconv.codegen.kernels import candidates, recorded_point

        while (record := self.record(spec)) is not None:
            try:
                return recorded_point(record, spec, self.target)
            except ValueError:
                self.reject(record)
        return candidates(spec, self.target)[0]

    def reject(self, record: Record) -> None:
        """Forget a record whose schedule makes no kernel."""
        if self.database is not None:
            self.database.reject(record, "trace does not fit its workload")


def weights_cycles(spec: KernelSpec, target: Target, cold_bytes: int) -> float:
    """Cycles in which a kernel's weights arrive, with so many bytes read since they were used.

    0 if these are none, or if that never takes longer than the arithmetic.
    """
    if not cold_bytes or spec.op not in _WEIGHTY:
        return 0.0
    return weight_bytes(spec) / (target.caches.bytes_per_cycle(cold_bytes) * target.cores)


def predicted_cycles(spec: KernelSpec, target: Target) -> float:
    """What the model expects of a kernel's best schedule, in cycles of one core."""
    from tvmconv.codegen.kernels import candidates

    return candidates(spec, target)[0].cycles
