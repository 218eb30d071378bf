"""Measuring: candidates built, verified and timed, whatever they do meanwhile.

Three kinds of processes take part. This one only asks and waits. The supervisor
(:mod:`~tvmconv.autoschedule.measure.supervisor`) forks a child for each build, link and reference.
The runner (:mod:`~tvmconv.autoschedule.measure.runner_main`) loads what is built and runs it on the
project's own thread pool; when a candidate ends or hangs it, a new one takes its place.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from tvmconv.autoschedule.measure.builder import Builder, Form
from tvmconv.autoschedule.measure.crew import Crew
from tvmconv.autoschedule.measure.device_runner import DeviceRunner
from tvmconv.autoschedule.measure.memory import half_of_memory
from tvmconv.autoschedule.measure.outcome import Choice, Outcome
from tvmconv.autoschedule.measure.references import References
from tvmconv.autoschedule.measure.runner import AnyRunner, Runner
from tvmconv.autoschedule.measure.station import Station
from tvmconv.kernel import KernelSpec
from tvmconv.runtime.cuda import gpu_for
from tvmconv.target import Target

if TYPE_CHECKING:
    from tvmconv.device import Runner as Device

#: The modules that build candidates, in the supervisor's children.
BUILDER = "tvmconv.autoschedule.measure.build"
GPU_BUILDER = "tvmconv.autoschedule.measure.build_cuda"
#: Candidates that are built before they are needed, besides those under way.
_AHEAD = 8


class Measurer:
    """Builds, verifies and times candidates of one target, on this machine or another.

    A context manager. It owns its processes and a temporary folder; both are gone when it is
    closed or when its process ends, in whatever way.

    Parameters
    ----------
    target : Target
        Of that machine; its ``cores`` are the threads of a kernel.
    jobs : int
        How many candidates are built at a time.
    cache : "warm" or "cold"
        Whether a kernel's weights are in the caches when it is timed.
    cold_bytes : int
        For cold weights: how many bytes of them lie between two uses of the same ones.
    build_timeout_s, run_timeout_s : float
        How long a build may take; and a check, or one block of timed calls.
    memory_bytes : int, optional
        Address space of a builder, and of the process in which candidates run; half of the
        machine's memory if left out.
    device : tvmconv.device.Runner, optional
        Runs candidates elsewhere; they are built, and their outputs judged, on this machine.
    builder : str, optional
        The module that builds candidates; one for the target if left out.

    Raises
    ------
    EnvironmentError_
        The target is a GPU, and this machine has none that it fits, or no compiler for it.
    """

    def __init__(
        self,
        target: Target,
        *,
        jobs: int,
        cache: Literal["warm", "cold"] = "warm",
        cold_bytes: int = 0,
        build_timeout_s: float = 30.0,
        run_timeout_s: float = 10.0,
        memory_bytes: int | None = None,
        device: Device | None = None,
        builder: str = "",
    ) -> None:
        self._gpu: int | None = None
        if target.is_gpu:
            gpu, target = gpu_for(target)
            self._gpu = gpu.ordinal
            if not builder:
                from tvmconv.codegen.cuda.build import image_builder

                image_builder(target)  # to be missed now, by one line, and not by each build
        self._device = device
        self._target, self._jobs = target, jobs
        self._builder = builder or (BUILDER if self._gpu is None else GPU_BUILDER)
        self._memory_bytes = memory_bytes or half_of_memory()
        self._cold_bytes = cold_bytes if cache == "cold" else 0
        self._build_timeout_s, self._run_timeout_s = build_timeout_s, run_timeout_s
        self._current: Station | None = None

    def __enter__(self) -> Measurer:
        self._station()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes and remove the folder."""
        if self._current is not None:
            self._current.close()
            self._current = None

    def _station(self) -> Station:
        """The processes; new ones if there are none."""
        if self._current is not None and self._current.crew.lost:
            self.close()
        if self._current is None:
            local = self._device is None
            on_cpu = local and self._gpu is None
            short = on_cpu and self._target.cores + self._jobs > len(os.sched_getaffinity(0))
            crew = Crew(self._builder, self._target, self._jobs, self._memory_bytes, short)
            form: Form = "library" if on_cpu else "program" if self._gpu is None else "list"
            builder = Builder(crew, self._target, self._build_timeout_s, form=form)
            references = References(crew)
            runner = self._runner(crew, builder, references)
            ahead = self._jobs + _AHEAD
            self._current = Station(crew, builder, references, runner, ahead, together=not local)
        return self._current

    def _runner(self, crew: Crew, builder: Builder, references: References) -> AnyRunner:
        """What runs candidates, here or elsewhere."""
        threads, cold_bytes = self._target.cores, self._cold_bytes
        if self._device is None:
            return Runner(crew, threads, cold_bytes, self._run_timeout_s, self._gpu)
        return DeviceRunner(
            crew, self._device, builder, references, threads, cold_bytes, self._run_timeout_s
        )

    def measure(
        self, spec: KernelSpec, candidates: Sequence[Choice], best_us: float = math.inf
    ) -> Iterator[Outcome]:
        """Measure candidates of a workload, while those that follow are built.

        Parameters
        ----------
        spec : KernelSpec
            A canonical workload.
        candidates : sequence of Candidate or list
        best_us : float
            The best time that is known; a candidate that cannot come near it is timed shortly.

        Returns
        -------
        iterator of Outcome
            One for each candidate, in their order. Close it to give up the others.

        Raises
        ------
        Unmeasurable
            If nothing of this workload can be measured: its arrays take too much memory, or its
            reference too long.
        EnvironmentError_
            If it is not a candidate that fails: the disk is full, a tool is missing, a process of
            the measurement has been killed.
        """
        station = self._station()
        station.begin([spec])
        return station.outcomes(spec, candidates, best_us)

    def compare(
        self, spec_candidates: Sequence[tuple[KernelSpec, Choice]], rounds: int = 5
    ) -> list[Outcome]:
        """Time candidates against each other, in turns of blocks.

        Parameters
        ----------
        spec_candidates : sequence of (KernelSpec, Candidate or list)
            Of one workload or several.
        rounds : int
            Blocks of each.

        Returns
        -------
        list of Outcome
            In the same order; all that are ok have times of the same rounds.

        Raises
        ------
        Unmeasurable, EnvironmentError_
            As :meth:`measure`.
        """
        station = self._station()
        station.begin(spec for spec, _ in spec_candidates)
        return station.comparison(spec_candidates, rounds)
