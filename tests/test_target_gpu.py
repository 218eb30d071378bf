"""Target files of GPUs: limits, what follows from them, validation, TOML and back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from tvmconv.autoschedule.record import target_key
from tvmconv.errors import InputError
from tvmconv.gpu import Device
from tvmconv.records import to_toml
from tvmconv.target import Target, from_dict, load_file, load_target, targets

GPUS = [target for target in targets().values() if target.is_gpu]
BY_NAME = pytest.mark.parametrize("target", GPUS, ids=lambda target: target.name)

#: TFLOPS of float32 that the data sheets state.
F32 = {"t4": 8.1, "a100": 19.5, "a10": 31.2, "jetson-orin": 5.3, "l4": 30.3, "h100": 61.9}


def test_there_is_one_for_every_capability() -> None:
    names = ["cuda-sm75", "cuda-sm80", "cuda-sm86", "cuda-sm87", "cuda-sm89", "cuda-sm90"]
    assert sorted(t.name for t in GPUS) == sorted(["cuda", *names, "cuda-sm100"])
    for target in GPUS:
        if target.name != "cuda":
            assert target.name == f"cuda-sm{target.gpu.sm}"
            assert target.gpu.cubins == (target.gpu.sm,)


@pytest.mark.parametrize("alias", F32)
def test_peak_is_that_of_the_data_sheet(alias: str) -> None:
    assert load_target(alias).gpu.f32_tflops == pytest.approx(F32[alias], rel=0.01)


@BY_NAME
def test_a_multiprocessor_is_a_core_and_a_warp_a_vector(target: Target) -> None:
    device = target.gpu
    assert target.cores == device.multiprocessors
    assert target.vector.f32_lanes == 32
    gflops = target.cores * target.frequency_ghz * target.vector.f32_lanes
    assert gflops * target.vector.fma_per_cycle * 2 == pytest.approx(device.f32_tflops * 1e3)
    bandwidth = target.caches.dram_bytes_per_cycle * target.cores * target.frequency_ghz
    assert bandwidth == pytest.approx(device.dram_gb_s)


@BY_NAME
def test_every_number_has_its_source(target: Target, repository: Path) -> None:
    text = (repository / "targets" / f"{target.name}.toml").read_text(encoding="utf-8")
    body = text[text.index("[device]") : text.index("[layout]")]
    numbers = [line for line in body.splitlines() if " = " in line]
    assert len(numbers) == len(fields(Device))
    assert [line for line in numbers if "#" not in line] == []


def test_the_host_of_jetson_is_aarch64() -> None:
    for target in GPUS:
        host = "aarch64" if target.gpu.sm == 87 else "x86_64"
        assert target.zig.triple.startswith(host)
        assert target.llvm.triple.startswith(host)


def test_the_log_knows_devices_apart() -> None:
    assert len({target_key(target) for target in GPUS}) == len(GPUS)


@BY_NAME
def test_round_trip_through_toml(target: Target, tmp_path: Path) -> None:
    path = tmp_path / "copy.toml"
    path.write_text(to_toml(target.to_dict()), encoding="utf-8")
    assert load_file(path) == target


def test_a_cpu_has_no_device() -> None:
    with pytest.raises(InputError, match=r"znver3: is a CPU and has no \[device\]"):
        _ = load_target("znver3").gpu


@pytest.mark.parametrize(
    ("name", "nearest"), [("cuda-sm91", "cuda-sm90"), ("sm91", "sm90"), ("h10", "h100")]
)
def test_unknown_capability_has_suggestions(name: str, nearest: str) -> None:
    with pytest.raises(InputError, match=f"unknown target '{name}'; did you mean .*{nearest}"):
        load_target(name)


def change(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def edit(table: dict[str, Any]) -> None:
        *outer, last = key.split(".")
        for name in outer:
            table = table[name]
        table[last] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change("device.sm", "90"), "device.sm: '90' is not of type int"),
        (change("device.colour", 1), "device.colour: unknown key"),
        (change("device.f32_lanes", 0), "device.f32_lanes: must be positive"),
        (change("device.f16_tflops", -1), "device.f16_tflops: must be positive"),
        (change("device.cubins", []), "device.cubins: is empty, and ptx is false"),
        (change("device.cubins", [80]), "device.cubins: 80 is older than sm 90"),
        (
            change("device.shared_bytes_per_block", 1 << 20),
            "device.shared_bytes_per_block: is more",
        ),
        (change("zig.triple", "aarch64-linux-gnu"), "llvm.triple: 'x86_64-unknown-linux-gnu' does"),
        (change("layout.channel_block", 6), "layout.channel_block: 6 is no multiple of the 4"),
        (change("cores", 8), "cores: unknown key"),
    ],
)
def test_wrong_table_is_refused(edit: Callable[[dict[str, Any]], None], message: str) -> None:
    table = copy.deepcopy(load_target("h100").to_dict())
    edit(table)
    with pytest.raises(InputError) as caught:
        from_dict(table, "my.toml")
    assert str(caught.value).startswith(f"my.toml: {message}")
