"""The parts of a measurement, and what is done with builds that have ended: verify, time."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tvmconv.autoschedule.measure.batch import Batch
from tvmconv.autoschedule.measure.builder import Build, Builder
from tvmconv.autoschedule.measure.crew import Crew
from tvmconv.autoschedule.measure.outcome import Choice, Outcome, Rejected
from tvmconv.autoschedule.measure.references import References
from tvmconv.autoschedule.measure.runner import AnyRunner, Block
from tvmconv.kernel import KernelSpec

#: Candidates in one library, at most.
_BATCH = 16
_DISTURBED = "its threads had to wait for a CPU while it was timed"


@dataclass
class Station:
    """The parts, all of one crew.

    Attributes
    ----------
    ahead : int
        How many builds are under way or ready before they are needed.
    together : bool
        Whether nothing is measured before so many are ready: where each use of the runner takes
        long.
    """

    crew: Crew
    builder: Builder
    references: References
    runner: AnyRunner
    ahead: int
    together: bool = False

    def close(self) -> None:
        """End all processes."""
        self.runner.close()
        self.crew.close()

    def begin(self, specs: Iterable[KernelSpec]) -> None:
        """Prepare for workloads."""
        specs = list(specs)
        for spec in specs:
            self.references.start(spec)
        self.runner.forget(self.references.trim(specs))

    def outcomes(
        self, spec: KernelSpec, candidates: Sequence[Choice], best_us: float
    ) -> Iterator[Outcome]:
        """Build, verify and time candidates.

        While those of a batch run, the builds that have ended meanwhile are linked to the next, and
        others are built.
        """
        self.runner.begin(best_us, in_turns=False)
        waiting, builds = deque(candidates), deque[Build]()
        now: Batch | None = None
        after: Batch | None = None
        try:
            while waiting or builds or after:
                while waiting and len(builds) < self.ahead:
                    builds.append(self.builder.start(spec, waiting.popleft()))
                if after is None:
                    first = [*builds] if self.together else [builds[0]]
                    self._await(first)
                now, after = after, self._next(builds)
                if now is not None:
                    yield from self._each(now, best_us)
                    now.close(self.runner)
        finally:
            self.builder.cancel(builds)
            for batch in (now, after):
                if batch is not None and not self.crew.lost:
                    batch.close(self.runner)

    def _await(self, builds: Sequence[Build]) -> None:
        """Wait until builds have ended."""
        self.crew.until(lambda: all(build.job.code is not None for build in builds))

    def _next(self, builds: deque[Build]) -> Batch | None:
        """The first builds, as far as they have ended."""
        ended: list[Build] = []
        while builds and builds[0].job.code is not None and len(ended) < _BATCH:
            ended.append(builds.popleft())
        return Batch(self.builder, self.references, ended) if ended else None

    def _each(self, batch: Batch, best_us: float) -> Iterator[Outcome]:
        """Verify and time builds one after the other."""
        for build in batch.builds:
            try:
                ratio = batch.run(build, self.runner.verify)
                with self.crew.quiet():
                    blocks = batch.run(build, lambda kernel: self.runner.blocks(kernel, best_us))
            except Rejected as why:
                yield Outcome.failed(build.choice, build.trace, why)
            else:
                yield _timed(build, blocks, ratio)

    def comparison(self, pairs: Sequence[tuple[KernelSpec, Choice]], rounds: int) -> list[Outcome]:
        """Build and verify candidates, and time those that are right in turns."""
        self.runner.begin(math.inf, in_turns=True)
        builds = [self.builder.start(spec, choice) for spec, choice in pairs]
        found: dict[Build, Outcome] = {}
        try:
            self._await(builds)
        finally:
            self.builder.cancel(builds)
        batch = Batch(self.builder, self.references, builds)
        with contextlib.ExitStack() as stack:
            stack.callback(batch.close, self.runner)
            while left := [build for build in builds if build not in found]:
                found.update(self._turns(batch, left, rounds))
        return [found[build] for build in builds]

    def _turns(self, batch: Batch, builds: Sequence[Build], rounds: int) -> dict[Build, Outcome]:
        """The outcomes of builds; only that of the first to be rejected, if one is."""
        blocks: dict[Build, list[Block]] = {build: [] for build in builds}
        ratios: dict[Build, float] = {}
        try:
            for build in builds:
                ratios[build] = batch.run(build, self.runner.verify)
            with self.crew.quiet():
                for turn in range(rounds):
                    for build in _order(builds, turn):
                        blocks[build].append(batch.run(build, self.runner.block))
        except Rejected as why:
            return {build: Outcome.failed(build.choice, build.trace, why)}
        return {build: _timed(build, blocks[build], ratios[build]) for build in builds}


def _order(builds: Sequence[Build], turn: int) -> Sequence[Build]:
    """The order of a round: each starts one later, and every other one goes backwards."""
    first = turn % len(builds)
    return [*builds[first:], *builds[:first]][:: -1 if turn % 2 else 1]


def _timed(build: Build, blocks: Sequence[Block], ratio: float) -> Outcome:
    """The outcome of a candidate that is right."""
    disturbed = sum(block.disturbed for block in blocks)
    message = _DISTURBED if 2 * disturbed > len(blocks) else ""
    times_us = tuple(block.time_us for block in blocks)
    return Outcome(build.choice, "ok", build.trace, times_us, message, ratio)
