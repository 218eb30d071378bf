"""`tvmconv tune`: options, output, errors, interrupts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.tune_fakes import TARGET, conv, line, network, one_task
from tvmconv.autoschedule.benches import Benches, hold_interrupts
from tvmconv.autoschedule.session import Event
from tvmconv.autoschedule.tuner import tune
from tvmconv.cli.tune import status_line
from tvmconv.errors import InputError
from tvmconv.host import require_runnable
from tvmconv.layers import suite
from tvmconv.target import targets

PROBLEM = "conv2d:1x3x8x8:4x3x3"


@pytest.fixture
def tuned(stub: Callable[..., None], tmp_path: Path) -> dict[str, Any]:
    """Put a run with a fake measurer in the place of the real one; what it was asked for."""
    seen: dict[str, Any] = {}

    def run(models: Any, target: Any, **options: Any) -> Any:
        seen.update(options, models=models, target=target)
        tools: Any = one_task(line(30, lambda x: 100.0 - x))
        log, progress = tmp_path / "log", options["progress"]
        return tune("net", TARGET, trials=20, log=log, progress=progress, tools=tools)

    stub("tvmconv.autoschedule.tuner", tune=run)
    return seen


def test_options(tvmconv: Callable[..., Any], tuned: dict[str, Any], tmp_path: Path) -> None:
    result = tvmconv(
        *("tune", PROBLEM, "--target", "zen3", "--trials", 20, "--time-budget", "1.5m"),
        *("--log", tmp_path, "--jobs", 3, "--threads", 2, "--batch", 4),
    )
    assert result.code == 0
    del tuned["progress"]
    assert tuned == {
        "models": [PROBLEM],
        "target": targets()["znver3"],
        "trials": 20,
        "time_budget": 90,
        "log": tmp_path,
        "jobs": 3,
        "threads": 2,
        "batch": 4,
        "runner": None,
        "static": False,
        "precision": "float32",
        "allow_tf32": False,
    }


def test_output(tvmconv: Callable[..., Any], tuned: dict[str, Any], tmp_path: Path) -> None:
    result = tvmconv("tune", PROBLEM)
    assert result.err.count("\n") == 1
    assert result.err.startswith("[1/1] conv2d:1x16x8x8:16x1x1: 100.0 → ")
    assert "20 candidates measured" in result.out
    assert "untuned µs" in result.out
    assert "0 candidates measured in 0 s, 20 known before" in tvmconv("tune", PROBLEM).out


def test_what_is_skipped_is_one_line(
    tvmconv: Callable[..., Any], stub: Callable[..., None], tmp_path: Path
) -> None:
    tools = network(x3=8, x1=16)

    def run(models: Any, target: Any, **options: Any) -> Any:
        given: Any = tools
        return tune(
            "net", TARGET, trials=20, log=tmp_path, progress=options["progress"], tools=given
        )

    stub("tvmconv.autoschedule.tuner", tune=run)
    tools.bench.no_trials[conv(8).text] = "no reference"
    result = tvmconv("tune", PROBLEM)
    assert result.code == 0
    first, second = result.err.splitlines()
    assert first == "[1/2] conv2d:1x16x8x8:16x1x1: skipped: no reference"
    assert second.startswith("[2/2] conv2d:1x16x16x16:16x1x1: ")
    assert "skipped: conv2d:1x16x8x8:16x1x1: no reference" in result.out
    tools.bench.no_trials[conv(16).text] = "no reference"
    result = tvmconv("tune", PROBLEM)
    assert (result.code, result.out) == (4, "")
    assert result.err.splitlines()[-1].startswith("tvmconv: conv2d:1x16x8x8:16x1x1: no reference")


def test_json(tvmconv: Callable[..., Any], tuned: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "f.json"
    assert tvmconv("tune", PROBLEM, "--json", file).code == 0
    written = json.loads(file.read_text())
    assert (written["measured"], written["known"]) == (20, 0)
    assert written["tasks"][0]["curve"][0]["time_us"] == 100
    assert json.loads(tvmconv("tune", PROBLEM, "--json", "-").out)["measured"] == 0


def test_suite(tvmconv: Callable[..., Any], tuned: dict[str, Any]) -> None:
    assert tvmconv("tune", "--suite", "six").code == 0
    assert tuned["models"] == list(suite("six"))


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("5m", 300), ("1h", 3600), ("0.5m", 30)]
)
def test_durations(
    tvmconv: Callable[..., Any], tuned: dict[str, Any], text: str, seconds: float
) -> None:
    assert tvmconv("tune", PROBLEM, "--time-budget", text).code == 0
    assert tuned["time_budget"] == seconds


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "tvmconv tune: Missing argument 'MODEL.onnx|PROBLEM...' or --suite"),
        (("nosuch.onnx",), 2, "tvmconv: nosuch.onnx: no such file"),
        ((f"{PROBLEM}:dilation=0",), 2, "dilation"),
        ((PROBLEM, "--target", "znver33"), 2, "did you mean znver3"),
        ((PROBLEM, "--trials", "0"), 2, "'--trials': 0 is not in the range"),
        ((PROBLEM, "--jobs", "0"), 2, "'--jobs': 0 is not in the range"),
        ((PROBLEM, "--time-budget", "5 minutes"), 2, "'5 minutes' is no time such as 90s, 5m or"),
        ((PROBLEM, "--time-budget", "0s"), 2, "'0s' is no time"),
        ((PROBLEM, "--time-budget", "-5m"), 2, "'-5m' is no time"),
        ((PROBLEM, "--time-budget", "nan"), 2, "'nan' is no time"),
        ((PROBLEM, "--json", "nosuch/f.json"), 2, "nosuch is not a directory"),
        ((PROBLEM, "--report", "nosuch/f.html"), 2, "nosuch is not a directory"),
        ((PROBLEM, "--log", "/proc/log"), 4, "tvmconv: /proc/log/"),
        ((PROBLEM, "--threads", "1024"), 2, "threads: 1024 is not 1 to "),
        # before anything is connected to
        ((PROBLEM, "--static", "--rpc", "nosuch.invalid:9"), 2, "static: estimates need no runner"),
        (
            (PROBLEM, "--target", "h100", "--rpc", "nosuch.invalid:9"),
            2,
            "runner: a GPU is measured",
        ),
        ((PROBLEM, "--target", "h100", "--static"), 2, "static: cuda-sm90 has no model of LLVM's"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, tuple) else "",
)
def test_wrong_arguments(
    tvmconv: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = tvmconv("tune", *arguments)
    assert (result.code, result.out) == (code, "")
    assert message in result.err
    assert result.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


CPUINFO = "vendor_id : AuthenticAMD\ncpu family : 25\nmodel : 1\nmodel name : A\nflags : {}\n"


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("x86-64-v2", "pni ssse3 sse4_1 sse4_2 popcnt cx16 lahf_lm", ""),
        ("x86-64-v4", "pni ssse3 sse4_1 sse4_2 popcnt", "this machine lacks .*avx512f"),
        ("znver3", "avx2 fma", "this machine lacks .*bmi2"),
    ],
)
def test_only_what_this_machine_can_run(
    tmp_path: Path, name: str, flags: str, message: str
) -> None:
    target = targets()[name]
    cpuinfo = tmp_path / "cpuinfo"
    if not message and target.match is not None:
        from tvmconv.host import _FLAGS

        flags = " ".join(_FLAGS.get(flag, flag) for flag in target.match.flags)
    cpuinfo.write_text(CPUINFO.format(flags))
    if message:
        with pytest.raises(InputError, match=message):
            require_runnable(target, cpuinfo)
    else:
        require_runnable(target, cpuinfo)


def test_another_architecture_is_refused() -> None:
    llvm = replace(TARGET.llvm, triple="sparc-linux")
    zig = replace(TARGET.zig, triple="sparc-linux")
    with pytest.raises(InputError, match="is for sparc, and this machine is"):
        require_runnable(replace(TARGET, arch="sparc", llvm=llvm, zig=zig))


def test_status_line() -> None:
    event = Event("tuning", "conv", 2, 5, 31, 41.26, 50.0, 150.2, 0.751, 10.0, 95.0, 0.3)
    assert status_line(event) == (
        "tuning task 2 of 5, 31 trials, best 41.3 µs, 150 GFLOP/s, 75% of peak, 1:35 left"
    )
    early = replace(event, best_us=float("inf"), gflops=0.0, peak_share=None, eta_s=None)
    assert status_line(early) == "tuning task 2 of 5, 31 trials"


def test_an_interrupt_waits_until_all_is_closed() -> None:
    order: list[str] = []

    class Slow:
        def __enter__(self) -> Any:
            return SimpleNamespace()

        def __exit__(self, *_: object) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            order.append("closed")

    def work() -> None:
        make: Any = lambda cold_bytes: Slow()  # noqa: E731
        with Benches(make) as benches:
            assert benches.get(0) is benches.get(0)
            benches.get(1)
            order.append("used")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert order == ["used", "closed", "closed"]


def test_interrupts_are_only_held_in_the_main_thread() -> None:
    found: list[bool] = []

    def body() -> None:
        with hold_interrupts():
            found.append(True)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert found == [True]


INTERRUPTED = """
import sys, time
from pathlib import Path
from tests.tune_fakes import FakeBench, TARGET, line, one_task
from tvmconv.autoschedule import tuner
from tvmconv.cli import main
class Bench(FakeBench):
    def measure(self, *arguments):
        for outcome in super().measure(*arguments):
            yield outcome
            if len(self.measured) == 7:
                print("started", flush=True)
                time.sleep(60)
class Slow:
    def __init__(self, bench): self.bench = bench
    def __enter__(self): return self.bench
    def __exit__(self, *_):
        print("closing", flush=True)
        sys.stdin.readline()
        Path("closed").touch()
space, times = line(90, lambda x: 100.0 - x)
tools = one_task((space, times))
tools.bench = Bench(tools.bench.times)
tools.open_bench = lambda cold_bytes: Slow(tools.bench)
tune = tuner.tune
tuner.tune = lambda models, target, **options: tune("net", TARGET, **options, tools=tools)
sys.exit(main(["tune", "conv2d:1x3x8x8:4x3x3", "--log", "log"]))
"""


@pytest.mark.parametrize("twice", [False, True])
def test_interrupt_keeps_everything_and_ends_with_130(
    tmp_path: Path, repository: Path, twice: bool
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(repository)},
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "closing\n"
        if twice:
            process.send_signal(signal.SIGINT)
        process.stdin.write("\n")
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "tvmconv: interrupted\n")
    assert (tmp_path / "closed").exists()
    (log,) = (tmp_path / "log").rglob("*.jsonl")
    assert log.read_bytes().count(b"\n") == 7
