"""Candidates, builders and processes that fail: what is found, and that nothing stays behind."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.faults.harness import (
    candidate,
    eventually,
    gone,
    measuring,
    processes,
    relu,
)
from tvmconv.autoschedule.measure import Measurer, Unmeasurable, references, runner
from tvmconv.autoschedule.measure.folder import make_folder, temporary_folder
from tvmconv.errors import EnvironmentError_
from tvmconv.kernel import KernelSpec
from tvmconv.layout import Layout

#: Kernel faults, what each has to be found to be, and a part of the message.
KERNELS = {
    "SEGFAULT": ("crashed", "SIGSEGV"),
    "HANG": ("timeout", "did not end within"),
    "AFTER": ("crashed", "SIGSEGV"),
    "BEFORE": ("wrong", "outside its output"),
    "NOT_A_NUMBER": ("wrong", "got nan"),
    "ONE_WRONG": ("wrong", "1 of"),
    "UNWRITTEN": ("wrong", "got nan"),
    "EXIT": ("crashed", "exited with code 0"),
    "EXIT_3": ("crashed", "exited with code 3"),
    "ABORT": ("crashed", "SIGABRT"),
    "ERROR": ("crashed", "returned -1"),
    "WRITES_INPUT": ("crashed", "SIGSEGV"),
    "READS_ON": ("crashed", "SIGSEGV"),
    "GARBAGE": ("crashed", "no message"),
    "EMPTY": ("crashed", "closed the connection"),
    "CLOSES": ("crashed", "its process"),
    "ENDLESS_STACK": ("crashed", "SIGSEGV"),
    "ENDLESS_MEMORY": ("crashed", "SIGSEGV"),
    "LATER_WRONG": ("wrong", "1 of"),
    "LATER_CRASH": ("crashed", "SIGBUS"),
    "LEAVES_CHILD": ("ok", ""),
    "PRINTS": ("ok", ""),
}
#: Those that show when a library is linked or loaded: the others in it must not suffer.
LOADING = {
    "AT_LOAD": ("crashed", "SIGSEGV"),
    "HANGS_AT_LOAD": ("timeout", "did not end within"),
    "UNDEFINED": ("build-failed", "nowhere"),
}
BUILDS = {
    "hangs": ("build-timeout", "did not end within"),
    "busy": ("build-timeout", "did not end within"),
    "no_memory": ("out-of-memory", "MemoryError"),
    "raises": ("build-failed", "no such tile"),
    "no_object": ("build-failed", "without a result"),
    "segfault": ("build-failed", "SIGSEGV"),
    "garbage_object": ("build-failed", "cannot be linked"),
    "exits": ("build-failed", "without a result"),
    "leaves_a_child": ("ok", ""),
    "prints": ("ok", ""),
}


@pytest.fixture(scope="module")
def faulty() -> Iterator[Measurer]:
    with measuring(build_timeout_s=4.0, run_timeout_s=2.0, memory_bytes=512 << 20) as measurer:
        yield measurer


def test_faults_of_kernels(faulty: Measurer) -> None:
    """Candidates that are right come through whatever is between them."""
    names = [name for k, fault in enumerate(KERNELS) for name in ["RIGHT"] * (k % 3 == 0) + [fault]]
    outcomes = list(faulty.measure(relu(), [candidate(name) for name in names]))
    assert len(outcomes) == len(names)
    for name, outcome in zip(names, outcomes, strict=True):
        assert outcome.candidate == candidate(name)
        status, message = KERNELS.get(name, ("ok", ""))
        assert (name, outcome.status) == (name, status)
        assert message in outcome.message
        assert "\n" not in outcome.message
        assert bool(outcome.times_us) == (status == "ok")
        assert all(0 < time_us < math.inf for time_us in outcome.times_us)


@pytest.mark.parametrize("fault", LOADING)
def test_faults_of_a_library(faulty: Measurer, fault: str) -> None:
    names = ["RIGHT", fault, "RIGHT"]
    outcomes = list(faulty.measure(relu(), [candidate(name) for name in names]))
    status, message = LOADING[fault]
    assert [outcome.status for outcome in outcomes] == ["ok", status, "ok"]
    assert message in outcomes[1].message


def test_faults_of_builds(faulty: Measurer) -> None:
    kinds = [*BUILDS, "right"]
    outcomes = list(faulty.measure(relu(), [candidate(build=kind) for kind in kinds]))
    for kind, outcome in zip(kinds, outcomes, strict=True):
        status, message = BUILDS.get(kind, ("ok", ""))
        assert (kind, outcome.status) == (kind, status)
        assert message in outcome.message
        assert bool(outcome.trace) == (status == "ok" or kind == "garbage_object")


def test_comparison_goes_on_without_those_that_fail(faulty: Measurer) -> None:
    names = ["RIGHT", "LATER_CRASH", "RIGHT", "LATER_WRONG", "NOT_A_NUMBER"]
    outcomes = faulty.compare([(relu(), candidate(name)) for name in names], rounds=3)
    found = [outcome.status for outcome in outcomes]
    assert found == ["ok", "crashed", "ok", "wrong", "wrong"]
    assert [len(outcome.times_us) for outcome in outcomes] == [3, 0, 3, 0, 0]


def test_a_full_disk_is_no_fault_of_a_candidate(faulty: Measurer) -> None:
    with pytest.raises(EnvironmentError_, match="No space left"):
        list(faulty.measure(relu(), [candidate(build="disk_full")]))
    assert statuses(faulty) == ["ok"]


def test_a_disk_that_is_full_for_a_while(tmp_path: Path) -> None:
    """In a file system of its own, which some systems do not let every user make."""
    private = ["unshare", "--user", "--map-root-user", "--mount"]
    mount = 'mount -t tmpfs -o size=4m tmpfs "$TMPDIR" && '
    if subprocess.run([*private, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no private file systems here")
    done = subprocess.run(
        [*private, "sh", "-c", mount + 'exec "$@"', "sh", sys.executable, "-m",
         "tests.faults.full_disk"],
        env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["ok ok", "No space left on device", "ok ok"], done.stderr


def statuses(measurer: Measurer, count: int = 1) -> list[str]:
    return [outcome.status for outcome in measurer.measure(relu(), [candidate()] * count)]


def large() -> KernelSpec:
    """The same as relu(), with arrays of 1 GB."""
    layout = Layout((1, 32, 2896, 2896), 16)
    return KernelSpec("elementwise", relu().attrs_json, (layout,), layout)


def test_a_workload_that_does_not_fit_is_no_end(faulty: Measurer) -> None:
    for _ in range(2):
        with pytest.raises(Unmeasurable, match=r"no reference .*: .*allocate"):
            list(faulty.measure(large(), [candidate()] * 3))
        assert statuses(faulty) == ["ok"]
    with pytest.raises(Unmeasurable, match="no reference"):
        faulty.compare([(large(), candidate())])
    assert statuses(faulty) == ["ok"]


def test_a_reference_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "_LIMIT_S", 0.0)
    with measuring() as measurer:
        with pytest.raises(Unmeasurable, match=r"no reference .*: it takes over 0 s"):
            list(measurer.measure(relu(), [candidate()]))
        folder = measurer._station().references.path(relu())
        assert not folder.exists()


@pytest.mark.parametrize("limit", ["_START_S", "_PREPARE_S"])
def test_a_runner_that_cannot_be_had(
    faulty: Measurer, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    faulty._station().runner.close()
    monkeypatch.setattr(runner, limit, 0.0)
    with pytest.raises(Unmeasurable, match="the process to run candidates in: did not end within"):
        list(faulty.measure(relu(), [candidate()]))
    monkeypatch.undo()
    assert statuses(faulty) == ["ok"]


def test_workloads_that_do_not_fit_together(
    faulty: Measurer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has no room in the process beside others gets one of its own."""
    layout = Layout((1, 32, 7, 7), 16)
    other = KernelSpec("elementwise", relu().attrs_json, (layout,), layout)
    used = faulty._station().runner
    own, refused = used._own, []

    def refuse(message: Mapping[str, Any], limit_s: float) -> None:
        if message["do"] == "workload" and used._known:
            used.close()
            refused.append(message["folder"])
            raise Unmeasurable("no room")
        own(message, limit_s)

    monkeypatch.setattr(used, "_own", refuse)
    pairs = [(spec, candidate()) for spec in (relu(), other)]
    assert [outcome.status for outcome in faulty.compare(pairs, rounds=2)] == ["ok"] * 2
    assert refused


def test_a_measurement_that_is_given_up(faulty: Measurer) -> None:
    """Its builds are ended, and do not stand in the way of others."""
    builds = [candidate(), *[candidate(build="hangs")] * 4]
    for outcome in faulty.measure(relu(), builds):
        assert outcome.status == "ok"
        break
    begin = time.monotonic()
    assert statuses(faulty, 2) == ["ok", "ok"]
    assert time.monotonic() - begin < 30


def test_builders_stand_still_while_something_is_timed(
    faulty: Measurer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And go on whatever happens meanwhile; the time does not count as theirs."""
    station = faulty._station()
    crew = station.crew
    monkeypatch.setattr(crew, "_pauses", True)  # whatever cores there are
    build = station.builder.start(relu(), candidate(build="busy"))
    crew.until(lambda: build.job.started is not None)
    begin, before = time.monotonic(), crew.clock()

    def fail() -> None:
        assert eventually(lambda: "T" in processes(crew.pid).values())
        time.sleep(0.3)
        raise KeyError

    with pytest.raises(KeyError), crew.quiet():
        fail()
    assert eventually(lambda: "T" not in processes(crew.pid).values())
    assert crew.clock() - before < time.monotonic() - begin - 0.3
    station.builder.cancel([build])


def test_nothing_stays_behind() -> None:
    with measuring(run_timeout_s=2.0) as measurer:
        crew = measurer._station().crew
        folder, session = crew.folder, crew.pid
        kinds = [candidate(), candidate("LEAVES_CHILD"), candidate(build="leaves_a_child")]
        found = [outcome.status for outcome in measurer.measure(relu(), kinds)]
        assert found == ["ok"] * 3
        assert folder.exists()
        # What a job has left behind in its group ends with it; only the runner is still there.
        assert eventually(lambda: len(processes(session)) <= 3)
        left = {path.suffix for path in folder.iterdir()}
        assert not left & {".so", ".trace"}
    assert gone(folder, session)


def test_a_killed_supervisor() -> None:
    """The kernel ends its children; the next measurement has a new one."""
    with measuring() as measurer:
        crew = measurer._station().crew
        folder, session = crew.folder, crew.pid
        outcomes = measurer.measure(relu(), [candidate(), *[candidate(build="hangs")] * 2])
        assert next(outcomes).status == "ok"
        os.kill(session, signal.SIGKILL)
        with pytest.raises(EnvironmentError_, match="ended"):
            next(outcomes)
        assert gone(folder, session)
        assert statuses(measurer) == ["ok"]


@contextmanager
def victim() -> Iterator[tuple[subprocess.Popen[str], Callable[[], str], Path, int]]:
    """A process that measures without end; how to read a line of it; its folder and session."""
    command = [sys.executable, "-m", "tests.faults.victim"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            folder, session = process.stdout.readline().split()
            yield process, process.stdout.readline, Path(folder), int(session)
        finally:
            process.kill()


@pytest.mark.parametrize("after", [0, 1, 4])
def test_a_killed_owner(after: int) -> None:
    """At once, or when some candidates have been measured."""
    with victim() as (process, line, folder, session):
        assert [line() for _ in range(after)] == ["ok\n"] * after
        process.kill()
        process.wait(30)
        assert gone(folder, session)


@pytest.mark.parametrize("times", [1, 2])
def test_interrupts(times: int) -> None:
    with victim() as (process, line, folder, session):
        assert line() == "ok\n"
        for _ in range(times):
            process.send_signal(signal.SIGINT)
            time.sleep(0.05)
        assert process.wait(30) != 0
        assert gone(folder, session)


def test_stale_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody holds is removed; what someone holds is not."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    abandoned, lock = make_folder()
    os.close(lock)
    (abandoned / "library1.so").write_bytes(b"left")
    held, lock = make_folder()
    other, other_lock = make_folder()
    assert not abandoned.exists()
    assert held.exists()
    assert other.exists()
    os.close(lock)
    os.close(other_lock)


def test_a_folder_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is gone afterwards, whatever happens; that of a killed process with the next one."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = (
        "import os; from tvmconv.autoschedule.measure.folder import temporary_folder as made\n"
        "with made(): os.kill(os.getpid(), 9)"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    (left,) = tmp_path.iterdir()
    with pytest.raises(KeyError), temporary_folder() as folder:  # noqa: PT012
        assert list(tmp_path.iterdir()) == [folder] != [left]
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_no_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(EnvironmentError_, match="missing: no temporary folder"):
        make_folder()
