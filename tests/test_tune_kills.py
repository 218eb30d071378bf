"""`tvmconv tune` that is killed or interrupted, or cannot write its log, with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.kills import Campaign, marked
from tests.tune_fakes import LOG
from tvmconv.autoschedule.log import Log


@pytest.mark.slow
def test_kills_lose_and_leave_nothing(tmp_path: Path) -> None:
    """``python -m tests.faults.kills`` does the same more often, and with TVM."""
    campaign = Campaign(tmp_path, seed=1, after_s=0.5)
    for _ in range(10):
        campaign.kill_one()
    tally = campaign.finish()
    assert tally.good, tally
    assert tally.killed > 5
    assert tally.logged >= tally.acknowledged > 5


@pytest.mark.parametrize(
    ("how", "times", "told"),
    [(signal.SIGINT, 2, "interrupted"), (signal.SIGTERM, 1, "ended by SIGTERM")],
)
def test_interrupts(tmp_path: Path, how: signal.Signals, times: int, told: str) -> None:
    campaign = Campaign(tmp_path)
    with campaign.start(trials=1000) as process:
        assert campaign.await_record(process)
        assert len(marked(campaign.mark)) > 1  # what measures is found
        assert campaign.folders()
        for _ in range(times):
            process.send_signal(how)
            time.sleep(0.05)
        # To a shell both are the same: the second may come when all is closed and Python ends.
        assert process.wait(30) in (128 + how, *[-how] * (times - 1))
    assert campaign.errors.read_text() == f"tvmconv: {told}\n"
    campaign.settle()
    assert (campaign.tally.orphans, campaign.folders()) == (0, [])
    (log,) = campaign.logs()
    assert log.path.read_bytes() == campaign.noted.read_bytes()


#: What is mounted on the folder of the log before it is tuned, and what is said then.
MOUNTS = {
    "full": ('mount -t tmpfs -o size=24k tmpfs "$LOG"', "No space left on device; nothing logged"),
    "read-only folder": (
        'mount -t tmpfs tmpfs "$LOG" && mount -o remount,ro "$LOG"',
        "Read-only file system",
    ),
    "read-only log": (
        f'mkdir -p "$LOG/{Path(LOG).parent}" && : > "$LOG/{LOG}"'
        f' && mount --bind "$LOG/{LOG}" "$LOG/{LOG}" && mount -o remount,ro,bind "$LOG/{LOG}"',
        "cannot be written: Read-only file system",
    ),
}


@pytest.mark.parametrize("kind", MOUNTS)
def test_a_log_that_cannot_be_written(tmp_path: Path, kind: str) -> None:
    """In a file system of its own, which some systems do not let every user make."""
    private = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*private, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no private file systems here")
    folder, noted, saved = tmp_path / "log", tmp_path / "noted", tmp_path / "saved"
    folder.mkdir()
    mount, message = MOUNTS[kind]
    tune = f"{sys.executable} -m tests.faults.tuner {noted} {folder} 1500"
    keep = f'code=$?; cp "$LOG/{LOG}" {saved}; exit $code'
    done = subprocess.run(
        [*private, "sh", "-c", f"{mount} || exit 99; {tune}; {keep}"],
        env={**os.environ, "LOG": str(folder), "TMPDIR": str(tmp_path)},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    if done.returncode == 99:
        pytest.skip(f"cannot mount: {done.stderr}")
    told = [line for line in done.stderr.splitlines() if line.startswith("tvmconv: ")]
    assert done.returncode == 4, done.stderr
    assert len(told) == 1
    assert told[0].endswith(message)
    assert done.stdout == ""
    acknowledged = noted.read_bytes()
    if kind == "full":
        assert acknowledged.count(b"\n") > 10
        assert saved.read_bytes() == acknowledged
        assert not Log(saved).load().skipped
    else:
        assert acknowledged == b""
