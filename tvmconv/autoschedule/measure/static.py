"""Estimating instead of measuring: the code of candidates on a model of a core not at hand."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterator, Sequence
from types import TracebackType

from tvmconv.autoschedule.choose import weights_cycles
from tvmconv.autoschedule.measure.builder import Build, Compiler
from tvmconv.autoschedule.measure.crew import Crew
from tvmconv.autoschedule.measure.memory import half_of_memory
from tvmconv.autoschedule.measure.outcome import Outcome, Unmeasurable
from tvmconv.autoschedule.space import Arithmetic, Candidate, space_for
from tvmconv.codegen import mca
from tvmconv.codegen.estimate import Estimate
from tvmconv.codegen.kernels import prim_func
from tvmconv.errors import InputError
from tvmconv.kernel import KernelSpec
from tvmconv.target import Target

#: The module that builds and estimates candidates, in the supervisor's children.
_BUILDER = "tvmconv.autoschedule.measure.static_build"
_BUILD_TIMEOUT_S = 60.0


class Estimator:
    """Estimates what candidates take: their loops on LLVM's model, their memory on the cost model.

    A context manager, as the :class:`~tvmconv.autoschedule.measure.measurer.Measurer` whose place
    it takes. Nothing is run, so nothing is verified either.

    Parameters
    ----------
    target : Target
    jobs : int
        How many candidates are built at a time.
    cold_bytes : int
        Bytes that lie between two uses of a weight; 0 if weights stay in the cache.

    Raises
    ------
    EnvironmentError_
        ``llvm-mca`` is missing, or has no model of the target's core.
    """

    def __init__(self, target: Target, *, jobs: int, cold_bytes: int = 0) -> None:
        mca.peak(target)
        self._target, self._jobs, self._cold_bytes = target, jobs, cold_bytes
        self._models: dict[str, Arithmetic] = {}
        self._known: dict[tuple[str, tuple[tuple[str, int], ...]], Outcome] = {}

    def __enter__(self) -> Estimator:
        self._crew = Crew(_BUILDER, self._target, self._jobs, half_of_memory(), pauses=False)
        self._compiler = Compiler(self._crew, self._target, _BUILD_TIMEOUT_S, "estimate")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._crew.close()

    def measure(
        self, spec: KernelSpec, candidates: Sequence[Candidate], best_us: float = math.inf
    ) -> Iterator[Outcome]:
        """Estimate candidates of a workload; one outcome each, in order.

        Parameters
        ----------
        spec : KernelSpec
            A canonical workload.
        candidates : sequence of Candidate
        best_us : float
            Not used: an estimate of a slow candidate takes no longer.

        Raises
        ------
        Unmeasurable
            If the first candidate of a workload cannot be estimated.
        EnvironmentError_
            If it is not a candidate that fails.
        """
        waiting, builds = deque(candidates), deque[tuple[Candidate, Build]]()
        try:
            while waiting or builds:
                while waiting and len(builds) < 2 * self._jobs:
                    candidate = waiting.popleft()
                    builds.append((candidate, self._compiler.start(spec, candidate)))
                yield self._outcome(*builds.popleft())
        finally:
            self._compiler.cancel(build for _, build in builds)

    def compare(
        self, spec_candidates: Sequence[tuple[KernelSpec, Candidate]], rounds: int = 5
    ) -> list[Outcome]:
        """The estimates again: they are without noise, so turns would show nothing new."""
        pairs = dict.fromkeys(spec_candidates)
        return [
            self._known.get((spec.text, candidate.knobs)) or next(self.measure(spec, [candidate]))
            for spec, candidate in pairs
        ]

    def _outcome(self, candidate: Candidate, build: Build) -> Outcome:
        """Wait for a build, and estimate its time."""
        self._crew.until(lambda: build.job.code is not None)
        self._compiler.settle(build)
        spec, failure = build.spec, build.failure
        if failure is not None:
            if spec.text not in self._models:
                raise Unmeasurable(f"cannot be estimated: {failure}")
            return Outcome.failed(candidate, build.trace, failure)
        found = Estimate(**json.loads(self._compiler.made(build).read_bytes()))
        self._compiler.discard([build])
        if spec.text not in self._models:
            self._models[spec.text] = self._model(spec)
        cycles = self._models[spec.text](candidate, found.cycles, found.launches)
        cycles = max(cycles, weights_cycles(spec, self._target, self._cold_bytes))
        time_us = cycles / (self._target.frequency_ghz * 1e3)
        outcome = Outcome(candidate, "ok", build.trace, (time_us,))
        self._known[spec.text, candidate.knobs] = outcome
        return outcome

    def _model(self, spec: KernelSpec) -> Arithmetic:
        """The cost model of a workload, but for the arithmetic."""
        model = space_for(self._target).with_arithmetic
        if model is None:
            raise InputError(f"{self._target.name}: its schedules cannot be estimated")
        return model(prim_func(spec, "kernel"), self._target)
