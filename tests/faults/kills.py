"""Ends `tvmconv tune` again and again at random times, and looks at what is left.

``python -m tests.faults.kills FOLDER KILLS [PROBLEM...]`` goes on with the log in the folder and
prints a summary; exit code 1 if anything was lost, is there twice or stays behind. Without a
problem, it measures faulty candidates: see :mod:`tests.faults.tuner`.
"""

from __future__ import annotations

import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.faults.harness import eventually
from tvmconv.autoschedule.log import Log
from tvmconv.autoschedule.record import intact

#: How many more trials a run may make.
_TRIALS = 40
_LIMIT_S = 300.0
_MARK = "TVMCONV_TEST_KILLS"


@dataclass
class Tally:
    """What came of it.

    Attributes
    ----------
    killed, ended : int
        Runs that were killed, and those that had ended before.
    logged, acknowledged : int
        Records in the log, and records of which a run knew that they were.
    lost, twice : int
        Acknowledged records that are not in the log; records with the key and round of another.
    unreadable : int
        Lines of the log that are no records: nobody knew that they were written.
    orphans : int
        Runs of which a process had not ended in time.
    slowest_s : float
        The longest that it took until all processes of a run had ended.
    folders : int
        Most temporary folders that there were after a kill.
    left : list of str
        Temporary folders after a last run that nobody has killed.
    """

    killed: int = 0
    ended: int = 0
    logged: int = 0
    acknowledged: int = 0
    lost: int = 0
    twice: int = 0
    unreadable: int = 0
    orphans: int = 0
    slowest_s: float = 0.0
    folders: int = 0
    left: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.twice or self.orphans or self.left)


class Campaign:
    """Runs with one log.

    Parameters
    ----------
    folder : Path
        For the log, the acknowledgements, and temporary files.
    problems : sequence of str
    seed : int, optional
    after_s : float
        How long to go on at most after a run's first record.

    Attributes
    ----------
    mark : str
        In the environment of every process of its runs.
    """

    def __init__(
        self,
        folder: Path,
        problems: Sequence[str] = (),
        *,
        seed: int | None = None,
        after_s: float = 2.0,
    ) -> None:
        self.folder, self.problems, self._after_s = folder, problems, after_s
        self.noted, self.temporary = folder / "noted", folder / "tmp"
        self.temporary.mkdir(parents=True, exist_ok=True)
        self.noted.touch()
        self.errors = folder / "errors"
        self.tally = Tally()
        self._rng = random.Random(seed)
        self._start_s = 1.0
        self.mark = secrets.token_hex(8)

    def start(self, trials: int | None = None) -> subprocess.Popen[bytes]:
        """Start a run."""
        if trials is None:
            trials = self._known() + self._rng.randint(1, _TRIALS)
        log = self.folder / "log"
        arguments = [str(self.noted), str(log), str(trials), *self.problems]
        with self.errors.open("wb") as errors:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.faults.tuner", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={**os.environ, "TMPDIR": str(self.temporary), _MARK: self.mark},
            )

    def await_record(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait until a run has logged one; whether it has."""
        before, begin = self.noted.stat().st_size, time.monotonic()
        while self.noted.stat().st_size == before:
            if process.poll() is not None or time.monotonic() - begin > _LIMIT_S:
                return False
            time.sleep(0.005)
        self._start_s = time.monotonic() - begin
        return True

    def kill_one(self) -> None:
        """Start a run and kill it: while it starts, or after its first record."""
        with self.start() as process:
            if self._rng.random() < 0.3:
                time.sleep(self._rng.uniform(0, self._start_s))
            elif self.await_record(process):
                time.sleep(self._rng.uniform(0, self._after_s))
            if process.poll() is None:
                self.tally.killed += 1
            else:
                self.tally.ended += 1
            process.send_signal(signal.SIGKILL)
        self.settle()

    def settle(self) -> None:
        """Wait until nothing of a run is left but perhaps folders."""
        begin = time.monotonic()
        if not eventually(lambda: not marked(self.mark)):
            self.tally.orphans += 1
        self.tally.slowest_s = max(self.tally.slowest_s, time.monotonic() - begin)
        self.tally.folders = max(self.tally.folders, len(self.folders()))

    def finish(self) -> Tally:
        """Let one run come to its end, and sum up."""
        with self.start(trials=self._known() + 1) as process:
            code = process.wait(_LIMIT_S)
        if code:
            raise RuntimeError(self.errors.read_text())
        self.settle()
        lines = [line for log in self.logs() for line in log.path.read_bytes().splitlines(True)]
        loaded = [log.load() for log in self.logs()]
        keys = Counter((r.key, r.round) for entry in loaded for r in entry.records)
        acknowledged = self._acknowledged()
        self.tally.logged = sum(keys.values())
        self.tally.acknowledged = len(acknowledged)
        self.tally.lost = sum((Counter(acknowledged) - Counter(lines)).values())
        self.tally.twice = sum(count - 1 for count in keys.values())
        self.tally.unreadable = sum(sum(entry.skipped.values()) for entry in loaded)
        self.tally.left = self.folders()
        return self.tally

    def folders(self) -> list[str]:
        """Names of the temporary folders that there are."""
        return sorted(path.name for path in self.temporary.iterdir())

    def logs(self) -> list[Log]:
        """The logs that have been written."""
        return [Log(path) for path in (self.folder / "log").rglob("*.jsonl")]

    def _known(self) -> int:
        """How many records there are of the problems."""
        texts = [text.encode() for text in self.problems] or [b""]
        return sum(any(text in line for text in texts) for line in self._acknowledged())

    def _acknowledged(self) -> list[bytes]:
        """Lines that were logged; one that was not noted as a whole is not among them."""
        return [line for line in self.noted.read_bytes().splitlines(True) if intact(line)]


def marked(mark: str) -> list[int]:
    """The processes that have a mark in their environment, and have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"{_MARK}={mark}".encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:  # it has just ended, or is somebody else's
            continue
    return found


def main() -> None:
    campaign = Campaign(Path(sys.argv[1]), sys.argv[3:])
    for _ in range(int(sys.argv[2])):
        campaign.kill_one()
    tally = campaign.finish()
    print(" ".join(f"{name}={value}" for name, value in asdict(tally).items()))
    sys.exit(not tally.good)


if __name__ == "__main__":
    main()
