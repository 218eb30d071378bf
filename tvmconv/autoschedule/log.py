"""Logs of tuning: files of records to which many processes append, and the look-up in them.

A log is a file of lines (see :mod:`tvmconv.autoschedule.record`). Whatever else is in it, a torn
line, another program's bytes, records of other machines, is skipped and counted by reason, never an
error. Nothing here imports TVM.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from tvmconv.autoschedule.locked import append
from tvmconv.autoschedule.record import (
    MAX_LINE,
    Key,
    Record,
    field_text,
    intact,
    target_key,
    workload_of,
)
from tvmconv.errors import EnvironmentError_, InputError
from tvmconv.target import Target
from tvmconv.versions import PINS

OTHER_TARGET, OTHER_VERSION = "another target", "another TVM version"


@dataclass
class Loaded:
    """What a log holds.

    Attributes
    ----------
    records : list of Record
        In the order of the file.
    skipped : Counter
        Lines that are none, by reason.
    """

    records: list[Record]
    skipped: Counter[str]


class Log:
    """One file of records.

    Parameters
    ----------
    path : Path
        Need not exist: that is an empty log.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, *records: Record) -> None:
        """Add records; when this returns, they are on the disk.

        Raises
        ------
        EnvironmentError_
            If the system refuses, for example because the disk is full: nothing was added then.
        """
        data = b"".join(record.line() for record in records)
        try:
            append(self.path, data)
        except OSError as error:
            raise EnvironmentError_(f"{self.path}: {error.strerror}; nothing logged") from error

    def lines(self) -> Iterator[bytes]:
        """The lines of the file; of one that is too long, only the beginning.

        Raises
        ------
        InputError
            If it is something else than a file.
        EnvironmentError_
            If the system does not let it be read.
        """
        try:
            if self.path.exists() and not self.path.is_file():
                raise InputError(f"{self.path}: is not a regular file")
            with self.path.open("rb") as file:
                while line := file.readline(MAX_LINE + 1):
                    yield line
                    while len(line) > MAX_LINE and not line.endswith(b"\n"):
                        line = file.readline(MAX_LINE + 1)
        except FileNotFoundError:
            return
        except OSError as error:
            raise EnvironmentError_(f"{self.path}: {error.strerror}") from error

    def load(self) -> Loaded:
        """Read every record, of all targets and versions."""
        skipped: Counter[str] = Counter()
        return Loaded(_parsed(self.lines(), skipped), skipped)


def _parsed(lines: Iterable[bytes], skipped: Counter[str]) -> list[Record]:
    """The records of some lines; counts the lines that hold none."""
    records = []
    for line in lines:
        try:
            records.append(Record.parse(line))
        except ValueError as error:
            skipped[str(error)] += 1
    return records


class Database:
    """The records of some logs, found by workload; made by :meth:`open`.

    Attributes
    ----------
    skipped : Counter
        Lines that are of no use, by reason. Lines are parsed when their workload is asked for, so
        some reasons are known only then.
    used : Counter
        Records by which compilations have scheduled kernels, by method.
    """

    def __init__(self) -> None:
        self.skipped: Counter[str] = Counter()
        self.used: Counter[str] = Counter()
        self._lines: dict[bytes, list[bytes]] = {}
        self._records: dict[bytes, dict[Key, list[Record]]] = {}

    @classmethod
    def open(
        cls, paths: Sequence[Path] = (), target: Target | None = None, shipped: bool = True
    ) -> Database:
        """Index some logs.

        Parameters
        ----------
        paths : sequence of Path
            Logs, and folders of logs: see :func:`log_files`. One that does not exist is empty.
        target : Target, optional
            Records of any other are skipped.
        shipped : bool
            Whether to look into the logs that ship with the package, too.

        Raises
        ------
        InputError, EnvironmentError_
            As :meth:`Log.lines`.
        """
        database = cls()
        version = field_text("versions", PINS)
        machine = field_text("target", target_key(target)) if target else b""
        for path in log_files(paths, target, shipped):
            for line in Log(path).lines():
                database._index(line, version, machine)
        return database

    def _index(self, line: bytes, version: bytes, machine: bytes) -> None:
        if not intact(line):
            try:
                line = Record.parse(line).line()
            except ValueError as error:
                self.skipped[str(error)] += 1
                return
        if version not in line:
            self.skipped[OTHER_VERSION] += 1
        elif machine not in line:
            self.skipped[OTHER_TARGET] += 1
        else:
            self._lines.setdefault(workload_of(line), []).append(line)

    def _of(self, workload: bytes) -> dict[Key, list[Record]]:
        """The records of a workload by what they measure."""
        found = self._records.setdefault(workload, {})
        for record in _parsed(self._lines.pop(workload, ()), self.skipped):
            found.setdefault(record.key, []).append(record)
        return found

    def records(self, workload: str | None = None, target: Target | None = None) -> list[Record]:
        """Every record, or those of a workload, of a target."""
        wanted = [*self._records, *self._lines]
        if workload is not None:
            wanted = [field_text("workload", workload)]
        found = [
            record
            for name in dict.fromkeys(wanted)
            for group in self._of(name).values()
            for record in group
        ]
        key = target_key(target) if target else ""
        return [record for record in found if not key or record.target == key]

    def best(self, workload: str, target: Target, cache: str | None = None) -> Record | None:
        """The record whose schedule a workload should have.

        Measured counts before computed, the given kind of cache before the other, and of what is
        left the last round that compared schedules in turns. A schedule that was ever anything but
        ok is out.

        Parameters
        ----------
        workload : str
            ``KernelSpec.text`` of a workload.
        target : Target
        cache : "warm" or "cold", optional
            None: either.
        """
        return best_of(self.records(workload, target), cache)

    def reject(self, record: Record, reason: str) -> None:
        """Forget a record that turned out to be of no use, and count it."""
        self._of(field_text("workload", record.workload)).pop(record.key, None)
        self.skipped[reason] += 1


def best_of(records: Iterable[Record], cache: str | None = None) -> Record | None:
    """The best of the records of one workload and target: see :meth:`Database.best`."""
    records = list(records)
    measured = [record for record in records if record.method == "measured"]
    good = _never_failed(measured) or _never_failed(records)
    good = [record for record in good if record.cache == cache] or good
    last = max((record.round for record in good), default=0)
    final = (record for record in good if record.round == last)
    return min(final, key=lambda record: record.time_us, default=None)


def _never_failed(records: Sequence[Record]) -> list[Record]:
    """The records of schedules that were never anything but ok."""
    failed = {record.knobs for record in records if record.status != "ok"}
    return [record for record in records if record.knobs not in failed]


def default_folder() -> Path:
    """Where logs are that nobody named a folder for: the user's own.

    Raises
    ------
    EnvironmentError_
        If the user has no home.
    """
    data = Path(os.environ.get("XDG_DATA_HOME", ""))
    if not data.is_absolute():
        try:
            data = Path.home() / ".local" / "share"
        except RuntimeError as error:
            raise EnvironmentError_("no home folder; name a folder with --log") from error
    return data / "tvmconv" / "tune_logs"


def log_files(
    paths: Iterable[Path], target: Target | None = None, shipped: bool = False
) -> list[Path]:
    """The logs that paths stand for.

    Parameters
    ----------
    paths : iterable of Path
        Logs, and folders: all ``*.jsonl`` in them and in their folders of the target's name.
    target : Target, optional
        None: the folders of all targets.
    shipped : bool
        Whether to add the logs that ship with the package.
    """
    files: list[Path] = []
    name = target.name if target else "*"
    if shipped:
        (folder,) = import_module("tvmconv.tune_logs").__path__
        paths = [*paths, Path(folder)]
    for path in paths:
        inside = [*sorted(path.glob("*.jsonl")), *sorted(path.glob(f"{name}/*.jsonl"))]
        files += inside if path.is_dir() else [path]
    return list(dict.fromkeys(files))
