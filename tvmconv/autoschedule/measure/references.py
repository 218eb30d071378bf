"""The owner's side of references: made once a workload, by a child of the supervisor."""

from __future__ import annotations

import shutil
from collections import OrderedDict
from collections.abc import Collection
from pathlib import Path

from tvmconv.autoschedule.measure.crew import Crew, Job
from tvmconv.autoschedule.measure.outcome import Unmeasurable
from tvmconv.errors import signal_name
from tvmconv.kernel import KernelSpec

_LIMIT_S = 600.0
#: Bytes of arrays that are kept on the disk; what has not been used for longest is made again.
_KEPT_BYTES = 1 << 29


class References:
    """Folders with the inputs and references of workloads."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._jobs: OrderedDict[str, Job] = OrderedDict()

    def start(self, spec: KernelSpec) -> None:
        """Begin to make those of a workload, unless that has been done."""
        if spec.text in self._jobs:
            self._jobs.move_to_end(spec.text)
            return
        description = {"workload": spec.text, "folder": self.path(spec).name}
        self._jobs[spec.text] = self._crew.start("reference", description, _LIMIT_S)

    def path(self, spec: KernelSpec) -> Path:
        """Where those of a workload are."""
        return self._crew.folder / f"workload-{spec.digest}"

    def wait(self, spec: KernelSpec) -> Path:
        """Wait until those of a workload are there; where.

        Raises
        ------
        Unmeasurable
            If they cannot be made.
        EnvironmentError_
            If the disk is full even without them.
        """
        self.start(spec)
        job = self._jobs[spec.text]
        self._crew.until(lambda: job.code is not None)
        if job.code:
            shutil.rmtree(self.path(spec), ignore_errors=True)  # what there is of it is of no use
            self._crew.require_space()
            raise Unmeasurable(f"no reference to check candidates against: {self._why(job)}")
        return self.path(spec)

    def _why(self, job: Job) -> str:
        """Why a job has failed."""
        lines = self._crew.told(job)
        if job.overdue:
            return f"it takes over {_LIMIT_S:g} s"
        if job.code is not None and job.code < 0:
            return f"its process was ended by {signal_name(-job.code)}"
        return lines[-1][:300] if lines else f"its process exited with code {job.code}"

    def trim(self, used: Collection[KernelSpec]) -> list[str]:
        """Remove what is too much for the disk, but for some; the paths that are gone."""
        kept = {spec.text for spec in used}
        paths = {text: self.path(KernelSpec.parse(text)) for text in self._jobs}
        sizes = {text: _size(path) for text, path in paths.items()}
        gone = []
        for text in list(self._jobs):
            if sum(sizes.values()) <= _KEPT_BYTES:
                break
            if text not in kept:
                shutil.rmtree(paths[text], ignore_errors=True)
                gone.append(str(paths[text]))
                del self._jobs[text], sizes[text]
        return gone


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.npy"))
