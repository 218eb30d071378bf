"""The benchmark of models that run elsewhere: compiled here, timed there by the device's clock.

Two halves of the same blocks, the even and the odd ones, stand in for the A/A pair.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvmconv.bench.failures import told
from tvmconv.bench.harness import Protocol, Timing, spread
from tvmconv.bench.machine import Machine, version_of
from tvmconv.bench.model import BenchModel, Source, prepare
from tvmconv.bench.peak import arithmetic_of_steps, nominal_peak
from tvmconv.bench.report import BenchReport, Failure, ModelResult, StepTime
from tvmconv.bench.run import PROFILE_RUNS, macs_of_steps, name_of, step_time, work_of_problem
from tvmconv.device.module import DeviceReport, RemoteModule, median_profile
from tvmconv.errors import TvmconvError
from tvmconv.target import Target

if TYPE_CHECKING:
    from tvmconv.device import Runner

Progress = Callable[[str], None]


def bench_on_device(
    models: Sequence[Source],
    *,
    target: Target,
    runner: Runner,
    threads: int | None = None,
    rounds: int = Protocol.rounds,
    layers: bool = False,
    batch: int | None = None,
    precision: str = "float32",
    allow_tf32: bool = False,
    log: Sequence[Path] | None = None,
    tuned: bool = True,
    progress: Progress | None = None,
) -> BenchReport:
    """Time models or single problems on another machine.

    Parameters
    ----------
    models, rounds, layers, batch, precision, allow_tf32, log, tuned, progress
        As for :func:`tvmconv.bench.run.bench_models`.
    target : Target
        What the machine is.
    runner : Runner
        The way to it.
    threads : int, optional
        The target's cores if left out.

    Returns
    -------
    BenchReport
        Its peak is the target's, as that describes it.

    Raises
    ------
    TvmconvError
        Of the first model, if none could be measured; otherwise the report says which failed.
    """
    threads = threads or target.cores
    target = target.with_threads(threads)
    protocol, say = Protocol(rounds=rounds), progress or (lambda line: None)
    options = {"target": target, "threads": threads, "log": log, "tuned": tuned}
    if precision != "float32":
        options["precision"] = precision
    if allow_tf32:
        options["allow_tf32"] = True
    results: list[ModelResult] = []
    errors: list[tuple[Source, Exception]] = []
    machine: tuple[str, ...] = ()
    kinds: set[str] = set()
    for source, load in [(source, prepare(source, batch)) for source in models]:
        try:
            model = load()
            say(f"{model.name}: compiling and timing")
            result, machine, found = _measure(model, runner, protocol, options, layers=layers)
            results.append(result)
            kinds |= found
        except TvmconvError as error:
            errors.append((source, error))
    if errors and not results:
        raise errors[0][1]
    failures = tuple(Failure(name_of(source), told(error)) for source, error in errors)
    return BenchReport(
        _machine(machine, target, runner, threads),
        target.name,
        protocol,
        nominal_peak(target, kinds),
        tuple(results),
        failures,
    )


def _measure(
    model: BenchModel, runner: Runner, protocol: Protocol, options: dict[str, Any], *, layers: bool
) -> tuple[ModelResult, tuple[str, ...], set[str]]:
    """Compile a model, run it on the device; what came of it, what that is, what it multiplies."""
    start = time.perf_counter()
    source: Any = model.proto if model.problem is None else model.problem.text
    params = model.weights or None
    with RemoteModule.compile(source, runner=runner, params=params, **options) as module:
        compile_s = time.perf_counter() - start
        report = module.measure(
            dict(model.inputs),
            rounds=2 * protocol.rounds,
            block_s=protocol.block_s,
            pause_s=protocol.pause_s,
            profiles=PROFILE_RUNS if layers else 0,
        )
        metadata = module.metadata
    first, again = (Timing(report.blocks_s[k::2], report.calls // 2) for k in (0, 1))
    work = work_of_problem(model.problem, metadata)
    result = ModelResult(
        name=model.name,
        time_ms=first.time_s * 1e3,
        blocks_ms=tuple(1e3 * seconds for seconds in first.blocks_s),
        compile_s=compile_s,
        macs=work.macs or macs_of_steps(metadata),
        peers=(),
        noise=spread(first, again),
        steps=_steps(report, metadata["steps"]) if layers else (),
        origin=model.origin,
        work=work,
    )
    return result, report.machine, arithmetic_of_steps(metadata)


def _steps(report: DeviceReport, entries: Sequence[dict[str, Any]]) -> tuple[StepTime, ...]:
    seconds = median_profile(report)
    total = sum(seconds) or 1.0
    pairs = zip(seconds, entries, strict=True)
    return tuple(step_time(str(entry["name"]), s, s / total, entry) for s, entry in pairs)


def _machine(found: tuple[str, ...], target: Target, runner: Runner, threads: int) -> Machine:
    """A machine from what it calls itself: system, release, processor, CPUs."""
    system, release, arch, cpus = (*found, "", "", "", "")[:4]
    return Machine(
        cpu=f"{target.description} by {runner.command!r}",
        arch=arch or target.arch,
        cores=int(cpus) if cpus.isdigit() else target.cores,
        threads=threads,
        system=f"{system} {release}".strip(),
        versions={name: version_of(name) for name in ("tvmconv", "apache-tvm", "numpy")},
    )
