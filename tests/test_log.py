"""Log files: many writers, torn lines, full disks; nothing acknowledged is ever lost."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.log_records import changed, record, workload
from tests.test_log_record import BAD
from tvmconv.autoschedule.locked import locked
from tvmconv.autoschedule.log import Log
from tvmconv.autoschedule.record import MAX_LINE, Record, target_key
from tvmconv.errors import EnvironmentError_, InputError
from tvmconv.target import targets

REPOSITORY = Path(__file__).parent.parent

#: Appends records one by one, and says so after each.
WRITER = """
import sys
from pathlib import Path
from tests.log_records import record
from tvmconv.autoschedule.log import Log
log, first, count = Log(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
for number in range(first, first + count):
    log.append(record(number, message="x" * (number % 300)))
    print(number, flush=True)
"""


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "records.jsonl")


def writer(
    path: Path, first: int, count: int, stdout: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-c", WRITER, str(path), str(first), str(count)]
    return subprocess.Popen(arguments, stdout=stdout, cwd=REPOSITORY)


def numbers(log: Log) -> list[int]:
    """The numbers of the records of a log, of which every line is one."""
    loaded = log.load()
    assert not loaded.skipped
    return [dict(entry.knobs)["size0"] for entry in loaded.records]


# --- appending


def test_what_is_appended_is_loaded(log: Log) -> None:
    assert log.load().records == []
    log.append(record(0), record(1))
    log.append()
    log.append(record(2, status="crashed"))
    assert log.load().records == [record(0), record(1), record(2, status="crashed")]
    assert log.load().skipped == Counter()


def test_folders_are_made(tmp_path: Path) -> None:
    log = Log(tmp_path / "a" / "b" / "records.jsonl")
    log.append(record())
    assert numbers(log) == [0]


def test_file_and_folder_are_synced(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    log.append(record(0))
    log.append(record(1))
    path = str(log.path)
    assert synced == [path, str(log.path.parent), path]


def test_records_of_one_append_are_one_write(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    real = os.write

    def write(descriptor: int, data: memoryview) -> int:
        sizes.append(len(data))
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    log.append(record(0), record(1), record(2))
    assert sizes == [log.path.stat().st_size]


def test_eight_writers_lose_and_tear_nothing(log: Log) -> None:
    processes = [writer(log.path, 1000 * k, 500) for k in range(8)]
    assert [process.wait() for process in processes] == [0] * 8
    assert sorted(numbers(log)) == [1000 * k + n for k in range(8) for n in range(500)]


def test_killed_writers_lose_nothing_acknowledged(log: Log) -> None:
    rng = random.Random(0)
    acknowledged: set[int] = set()
    for attempt in range(10):
        first = 10_000 * attempt
        processes = [writer(log.path, first + 5000 * k, 5000, subprocess.PIPE) for k in range(2)]
        for process in processes:
            assert process.stdout is not None
            acknowledged.add(int(process.stdout.readline()))
        time.sleep(rng.random() * 0.05)
        for process in processes:
            process.send_signal(signal.SIGKILL)
            out, _ = process.communicate()
            acknowledged |= {int(line) for line in out.split(b"\n")[:-1]}
    log.append(record(-1))
    found = numbers(log)
    assert len(found) == len(set(found))
    assert acknowledged < set(found)


def test_a_log_that_was_replaced_meanwhile_is_let_go(log: Log) -> None:
    log.append(record(0))
    with locked(log.path):
        thread = threading.Thread(target=log.append, args=(record(1),))
        thread.start()
        time.sleep(0.05)  # it waits for the lock on the old file, if it is fast
        other = log.path.with_name("other")
        other.write_bytes(record(7).line())
        other.replace(log.path)
    thread.join()
    assert numbers(log) == [7, 1]


# --- torn and foreign lines


def test_a_log_torn_at_any_byte_keeps_the_rest(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # 1800 times
    log.append(record(0), record(1), record(2))
    whole = log.path.read_bytes()
    start = len(whole) - len(record(2).line())
    for length in range(start, len(whole)):
        log.path.write_bytes(whole[:length])
        torn = length > start and length < len(whole) - 1
        kept = [record(0), record(1)] + [record(2)] * (length == len(whole) - 1)
        assert log.load().records == kept
        assert log.load().skipped == ({"not JSON": 1} if torn else {})
        log.append(record(3))
        assert log.load().records == [*kept, record(3)]
        assert log.load().skipped == ({"not JSON": 1} if torn else {})


def test_bad_lines_are_skipped_and_counted(log: Log) -> None:
    expected: Counter[str] = Counter()
    for number, (line, reason) in enumerate(BAD.values()):
        if not line:
            continue
        with log.path.open("ab") as file:
            file.write(line.rstrip(b"\n") + b"\n")
        expected[reason] += 1
        log.append(record(number))
    loaded = log.load()
    assert loaded.skipped == expected
    assert len(loaded.records) == len(BAD) - 1


@pytest.mark.parametrize("extra", [-1, 0, 1, MAX_LINE, 3 * MAX_LINE + 17])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_long_line_is_one_line(log: Log, extra: int, end: bytes) -> None:
    long = b"x" * (MAX_LINE + extra) + end
    log.path.write_bytes(record(0).line() + long)
    log.append(record(1))
    loaded = log.load()
    assert loaded.records == [record(0), record(1)]
    assert loaded.skipped.total() == 1
    assert max(map(len, log.lines())) <= MAX_LINE + 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.lists(st.binary(max_size=60)), st.binary(max_size=10))
def test_any_bytes_between_records_do_no_harm(log: Log, between: list[bytes], last: bytes) -> None:
    log.path.write_bytes(b"".join(b"%s\n%s" % (junk, record(0).line()) for junk in between) + last)
    log.append(record(1))
    assert len(log.load().records) == len(between) + 1


def test_records_of_others_are_records(log: Log) -> None:
    other = record(1, target=target_key(targets()["znver4"]))
    older = record(2, versions={"apache-tvm": "0.1"})
    log.append(record(0), other, older)
    log.path.write_bytes(log.path.read_bytes() + changed(trace=[["nonsense"]], workload="x"))
    loaded = log.load()
    assert loaded.records[:3] == [record(0), other, older]
    assert loaded.records[3].trace == [["nonsense"]]


# --- what the system refuses


def test_a_folder_is_no_log(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a regular file"):
        Log(tmp_path).load()
    with pytest.raises(EnvironmentError_, match="Is a directory; nothing logged"):
        Log(tmp_path).append(record())


def test_a_file_is_no_folder(log: Log) -> None:
    log.append(record())
    inside = Log(log.path / "x.jsonl")
    with pytest.raises(EnvironmentError_, match="File exists; nothing logged"):
        inside.append(record())


def test_a_device_is_no_log() -> None:
    with pytest.raises(InputError, match="is not a regular file"):
        Log(Path("/dev/zero")).load()


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """Without root's right to read and write everything."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    yield
    if root:
        os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may search; pytest's own is for its user alone."""
    folder = Path("/tmp") / f"tvmconv-test-{os.getpid()}-{random.randrange(1 << 32)}"
    folder.mkdir(mode=0o755)
    yield folder
    shutil.rmtree(folder)


def test_a_read_only_log(open_folder: Path, request: pytest.FixtureRequest) -> None:
    log = Log(open_folder / "records.jsonl")
    log.append(record(0))
    log.path.chmod(0o444)
    request.getfixturevalue("unprivileged")
    with pytest.raises(EnvironmentError_) as caught:
        log.append(record(1))
    assert str(caught.value) == f"{log.path}: Permission denied; nothing logged"
    assert numbers(log) == [0]
    if os.geteuid() != open_folder.stat().st_uid:
        with pytest.raises(EnvironmentError_, match="Permission denied"):
            Log(open_folder / "new.jsonl").append(record())


def test_a_log_that_may_not_be_read(open_folder: Path, request: pytest.FixtureRequest) -> None:
    log = Log(open_folder / "records.jsonl")
    log.append(record())
    log.path.chmod(0)
    request.getfixturevalue("unprivileged")
    with pytest.raises(EnvironmentError_) as caught:
        log.load()
    assert str(caught.value) == f"{log.path}: Permission denied"


def fill(log: Log) -> tuple[int, str]:
    """Append until the system refuses; returns how many fitted, and the message."""
    for number in range(10_000):
        try:
            log.append(record(number, message="x" * (37 * number % 300)))
        except EnvironmentError_ as error:
            return number, str(error)
    raise AssertionError("the disk is not full")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small file system; another test limits the file's size")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    log = Log(small_disk / "records.jsonl")
    count, message = fill(log)
    assert count > 10
    assert message == f"{log.path}: No space left on device; nothing logged"
    assert numbers(log) == list(range(count))
    assert log.path.read_bytes().endswith(b"}\n")
    assert fill(log)[0] < count  # shorter records may still fit
    before = numbers(log)
    with pytest.raises(EnvironmentError_, match="No space left"):
        Log(small_disk / "other.jsonl").append(*map(record, range(100)))
    assert numbers(Log(small_disk / "other.jsonl")) == []
    (small_disk / "other.jsonl").unlink()
    assert numbers(log) == before


LIMITED = """
import sys
from pathlib import Path
from tests.test_log import fill
from tvmconv.autoschedule.log import Log
print(*fill(Log(Path(sys.argv[1]))))
"""


def test_a_file_that_may_not_grow(log: Log) -> None:
    process = subprocess.run(
        [sys.executable, "-c", LIMITED, str(log.path)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    count, message = process.stdout.split(maxsplit=1)
    assert message == f"{log.path}: File too large; nothing logged\n"
    assert numbers(log) == list(range(int(count)))
    assert log.path.stat().st_size <= 20_000
    assert log.path.read_bytes().endswith(b"}\n")


def test_a_disk_that_fails_to_sync(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    log.append(record(0))

    def fsync(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(EnvironmentError_, match="Input/output error; nothing logged"):
        log.append(record(1))
    monkeypatch.undo()
    log.append(record(2))
    assert numbers(log) == [0, 2]


def test_importing_logs_is_cheap() -> None:
    code = (
        "import sys, tvmconv.autoschedule.log\n"
        "print([m for m in ('tvm', 'numpy', 'onnx', 'xgboost') if m in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.stdout == "[]\n"


def test_a_line_is_parsed_as_it_is_written() -> None:
    assert Record.parse(record(workload=workload(32)).line()).workload == workload(32)
