"""The benchmark: compile, compare outputs, time in turns with the libraries, report."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from typing import Protocol as Interface

import numpy.typing as npt
import onnx

from tvmconv.autoschedule.measure.folder import temporary_folder
from tvmconv.bench.failures import PeerFailed, guarded, told
from tvmconv.bench.harness import (
    TWIN,
    Clock,
    Contender,
    Protocol,
    Timing,
    compare,
    measure_in_quiet,
    spread,
)
from tvmconv.bench.machine import describe_machine, usable_cores, version_of
from tvmconv.bench.model import BenchModel, Source, prepare
from tvmconv.bench.peak import arithmetic_of_steps, measure_peak, nominal_peak
from tvmconv.bench.peers import Peer, PeerRefusal, find_peers
from tvmconv.bench.report import (
    DIRECT,
    BenchReport,
    Failure,
    ModelResult,
    PeerResult,
    StepTime,
    Work,
)
from tvmconv.errors import EnvironmentError_, InputError
from tvmconv.host import require_runnable
from tvmconv.layers import Layer
from tvmconv.problem import FLOP_PER_MAC, Problem
from tvmconv.runtime.cuda import gpu_for
from tvmconv.target import Target

OURS = "tvmconv"
PROFILE_RUNS = 15


class Runnable(Interface):
    """What the benchmark needs of a compiled module."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What the artifact says of itself."""

    def __call__(self, inputs: Mapping[str, npt.NDArray[Any]], /) -> list[npt.NDArray[Any]]:
        """Run once."""

    def save(self, path: str | Path, /) -> None:
        """Write the artifact."""

    def close(self) -> None:
        """Free it."""

    def profile(self, inputs: Mapping[str, npt.NDArray[Any]], /) -> list[tuple[str, float]]:
        """Run once and give each step's name and seconds."""

    def replay(self, runs: int, /) -> float:
        """Seconds of one of so many runs in a row on a GPU, by its own clock."""


CompileFunction = Callable[..., Runnable]
LoadFunction = Callable[[Path, int], Runnable]
Progress = Callable[[str], None]


def bench_models(
    models: Sequence[Source] | Source,
    *,
    target: Target,
    against: Sequence[str] = (),
    threads: int | None = None,
    rounds: int = Protocol.rounds,
    layers: bool = False,
    batch: int | None = None,
    precision: str = "float32",
    allow_tf32: bool = False,
    log: Sequence[Path] | None = None,
    tuned: bool = True,
    compile_fn: CompileFunction | None = None,
    load_fn: LoadFunction | None = None,
    clock: Clock | None = None,
    progress: Progress | None = None,
) -> BenchReport:
    """Time models or single problems, ours and other libraries' in turns of blocks.

    Parameters
    ----------
    models : sequence of str, Path, ModelProto or Layer
        Files, models, problems' texts, or the rows of a suite (:mod:`tvmconv.layers`).
    target : Target
        What to compile for; this machine, or its GPU, must be able to run it. On a GPU the times
        are its own clock's, of runs that follow one another without copies of inputs or outputs.
    against : sequence of str
        Names of `tvmconv.bench.peers.PEERS`.
    threads : int, optional
        For every contender; default: the target's cores, as far as this machine has them.
    rounds : int
        Blocks per contender.
    layers : bool
        Also time every step of our network.
    batch : int, optional
        Value of a symbolic batch dimension.
    precision : str
        What models are stored in, as `tvmconv.compile` takes it.
    allow_tf32 : bool
        As `tvmconv.compile` takes it.
    log : sequence of Path, optional
        Logs, or folders of them, to look for tuned schedules in, as `tvmconv.compile` takes them.
    tuned : bool
        Whether to use logs at all.
    compile_fn, load_fn : callable, optional
        Instead of `tvmconv.compiler.compile` and `tvmconv.runtime.loader.load`.
    clock : Clock, optional
    progress : callable, optional
        Called with a line of text at each stage.

    Returns
    -------
    BenchReport

    Raises
    ------
    InputError
        If a model, problem, peer, `threads` or `rounds` cannot be accepted, or this machine cannot
        run code for the target.
    EnvironmentError_
        If a peer is not installed, or there is no GPU that the target fits.
    Exception
        Of the first model, if none could be measured; otherwise the report says which failed.
    """
    single = isinstance(models, (str, Path, onnx.ModelProto, Layer))
    sources: Sequence[Source] = [models] if single else models  # type: ignore[list-item, assignment]
    for name, value in (("threads", 1 if threads is None else threads), ("rounds", rounds)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
    if load_fn is None:
        require_runnable(target)
    peers = find_peers(against)
    gpu = gpu_for(target)[0] if target.is_gpu else None
    if gpu and peers:
        raise InputError(f"against: {peers[0].name} runs on the CPU, not on a GPU")
    threads = target.cores if gpu else threads or min(target.cores, usable_cores())
    prepared = [prepare(source, batch) for source in sources]
    say = progress or (lambda line: None)
    if not gpu:
        say("measuring the machine's peak")
        measure_peak(threads)
    protocol = Protocol(rounds=rounds)
    options = {"target": target, "threads": threads, "log": log, "tuned": tuned}
    if precision != "float32":
        options["precision"] = precision
    if allow_tf32:
        options["allow_tf32"] = True
    compile_fn = partial(compile_fn or _default_compile(), **options)
    functions = (compile_fn, load_fn or _default_load())
    bench = _Bench(threads, protocol, clock or Clock(), say, *functions)
    results: list[ModelResult] = []
    errors: list[tuple[Source, Exception]] = []
    for done, (source, load) in enumerate(zip(sources, prepared, strict=True)):
        bench.place = f"{done + 1}/{len(prepared)} " if len(prepared) > 1 else ""
        try:
            results.append(bench.model(load(), peers, layers=layers))
        except Exception as error:  # noqa: BLE001 - what the other models gave is not lost with it
            errors.append((source, error))
    if errors and not results:
        raise errors[0][1]
    failures = tuple(Failure(name_of(source), told(error)) for source, error in errors)
    if gpu:
        peak, name = nominal_peak(target, bench.kinds), f"{gpu}, CUDA {gpu.driver}"
    else:  # others may have used the machine the first time
        peak, name = measure_peak(threads, again=True), ""
    machine = describe_machine(threads, [peer.module for peer in peers], gpu=name)
    return BenchReport(machine, target.name, protocol, peak, tuple(results), failures)


def name_of(source: Source) -> str:
    """What a model is called of which there is nothing else to say."""
    if isinstance(source, onnx.ModelProto):
        return source.graph.name or "model"
    return source.problem if isinstance(source, Layer) else str(source)


def _default_compile() -> CompileFunction:
    from tvmconv.compiler import compile

    return compile


def _default_load() -> LoadFunction:
    from tvmconv.runtime.loader import load

    return load


class _Bench:
    """What stays the same from one model to the next."""

    def __init__(
        self,
        threads: int,
        protocol: Protocol,
        clock: Clock,
        say: Progress,
        compile_fn: CompileFunction,
        load_fn: LoadFunction,
    ) -> None:
        self.threads, self.protocol, self.clock = threads, protocol, clock
        self.progress, self.place = say, ""
        self.compile, self.load = compile_fn, load_fn
        self.kinds: set[str] = set()  # what kernels multiply

    def say(self, line: str) -> None:
        """Report what is being done, and to which of the models."""
        self.progress(self.place + line)

    def model(self, model: BenchModel, peers: Sequence[Peer], *, layers: bool) -> ModelResult:
        """Benchmark one model."""
        with ExitStack() as stack:
            path = stack.enter_context(temporary_folder()) / "model.so"
            compile_s = self._compile(model, path)
            module, again = (self._load(path, stack) for _ in range(2))
            results, others = self._prepare(model, peers, stack)
            ours = [_ours(module, model, OURS), _ours(again, model, OURS + TWIN)]
            timings = self._time(model, ours, others, results)
            steps = profile_steps(module, model.inputs) if layers else ()
            work = work_of_problem(model.problem, module.metadata)
            macs = work.macs or macs_of_steps(module.metadata)
            self.kinds |= arithmetic_of_steps(module.metadata)
        return ModelResult(
            name=model.name,
            time_ms=timings[0].time_s * 1e3,
            blocks_ms=_ms(timings[0]),
            compile_s=compile_s,
            macs=macs,
            peers=tuple(results.values()),
            noise=spread(timings[0], timings[1]),
            steps=steps,
            origin=model.origin,
            work=work,
        )

    def _time(
        self,
        model: BenchModel,
        ours: Sequence[Contender],
        others: Sequence[Contender],
        results: dict[str, PeerResult],
    ) -> list[Timing]:
        """Compare and time; a library that fails meanwhile is left out, and all begins anew."""
        contenders = [*ours, *map(guarded, others)]
        try:
            self.say(f"{model.name}: comparing outputs")
            differences = compare(contenders)
            timings = measure_in_quiet(
                contenders,
                self.protocol,
                clock=self.clock,
                progress=lambda line: self.say(f"{model.name}: {line}"),
            )
        except PeerFailed as failed:
            results[failed.name] = PeerResult(failed.name, problem=str(failed))
            left = [contender for contender in others if contender.name != failed.name]
            return self._time(model, ours, left, results)
        for c, timing in zip(others, timings[len(ours) :], strict=True):
            results[c.name] = _peer_result(c, timing, timings[0], differences[c.name])
        return timings

    def _compile(self, model: BenchModel, path: Path) -> float:
        """Compile a model into a file, and give the seconds it took."""
        self.say(f"{model.name}: compiling")
        start = time.perf_counter()
        source: Any = model.proto
        if model.problem is not None:  # as itself: records of problems differ from networks'
            source = model.problem.text
        module = self.compile(source, params=model.weights or None)
        seconds = time.perf_counter() - start
        module.save(path)
        module.close()
        return seconds

    def _load(self, path: Path, stack: ExitStack) -> Runnable:
        """Load an artifact until the stack is closed."""
        module = self.load(path, self.threads)
        stack.callback(module.close)
        return module

    def _prepare(
        self, model: BenchModel, peers: Sequence[Peer], stack: ExitStack
    ) -> tuple[dict[str, PeerResult], list[Contender]]:
        """Make the libraries' contenders; those that refuse get their result at once."""
        results: dict[str, PeerResult] = {}
        contenders = []
        for peer in peers:
            self.say(f"{model.name}: preparing {peer.name}")
            results[peer.name] = PeerResult(peer.name)  # keeps the order in which they were given
            try:
                contender = peer.make(model.proto, model.inputs, self.threads)
            except PeerRefusal as refusal:
                results[peer.name] = PeerResult(peer.name, problem=str(refusal))
                continue
            except EnvironmentError_:
                raise
            except Exception as error:  # noqa: BLE001 - a library may fail in any way
                results[peer.name] = PeerResult(peer.name, problem=f"failed: {told(error)}")
                continue
            stack.callback(contender.close)
            contenders.append(contender)
        return results, contenders


def profile_steps(
    module: Runnable, inputs: Mapping[str, npt.NDArray[Any]], runs: int = PROFILE_RUNS
) -> tuple[StepTime, ...]:
    """Time every step of a network: medians over `runs` runs, after two that are not counted.

    A step's multiply-accumulates come from the ``steps`` of the artifact's metadata.
    """
    profiles = [module.profile(inputs) for _ in range(runs + 2)][2:]
    seconds = [statistics.median(run[i][1] for run in profiles) for i in range(len(profiles[0]))]
    total = sum(seconds) or 1.0
    steps = []
    entries = module.metadata["steps"]  # in the order of execution, like the profile
    for (name, _), s, entry in zip(profiles[0], seconds, entries, strict=True):
        steps.append(step_time(name, s, s / total, entry))
    return tuple(steps)


def step_time(name: str, seconds: float, share: float, entry: Mapping[str, Any]) -> StepTime:
    """One step: its time, its share of the whole, and what the metadata's entry says of it."""
    work = _work_of_step(entry)
    gflops = FLOP_PER_MAC * work.macs / seconds / 1e9 if work.macs and seconds > 0 else None
    return StepTime(name, work.kind, seconds * 1e6, share, work.macs, gflops, work)


def _ours(module: Runnable, model: BenchModel, name: str) -> Contender:
    inputs = dict(model.inputs)
    replay = module.replay if module.metadata.get("images") else None
    return Contender(name, lambda: module(inputs), version=version_of("tvmconv"), replay=replay)


def macs_of_steps(metadata: Mapping[str, Any]) -> int | None:
    """Multiply-accumulates of a network, where its steps' are known."""
    return sum(_work_of_step(step).macs or 0 for step in metadata["steps"]) or None


def work_of_problem(problem: Problem | None, metadata: Mapping[str, Any]) -> Work:
    """What a single problem takes; the artifact says by which algorithm it is computed."""
    if problem is None:
        return Work()
    named = (step["algorithm"] for step in metadata["steps"] if "algorithm" in step)
    algorithm = str(next(named, DIRECT))
    cost = (problem.macs or None, problem.flops, problem.bytes_moved)
    return Work(problem.op, *cost, algorithm)


def _work_of_step(step: Mapping[str, Any]) -> Work:
    """What a step takes, where the artifact says which problem it is, or at least its MACs."""
    kind, macs = str(step.get("kind", "")), step.get("macs") or None
    algorithm = str(step.get("algorithm", DIRECT))
    if "problem" in step:
        problem = Problem.parse(step["problem"])
        return Work(kind, problem.macs or None, problem.flops, problem.bytes_moved, algorithm)
    return Work(kind, macs, FLOP_PER_MAC * macs if macs else None, None, algorithm)


def _ms(timing: Timing) -> tuple[float, ...]:
    return tuple(seconds * 1e3 for seconds in timing.blocks_s)


def _peer_result(peer: Contender, timing: Timing, ours: Timing, problem: str | None) -> PeerResult:
    ratio = timing.time_s / ours.time_s
    return PeerResult(peer.name, timing.time_s * 1e3, ratio, _ms(timing), problem)
