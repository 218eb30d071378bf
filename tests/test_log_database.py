"""What is found in logs: which record is the best of a workload, and which do not count."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.log_records import TARGET, TRACE, changed, forged, record, workload
from tvmconv.autoschedule.log import Database, Log, default_folder, log_files
from tvmconv.autoschedule.record import Record, target_key
from tvmconv.autoschedule.workload import parse
from tvmconv.codegen.kernels import schedule
from tvmconv.errors import EnvironmentError_
from tvmconv.target import targets
from tvmconv.versions import PINS

W = workload()


def database(tmp_path: Path, *records: Record) -> Database:
    log = Log(tmp_path / "records.jsonl")
    log.append(*records)
    return Database.open([log.path], TARGET, shipped=False)


def timed(number: int, time_us: float, **changes: Any) -> Record:
    return record(number, times_us=(time_us,), **changes)


FAST, SLOW = timed(0, 1.0), timed(1, 2.0)


@pytest.mark.parametrize(
    ("records", "cache", "expected"),
    [
        ([], None, None),
        ([SLOW, FAST], None, FAST),
        ([record(status="timeout")], None, None),
        # A schedule that was ever wrong is out, whatever it was measured with.
        ([FAST, SLOW, record(0, status="wrong")], None, SLOW),
        ([FAST, SLOW, record(0, status="crashed", cache="cold")], None, SLOW),
        ([record(0, status="crashed"), FAST], None, None),
        # The last comparison in turns decides, not a lucky trial.
        ([FAST, SLOW, timed(1, 2.5, round=1)], None, timed(1, 2.5, round=1)),
        ([timed(0, 1.5, round=1), timed(1, 1.4, round=1), FAST], None, timed(1, 1.4, round=1)),
        ([timed(0, 1.5, round=1), timed(1, 1.6, round=2)], None, timed(1, 1.6, round=2)),
        ([FAST, timed(1, 1.4, round=1), record(1, status="wrong")], None, FAST),
        # Computed times count only where nothing was measured.
        ([timed(0, 0.1, method="static"), SLOW], None, SLOW),
        ([timed(0, 0.1, method="static", round=2), SLOW], None, SLOW),
        ([timed(0, 0.1, method="static")], None, timed(0, 0.1, method="static")),
        ([record(0, status="build-timeout", method="static"), FAST], None, FAST),
        ([timed(0, 0.1, method="static"), record(0, status="wrong")], None, None),
        # The cache that is asked for counts first, the other one if there is none.
        ([FAST, timed(1, 9.0, cache="cold")], "cold", timed(1, 9.0, cache="cold")),
        (
            [timed(0, 1.0, round=3), timed(1, 9.0, cache="cold")],
            "cold",
            timed(1, 9.0, cache="cold"),
        ),
        ([FAST, SLOW], "cold", FAST),
        ([FAST, timed(1, 9.0, cache="cold")], "warm", FAST),
    ],
)
def test_best(
    tmp_path: Path, records: list[Record], cache: str | None, expected: Record | None
) -> None:
    assert database(tmp_path, *records).best(W, TARGET, cache) == expected
    assert database(tmp_path).best(W, TARGET, cache) == expected


def test_other_workloads_targets_and_versions_do_not_count(tmp_path: Path) -> None:
    two_cores = replace(TARGET, cores=2)
    other = record(1, target=target_key(two_cores))
    older = record(2, versions={"apache-tvm": "0.26.0", "apache-tvm-ffi": "0.1.14.post1"})
    found = database(tmp_path, other, older, record(3, workload=workload(32)))
    assert found.best(W, TARGET) is None
    assert found.skipped == {"another target": 1, "another TVM version": 1}
    every = Database.open([tmp_path], shipped=False)
    assert every.best(W, TARGET) is None
    assert every.best(W, two_cores) == other
    assert every.skipped == {"another TVM version": 1}


def test_a_workload_that_looks_like_another_does_not_count(tmp_path: Path) -> None:
    spoofed = record(0, workload=f'x","workload":"{W}')
    also = record(1, workload="x", target=f'","workload":{W}')
    found = database(tmp_path, spoofed, also)
    assert found.best(W, TARGET) is None
    assert found.skipped == {"another target": 1}


def test_forged_lines_are_skipped_and_counted(tmp_path: Path) -> None:
    log = Log(tmp_path / "records.jsonl")
    lines = [
        b"\n",
        b"null\n",
        changed(times_us=[-1.0]),
        changed(times_us=[0.001]).replace(b"0.001", b"0.002"),
        changed(trace=7, times_us=[3.0]),
        forged({"workload": W}),
        forged({"versions": record().versions, "target": record().target}),
    ]
    log.path.write_bytes(b"".join(lines))
    log.append(SLOW)
    found = Database.open([log.path], TARGET, shipped=False)
    assert found.best(W, TARGET) == SLOW
    expected = Counter(
        {
            "blank": 1,
            "not a record": 1,
            "wrong CRC": 1,
            "another TVM version": 1,
            "times_us is malformed": 1,
        }
    )
    assert found.skipped == expected
    assert len(found.records()) == 2  # the one whose trace is none computes nothing either
    assert found.skipped == expected + Counter({"cache is missing": 1})


def test_lines_that_another_program_wrote_count(tmp_path: Path) -> None:
    import json

    path = tmp_path / "records.jsonl"
    fields = json.loads(FAST.line())
    path.write_text(json.dumps(dict(reversed(fields.items()))) + "\n")
    found = Database.open([path], TARGET, shipped=False)
    assert found.best(W, TARGET) == FAST
    assert not found.skipped


def test_records(tmp_path: Path) -> None:
    other = record(3, workload=workload(32), target=target_key(replace(TARGET, cores=2)))
    Log(tmp_path / "a.jsonl").append(FAST, other, SLOW)
    found = Database.open([tmp_path], shipped=False)
    assert found.records(W) == [FAST, SLOW]
    assert found.records() == [FAST, SLOW, other]
    assert found.records(target=TARGET) == [FAST, SLOW]
    assert found.records(workload(32), TARGET) == []
    assert found.records("nothing") == []
    assert found.records() == [FAST, SLOW, other]


def test_a_record_of_no_use_is_rejected(tmp_path: Path) -> None:
    found = database(tmp_path, FAST, timed(0, 1.5, round=1), SLOW)
    best = found.best(W, TARGET)
    assert best is not None
    found.reject(best, "trace")
    assert found.best(W, TARGET) == SLOW
    assert found.skipped == {"trace": 1}


def test_traces_are_read_when_they_are_needed(tmp_path: Path) -> None:
    best = database(tmp_path, FAST).best(W, TARGET)
    assert best is not None
    assert isinstance(best.__dict__["_trace"], bytes)
    assert best.trace == TRACE


# --- which files


def test_files_and_folders(tmp_path: Path) -> None:
    names = ["a.jsonl", "b.txt", "znver3/c.jsonl", "znver4/d.jsonl", "znver3/e/f.jsonl"]
    for name in names:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    here = [tmp_path / "a.jsonl", tmp_path / "znver3" / "c.jsonl"]
    assert log_files([tmp_path], TARGET) == here
    assert log_files([tmp_path]) == [*here, tmp_path / "znver4" / "d.jsonl"]
    assert log_files([tmp_path, here[0], here[1].parent], TARGET) == here
    assert log_files([tmp_path / "b.txt"]) == [tmp_path / "b.txt"]


def test_what_does_not_exist_is_empty(tmp_path: Path) -> None:
    found = Database.open([tmp_path / "no.jsonl", tmp_path / "no"], TARGET, shipped=False)
    assert found.records() == []
    assert not found.skipped


def test_shipped_logs_are_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tvmconv.tune_logs

    monkeypatch.setattr(tvmconv.tune_logs, "__path__", [str(tmp_path)])
    Log(tmp_path / "znver3" / "records.jsonl").append(FAST)
    Log(tmp_path / "znver4" / "records.jsonl").append(SLOW)
    assert Database.open([], TARGET).records() == [FAST]
    assert Database.open([], TARGET, shipped=False).records() == []
    assert Database.open().records() == [FAST, SLOW]


@pytest.mark.parametrize("name", targets())
def test_what_ships_is_of_use(name: str) -> None:
    """It is for the target as it is described now, and makes kernels as they are now."""
    target = targets()[name]
    for path in log_files([], target, shipped=True):
        loaded = Log(path).load()
        assert loaded.records
        assert not loaded.skipped
        for found in loaded.records:
            cores = json.loads(found.target)["cores"]
            assert found.target == target_key(replace(target, cores=cores))
            assert found.versions == PINS
        for found in loaded.records[:: max(1, len(loaded.records) // 4)]:
            schedule(parse(found.workload), "kernel", target, list(found.trace))


def test_default_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for unset in ("", "relative"):
        monkeypatch.setenv("XDG_DATA_HOME", unset)
        assert default_folder() == Path("/home/me/.local/share/tvmconv/tune_logs")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_folder() == Path("/data/tvmconv/tune_logs")


def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr(Path, "home", home)
    with pytest.raises(EnvironmentError_, match="no home folder"):
        default_folder()
