"""The script for a day with a GPU, rehearsed on the emulated one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest

from tests.benchmarks import gpu_day
from tests.benchmarks.cuda_layers import layers_of
from tests.benchmarks.limited import limited
from tvmconv.target import load_target


@pytest.mark.slow
def test_every_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In this process, which has imported everything; PyTorch need not be there."""
    options = Namespace(target="a100", dry_run=True, minutes=10.0, out=tmp_path)
    for name in gpu_day.STEPS:
        gpu_day.run_step(name, options)
    lines = (tmp_path / "records.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    kinds = [record["kind"] for record in records if record.get("step") != "torch"]
    assert {*kinds} - {"torch"} == {"device", "verify", "tune", "layer", "network"}
    assert all(record["ok"] for record in records if record["kind"] == "verify")
    tuned = [record["tuned"] for record in records if record["kind"] == "network"]
    assert max(tuned) > 0
    assert (tmp_path / "best.jsonl").stat().st_size > 0
    capsys.readouterr()
    gpu_day.table(gpu_day.Day(load_target("a100"), tmp_path, 0.0, dry=True))
    shown = capsys.readouterr().out
    assert "emulated sm_80" in shown
    assert shown.count("geometric mean of ") == 3  # layers in two precisions, a network in one


def test_steps_are_processes_with_deadlines(tmp_path: Path) -> None:
    """What is late or fails is noted, and the table is printed all the same."""
    command = [sys.executable, "-m", "tests.benchmarks.gpu_day", "--dry-run", "--target", "a100"]
    options = ["--steps", "device", "--minutes", "0.001", "--out", str(tmp_path)]
    (tmp_path / "compiled").mkdir()
    (tmp_path / "compiled" / "half.so").touch()
    (tmp_path / "another.so").touch()
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    records = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert [(r["kind"], r.get("step", r.get("name"))) for r in records] == [
        ("late", "device"),
        ("step", "device"),
    ]
    assert "verified: 0, wrong: 0" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"records.jsonl", "another.so"}


def test_what_a_late_command_has_started_ends_with_it(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = f"sleep 60 & echo $! > {pid}; "
    for end, code in (("wait", None), ("exit 3", 3)):
        assert limited(["sh", "-c", script + end], 0.5) == code
        state = Path(f"/proc/{pid.read_text().strip()}/stat")
        for _ in range(100):
            if not state.exists() or ") Z " in state.read_text():
                break
            time.sleep(0.01)
        else:
            pytest.fail(f"after {end!r} it still runs")


def test_an_item_that_fails_does_not_end_its_step(tmp_path: Path) -> None:
    day = gpu_day.Day(load_target("a100"), tmp_path, 60.0, dry=True)

    def work(item: int) -> list[dict[str, int]]:
        return [{"half": 2 // item}]

    day.each("half", [1, 0, 2], work)
    assert [record["half"] for record in day.records("half")] == [2, 1]
    assert [record["why"][:17] for record in day.records("failed")] == ["ZeroDivisionError"]
    day = gpu_day.Day(load_target("a100"), tmp_path, -1.0, dry=True)
    day.each("half", [1, 2], work)
    assert len(list(day.records("late"))) == 1


def test_layers_at_another_batch() -> None:
    layers = layers_of("resnet50", 64, "float16")
    assert len(layers) == 25
    assert all(":64x" in layer.problem and "dtype=float16" in layer.problem for layer in layers)
