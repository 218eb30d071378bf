"""What a candidate's output is compared with: right ones pass, and nothing else does."""

from __future__ import annotations

import itertools
import math
import mmap
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.kernels import sliced
from tests.workloads import WORKLOADS
from tvmconv import accuracy
from tvmconv.autoschedule.measure import buffers, check, memory, reference, stage
from tvmconv.autoschedule.measure.check import Check, judge
from tvmconv.autoschedule.measure.memory import Copies, Guarded
from tvmconv.autoschedule.measure.stage import ArgumentSets, Stage
from tvmconv.kernel import KernelSpec, canonical_json
from tvmconv.layout import Layout
from tvmconv.ops import Array

EACH = pytest.mark.parametrize("spec", WORKLOADS.values(), ids=WORKLOADS.keys())


def rounded(wanted: Check) -> Array:
    """The best output there can be; what may be anything is no number."""
    return np.where(np.isfinite(wanted.bound), wanted.reference, np.nan).astype(np.float32)


@EACH
def test_the_rounded_reference_is_right(spec: KernelSpec) -> None:
    made = reference.workload_of(spec)
    assert all(judge(rounded(wanted), wanted).message == "" for wanted in made.checks)
    assert all(judge(rounded(wanted), wanted).ratio <= 1 for wanted in made.checks)


@EACH
def test_what_is_wrong_is_found(spec: KernelSpec) -> None:
    """One element off by a thousandth of the largest, or missing; two channels for each other."""
    made = reference.workload_of(spec)
    wanted = made.checks[-1]
    good = rounded(wanted)
    step = np.float32(1e-3 * np.nanmax(np.abs(good)))
    for place in np.argwhere(np.isfinite(wanted.bound))[[0, -1]]:
        for value in (good[tuple(place)] + step, np.nan, np.inf):
            bad = good.copy()
            bad[tuple(place)] = value
            assert judge(bad, wanted).message != ""
    channel = -1 if spec.output.block > 1 else 1
    assert judge(np.roll(good, 1, channel), wanted).message != ""
    assert judge(np.zeros_like(good), wanted).message != ""


def test_which_checks_there_are() -> None:
    """Integers are compared exactly where nothing rounds."""
    exact = {
        name: any(not wanted.bound[np.isfinite(wanted.bound)].any() for wanted in made.checks)
        for name, made in ((n, reference.workload_of(spec)) for n, spec in WORKLOADS.items())
    }
    rounding = {
        "a step that rounds", "no number for half of the inputs", "winograd", "mean",
        "global mean", "softmax", "lrn", "elementwise",
    }  # fmt: skip
    assert {name for name in exact if not exact[name]} == rounding


def test_bounds_are_those_of_the_accuracy_formula() -> None:
    spec = WORKLOADS["strides, batch and relu"]
    (wanted,) = reference.workload_of(spec).checks[1:]
    problem = accuracy.Problem.parse(spec.attrs["problem"])
    trial = accuracy.trial(problem)
    bound = accuracy.error_bound(problem, trial.reference, trial.magnitude)
    np.testing.assert_array_equal(buffers.unpack(wanted.bound, spec.output), bound)
    np.testing.assert_array_equal(buffers.unpack(wanted.reference, spec.output), trial.reference)


def test_the_norm_of_the_errors_of_winograd() -> None:
    """Errors of which each is allowed can be too large together."""
    wanted = reference.workload_of(WORKLOADS["winograd"]).checks[0]
    assert 0 < wanted.l2_limit < math.inf
    bound = np.where(np.isfinite(wanted.bound), wanted.bound, 0.0)
    off = (wanted.reference + 0.5 * bound).astype(np.float32)
    assert "L2 norm" in judge(off, wanted).message


def test_a_reference_of_zeros_proves_nothing() -> None:
    spec = WORKLOADS["residual"]
    program = [{"op": "clip", "min": -1e-9, "max": 0.0}, {"op": "relu"}]
    attrs = canonical_json({**spec.attrs, "program": program})
    wanted = reference.workload_of(KernelSpec("conv", attrs, spec.inputs[:1], spec.output)).checks
    assert "proves nothing" in judge(rounded(wanted[-1]), wanted[-1]).message


def test_saved_and_loaded(tmp_path: Path) -> None:
    spec = WORKLOADS["residual"]
    made = reference.workload_of(spec)
    check.save(made, tmp_path)
    read = check.load(tmp_path)
    assert read.output == spec.output
    assert list(read.constants) == list(made.constants) == [1]
    for a, b in zip(read.checks, made.checks, strict=True):
        assert (a.l2_limit, a.objection) == (b.l2_limit, b.objection)
        for x, y in zip((a.bound, *a.arguments), (b.bound, *b.arguments), strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(
    "layout",
    [
        Layout((2, 20, 3, 5), 16),
        Layout((2, 20, 3, 5)),
        Layout((2, 20, 3, 5), 16, (1, 2), (0, 1)),
        sliced(Layout((2, 20, 3), 8, (1,), (1,))),
        sliced(Layout((2, 20, 3))),
        Layout((7,)),
    ],
    ids=str,
)
def test_buffers(layout: Layout) -> None:
    array = np.random.default_rng(0).standard_normal(layout.shape).astype(np.float32)
    buffer = buffers.pack(array, layout, halo=0.0, poison=np.nan)
    assert buffer.shape == layout.buffer_shape
    np.testing.assert_array_equal(buffers.unpack(buffer, layout), array)
    own = buffers.own_region(buffer, layout)
    np.testing.assert_array_equal(own, buffers.in_blocks(array, layout, np.nan))
    assert np.count_nonzero(~np.isnan(own)) == array.size


@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize("nbytes", [64, 4096, 5000, 0])
def test_guarded_memory(nbytes: int, at_end: bool) -> None:
    made = Guarded(nbytes, at_end=at_end)
    address = made.bytes.ctypes.data
    assert (made.bytes.size, address % memory.ALIGNMENT) == (nbytes, 0)
    distance = -(address + nbytes) % mmap.PAGESIZE if at_end else address % mmap.PAGESIZE
    assert distance < memory.ALIGNMENT
    made.bytes[:] = 1
    assert not made.overrun()
    for part in made._slack:
        if part.size:
            part[-1] = 0
            assert made.overrun()
            made.mark_slack()
            assert not made.overrun()


@pytest.mark.parametrize(
    "access",
    [
        "ctypes.memset(made.bytes.ctypes.data + 4096, 0, 1)",
        "ctypes.memset(made.bytes.ctypes.data - 1, 0, 1)",
        "ctypes.string_at(made.bytes.ctypes.data + 4096, 1)",
        "ctypes.memset(Guarded.holding(made.bytes, at_end=True).bytes.ctypes.data, 0, 1)",
        "ctypes.memset(Copies([made.bytes], 3).addresses[1][0], 0, 1)",
    ],
)
def test_forbidden_memory(access: str) -> None:
    program = (
        "import ctypes; from tvmconv.autoschedule.measure.memory import Copies, Guarded\n"
        f"made = Guarded(4096, at_end=True)\nmade.bytes[:] = 0\n{access}"
    )
    assert (
        subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGSEGV
    )


def test_copies() -> None:
    arrays = [np.arange(100, dtype=np.float32), np.arange(3, dtype=np.float32)]
    made = Copies(arrays, 5)
    assert len({address for copy in made.addresses for address in copy}) == 10
    assert all(address % memory.ALIGNMENT == 0 for copy in made.addresses for address in copy)


def test_cold_weights_come_in_turn(tmp_path: Path) -> None:
    """As many copies as make the bytes that are to lie between two uses, and one more."""
    check.save(reference.workload_of(WORKLOADS["dense"]), tmp_path)
    seen: list[tuple[int, int]] = []

    def call(sets: ArgumentSets, first: int, calls: int) -> list[float]:
        seen.append((first, sets.count))
        return [1e-3] * calls

    made = Stage(tmp_path, cold_bytes=20000, disturbed=0.1)
    constants = sum(a.nbytes for a in check.load(tmp_path).checks[0].arguments[1:])
    copies = 1 + math.ceil(20000 / constants)
    made._expected["", ""] = made._output.copy()
    made.block(("", ""), call)
    assert [count for _, count in seen] == [copies] * len(seen)
    assert [first for first, _ in seen][:3] == [0, 1, 3 % copies]


@pytest.mark.parametrize(("waiting_s", "tries"), [(0.0, 1), (1.0, 4)])
def test_a_disturbed_block_is_timed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waiting_s: float, tries: int
) -> None:
    """After pauses, until patience is at an end."""
    check.save(reference.workload_of(WORKLOADS["dense"]), tmp_path)
    clock = itertools.count()
    monkeypatch.setattr(stage, "_waiting_s", lambda: waiting_s * next(clock))
    made = Stage(tmp_path, cold_bytes=0, disturbed=0.02)
    made._expected["", ""] = made._output.copy()
    calls: list[int] = []

    def call(sets: ArgumentSets, first: int, count: int) -> list[float]:
        calls.append(count)
        return [1e-3] * count

    block = made.block(("", ""), call)
    assert (block.waited > 0.02) == (tries > 1)
    assert calls == [1, 2, *[4] * tries]
    for _ in range(60):
        made.block(("", ""), call)
    assert calls[-3:] == [1, 2, 4]
