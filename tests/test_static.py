"""Reading assembly, and scores by llvm-mca."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tvmconv.autoschedule.choose import Chooser, predicted_cycles
from tvmconv.autoschedule.log import Log
from tvmconv.autoschedule.tasks import extract
from tvmconv.autoschedule.tuner import tune
from tvmconv.codegen import mca
from tvmconv.codegen.estimate import _runs, estimate
from tvmconv.codegen.kernels import build, scheduled
from tvmconv.codegen.loops import Loop, hot_loop, loops
from tvmconv.codegen.trips import Trips, trips
from tvmconv.compiler import compile_to_file
from tvmconv.errors import EnvironmentError_
from tvmconv.runtime.inspect import inspect_artifact
from tvmconv.target import load_target

#: An outer loop around an inner one, whose comments and directives are no instructions.
AARCH64 = """
\t.text
k:
\tmov\tx6, xzr
.LBB0_1:
\tstr\tq7, [sp, #16]
\tmov\tx5, xzr
\t.p2align\t4
.LBB0_2:                                // =>This Inner Loop
\tldp\tq0, q1, [x3]
\tfmla\tv2.4s, v0.4s, v1.s[0]
\tldr\tx9, [sp, #8]                   // 8-byte Folded Reload
\tldr\tq9, [sp, #32]                  // 16-byte Folded Reload
\tfmla\tv3.4s, v0.4s, v1.s[1]
\tsubs\tx5, x5, #1
\tb.ne\t.LBB0_2
\tfmul\tv2.4s, v2.4s, v3.4s
\tcbnz\tx6, .LBB0_1
\tcbz\tx7, .LBB0_3
.LBB0_3:
\tret
"""


def test_a_loop_is_without_those_inside_it() -> None:
    outer, inner = loops(AARCH64, "aarch64")
    assert inner == hot_loop(AARCH64, "aarch64")
    assert (inner.fmas, inner.spills, len(inner.instructions)) == (2, 1, 7)
    assert inner.instructions[3] == "ldr\tq9, [sp, #32]"
    assert (outer.fmas, outer.spills, len(outer.instructions)) == (0, 1, 4)


@pytest.mark.parametrize(
    ("arch", "text"),
    [
        ("x86_64", "\tvfmadd231ps\t(%rax), %ymm1, %ymm2\n\tvmovups\t%ymm3, 32(%rsp)\n\tjne\t"),
        ("arm", "\tvfma.f32\tq0, q1, q2\n\tvst1.64\t{d0, d1}, [sp:128]\n\tbne\t"),
        ("riscv64", "\tfmadd.s\tfa0, fa1, fa2, fa0\n\tfsw\tfa0, 8(sp)\n\tbne\ta0, a1, "),
    ],
)
def test_other_architectures(arch: str, text: str) -> None:
    found = hot_loop(f".LBB0_1:\n{text}.LBB0_1\n", arch)
    assert found is not None
    assert (found.fmas, found.spills, len(found.instructions)) == (1, 1, 3)


#: A thread's share of 448 rows; in each, eight steps of five and then, in one of two loops, twice
#: three; a while loop follows.
IR = """
define i32 @other(i32 %n) {
entry:
  ret i32 %n
}

define private i32 @__tvm_parallel_lambda(i32 %task_id) #0 {
entry:
  %end = tail call i32 @llvm.smin.i32(i32 %start, i32 448)
  br label %row
row:                                              ; preds = %entry, %next
  %i = phi i64 [ %begin, %entry ], [ %i.next, %next ]
  br label %step
twice:                                            ; preds = %after, %thrice
  %first = phi i1 [ true, %after ], [ false, %thrice ]
  br label %thrice
step:                                             ; preds = %row, %step
  %j = phi i64 [ 0, %row ], [ %j.next, %step ]
  %j.next = add nuw nsw i64 %j, 5
  %full = icmp eq i64 %j.next, 40
  br i1 %full, label %after, label %step
thrice:                                           ; preds = %twice, %thrice
  %k = phi i32 [ 7, %twice ], [ %k.next, %thrice ]
  %k.next = add i32 %k, -2
  %more = icmp ne i32 %k.next, 1
  br i1 %more, label %thrice, label %done
done:
  br i1 %first, label %twice, label %search
after:                                            ; preds = %step
  br label %twice
search:                                           ; preds = %done, %search
  %p = phi ptr [ %x, %done ], [ %q, %search ]
  br i1 %found, label %next, label %search
next:
  %i.next = add i64 %i, 1
  %last = icmp eq i64 %i.next, %wide
  br i1 %last, label %exit, label %row
exit:
  ret i32 0
}
"""


def test_trips() -> None:
    found = [(loop.depth, loop.count) for loop in trips(IR, 5)]
    assert found == [(0, 90), (1, 8), (1, 2), (2, 3), (1, None)]


@pytest.mark.parametrize(
    ("lines", "count"),
    [
        ("%a = add i64 %i, 1|%b = add i64 %a, 1|%c = icmp eq i64 %b, 48|br i1 %c, {out}", 24),
        ("%a = add i64 %i, 1|%b = add i64 %i, 2|%c = icmp ult i64 %i, 46|br i1 %c, {on}", 24),
        ("%b = add i64 %i, 5|%c = icmp ugt i64 %b, 48|br i1 %c, {out}", 10),
        ("%b = add i64 %i, 5|%c = icmp ugt i64 %x, 48|br i1 %c, {out}", None),
        ("%b = mul i64 %i, 5|%c = icmp ugt i64 %b, 48|br i1 %c, {out}", None),
    ],
)
def test_how_a_loop_counts(lines: str, count: int | None) -> None:
    text = lines.format(out="label %end, label %loop", on="label %loop, label %end")
    phi = "%i = phi i64 [ 0, %first ], [ %b, %loop ]\n"
    loop = f"loop:\n{phi}" + "\n".join(text.split("|"))
    function = "define void @f() {\nfirst:\nbr label %loop\n" + loop + "\nend:\nret void\n}\n"
    assert trips(function, 1) == [Trips(0, count)]


@pytest.mark.parametrize("name", ["cortex-a53", "neoverse-n1"])
def test_trips_account_for_every_multiply_add(name: str) -> None:
    """Also where several steps of the sum are unrolled, once more by LLVM."""
    target = load_target(name)
    (task,), _ = extract(["conv2d:1x384x14x14:128x1x1"], target)
    module = build(scheduled(task.specs[0], "kernel", target), "kernel", target)
    found = loops(module.inspect_source("asm"), target.arch)
    counts = _runs(found, trips(module.inspect_source("ll"), target.cores))
    units = sum(loop.fmas * run for loop, run in zip(found, counts, strict=True)) * target.cores
    assert 1 <= units * target.vector.f32_lanes / task.macs < 1.2  # threads have no equal shares


def test_a_block_that_is_run_later_may_stand_first() -> None:
    """The body of the loop ends with a jump to what stands before it; a cold block is no loop."""
    text = "k:\n\tb\t.LBB0_2\n.LBB0_1:\n\tret\n.LBB0_2:\n\tfmla\tv2.4s, v0.4s, v1.s[0]\n"
    text += "\tcbz\tx7, .LBB0_3\n\tb\t.LBB0_1\n.LBB0_3:\n\tsubs\tx5, x5, #1\n\tb.ne\t.LBB0_2\n"
    text += "\tb\t.LBB0_1\n"
    (loop,) = loops(text, "aarch64")
    assert [line.split()[0] for line in loop.instructions] == ["fmla", "cbz", "subs", "b.ne"]


def test_what_cannot_be_estimated_is_said() -> None:
    target = load_target("cortex-a72")
    with pytest.raises(ValueError, match="the loops of the assembly are not those of LLVM's IR"):
        estimate(AARCH64, IR, target)
    with pytest.raises(ValueError, match="it has no loops"):
        estimate("k:\n\tret\n", "", target)


def test_no_loop() -> None:
    assert hot_loop("k:\n\tfmla\tv2.4s, v0.4s, v1.s[0]\n\tret\n", "aarch64") is None


needs_mca = pytest.mark.skipif(
    not any(shutil.which(f"llvm-mca-{version}") for version in range(16, 40)),
    reason="needs Debian's llvm-19: before 16 it had no model of Neoverse N1",
)


@needs_mca
def test_scores_of_known_loops() -> None:
    """Twelve sums keep the pipes busy; a single one waits for itself."""
    sums = tuple(f"fmla v{k}.4s, v30.4s, v31.s[0]" for k in range(12))
    one = load_target("cortex-a72")
    assert mca.score(Loop(sums, 12, 0), one).share == pytest.approx(1, abs=0.02)
    chain = mca.score(Loop(("fmla v0.4s, v30.4s, v31.s[0]",), 1, 0), load_target("neoverse-n1"))
    assert chain.cycles == pytest.approx(4, abs=0.1)
    assert chain.share == pytest.approx(1 / 8, abs=0.01)
    assert mca.score(Loop(sums, 12, 0), load_target("cortex-a76")).cycles < 7


@needs_mca
def test_what_the_tool_refuses_is_one_line() -> None:
    strange = Loop(("frobnicate x0", "fmla v0.4s, v1.4s, v2.4s"), 1, 0)
    with pytest.raises(EnvironmentError_, match=r"^cannot score code for cortex-a72: llvm-mca: "):
        mca.score(strange, load_target("cortex-a72"))
    target = load_target("cortex-a7")
    with pytest.raises(EnvironmentError_, match=r"^cannot score code for cortex-a7: llvm-mca: "):
        mca.score(Loop(("vfma.f32 q0, q1, q2",), 1, 0), target)


def test_without_the_tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentError_, match=r"llvm-mca is missing: apt-get install llvm-19$"):
        mca.score(Loop(("fmla v0.4s, v1.4s, v2.4s",), 1, 0), load_target("neoverse-n1"))


def test_tuning_without_the_tool_is_one_line(
    tvmconv: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mca.peak.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    result = tvmconv("tune", "--static", "conv2d:1x8x8x8:8x1x1", "--target", "cortex-a72")
    assert (result.code, result.out) == (4, "")
    assert result.err == (
        "tvmconv: cannot score code: llvm-mca is missing: apt-get install llvm-19\n"
    )
    assert not list(tmp_path.iterdir())


def test_the_newest_tool_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answer = json.dumps({"CodeRegions": [{"SummaryView": {"TotalCycles": 800}}]})
    for name, exits in (("llvm-mca", 1), ("llvm-mca-9", 1), ("llvm-mca-22", 0)):
        script = tmp_path / name
        script.write_text(f"#!/bin/sh\necho '{answer}'\nexit {exits}\n")
        script.chmod(0o755)
    (tmp_path / "llvm-mca-99").write_text("no program")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert mca._tool() == str(tmp_path / "llvm-mca-22")
    target = replace(load_target("neoverse-n1"), description="not cached")
    assert mca.score(Loop(("fmla v0.4s, v1.4s, v2.4s",), 2, 0), target).cycles == 8


@needs_mca
def test_a_report() -> None:
    from tvmconv.bench.static import static_report

    layers = ["conv2d:1x128x28x28:128x3x3:padding=1", "conv2d:1x512x7x7:512x3x3:padding=1"]
    layers += ["conv2d:1x64x56x56:256x1x1", "max_pool2d:1x64x56x56:2x2:stride=2"]
    for name in ("cortex-a72", "cortex-a76", "neoverse-n1"):
        report = static_report(layers, target=load_target(name), tuned=False, exact=True)
        assert len(report.scores) == 3
        assert report.median_share >= 0.85, report.summary()
        assert not [score for score in report.scores if score.spills]
        assert report.to_json()["kernels"][0]["share"] == report.scores[0].share


@needs_mca
def test_tuning_by_estimates(tmp_path: Path) -> None:
    """The estimate is near the cost model's, and counts as such wherever the log is used."""
    problem = "conv2d:1x64x28x28:64x1x1"
    options: Any = {"jobs": 1, "log": tmp_path, "shipped": False}
    report = tune(problem, "cortex-a53", static=True, trials=4, **options)
    (task,) = report.tasks
    assert (report.method, report.measured, task.confirmed) == ("static", 4, True)
    assert 0 < task.tuned_us <= task.untuned_us
    assert task.untuned_us == pytest.approx(_predicted_us(problem), rel=0.3)
    records = Log(Path(report.log)).load().records
    assert {(record.method, record.status) for record in records} == {("static", "ok")}
    path = tmp_path / "c.so"
    compile_to_file(problem, path, target=load_target("cortex-a53"), log=tmp_path)
    assert inspect_artifact(path)["static_kernels"] == 1


def _predicted_us(problem: str) -> float:
    """What the cost model says of the schedule that is used without a log."""
    target = load_target("cortex-a53")
    (task,), _ = extract([problem], target)
    spec = Chooser(target).chosen(task.specs[0])
    return predicted_cycles(spec, target) / (target.frequency_ghz * 1e3)
