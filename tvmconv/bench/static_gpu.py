"""What the cost model expects of kernels on a GPU that is not at hand, and what they use there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvmconv.bench.peak import arithmetic
from tvmconv.bench.report import geometric_mean
from tvmconv.errors import InputError
from tvmconv.problem import Problem
from tvmconv.target import Target

if TYPE_CHECKING:
    from tvmconv.autoschedule.choose import Chooser
    from tvmconv.autoschedule.tasks import Task
    from tvmconv.codegen.cuda.build import ImageBuilder
    from tvmconv.kernel import KernelSpec

COLUMNS = (
    "kernel", "times", "schedule", "µs", "/ roofline", "blocks", "threads", "registers",
    "shared bytes", "occupancy", "spilled bytes",
)  # fmt: skip


@dataclass(frozen=True)
class Prediction:
    """One kernel, by the schedule that a compilation would give it.

    Attributes
    ----------
    kernel : str
    times : int
        How often all the models together run it.
    schedule : str
        Its knobs; empty where there is no choice.
    time_us : float
        By the cost model.
    roofline_us : float
        The larger of the arithmetic at the device's peak and all data once at its memory's.
    blocks, threads : int
        Of the grid, and of a block. With several launches, these and what follows are those of the
        first one, the contraction itself.
    registers : int
        Of a thread.
    shared_bytes : int
        Of a block.
    occupancy : float
        Share of a multiprocessor's threads that can be resident.
    spill_bytes : int
        Of all launches.
    """

    kernel: str
    times: int
    schedule: str
    time_us: float
    roofline_us: float
    blocks: int
    threads: int
    registers: int
    shared_bytes: int
    occupancy: float
    spill_bytes: int

    @property
    def ratio(self) -> float:
        """The predicted time over the bound."""
        return self.time_us / self.roofline_us

    def row(self) -> tuple[object, ...]:
        """What a table shows of it, as in :data:`COLUMNS`."""
        time, ratio = f"{self.time_us:.1f}", f"{self.ratio:.2f}"
        return (
            self.kernel, self.times, self.schedule, time, ratio, self.blocks, self.threads,
            self.registers, self.shared_bytes, f"{self.occupancy:.2f}", self.spill_bytes,
        )  # fmt: skip


@dataclass(frozen=True)
class GpuStaticReport:
    """The predictions for all kernels."""

    target: str
    scores: tuple[Prediction, ...]

    def summary(self) -> str:
        """One line for people."""
        whole = sum(one.times * one.time_us for one in self.scores)
        bound = sum(one.times * one.roofline_us for one in self.scores)
        mean = geometric_mean(one.ratio for one in self.scores) or 0.0
        spills = sum(one.spill_bytes > 0 for one in self.scores)
        return (
            f"{len(self.scores)} kernels for {self.target} by the cost model: {whole:.0f} µs, the"
            f" roofline {bound:.0f} µs; geometric mean of the ratios {mean:.2f}, {spills} with"
            " spills"
        )

    def to_json(self) -> dict[str, Any]:
        """The report as JSON-able data."""
        return {"target": self.target, "kernels": [asdict(one) for one in self.scores]}


def gpu_static_report(
    sources: Sequence[Any],
    *,
    target: Target,
    batch: int | None = None,
    precision: str = "float32",
    allow_tf32: bool = False,
    log: Sequence[Path] = (),
    tuned: bool = True,
    images: ImageBuilder | None = None,
) -> GpuStaticReport:
    """Compile the kernels of models and problems for a GPU, and say what is expected of each.

    Parameters
    ----------
    sources : sequence of path, ModelProto, problem text or Layer
    target : Target
        A GPU; the code is that for its own compute capability.
    batch : int, optional
    precision : str
        What models are stored in.
    allow_tf32 : bool
        Whether tensor cores may round float32 to TF32.
    log : sequence of Path
        Folders of tuning logs besides the usual ones.
    tuned : bool
        Whether logs are used at all.
    images : callable, optional
        Makes the code, if not NVRTC.

    Raises
    ------
    InputError
        If a model or problem cannot be compiled, or there is nothing to score.
    EnvironmentError_
        There is no compiler.
    """
    from tvmconv.autoschedule.choose import Chooser
    from tvmconv.autoschedule.preflight import require_precision
    from tvmconv.autoschedule.tasks import extract
    from tvmconv.codegen.cuda.build import image_builder
    from tvmconv.compiler import open_logs

    require_precision(target, precision, "scored")
    own = replace(target, device=replace(target.gpu, cubins=(target.gpu.sm,), ptx=False))
    make = images or image_builder(own)
    chooser = Chooser.of(target, open_logs(log, target) if tuned else None)
    tasks, names = extract(sources, target, batch, precision, allow_tf32)
    if not tasks:
        raise InputError(f"{', '.join(names)}: no kernels to score")
    return GpuStaticReport(target.name, tuple(_predictions(tasks, chooser, own, make)))


def _predictions(
    tasks: Sequence[Task], chooser: Chooser, target: Target, images: ImageBuilder
) -> Iterator[Prediction]:
    from tvmconv.codegen.cuda.device import cuda_source
    from tvmconv.codegen.cuda.usage import Usage, occupancy
    from tvmconv.codegen.kernels import device_kernel

    for task in tasks:
        spec, chooser.cold_bytes = task.specs[0], task.cold_bytes
        choice = chooser.schedule(spec)
        kernel = device_kernel(spec, "kernel", target, choice)
        image = images(cuda_source([kernel]), target, {})[0]
        launch = kernel.launches[0]
        used = image.usage.get(launch.function, Usage(0, 0, 0))
        yield Prediction(
            kernel=task.name,
            times=task.count,
            schedule="x".join(str(value) for _, value in choice.knobs),
            time_us=choice.cycles / target.gpu.clock_ghz / 1e3,
            roofline_us=roofline_us(spec, target),
            blocks=launch.grid[0] * launch.grid[1] * launch.grid[2],
            threads=launch.threads,
            registers=used.registers,
            shared_bytes=used.shared_bytes + launch.dynamic_bytes,
            occupancy=occupancy(launch, used, target.gpu),
            spill_bytes=sum(usage.spill_bytes for usage in image.usage.values()),
        )


def roofline_us(spec: KernelSpec, target: Target) -> float:
    """Time of a kernel at the device's peaks: arithmetic, or all its buffers once."""
    from tvmconv.codegen.kernels import unscheduled
    from tvmconv.layout import Layout

    device = target.gpu
    func = unscheduled(spec, "kernel", target)
    shapes = [(tuple(map(int, p.ty.shape)), str(p.ty.dtype)) for p in func.params]
    data = sum(Layout(shape, dtype=dtype).buffer_bytes for shape, dtype in shapes)
    arithmetic_us, attrs = 0.0, spec.attrs
    if "problem" in attrs:
        tflops = device.tflops(arithmetic(attrs["problem"], attrs.get("tf32", False)))
        arithmetic_us = Problem.parse(attrs["problem"]).flops / tflops / 1e6
    return max(arithmetic_us, data / device.dram_gb_s / 1e3)
