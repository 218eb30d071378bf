"""Tuning and timing on a GPU: the emulated one, whose clock is this machine's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Result
from tests.kernels import problem_spec
from tvmconv.accuracy import check, random_inputs
from tvmconv.autoschedule.choose import Chooser
from tvmconv.autoschedule.log import Log
from tvmconv.autoschedule.measure import Measurer
from tvmconv.autoschedule.measure.gpu_stage import Buffer, Gpu
from tvmconv.autoschedule.record import Record
from tvmconv.autoschedule.tuner import Tools, tune
from tvmconv.autoschedule.workload import canonical
from tvmconv.bench.peak import arithmetic_of_steps
from tvmconv.bench.run import bench_models
from tvmconv.bench.static_gpu import gpu_static_report
from tvmconv.codegen.artifact import _describe_step
from tvmconv.codegen.kernels import candidates
from tvmconv.compiler import compile, lower_graph, open_logs
from tvmconv.cuda_emulator.emulation import emulated_images, emulation, on_this_host
from tvmconv.errors import EnvironmentError_, InputError
from tvmconv.frontend import load
from tvmconv.kernel import KernelSpec
from tvmconv.problem import Problem
from tvmconv.runtime.cuda import gpu_for, open_driver
from tvmconv.target import Target, load_target

BUILDER = "tvmconv.cuda_emulator.builder"
PROBLEM = "conv2d:1x16x6x6:16x3x3:padding=1:bias=true:activation=relu"


def spec_of(text: str, **options: Any) -> KernelSpec:
    return canonical(problem_spec(Problem.parse(text), **options))


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    made = on_this_host(load_target("a100"))
    with emulation(made):
        yield made


def test_candidates_are_verified_and_timed(target: Target) -> None:
    """Of halves, and with cold weights."""
    spec = spec_of(f"{PROBLEM}:dtype=float16")
    space = candidates(spec, target)
    chosen = [space[0], space[len(space) // 2]]
    with Measurer(target, jobs=2, cache="cold", cold_bytes=1 << 14, builder=BUILDER) as measurer:
        outcomes = list(measurer.measure(spec, chosen))
    assert [(o.status, o.message) for o in outcomes] == [("ok", "")] * len(chosen)
    assert all(time > 0 for o in outcomes for time in o.times_us)
    assert 0 < outcomes[0].error_ratio <= 1


def test_what_is_wrong_is_never_chosen(target: Target) -> None:
    """A candidate that ends the process is replaced, and the next ones run in another."""
    spec = spec_of(PROBLEM)
    chosen = candidates(spec, target)[:1] * 4
    with Measurer(target, jobs=1, builder="tests.faults.cuda_builder") as measurer:
        found = list(measurer.measure(spec, chosen))
    assert [outcome.status for outcome in found] == ["ok", "crashed", "wrong", "ok"]
    assert "CUDA_ERROR_ILLEGAL_ADDRESS" in found[1].message
    assert "elements are wrong" in found[2].message


def test_machine_code_is_built_by_forked_processes(target: Target) -> None:
    """NVRTC is loaded in the process that forks, which still has one thread; the emulated device
    refuses what it has made."""
    spec = spec_of(PROBLEM)
    with Measurer(target, jobs=2) as measurer:
        found = list(measurer.measure(spec, candidates(spec, target)[:2]))
        pid = measurer._station().crew.pid
        assert len(list(Path(f"/proc/{pid}/task").iterdir())) == 1
    assert [outcome.status for outcome in found] == ["crashed"] * 2
    assert all("the emulator takes no cubin" in outcome.message for outcome in found)


def test_what_is_written_beside_a_buffer_is_seen(target: Target) -> None:
    driver = open_driver()
    with driver.context():
        gpu = Gpu(driver)
        buffer = Buffer.holding(gpu, np.arange(3, dtype=np.float32))
        data, untouched = buffer.read()
        assert (data.view(np.float32) == [0, 1, 2]).all()
        assert untouched
        driver.fill(buffer.address + 12, 0, 1)
        assert not buffer.read()[1]
        del buffer


def test_tuning(target: Target, tmp_path: Path) -> None:
    """What is logged a compilation uses, if the space still has it; nothing is measured twice."""
    tools = Tools(target, 2, builder=BUILDER)
    report = tune(PROBLEM, target, trials=3, log=tmp_path, tools=tools)
    (log,) = tmp_path.glob("*/records.jsonl")
    records = [Record.parse(line) for line in Log(log).lines()]
    assert (log.parent.name, report.measured) == (target.name, 3)
    assert {record.status for record in records} == {"ok"}
    assert len({record.knobs for record in records}) == 3
    again = tune(PROBLEM, target, trials=3, log=tmp_path, tools=tools)
    assert (again.measured, again.known) == (0, 3)
    arrays, problem = random_inputs(Problem.parse(PROBLEM), 0), Problem.parse(PROBLEM)
    with compile(PROBLEM, target, log=tmp_path, images=emulated_images) as module:
        assert module.metadata["tuned_kernels"] == 1
        (got,) = module(arrays)
    assert check(problem, got, problem.reference(arrays), problem.magnitude(arrays)).passed
    unknown = tuple((name, value + 1) for name, value in records[0].knobs)
    log.write_bytes(replace(records[0], knobs=unknown, times_us=(1e-3,)).line())
    with compile(PROBLEM, target, log=tmp_path, images=emulated_images) as module:
        assert module.metadata["tuned_kernels"] == 0
    found = [Chooser.of(target, open_logs(tmp_path, target)).schedule(spec_of(PROBLEM))]
    assert found == candidates(spec_of(PROBLEM), target)[:1]


def test_benchmark(target: Target) -> None:
    build = partial(compile, images=emulated_images)
    report = bench_models([PROBLEM], target=target, rounds=1, layers=True, compile_fn=build)
    (model,) = report.models
    assert report.machine.gpu == "emulated sm_80 (sm_80), CUDA 12.8"
    assert report.lines()[0] == report.machine.gpu
    assert model.time_ms > 0
    assert [step.kind for step in model.steps] == ["pack", "conv", "unpack"]
    assert not report.peak.measured
    assert report.peak.at(1).gflops == 1e3 * target.gpu.f32_tflops


def test_the_peak_is_that_of_what_is_multiplied(target: Target) -> None:
    """Whatever models are called, and where TF32 is allowed but not used."""
    image, product = "conv2d:1x3x9x9:16x3x3", "conv2d:1x32x8x8:32x1x1"
    for problem, tf32, kind in (
        (product, False, "float32"),
        (product, True, "tf32"),
        (image, True, "float32"),
        (f"{product}:dtype=float16", False, "float16"),
        (f"{product}:dtype=bfloat16", False, "bfloat16"),
    ):
        chooser = Chooser.of(target)
        chooser.allow_tf32 = tf32
        lowered = lower_graph(load(problem), target, chooser=chooser)
        steps = [_describe_step(step) for step in lowered.plan.steps]
        assert arithmetic_of_steps({"steps": steps}) == {kind}
    tools = Tools(target, 1, allow_tf32=True)
    tasks, _ = tools.extract([product, image, f"{product}:dtype=float16"], None)
    peaks = [tools.peak(some).gflops for some in (tasks, tasks[:2], tasks[1:2], [])]
    gpu = target.gpu
    tflops = (gpu.f16_tflops, gpu.tf32_tflops, gpu.f32_tflops, gpu.f32_tflops)
    assert peaks == [1e3 * one for one in tflops]


def test_libraries_of_the_cpu_are_no_rivals(target: Target) -> None:
    with pytest.raises(InputError, match="runs on the CPU, not on a GPU"):
        bench_models([PROBLEM], target=target, against=["onnxruntime"])


def test_halves_on_a_gpu_alone() -> None:
    with pytest.raises(InputError, match="precision: kernels of x86-64-v3 are tuned in float32"):
        tune(PROBLEM, "x86-64-v3", precision="float16")
    with pytest.raises(InputError, match="tuned in float32 or float16"):
        tune(PROBLEM, "h100", precision="bfloat16")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--target", "h100", "--precision", "bfloat16"),
         "precision: kernels of cuda-sm90 are scored in float32 or float16"),
        (("--target", "rpi4", "--precision", "float16"),
         "precision: kernels of cortex-a72 are scored in float32"),
        (("--target", "rpi4", "--allow-tf32"), "cortex-a72: TF32 is for GPUs with tensor cores"),
        (("--target", "h100"), f"{PROBLEM}:dtype=bfloat16: no kernels to score"),
    ],
)  # fmt: skip
def test_what_is_not_scored(
    tvmconv: Callable[..., Result], options: tuple[str, ...], message: str
) -> None:
    result = tvmconv("bench", "--static", f"{PROBLEM}:dtype=bfloat16", *options)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"tvmconv: {message}")


def test_only_a_gpu_replays(target: Target) -> None:
    with compile(PROBLEM, target, images=emulated_images) as module:
        module(random_inputs(Problem.parse(PROBLEM), 0))
        assert 0 < module.replay(2) < 10
    with compile("max_pool2d:1x16x4x4:2x2") as module, pytest.raises(InputError, match="for GPUs"):
        module.replay(1)


@pytest.mark.parametrize("command", ["tune", "bench"])
def test_no_driver(
    command: str, tvmconv: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TVMCONV_CUDA_DRIVER", "/nosuch/libcuda.so.1")
    result = tvmconv(command, PROBLEM, "--target", "h100")
    assert (result.code, result.out) == (4, "")
    told = "tvmconv: cuda-sm90: this machine has no CUDA driver (/nosuch/libcuda.so.1)"
    assert result.err.startswith(told)
    assert result.err.count("\n") == 1


def test_a_device_that_the_code_does_not_fit(target: Target) -> None:
    """The emulated one has the capability 8.0."""
    with pytest.raises(
        EnvironmentError_, match=r"cuda-sm90: this machine has emulated sm_80 \(sm_80\), "
    ):
        gpu_for(load_target("h100"))
    assert gpu_for(load_target("cuda"))[1].gpu.cubins == (80,)


def test_predictions_without_a_device(tvmconv: Callable[..., Result]) -> None:
    """No spills, and not much worse than the roofline where there is enough to do."""
    layers = [
        f"conv2d:8x64x56x56:64x3x3:padding=1:bias=true:dtype={d}" for d in ("float16", "float32")
    ]
    for name in ("a100", "h100"):
        report = gpu_static_report(layers, target=load_target(name), tuned=False)
        for score in report.scores:
            assert score.spill_bytes == 0
            assert score.registers <= 255
            assert 0 < score.occupancy <= 1
            assert 1 <= score.ratio < 8
    result = tvmconv("bench", "--static", "--target", "a100", layers[0], "--untuned")
    assert result.code == 0
    assert layers[0] in result.out
    assert "1 kernels for cuda-sm80 by the cost model" in result.err
