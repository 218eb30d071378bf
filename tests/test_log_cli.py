"""`tvmconv log`: its tables, files and exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tvmconv.tune_logs

from tests.log_records import TARGET, changed, record, workload
from tvmconv.autoschedule.log import Log, default_folder
from tvmconv.autoschedule.record import Record, target_key
from tvmconv.autoschedule.workload import parse
from tvmconv.codegen.kernels import candidates
from tvmconv.errors import EnvironmentError_
from tvmconv.target import targets

Run = Callable[..., Any]
NAME = "conv2d:1x16x8x8:16x1x1"
OTHER = "conv2d:1x16x8x8:32x1x1"
ZEN3 = ("--target", "znver3")


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the user's own logs nor those that ship."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(tvmconv.tune_logs, "__path__", [str(tmp_path / "shipped")])


@pytest.fixture
def log(tmp_path: Path) -> Log:
    log = Log(tmp_path / "records.jsonl")
    log.append(
        record(0, times_us=(2.0,)),
        record(1, times_us=(3.0,)),
        record(2, status="wrong"),
        record(3, status="wrong"),
        record(4, status="timeout"),
        record(1, times_us=(2.5,), round=1),
        record(0, times_us=(4.0,), cache="cold", workload=workload(32)),
        record(0, target=target_key(replace(TARGET, cores=1)), times_us=(9.0,)),
        record(0, workload='["nosuch", {}, []]'),
    )
    log.path.write_bytes(log.path.read_bytes() + b"junk\n")
    return log


@pytest.mark.parametrize("name", ["list", "merge", "best", "check"])
def test_help(tvmconv: Run, snapshot: Callable[[str, str], None], name: str) -> None:
    result = tvmconv("log", name, "--help")
    assert (result.code, result.err) == (0, "")
    snapshot(f"help-log-{name}", result.out)


def test_list(tvmconv: Run, log: Log) -> None:
    result = tvmconv("log", "list", log.path, *ZEN3)
    assert (result.code, result.err) == (0, "")
    head, first, second, skipped = result.out.splitlines()
    assert head.split() == ["workload", "records", "failed", "warm_us", "cold_us", "method"]
    assert first.split() == [NAME, "6", "timeout=1", "wrong=2", "2.5", "measured"]
    assert second.split() == [OTHER, "1", "4", "measured"]
    assert skipped == ("skipped lines: 1 another target, 1 no workload of this version, 1 not JSON")


def test_list_json(tvmconv: Run, log: Log) -> None:
    data = json.loads(tvmconv("log", "list", log.path.parent, "--json", *ZEN3).out)
    assert data["skipped"]["not JSON"] == 1
    assert data["workloads"] == [
        {
            "workload": NAME,
            "records": 6,
            "failed": {"timeout": 1, "wrong": 2},
            "warm_us": 2.5,
            "cold_us": None,
            "method": "measured",
        },
        {
            "workload": OTHER,
            "records": 1,
            "failed": {},
            "warm_us": None,
            "cold_us": 4.0,
            "method": "measured",
        },
    ]


def test_threads_are_part_of_the_target(tvmconv: Run, log: Log) -> None:
    data = json.loads(tvmconv("log", "list", log.path, "--json", "--threads", 1, *ZEN3).out)
    assert [row["warm_us"] for row in data["workloads"]] == [9.0]


def test_without_a_file_the_usual_logs_are_meant(tvmconv: Run, tmp_path: Path) -> None:
    assert tvmconv("log", "list", *ZEN3).out == "no workloads\n"
    Log(default_folder() / "znver3" / "records.jsonl").append(record(0))
    Log(tmp_path / "shipped" / "znver3" / "records.jsonl").append(record(0, workload=workload(32)))
    data = json.loads(tvmconv("log", "list", "--json", *ZEN3).out)
    assert [row["workload"] for row in data["workloads"]] == [NAME, OTHER]
    given = Log(tmp_path / "given.jsonl")
    given.append(record(0))
    data = json.loads(tvmconv("log", "list", given.path, "--json", *ZEN3).out)
    assert [row["workload"] for row in data["workloads"]] == [NAME]


def test_list_can_tell_what_the_model_expects(tvmconv: Run, log: Log) -> None:
    from tvmconv.autoschedule.space import space_for
    from tvmconv.codegen.kernels import prim_func

    func = prim_func(parse(workload()), "kernel")
    candidate = space_for(TARGET).candidates(func, TARGET)[0]
    log.path.write_bytes(record(knobs=candidate.knobs).line())
    log.append(record(7, workload=workload(32)))
    data = json.loads(tvmconv("log", "list", log.path, "--predict", "--json", *ZEN3).out)
    expected = candidate.cycles / TARGET.frequency_ghz / 1000
    assert [row["predicted_us"] for row in data["workloads"]] == [pytest.approx(expected), None]


def test_best(tvmconv: Run, log: Log) -> None:
    data = json.loads(tvmconv("log", "best", log.path, "--json", *ZEN3).out)
    assert data["records"] == [
        {
            "workload": name,
            "time_us": time_us,
            "cache": cache,
            "method": "measured",
            "round": number,
            "date": "2025-01-31T12:00:00Z",
            "knobs": {"size0": knob, "order0": 1},
        }
        for name, time_us, cache, number, knob in [
            (NAME, 2.5, "warm", 1, 1),
            (OTHER, 4.0, "cold", 0, 0),
        ]
    ]
    table = tvmconv("log", "best", log.path, *ZEN3).out
    assert "size0=1 order0=1" in table


def test_best_makes_a_small_log_that_chooses_the_same(
    tvmconv: Run, log: Log, tmp_path: Path
) -> None:
    small = tmp_path / "small.jsonl"
    result = tvmconv("log", "best", log.path, "-o", small, *ZEN3)
    assert result.out.startswith(f"{small}: 2 records, 0.0 MB\nskipped lines: ")
    assert Log(small).load().skipped == {}
    shown = [
        json.loads(tvmconv("log", "best", path, "--json", *ZEN3).out)["records"]
        for path in (log.path, small)
    ]
    assert shown[0] == shown[1]


def test_merge(tvmconv: Run, log: Log, tmp_path: Path) -> None:
    other, output = Log(tmp_path / "other" / "x.jsonl"), tmp_path / "all.jsonl"
    other.append(record(0, times_us=(2.0,)), record(8), record(8, versions={"apache-tvm": "0"}))
    result = tvmconv("log", "merge", log.path, other.path.parent, "-o", output)
    assert (result.code, result.err) == (0, "")
    assert result.out == (f"{output}: 11 records, 0.0 MB\nskipped lines: 1 duplicate, 1 not JSON\n")
    merged = Log(output).load()
    assert merged.records == [*log.load().records, *other.load().records[1:]]
    assert not merged.skipped
    data = json.loads(tvmconv("log", "merge", log.path, "-o", output, "--json").out)
    assert data == {
        "file": str(output),
        "records": 11,
        "skipped": {"duplicate": 9, "not JSON": 1},
    }


def test_merge_keeps_what_the_output_has(tvmconv: Run, tmp_path: Path) -> None:
    first, second = Log(tmp_path / "a.jsonl"), Log(tmp_path / "b.jsonl")
    first.append(record(0))
    second.append(record(1))
    assert tvmconv("log", "merge", first.path, "-o", second.path).code == 0
    assert second.load().records == [record(1), record(0)]
    assert tvmconv("log", "merge", first.path, second.path, "-o", first.path).code == 0
    assert first.load().records == [record(0), record(1)]


def test_merge_is_whole_or_not_at_all(
    tvmconv: Run, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = log.path.read_bytes()

    def fsync(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fsync)
    for output in (log.path, tmp_path / "new.jsonl"):
        result = tvmconv("log", "merge", log.path, "-o", output)
        assert (result.code, result.err) == (
            4,
            f"tvmconv: {output}: No space left on device\n",
        )
    assert list(tmp_path.iterdir()) == [log.path]
    assert log.path.read_bytes() == before


def test_a_tuner_goes_on_while_logs_are_merged(tvmconv: Run, log: Log) -> None:
    writer = (
        "import sys; from pathlib import Path; from tests.log_records import record\n"
        "from tvmconv.autoschedule.log import Log\n"
        "for number in range(100, 400): Log(Path(sys.argv[1])).append(record(number))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", writer, str(log.path)], cwd=Path(__file__).parent.parent
    ) as process:
        while process.poll() is None:
            assert tvmconv("log", "merge", log.path, "-o", log.path).code == 0
    assert process.returncode == 0
    knobs = [dict(entry.knobs).get("size0", 0) for entry in log.load().records]
    assert [number for number in knobs if number >= 100] == list(range(100, 400))


# --- check


class Measurer:
    """Says what the tests want of each trace."""

    answers: dict[str, str]
    seen: list[Any]

    def __init__(self, target: Any, *, jobs: int, device: Any) -> None:
        self.seen.append((target, jobs, device and device.command))

    def __enter__(self) -> Measurer:
        return self

    def __exit__(self, *error: object) -> None:
        self.seen.append("closed")

    def measure(self, spec: Any, candidates: Any) -> Iterator[Any]:
        problem = spec.attrs["problem"]
        for trace in candidates:
            self.seen.append((problem, trace))
            status = self.answers.get(problem, "ok")
            yield SimpleNamespace(status=status, message="it is" if status != "ok" else "")


@pytest.fixture
def measurer(stub: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> type[Measurer]:
    Measurer.answers, Measurer.seen = {}, []
    stub("tvmconv.autoschedule.measure", Measurer=Measurer)
    monkeypatch.setattr("tvmconv.cli.log.require_runnable", lambda target: None)
    return Measurer


def test_check(tvmconv: Run, log: Log, measurer: type[Measurer]) -> None:
    result = tvmconv("log", "check", log.path, "--jobs", 3, *ZEN3)
    assert (result.code, result.err) == (0, "")
    assert [line.split()[:3] for line in result.out.splitlines()[:3]] == [
        ["workload", "now", "logged_us"],
        [NAME, "ok", "2.5"],
        [OTHER, "ok", "4"],
    ]
    trace = record().trace
    assert measurer.seen == [(TARGET, 3, None), (NAME, trace), (OTHER, trace), "closed"]


def test_check_fails_if_a_record_is_wrong(tvmconv: Run, log: Log, measurer: type[Measurer]) -> None:
    measurer.answers[OTHER] = "wrong"
    result = tvmconv("log", "check", log.path, "--json", *ZEN3)
    assert result.code == 1
    assert result.err == (
        f"tvmconv: 1 of 2 records are not right; the first is of {OTHER}: wrong: it is\n"
    )
    assert json.loads(result.out)["records"][1] == {
        "workload": OTHER,
        "now": "wrong",
        "logged_us": 4.0,
        "cache": "cold",
        "message": "it is",
    }


def test_check_of_everything(tvmconv: Run, log: Log, measurer: type[Measurer]) -> None:
    other = [[["GetSBlock", [], ["root", "main"], ["b0"]]], []]
    log.append(record(8, trace=other))
    data = json.loads(tvmconv("log", "check", "--all", log.path, "--json", *ZEN3).out)
    assert [row["workload"] for row in data["records"]] == [NAME, NAME, OTHER]
    assert measurer.seen[1:3] == [(NAME, record().trace), (NAME, other)]


def test_check_of_a_trace_that_is_none(tvmconv: Run, log: Log, measurer: type[Measurer]) -> None:
    log.path.write_bytes(changed(trace=7))
    assert tvmconv("log", "check", log.path, *ZEN3).code == 0  # as the fake measurer says
    assert measurer.seen[1] == (NAME, [])


def test_check_elsewhere(tvmconv: Run, tmp_path: Path, measurer: type[Measurer]) -> None:
    board = targets()["cortex-a53"]
    path = tmp_path / "records.jsonl"
    Log(path).append(record(0, target=target_key(board), method="static"))
    result = tvmconv("log", "check", path, "--target", "cortex-a53", "--runner", "env", "--jobs", 1)
    assert (result.code, result.err) == (0, "")
    assert measurer.seen[0] == (board, 1, "env")


def test_check_of_a_gpu_elsewhere(tvmconv: Run, log: Log) -> None:
    result = tvmconv("log", "check", log.path, "--target", "h100", "--runner", "env")
    told = "tvmconv: runner: a GPU is measured on the machine that has it\n"
    assert (result.code, result.err) == (2, told)


def test_check_of_what_this_machine_cannot_run(tvmconv: Run, tmp_path: Path) -> None:
    Log(tmp_path / "x.jsonl").append(record(0, target=target_key(targets()["cortex-a7"])))
    result = tvmconv("log", "check", tmp_path / "x.jsonl", "--target", "cortex-a7")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("tvmconv: cortex-a7: is for arm, and this machine is ")


def test_check_of_nothing_starts_nothing(
    tvmconv: Run, tmp_path: Path, measurer: type[Measurer]
) -> None:
    (tmp_path / "empty.jsonl").touch()
    assert tvmconv("log", "check", tmp_path / "empty.jsonl", *ZEN3).out == "no records\n"
    assert measurer.seen == []


def test_check_of_knobs_that_the_space_does_not_have(
    tvmconv: Run, tmp_path: Path, measurer: type[Measurer]
) -> None:
    """On a GPU; the other records are checked all the same, whatever --threads says."""
    gpu = targets()["cuda-sm90"]
    best = candidates(parse(workload()), gpu)[0]
    log = Log(tmp_path / "records.jsonl")
    log.append(record(0, target=target_key(gpu)), record(knobs=best.knobs, target=target_key(gpu)))
    options = ("--all", "--json", "--threads", 3, "--target", "cuda-sm90")
    result = tvmconv("log", "check", log.path, *options)
    assert result.code == 1
    rows = json.loads(result.out)["records"]
    assert [(row["now"], row["message"]) for row in rows] == [
        ("build-failed", "no schedule has the knobs {'size0': 0, 'order0': 1}"),
        ("ok", ""),
    ]
    assert measurer.seen[1:] == [(NAME, best), "closed"]


# --- what is refused


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("log",), 2, "tvmconv log: Missing command"),
        (("log", "frob"), 2, "No such command 'frob'"),
        (("log", "list", "nosuch"), 2, "'nosuch' does not exist"),
        (("log", "list", "/dev/null"), 2, "/dev/null: is not a regular file"),
        (("log", "list", "--target", "znver33"), 2, "did you mean znver3"),
        (("log", "list", "--threads", "0"), 2, "0 is not in the range"),
        (("log", "merge", "-o", "x"), 2, "Missing argument 'FILE|DIR...'"),
        (("log", "merge", "."), 2, "Missing option '-o'"),
        (("log", "merge", ".", "-o", "."), 2, ".: is a directory"),
        (("log", "merge", ".", "-o", "nosuch/x.jsonl"), 2, "nosuch is not a directory"),
        (("log", "best", "-o", "nosuch/x.jsonl"), 2, "nosuch is not a directory"),
        (("log", "check", "--jobs", "0"), 2, "0 is not in the range"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, tuple) else "",
)
def test_wrong_arguments(
    tvmconv: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = tvmconv(*arguments)
    assert (result.code, result.out) == (code, "")
    assert message in result.err
    assert result.err.count("\n") == 1


def test_a_log_that_cannot_be_read_is_one_line(
    tvmconv: Run, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lines(self: Log) -> Iterator[bytes]:
        raise EnvironmentError_(f"{self.path}: Input/output error")

    monkeypatch.setattr(Log, "lines", lines)
    result = tvmconv("log", "list", log.path, *ZEN3)
    assert (result.code, result.err) == (4, f"tvmconv: {log.path}: Input/output error\n")


def test_a_hostile_name_cannot_steer_the_terminal(tvmconv: Run, tmp_path: Path) -> None:
    log = Log(tmp_path / "records.jsonl")
    hostile: Record = record(0, knobs=(("\x1b[2J\r", 1),))
    log.append(hostile)
    for name in ("list", "best"):
        assert "\x1b" not in tvmconv("log", name, log.path, *ZEN3).out


@pytest.mark.parametrize("arguments", [("--help",), ("list", "--target", "znver3")])
def test_tvm_is_not_imported(arguments: tuple[str, ...]) -> None:
    process = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "tvmconv", "log", *arguments],
        capture_output=True,
        text=True,
    )
    lines = [line.rpartition("|")[2].strip() for line in process.stderr.splitlines()]
    imported = {line.partition(".")[0] for line in lines}
    assert "tvmconv" in imported
    assert not {"tvm", "onnx"} & imported
    assert process.returncode == 0
