"""The owner's side of building: candidates to objects, objects to a library."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tvmconv.autoschedule.measure.crew import Crew, Job
from tvmconv.autoschedule.measure.outcome import Choice, Rejected
from tvmconv.codegen.link import static_triple
from tvmconv.errors import EnvironmentError_, signal_name
from tvmconv.kernel import KernelSpec
from tvmconv.target import Target

_NO_MEMORY = re.compile(r"MemoryError|bad_alloc|out of memory|Cannot allocate memory", re.I)
_KILL = -9
#: Compiling the C runtime, the first time with zig's own library; linking; a reference.
_RUNTIME_S, _LINK_S = 120.0, 60.0
Form: TypeAlias = Literal["library", "program", "list"]
#: The jobs that make each form of its objects, and its runtime where it has one.
_FORMS = {"library": ("link", "runtime"), "program": ("program", "device"), "list": ("list", "")}


@dataclass(eq=False)
class Build:
    """A candidate on its way to an object.

    Attributes
    ----------
    spec : KernelSpec
    choice : Candidate or list
    symbol : str
    job : Job
    failure : Rejected or None
        Why there is no object.
    trace : list
        What the schedule is, once it is built.
    """

    spec: KernelSpec
    choice: Choice
    symbol: str
    job: Job
    failure: Rejected | None = None
    trace: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Link:
    """Builds on their way to a library."""

    builds: Sequence[Build]
    library: Path
    job: Job


class Compiler:
    """Compiles candidates of one target.

    Parameters
    ----------
    crew : Crew
    target : Target
    limit_s : float
        How long one build may take.
    made : str
        Suffix of what the crew's builder leaves besides a trace.
    """

    def __init__(self, crew: Crew, target: Target, limit_s: float, made: str = "o") -> None:
        self._crew, self._limit_s, self._made = crew, limit_s, made
        self._table = target.to_dict()
        self._count = 0

    def start(self, spec: KernelSpec, choice: Choice) -> Build:
        """Start to build a candidate."""
        self._count += 1
        symbol = f"candidate{self._count:06d}"
        job: dict[str, Any] = {"workload": spec.text, "target": self._table, "symbol": symbol}
        if isinstance(choice, list):
            job["trace"] = choice
        else:
            job |= {"knobs": choice.knobs, "cycles": choice.cycles}
        return Build(spec, choice, symbol, self._crew.start("build", job, self._limit_s))

    def settle(self, build: Build) -> None:
        """Read what a build that has ended has left: a trace, or why there is none."""
        job = build.job
        if job.code == 0:
            try:
                self.made(build).stat()
                build.trace = json.loads(self._path(build, "trace").read_bytes())
            except (OSError, ValueError):
                self._crew.errors(job)
                build.failure = Rejected("build-failed", "the builder ended without a result")
        else:
            build.failure = self._failure(job)
        self._crew.discard(job)
        self._path(build, "trace").unlink(missing_ok=True)

    def _failure(self, job: Job) -> Rejected:
        lines = self._crew.errors(job)
        if job.overdue:
            return Rejected("build-timeout", f"did not end within {job.limit_s:g} s")
        told = next((line for line in reversed(lines) if _NO_MEMORY.search(line)), "")
        if told or job.code == _KILL:  # the last one by the kernel: no one else does it
            return Rejected("out-of-memory", told[:300] or "the system had no more memory")
        told = lines[-1][:300] if lines else ""
        if job.code is not None and job.code < 0:
            told = f"the builder was ended by {signal_name(-job.code)}" + (told and f": {told}")
        return Rejected("build-failed", told or f"the builder exited with code {job.code}")

    def cancel(self, builds: Iterable[Build]) -> None:
        """Give up builds that nobody waits for."""
        for build in builds:
            self._crew.kill(build.job)

    def discard(self, builds: Iterable[Build]) -> None:
        """Remove what was made of builds that are no longer needed."""
        for build in builds:
            self.made(build).unlink(missing_ok=True)

    def made(self, build: Build) -> Path:
        """What a build that has ended has left."""
        return self._path(build, self._made)

    def _path(self, build: Build, suffix: str) -> Path:
        return self._crew.folder / f"{build.symbol}.{suffix}"


class Builder(Compiler):
    """Compiles candidates of one target, and links them.

    Parameters
    ----------
    crew : Crew
    target : Target
    limit_s : float
        How long one build may take.
    form : "library", "program" or "list"
        What objects become: libraries; static programs, to run on another machine; or lists of
        files, of which a GPU's driver loads each.

    Attributes
    ----------
    contents : dict of str to sequence of Build
        What is in each library or program that there is.
    """

    def __init__(
        self, crew: Crew, target: Target, limit_s: float, *, form: Form = "library"
    ) -> None:
        super().__init__(crew, target, limit_s)
        self._libraries = 0
        flags = [f"-mcpu={target.zig_mcpu}"]
        self._link_kind, runtime_kind = _FORMS[form]
        static = form == "program"
        self._triple = static_triple(target.zig.triple) if static else target.zig.triple
        runtime = {"triple": self._triple, "cpu_flags": flags}
        self._runtime = crew.start(runtime_kind, runtime, _RUNTIME_S) if runtime_kind else None
        self.contents: dict[str, Sequence[Build]] = {}

    def link(self, builds: Sequence[Build]) -> Link:
        """Start to link objects to a library.

        Raises
        ------
        EnvironmentError_
            If the runtime cannot be compiled.
        """
        runtime = self._runtime
        if runtime is not None:
            self._crew.until(lambda: runtime.code is not None)
            if runtime.code:
                raise EnvironmentError_(self._told(runtime, "cannot compile the runtime"))
        self._libraries += 1
        output = f"library{self._libraries}.so"
        description = {
            "objects": [f"{build.symbol}.o" for build in builds],
            "exports": [f"__tvm_ffi_{build.symbol}" for build in builds],
            "output": output,
            "triple": self._triple,
        }
        job = self._crew.start(self._link_kind, description, _LINK_S)
        return Link(builds, self._crew.folder / output, job)

    def linked(self, link: Link) -> Path:
        """Wait for a library.

        Raises
        ------
        ValueError
            If the objects cannot be linked.
        """
        job = link.job
        self._crew.until(lambda: job.code is not None)
        told = self._told(job, "cannot be linked") if job.code else ""
        self._crew.discard(job)
        if told:
            raise ValueError(told)
        self.contents[str(link.library)] = link.builds
        return link.library

    def _told(self, job: Job, what: str) -> str:
        lines = self._crew.errors(job)
        return f"{what}: {lines[-1] if lines else f'exit {job.code}'}"[:300]
