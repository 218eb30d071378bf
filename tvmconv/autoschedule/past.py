"""What logs know when a tuning run begins: of its tasks, and of others to learn from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tvmconv.autoschedule.budget import seconds_spent
from tvmconv.autoschedule.log import Database
from tvmconv.autoschedule.ranker import Samples, features
from tvmconv.autoschedule.record import Method, Record
from tvmconv.errors import InputError
from tvmconv.kernel import KernelSpec
from tvmconv.target import Target

if TYPE_CHECKING:
    from tvmconv.autoschedule.search import Space
    from tvmconv.autoschedule.tasks import Task

#: Other workloads that the ranker learns from, and how many measurements make one worth it: to list
#: the candidates of a workload takes time.
_TEACHERS, _LEAST_LESSONS = 12, 8


class Spaces(Protocol):
    """Finds design spaces."""

    def space(self, spec: KernelSpec) -> Space:
        """The design space of a workload."""


@dataclass
class Past:
    """The records of logs as far as they concern one tuning run.

    Attributes
    ----------
    database : Database
        Of the run's own log and of those that ship.
    own : list of Record
        Of the run's own log, on its tasks.
    target : Target
    tasks : collection of str
        Texts of all workloads of the run.
    method : str
        How the run gets its times: others' are not comparable.
    """

    database: Database
    own: list[Record]
    target: Target
    tasks: Collection[str]
    method: Method = "measured"

    @classmethod
    def read(
        cls,
        log: Path,
        tasks: Sequence[Task],
        target: Target,
        shipped: bool,
        method: Method = "measured",
    ) -> Past:
        """Read the run's own log, those beside it, and those that ship with the package."""
        database = Database.open([log.parent], target, shipped)
        own = Database.open([log], target, shipped=False)
        texts = [spec.text for task in tasks for spec in task.specs]
        found = (record for text in texts for record in own.records(text, target))
        records = [record for record in found if record.method == method]
        return cls(database, records, target, frozenset(texts), method)

    @property
    def trials(self) -> int:
        """How many trials earlier runs have made on the tasks."""
        return sum(record.round == 0 for record in self.own)

    @property
    def seconds(self) -> float:
        """How long these took."""
        return seconds_spent([record.date for record in self.own])

    @property
    def skipped(self) -> Mapping[str, int]:
        """Lines that were not used, by reason."""
        return Counter(self.database.skipped)

    def seconds_at(self, date: str) -> float:
        """How long tuning had taken at a date."""
        return seconds_spent([record.date for record in self.own if record.date <= date])

    def of(self, task: Task) -> list[Record]:
        """What is known of a task by the run's method."""
        return [record for record in self._all(task) if record.method == self.method]

    def outdone(self, task: Task) -> bool:
        """Whether nobody would use what the run finds: there are better records of a task."""
        measured = (r.method == "measured" and r.status == "ok" for r in self._all(task))
        return self.method == "static" and any(measured)

    def _all(self, task: Task) -> list[Record]:
        texts = (spec.text for spec in task.specs)
        return [record for text in texts for record in self.database.records(text, self.target)]

    def lessons(self, spaces: Spaces, operators: Collection[str]) -> list[Samples]:
        """Measurements of other workloads of some operators, those with most of them."""
        by_workload: dict[str, list[Record]] = {}
        for record in self.database.records(None, self.target):
            trial = record.status == "ok" and record.method == self.method and not record.round
            if trial and record.workload not in self.tasks:
                by_workload.setdefault(record.workload, []).append(record)
        found: list[Samples] = []
        for text, records in sorted(by_workload.items(), key=lambda item: -len(item[1])):
            if len(found) == _TEACHERS or len(records) < _LEAST_LESSONS:
                break
            try:
                spec = KernelSpec.parse(text)
            except InputError:
                continue  # of a version with other operators
            if spec.op in operators:
                found.append(_samples(spec, spaces.space(spec), records))
        return found


def _samples(spec: KernelSpec, space: Space, records: Sequence[Record]) -> Samples:
    """What the records of a workload teach."""
    times = np.full(len(space), np.nan)
    for record in records:
        row = space.row(record.knobs)
        if row is not None:
            times[row] = record.time_us
    return Samples.of(features(spec, space), space.log_cycles, times)
