"""The report pages: what is on them, and how they look in a browser."""

from __future__ import annotations

import io
import json
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.browser import NAMES, Page, chromium, find_chromium
from tests.kernels import problem_spec
from tvmconv.autoschedule.states import Point
from tvmconv.autoschedule.tune_report import ArmResult, NetworkResult, TaskResult, TuneReport
from tvmconv.bench.harness import Protocol, Spread
from tvmconv.bench.machine import Machine
from tvmconv.bench.peak import Peak, PeakPoint
from tvmconv.bench.report import BenchReport, ModelResult, PeerResult, StepTime, Work
from tvmconv.cli._output import to_json
from tvmconv.errors import EnvironmentError_
from tvmconv.layers import suite
from tvmconv.problem import Problem
from tvmconv.report import figures, page, require_report, write_bench_report, write_tune_report
from tvmconv.report.tune import tune_page

#: A name from a model file can be anything.
HOSTILE = "<script>alert('1')</script><img src=x onerror=alert(2)>%{x} {{ 7*7 }} </b>&amp;\u2028"
PEAK = Peak(32, (PeakPoint(1, 60.0, 15.0, 12.0), PeakPoint(2, 120.0, 25.0, 20.0)))


def work_of(problem: Problem, algorithm: str = "direct") -> Work:
    return Work(problem.op, problem.macs or None, problem.flops, problem.bytes_moved, algorithm)


def bench_report() -> BenchReport:
    """A third of the suite with made-up times, and a network whose names are hostile."""
    rng = np.random.default_rng(0)
    rows = []
    for number, layer in enumerate(suite("layers")[::3]):
        problem = Problem.parse(layer.problem)
        ideal = max(problem.flops / 120e9, problem.bytes_moved / 25e9) * 1e3
        time_ms = ideal * float(rng.uniform(1.05, 2.0))
        ratios = {"onnxruntime": float(rng.uniform(0.8, 2.5)), "ncnn": float(rng.uniform(0.9, 4))}
        peers = tuple(PeerResult(k, time_ms * r, r, (time_ms * r,)) for k, r in ratios.items())
        if number == 3:
            peers = (peers[0], PeerResult("ncnn", problem="ncnn: " + HOSTILE))
        algorithm = "winograd4" if "3x3:padding=1" in layer.problem and number % 2 else "direct"
        rows.append(
            ModelResult(
                layer.problem, time_ms, (time_ms,), 0.1, problem.macs or None, peers,
                Spread(1.2 if number == 5 else 1.0, 0.9, 1.3), (), layer.origin,
                work_of(problem, algorithm),
            )
        )  # fmt: skip
    kinds = ("conv", "max_pool", "pack", HOSTILE)
    steps = tuple(
        StepTime(f"{HOSTILE}{k}", kinds[k % 4], 10.0 + k, (10.0 + k) / 1725,
                 10**6 if k % 4 == 0 else None, 5.0 if k % 4 == 0 else None,
                 Work("conv", 10**6, 2 * 10**6, 10**6) if k % 4 == 0 else Work(kinds[k % 4]))
        for k in range(50)
    )  # fmt: skip
    network = ModelResult(
        HOSTILE, 1.8, (1.8,), 3.0, 13 * 10**6, (PeerResult("ncnn", problem="ncnn: no"),),
        Spread(1.0, 0.9, 1.1), steps,
    )  # fmt: skip
    machine = Machine(f"Some CPU {HOSTILE}", "x86_64", 2, 2, "Linux", {"tvmconv": "0"})
    return BenchReport(machine, "znver3", Protocol(), PEAK, (*rows, network))


def tune_report() -> TuneReport:
    """Some tasks with made-up curves; one has no right candidate, and one no problem."""
    rng = np.random.default_rng(1)
    tasks = []
    for number, layer in enumerate(suite("layers", "conv2d")[:14]):
        times = np.abs(rng.normal(300, 60, 40)) + 100
        times[7] = math.inf
        best = np.minimum.accumulate(np.where(np.isfinite(times), times, 1e9))
        curve = tuple(
            Point(k + 1, 2.0 * (number + 14 * k), float(times[k]), float(best[k]))
            for k in range(40)
        )
        workload = problem_spec(Problem.parse(layer.problem)).text
        found = (float(times[0]), float(best[-1]))
        arms = (ArmResult("direct", workload, 900, 40, found[1]),)
        tasks.append(
            TaskResult(
                HOSTILE if number == 0 else layer.problem, {"net": layer.count},
                Problem.parse(layer.problem).macs, "warm", *found,
                "winograd4" if number % 3 == 1 else "direct", {"x": 1}, number != 4, arms,
                {"ok": 39, "wrong": 1}, curve,
            )
        )  # fmt: skip
    failed = replace(
        tasks[-1], name="failed", untuned_us=math.inf, tuned_us=math.inf, curve=(), macs=0,
        statuses={"crashed": 3},
    )  # fmt: skip
    skipped = replace(
        tasks[-1], name="too large", untuned_us=math.inf, tuned_us=math.inf, curve=(),
        statuses={}, confirmed=False, skipped="no reference: MemoryError",
    )  # fmt: skip
    networks = (
        NetworkResult(HOSTILE, 14, 9000.0, 5000.0, 100.0),
        NetworkResult("unknown", 1, math.inf, math.inf, 0.0),
    )
    return TuneReport(
        "znver3", 2, "records.jsonl", 99.0, 500, 60, 14, "budget", 120.0, 25.0,
        (*tasks, failed, skipped), networks, {"another target": 2},
    )  # fmt: skip


WRITERS = {
    "bench": lambda path: write_bench_report(path, bench_report()),
    "tune": lambda path: write_tune_report(path, tune_report()),
}
#: Plots on each page.
PLOTS = {"bench": 4, "tune": 5}


@pytest.fixture(scope="module")
def browser() -> str:
    found = find_chromium()
    if found is None:
        reason = f"none of {', '.join(NAMES)} is installed"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@pytest.fixture(scope="module", params=WRITERS)
def opened(
    request: pytest.FixtureRequest, browser: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Page]]:
    """A page that is open in the browser."""
    path = tmp_path_factory.mktemp("report") / f"{request.param}.html"
    WRITERS[request.param](path)
    with chromium(browser) as shown:
        shown.open(path.as_uri())
        yield request.param, shown


def test_the_browser_has_nothing_to_complain_about(opened: tuple[str, Page]) -> None:
    kind, shown = opened
    assert shown.complaints() == []
    (address,) = {url.partition(",")[0] for url in shown.requested() if not url.startswith("data:")}
    assert address.endswith(f"{kind}.html")
    assert shown.evaluate("document.querySelectorAll('script').length") == 2


def test_no_button_sends_anything_away(opened: tuple[str, Page]) -> None:
    _, shown = opened
    names = "Array.from(document.querySelectorAll('.modebar-btn')).map(b => b.dataset.title)"
    found = set(shown.evaluate(names))
    assert "Download plot as a PNG" in found
    assert not {name for name in found if "hare" in name or "loud" in name or "dit" in name}


def test_every_plot_is_drawn(opened: tuple[str, Page]) -> None:
    kind, shown = opened
    assert shown.evaluate("document.querySelectorAll('.plot').length") == PLOTS[kind]
    for number in range(PLOTS[kind]):
        plot = f"#plot-{number}"
        assert shown.evaluate(f"document.querySelectorAll('{plot} .main-svg').length") > 0
        picture = Image.open(io.BytesIO(shown.screenshot(plot))).convert("RGB")
        assert min(picture.size) >= 200
        # Inside the axes; grid lines, which an empty plot has too, are grey.
        inner = np.asarray(Image.open(io.BytesIO(shown.screenshot(f"{plot} .nsewdrag"))))[..., :3]
        coloured = (np.ptp(inner, axis=-1) > 60).mean()
        assert 0.001 < coloured < 0.8, f"plot {number}: {coloured:.2%} is coloured"
        assert (inner == 255).all(axis=-1).mean() > 0.2
        assert len(np.unique(inner.reshape(-1, 3), axis=0)) > 4


def test_plotly_accepts_every_attribute(opened: tuple[str, Page]) -> None:
    _, shown = opened
    wrong = "JSON.parse(JSON.stringify(figures)).flatMap("
    wrong += "f => Plotly.validate(f.data, f.layout) || []).map(e => e.msg)"
    assert shown.evaluate(wrong) == []


def test_names_are_shown_as_they_are(opened: tuple[str, Page]) -> None:
    _, shown = opened
    assert HOSTILE in shown.evaluate("document.body.textContent")
    assert shown.evaluate("document.querySelectorAll('img').length") == 0
    ticks = "Array.from(document.querySelectorAll('.plot text')).map(t => t.textContent).join()"
    assert "<script>alert('1')</script>" in shown.evaluate(ticks)


def test_tables_are_wide_enough_for_their_text(opened: tuple[str, Page]) -> None:
    _, shown = opened
    assert shown.evaluate("document.querySelectorAll('table').length") >= 2
    # The page itself does not scroll sideways; wide tables do, in their own frame.
    assert shown.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("kind", WRITERS)
def test_a_page_is_one_file_without_addresses(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out.html"
    WRITERS[kind](path)
    assert list(tmp_path.iterdir()) == [path]
    text = path.read_text(encoding="utf-8")
    own = text.split("<script>")[0] + text.split("</script>")[-1]
    assert "http:" not in own
    assert "https:" not in own
    assert "default-src 'none'" in own
    assert text.count("</script>") == 2


def test_the_bench_page_says_what_the_report_says(tmp_path: Path) -> None:
    path, report = tmp_path / "out.html", bench_report()
    write_bench_report(path, report)
    text = path.read_text(encoding="utf-8")
    assert f"{report.fastest_mean:.2f}×" in text
    for model in report.models[:-1]:
        assert model.origin in text
        assert model.name in text
    assert "refused" in text
    assert "1.20 noisy" in text
    stored = json.loads(json.dumps(report.to_json()))  # what --json keeps is enough

    class Stored:
        def to_json(self) -> dict[str, Any]:
            found: dict[str, Any] = stored
            return found

    again = tmp_path / "again.html"
    write_bench_report(again, Stored())
    assert again.read_bytes() == path.read_bytes()


def test_the_tune_page_says_what_the_report_says(tmp_path: Path) -> None:
    path, report = tmp_path / "out.html", tune_report()
    write_tune_report(path, report)
    text = path.read_text(encoding="utf-8")
    for part in (
        "500 candidates measured in 99 s, 60 known before",
        "1.80×",
        "winograd4 (not compared)",
        "lines of logs not used: 2 another target",
        "skipped: too large: no reference: MemoryError",
        "(skipped)",
        "<td class=\"text\">crashed</td><td>3</td>",
    ):  # fmt: skip
        assert part in text


def test_the_roof_of_the_tune_page_slopes_where_memory_limits() -> None:
    report = tune_report()
    data = json.loads(to_json(report.to_json()))  # what --json writes has nulls
    assert data["bandwidth_gb_s"] == 25
    for found in (data, report.to_json()):
        (plot,) = [s for s in tune_page(found).sections if s.title == "Roofline"]
        assert plot.figure is not None
        roof = plot.figure["data"][0]
        assert roof["y"] == [25 * roof["x"][0], 120, 120]


def test_reports_of_nothing_much_have_no_plots_to_fail(tmp_path: Path) -> None:
    path, bench, tune = tmp_path / "out.html", bench_report(), tune_report()
    row = replace(bench.models[-1], peers=(), steps=())
    write_bench_report(path, replace(bench, models=(row,)))
    assert "const figures = [];" in path.read_text(encoding="utf-8")
    write_tune_report(path, replace(tune, tasks=(tune.tasks[-1],), networks=()))
    write_tune_report(path, replace(tune, tasks=(), networks=(), peak_gflops=0.0))


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(EnvironmentError_, match=r"plotly.*pip install 'tvmconv\[report\]'"):
        require_report()
    with pytest.raises(EnvironmentError_, match="plotly"):
        write_bench_report(tmp_path / "out.html", bench_report())
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_fails_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.html"
    path.write_text("old")

    def fail(shown: page.Page) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(page, "render", fail)
    with pytest.raises(KeyboardInterrupt):
        write_tune_report(path, tune_report())
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_roof_has_a_corner_where_bandwidth_meets_the_peak() -> None:
    points = [figures.Point("a", "conv", "direct", 1.0, 10.0, 5.0)]
    found = figures.roofline(points, {"conv": "#000"}, 100.0, 20.0)
    assert found is not None
    roof = found["data"][0]
    assert roof["x"][1] == 5.0
    assert roof["y"] == [20.0 * roof["x"][0], 100.0, 100.0]
    flat = figures.roofline(points, {"conv": "#000"}, 100.0, None)
    assert flat is not None
    assert flat["data"][0]["y"] == [100.0, 100.0]
    assert figures.roofline([], {}, 100.0, 20.0) is None
