"""The options of `tvmconv bench` about suites, logs and reports."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tvmconv.bench.report import Failure
from tvmconv.layers import SIX, suite

PROBLEM = "conv2d:1x4x6x6:8x3x3:padding=1"


class Report:
    """What a benchmark gives, as far as the command line looks at it."""

    disagreements: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"found": 1}

    def lines(self) -> list[str]:
        return ["a line"]

    def tables(self) -> list[str]:
        return ["a table"]


@pytest.fixture
def seen(stub: Callable[..., None]) -> dict[str, Any]:
    """What the benchmark is called with."""
    found: dict[str, Any] = {}

    def bench_models(models: Any, **options: Any) -> Report:
        found.update(options, models=models)
        return Report()

    stub("tvmconv.bench", bench_models=bench_models)
    return found


def test_a_suite_follows_what_is_named(tvmconv: Callable[..., Any], seen: dict[str, Any]) -> None:
    assert tvmconv("bench", "--suite", "six").code == 0
    assert seen["models"] == list(SIX)
    assert tvmconv("bench", PROBLEM, "--suite", "layers", "--filter", "yolov8n").code == 0
    assert seen["models"] == [PROBLEM, *suite("layers", "yolov8n")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Missing argument 'MODEL.onnx|PROBLEM...' or --suite"),
        (("--suite", "seven"), "'seven' is not one of 'layers', 'family', 'six'"),
        (("--suite", "six", "--filter", "yolo"), "suite six: no layer contains 'yolo'"),
        ((PROBLEM, "--filter", "yolo"), "--filter needs --suite"),
        ((PROBLEM, "--report", "nosuch/out.html"), "nosuch is not a directory"),
    ],
)
def test_bad_options_are_one_line(
    tvmconv: Callable[..., Any], seen: dict[str, Any], arguments: tuple[str, ...], message: str
) -> None:
    result = tvmconv("bench", *arguments)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert result.err.count("\n") == 1
    assert not seen


def test_logs_are_passed_on(
    tvmconv: Callable[..., Any], seen: dict[str, Any], tmp_path: Path
) -> None:
    assert tvmconv("bench", PROBLEM).code == 0
    assert (seen["log"], seen["tuned"]) == ((), True)
    assert tvmconv("bench", PROBLEM, "--log", tmp_path, "--log", "b", "--untuned").code == 0
    assert (seen["log"], seen["tuned"]) == ((tmp_path, Path("b")), False)


def test_rows_that_failed_are_told_and_end_with_1(
    tvmconv: Callable[..., Any], stub: Callable[..., None]
) -> None:
    report = Report()
    report.failures = (Failure("net", "MemoryError"),)
    report.disagreements = ("net2: ncnn: 1 of 2 differ",)
    stub("tvmconv.bench", bench_models=lambda models, **options: report)
    result = tvmconv("bench", PROBLEM)
    assert (result.code, result.out) == (1, "a line\na table\n")
    assert result.err == "tvmconv: net: MemoryError; net2: ncnn: 1 of 2 differ\n"


def test_a_report_is_written_beside_what_is_printed(
    tvmconv: Callable[..., Any],
    seen: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tvmconv.cli import bench

    monkeypatch.setattr(bench, "write_bench_report", lambda path, report: path.write_text("page"))
    file = tmp_path / "out.html"
    result = tvmconv("bench", PROBLEM, "--report", file)
    assert (result.code, result.out, result.err) == (0, "a line\na table\n", "")
    assert file.read_text() == "page"


def test_missing_packages_are_found_before_the_work(
    tvmconv: Callable[..., Any],
    seen: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    result = tvmconv("bench", PROBLEM, "--report", tmp_path / "out.html")
    assert result.code == 4
    assert "jinja2, which is not installed; pip install 'tvmconv[report]'" in result.err
    assert not seen
    assert list(tmp_path.iterdir()) == []
