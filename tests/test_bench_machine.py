"""The machine's description and its measured peak."""

from __future__ import annotations

from pathlib import Path

import pytest

from tvmconv.bench import peak as peak_module
from tvmconv.bench.machine import (
    cpu_name,
    describe_machine,
    last_cache_bytes,
    usable_cores,
    version_of,
)
from tvmconv.bench.peak import Peak, PeakPoint, measure_peak, parse_peak
from tvmconv.errors import EnvironmentError_

PRINTED = (
    '{"vector_bytes": 32, "threads": ['
    '{"threads": 1, "gflops": 100.5, "read_gb_s": 20, "triad_gb_s": 15}, '
    '{"threads": 4, "gflops": 390, "read_gb_s": 40, "triad_gb_s": 30}]}'
)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor\t: 0\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n", "AMD EPYC"),
        ("processor : 0\nHardware : BCM2711\nModel : Raspberry Pi 4\n", "Raspberry Pi 4"),
    ],
)
def test_cpu_name(tmp_path: Path, text: str, name: str) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert cpu_name(tmp_path / "cpuinfo") == name


def test_cpu_name_without_cpuinfo(tmp_path: Path) -> None:
    assert cpu_name(tmp_path / "none")


def test_last_cache(tmp_path: Path) -> None:
    for index, size in enumerate(("48K", "1024K", "32M", "odd")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(size + "\n")
    assert last_cache_bytes(tmp_path) == 32 * 2**20
    assert last_cache_bytes(tmp_path / "none", default=5) == 5


def test_description_names_versions_once() -> None:
    machine = describe_machine(3, ["numpy", "no-such-distribution"])
    assert machine.threads == 3
    assert machine.cores == usable_cores() >= 1
    assert list(machine.versions) == ["tvmconv", "apache-tvm", "numpy", "no-such-distribution"]
    assert machine.versions["numpy"] == version_of("numpy") != "not installed"
    assert machine.versions["no-such-distribution"] == "not installed"
    assert machine.to_json()["arch"] == machine.arch


def test_peak_is_read_and_found_by_threads() -> None:
    peak = parse_peak(PRINTED)
    assert peak == Peak(32, (PeakPoint(1, 100.5, 20, 15), PeakPoint(4, 390, 40, 30)))
    assert [peak.at(n).threads for n in (1, 2, 4, 9)] == [1, 4, 4, 4]


@pytest.mark.parametrize("text", ["", "{}", "[1]", PRINTED[:-9], '{"vector_bytes":4,"threads":[]}'])
def test_peak_refuses_other_text(text: str) -> None:
    with pytest.raises(EnvironmentError_, match=r"peak\.c"):
        parse_peak(text)


def test_peak_says_in_one_line_why_it_cannot_be_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = tmp_path / "peak.c"
    monkeypatch.setattr(peak_module, "SOURCE", source)
    monkeypatch.setattr(peak_module, "_measured", {})
    with pytest.raises(EnvironmentError_, match=r"^cannot compile peak\.c: .*"):
        measure_peak(1)
    source.write_text(
        '#include <stdio.h>\nint main(void) { fputs("a\\nb\\n", stderr); return 3; }\n'
    )
    with pytest.raises(EnvironmentError_, match=r"^cannot run peak\.c: b$"):
        measure_peak(1)


def test_peak_of_this_machine_is_plausible_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak_module, "_measured", {})
    peak = measure_peak(2)
    assert [point.threads for point in peak.points] == [1, 2]
    assert peak.vector_bytes in (16, 32, 64)
    for point in peak.points:
        # Ten cores' worth of slack on both sides: this tells units apart, not machines.
        assert 0.5 < point.gflops < 2000
        assert 0.1 < point.read_gb_s < 2000
        assert 0.1 < point.triad_gb_s < 2000
    assert measure_peak(2) is peak


def test_measuring_again_keeps_the_better_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter([Peak(32, (PeakPoint(1, 10, 5, 3),)), Peak(32, (PeakPoint(1, 8, 6, 3),))])
    monkeypatch.setattr(peak_module, "_measured", {})
    monkeypatch.setattr(peak_module, "_measure", lambda threads: next(found))
    assert measure_peak(1).at(1).gflops == 10
    assert measure_peak(1).at(1).read_gb_s == 5
    assert measure_peak(1, again=True).at(1) == PeakPoint(1, 10, 6, 3)
    assert measure_peak(1).at(1) == PeakPoint(1, 10, 6, 3)
