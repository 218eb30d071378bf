"""A whole benchmark with a compiler and a clock that are made up."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from rich.console import Console

from tvmconv.bench import peers as peers_module
from tvmconv.bench import run as run_module
from tvmconv.bench.harness import Clock, Contender, Spread
from tvmconv.bench.layer import problem_to_onnx
from tvmconv.bench.model import load_bench_model
from tvmconv.bench.peak import Peak, PeakPoint
from tvmconv.bench.peers import Peer, PeerRefusal
from tvmconv.bench.report import BenchReport, Failure, Work, geometric_mean
from tvmconv.bench.run import bench_models, profile_steps
from tvmconv.bench.tables import percent, show
from tvmconv.errors import EnvironmentError_, InputError
from tvmconv.layers import Layer
from tvmconv.problem import Problem
from tvmconv.report.bench import bench_page
from tvmconv.target import load_target

LAYER = "conv2d:1x4x6x6:8x3x3:padding=1:bias=true:activation=relu"
MACS = 8 * 6 * 6 * 4 * 3 * 3


class World:
    """Time that passes only when something runs: ours takes 1 ms, `slow` 2 ms, `wrong` 0.5 ms."""

    def __init__(self) -> None:
        self.time = 0.0
        self.clock = Clock(now=lambda: self.time, sleep=self.spend)
        self.models: dict[str, onnx.ModelProto] = {}
        self.open = 0
        self.options: dict[str, Any] = {}

    def spend(self, seconds: float) -> None:
        self.time += seconds

    def compile(self, model: Any, *, params: Any, **options: Any) -> Module:
        assert set(options) == {"target", "threads", "log", "tuned"}
        self.options = options
        if isinstance(model, str):
            proto, _ = problem_to_onnx(Problem.parse(model))
            constants = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
            assert all(np.array_equal(constants[name], array) for name, array in params.items())
            return Module(self, proto)
        assert params is None
        return Module(self, model)

    def load(self, path: Path, threads: int) -> Module:
        assert threads == 2
        return Module(self, onnx.load(path))

    def contender(self, name: str, seconds: float, factor: float = 1.0) -> Any:
        def make(model: onnx.ModelProto, inputs: Mapping[str, Any], threads: int) -> Contender:
            assert threads == 2
            (y,) = ReferenceEvaluator(model).run(None, dict(inputs))
            self.open += 1

            def run() -> list[Any]:
                self.spend(seconds)
                return [y * np.float32(factor)]

            return Contender(name, run, self.close, "1.0")

        return make

    def close(self) -> None:
        self.open -= 1


class Module:
    """What the compiler gives, computed by ONNX's reference."""

    def __init__(self, world: World, model: onnx.ModelProto) -> None:
        self.world, self.proto = world, model
        self.outputs: list[Any] = []
        known = {"name": "a", "kind": "conv", "macs": MACS}
        self.metadata: dict[str, Any] = {"steps": [known, {"name": "b", "kind": "copy"}]}
        world.open += 1

    def __call__(self, inputs: Mapping[str, Any]) -> list[Any]:
        self.world.spend(1e-3)
        if not self.outputs:
            self.outputs = list(ReferenceEvaluator(self.proto).run(None, dict(inputs)))
        return self.outputs

    def save(self, path: Path) -> None:
        onnx.save(self.proto, path)

    def close(self) -> None:
        self.world.open -= 1

    def profile(self, inputs: Mapping[str, Any]) -> list[tuple[str, float]]:
        return [("a", 3e-6), ("b", 1e-6)]


def refuse(model: onnx.ModelProto, inputs: Mapping[str, Any], threads: int) -> Contender:
    raise PeerRefusal("picky: runs nothing")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    table = {
        "slow": Peer("slow", "numpy", world.contender("slow", 2e-3)),
        "wrong": Peer("wrong", "numpy", world.contender("wrong", 0.5e-3, factor=1.01)),
        "picky": Peer("picky", "numpy", refuse),
        "absent": Peer("absent", "no_such_module", refuse),
    }
    monkeypatch.setattr(peers_module, "PEERS", table)
    peak = Peak(64, (PeakPoint(2, 1.0, 30.0, 20.0),))
    monkeypatch.setattr(run_module, "measure_peak", lambda threads, again=False: peak)
    return world


def bench(world: World, *against: str, **options: Any) -> BenchReport:
    models = options.pop("models", [LAYER])
    return bench_models(
        models,
        target=load_target("x86-64-v3"),
        against=against,
        threads=2,
        compile_fn=world.compile,
        load_fn=world.load,
        clock=world.clock,
        **options,
    )


def render(report: BenchReport) -> str:
    console = Console(width=200, file=io.StringIO(), markup=False)
    for part in (*report.lines(), *report.tables()):
        console.print(part)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_ratios_noise_and_share_of_peak(world: World) -> None:
    report = bench(world, "slow", "wrong", "picky")
    (model,) = report.models
    assert model.name == LAYER
    assert model.time_ms == pytest.approx(1.0)
    assert len(model.blocks_ms) == 6
    assert model.gflops == pytest.approx(2 * MACS / 1e-3 / 1e9)
    assert report.share_of_peak(model.gflops) == pytest.approx(model.gflops)
    assert model.noise.ratio == pytest.approx(1.0)
    slow, wrong, picky = model.peers
    assert (slow.name, slow.problem) == ("slow", None)
    assert slow.ratio == pytest.approx(2.0)
    assert (wrong.name, wrong.ratio) == ("wrong", pytest.approx(0.5))
    assert "differ, by up to" in str(wrong.problem)
    assert (picky.time_ms, picky.problem) == (None, "picky: runs nothing")
    assert world.open == 0


def test_only_agreeing_outputs_count_and_the_rest_is_said(world: World) -> None:
    report = bench(world, "slow", "wrong", "picky", models=[LAYER, LAYER])
    assert report.geometric_mean("slow") == pytest.approx(2.0)
    assert report.geometric_mean("wrong") is None
    assert report.geometric_mean("picky") is None
    assert len(report.problems) == 4
    assert len(report.disagreements) == 2
    assert all("wrong" in line for line in report.disagreements)


def test_tables_and_lines(world: World) -> None:
    text = render(bench(world, "slow", "wrong", "picky", models=[LAYER, LAYER], layers=True))
    for expected in (
        "A/A " + LAYER + ": 1.000 (1.00 … 1.00 by round)",
        "measured peak: 1 GFLOP/s, read 30.0 GB/s, triad 20.0 GB/s (2 threads)",
        "6 rounds of blocks of 0.2 s after 2 warm-up calls, 0.1 s pauses",
        "0.500 ms 0.50× (differs)",
        "2.00 ms 2.00×",
        "refused",
        "geometric mean",
        "note: " + LAYER + ": picky: picky: runs nothing",
        "target x86-64-v3",
        "numpy " + np.__version__,
    ):
        assert expected in text
    assert text.count("steps of " + LAYER) == 2
    assert [line.split() for line in text.splitlines() if line.startswith("a ")] == (
        [["a", "conv", "3.0", "75%", "0.0104", "6.91", "691%"]] * 2
    )


def test_json_round_trips_and_has_everything(world: World) -> None:
    data = json.loads(json.dumps(bench(world, "slow", "picky", layers=True).to_json()))
    assert data["protocol"] == {"rounds": 6, "block_s": 0.2, "pause_s": 0.1, "warmup": 2}
    assert data["geometric_mean"] == {"slow": pytest.approx(2.0), "picky": None}
    assert data["machine"]["threads"] == 2
    assert data["peak"]["points"][0]["gflops"] == 1.0
    (model,) = data["models"]
    assert model["noise"]["ratio"] == pytest.approx(1.0)
    assert model["share_of_peak"] == pytest.approx(model["gflops"])
    assert model["steps"][0] == {
        "name": "a",
        "kind": "conv",
        "time_us": pytest.approx(3.0),
        "share": pytest.approx(0.75),
        "macs": MACS,
        "gflops": pytest.approx(2 * MACS / 3e-6 / 1e9),
        "work": {
            "kind": "conv",
            "macs": MACS,
            "flops": 2 * MACS,
            "bytes": None,
            "algorithm": "direct",
        },
    }
    assert model["steps"][1]["macs"] is None


def test_a_network_file(world: World, tmp_path: Path) -> None:
    model = load_bench_model(LAYER).proto
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "net.onnx")
    (result,) = bench(world, models=tmp_path / "net.onnx").models
    assert (result.name, result.macs, result.peers) == ("net", MACS, ())


def test_rounds_and_progress(world: World) -> None:
    lines: list[str] = []
    report = bench(world, "slow", rounds=2, progress=lines.append)
    assert len(report.models[0].blocks_ms) == 2
    assert lines[:2] == ["measuring the machine's peak", LAYER + ": compiling"]
    assert LAYER + ": round 2/2: slow" in lines


def test_refusals_come_before_any_work(world: World) -> None:
    with pytest.raises(InputError, match=r"unknown peer 'slo'.*slow"):
        bench(world, "slo")
    with pytest.raises(EnvironmentError_, match="absent: no_such_module is not installed"):
        bench(world, "absent")
    with pytest.raises(InputError, match="rounds must be at least 1, got 0"):
        bench(world, rounds=0)
    with pytest.raises(InputError, match="no such file"):
        bench(world, models=[LAYER, "nosuch.onnx"])
    assert world.time == 0.0


def test_everything_is_closed_when_something_fails(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> Any:
        raise EnvironmentError_("broken")

    monkeypatch.setitem(peers_module.PEERS, "picky", Peer("picky", "numpy", fail))
    with pytest.raises(EnvironmentError_, match="broken"):
        bench(world, "slow", "picky")
    assert world.open == 0


def test_a_row_that_fails_does_not_end_the_others(world: World) -> None:
    original, loaded = world.load, []

    def load(path: Path, threads: int) -> Module:
        loaded.append(path)
        if len(loaded) == 2:  # of the first row, whose other instance is open
            raise MemoryError
        return original(path, threads)

    world.load = load  # type: ignore[method-assign]
    report = bench(world, "slow", models=[LAYER, LAYER, Layer("net:conv*2", LARGE)])
    assert [model.name for model in report.models] == [LAYER, LARGE]
    assert report.failures == (Failure(LAYER, "MemoryError"),)
    assert report.disagreements == []
    assert f"note: {LAYER}: MemoryError" in report.lines()
    data = json.loads(json.dumps(report.to_json()))
    assert data["failures"] == [{"name": LAYER, "problem": "MemoryError"}]
    assert report.geometric_mean("slow") == pytest.approx(2.0)
    assert world.open == 0


@pytest.mark.parametrize("error", [MemoryError(), EnvironmentError_("broken"), ValueError("no")])
def test_rows_that_all_fail_are_an_error(world: World, error: Exception) -> None:
    def fail(*arguments: object) -> Any:
        raise error

    world.load = fail  # type: ignore[method-assign]
    with pytest.raises(type(error)):
        bench(world, models=[LAYER, LAYER])
    assert world.open == 0


@pytest.mark.parametrize("calls", [0, 1, 7])
def test_a_peer_that_fails_is_left_out(
    world: World, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    """When it is made, when outputs are compared, or while it is timed."""
    make = world.contender("weak", 1e-3)

    def weak(*arguments: Any) -> Contender:
        if not calls:
            raise RuntimeError("first\nno such kernel")
        contender, left = make(*arguments), iter(range(1, calls))

        def run() -> Any:
            if next(left, None) is None:
                raise RuntimeError("first\nno such kernel")
            return contender.run()

        return replace(contender, run=run)

    monkeypatch.setitem(peers_module.PEERS, "weak", Peer("weak", "numpy", weak))
    report = bench(world, "weak", "slow", models=[LAYER, LAYER])
    for model in report.models:
        failed, slow = model.peers
        assert failed.problem == "failed: RuntimeError: no such kernel"
        assert (failed.time_ms, failed.ratio) == (None, None)
        assert (slow.name, slow.ratio) == ("slow", pytest.approx(2.0))
        assert model.fastest == slow
    assert (report.failures, report.disagreements, len(report.problems)) == ((), [], 2)
    assert world.open == 0


def test_a_peer_whose_output_differs_is_never_the_fastest(world: World) -> None:
    """Not in the row, in the means, in the ranking, in the table or on the page."""
    report = bench(world, "slow", "wrong", models=[LAYER, LAYER])
    assert [m.fastest.name for m in report.models if m.fastest] == ["slow"] * 2
    assert report.fastest_mean == report.geometric_mean("slow") == pytest.approx(2.0)
    assert "geometric mean 2.00× of 2, 0 below" in "\n".join(report.lines())
    page = bench_page(report.to_json())
    assert page.tiles[1].value == "2.00×"
    only = bench(world, "wrong", models=[LAYER, LAYER])
    assert [model.fastest for model in only.models] == [None, None]
    assert (only.fastest_mean, only.ranking) == (None, [])
    assert "×" not in bench_page(only.to_json()).tiles[1].value


def test_profile_is_a_median_and_ignores_the_first_runs(world: World) -> None:
    class Unsteady(Module):
        times = iter([9e-3, 9e-3, 1e-3, 5e-3, 1e-3])

        def profile(self, inputs: Mapping[str, Any]) -> list[tuple[str, float]]:
            return [("a", next(self.times)), ("b", 0.0)]

    step, _ = profile_steps(Unsteady(world, onnx.ModelProto()), {}, runs=3)
    assert step.time_us == pytest.approx(1e3)
    assert step.share == 1.0


@pytest.mark.parametrize(
    ("value", "text"),
    [(123.4, "123"), (12.34, "12.3"), (1.234, "1.23"), (0.01234, "0.0123"), (0.0, "0"), (None, "")],
)
def test_three_digits(value: float | None, text: str) -> None:
    assert show(value) == text


def test_small_things() -> None:
    assert percent(0.856) == "86%"
    assert percent(None) == ""
    assert geometric_mean([1.0, 4.0]) == pytest.approx(2.0)
    assert geometric_mean([]) is None


@pytest.mark.parametrize(
    ("time_ms", "ratio", "noisy"),
    [
        (1.0, 1.09, False),
        (1.0, 1.12, True),
        (1.0, 0.8, True),
        (0.1, 1.12, False),
        (0.1, 1.2, True),
        (0.1, 0.9, False),
    ],
)
def test_a_noisy_machine_is_named(world: World, time_ms: float, ratio: float, noisy: bool) -> None:
    report = bench(world)
    noise = Spread(ratio, 0.5, 1.5)
    model = replace(report.models[0], time_ms=time_ms, noise=noise)
    assert model.noisy is noisy
    assert any("NOISY" in line for line in replace(report, models=(model,)).lines()) is noisy


LARGE = "conv2d:1x64x56x56:64x3x3:padding=1"


def suite_report(world: World, ratios: list[float]) -> BenchReport:
    """A report of as many rows, the peers' times made up."""
    row = replace(bench(world, "slow", models=[Layer("net:conv*2", LARGE)]).models[0], time_ms=2.0)
    rows = [
        replace(row, origin=f"net:{k}", peers=(replace(row.peers[0], ratio=r, problem=None),))
        for k, r in enumerate(ratios)
    ]
    return replace(bench(world), models=tuple(rows))


def test_a_suites_rows_have_origin_work_and_shares(world: World) -> None:
    report = bench(world, "slow", "wrong", models=[Layer("net:conv*2", LARGE), LAYER])
    row, other = report.models
    assert (row.origin, row.name, other.origin) == ("net:conv*2", LARGE, "")
    problem = Problem.parse(LARGE)
    flops, moved = problem.flops, problem.bytes_moved
    assert row.work == Work("conv", problem.macs, flops, moved, "direct")
    assert (row.large_direct, other.large_direct) == (True, False)
    assert row.gb_s == pytest.approx(moved / 1e-3 / 1e9)
    assert report.share_of_bandwidth(row.gb_s) == pytest.approx(moved / 1e-3 / 30e9)
    assert row.fastest is not None
    assert row.fastest.name == "slow"  # the other's output differs
    assert report.large_direct_share == pytest.approx(flops / 1e-3 / 1e9)
    data = json.loads(json.dumps(report.to_json()))
    assert data["models"][0]["fastest"]["ratio"] == pytest.approx(2.0)
    assert data["models"][0]["work"]["bytes"] == moved
    assert data["fastest_mean"] == pytest.approx(2.0)
    assert data["lines"] == report.lines()
    assert "net:conv*2  " + LARGE in render(report)


def test_products_of_bytes_have_no_share_of_the_fma_peak(world: World) -> None:
    report = bench(world, models=["qconv2d:1x64x14x14:64x3x3:scale=0.001"])
    (row,) = report.models
    assert row.gflops is not None
    assert row.work.kind == "qconv"
    assert report.share_of_peak(row.gflops, row.work) is None
    assert report.to_json()["models"][0]["share_of_peak"] is None


def test_the_artifact_says_the_algorithm(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    step = {"name": "a", "kind": "conv", "problem": LARGE, "algorithm": "winograd4"}
    original = Module.__init__

    def initialise(self: Module, world: World, model: onnx.ModelProto) -> None:
        original(self, world, model)
        self.metadata = {"steps": [step, {"name": "b", "kind": "unpack"}]}

    monkeypatch.setattr(Module, "__init__", initialise)
    report = bench(world, models=[LARGE], layers=True)
    (row,) = report.models
    assert (row.work.algorithm, row.large_direct) == ("winograd4", False)
    assert report.large_direct_share is None
    assert row.steps[0].work == row.work
    assert row.steps[1].work == Work("unpack")


def test_summary_counts_and_names_the_worst(world: World) -> None:
    report = suite_report(world, [2.0, 0.9, 1.0, 0.5] + [4.0] * 9)
    assert [m.origin for m in report.ranking[:3]] == ["net:3", "net:1", "net:2"]
    lines = report.lines()
    assert report.fastest_mean == pytest.approx(geometric_mean([2.0, 0.9, 1.0, 0.5] + [4.0] * 9))
    assert "geometric mean 2.59× of 13, 2 below 0.95×" in next(x for x in lines if "fastest" in x)
    worst = next(line for line in lines if line.startswith("worst: "))
    assert worst.startswith("worst: net:3 0.50×, net:1 0.90×, net:2 1.00×")
    assert any("direct convolutions with at least 100 MFLOP" in line for line in lines)
    assert not any(line.startswith("A/A") for line in lines)  # quiet, and too many
    noisy = replace(report.models[0], noise=Spread(2.0, 1.0, 3.0))
    lines = replace(report, models=(noisy, *report.models[1:])).lines()
    assert sum("NOISY" in line for line in lines) == 1


def test_logs_are_passed_on_and_progress_counts(world: World, tmp_path: Path) -> None:
    lines: list[str] = []
    bench(world, models=[LAYER, LAYER], log=[tmp_path], tuned=False, progress=lines.append)
    assert world.options["log"] == [tmp_path]
    assert world.options["tuned"] is False
    assert lines[1] == "1/2 " + LAYER + ": compiling"
    assert "2/2 " + LAYER + ": compiling" in lines
