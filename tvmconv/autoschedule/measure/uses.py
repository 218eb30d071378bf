"""Shares candidates out among uses of a runner, and decides what it means if one fails.

A use that does not end in time may be the fault of a candidate, of too many of them, or of a
machine that hangs. So its candidates are tried again, half as many at a time, and a single one that
does not end either is given up. If meanwhile nothing has come from the runner, it is first used for
no candidate at all: where even that fails, it is the runner that is at fault.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from tvmconv.device.runner import RunnerError, RunnerOverrun

if TYPE_CHECKING:
    from tvmconv.device import Runner as Device

Result = TypeVar("Result")
#: ``use(positions)`` runs these candidates together, and gives what came of each.
Use = Callable[[Sequence[int]], dict[int, Result]]

#: Failures in a row, for each machine, after which the runner is taken to be lost; and the pause
#: before the next attempt.
_ATTEMPTS, _PAUSE_S = 3, 1.0
#: Candidates in a row that did not end, after which no other of their workload is tried.
_HOPELESS = 3
#: A use that has taken no more of its time leaves room for twice as many candidates.
_SHORT = 0.25


@dataclass
class _Group:
    """Candidates that are run together; none, to see whether a machine answers."""

    positions: Sequence[int]
    begun: float = 0.0
    overruns: int = 0


class Uses(Generic[Result]):
    """The uses of one runner.

    Parameters
    ----------
    device : tvmconv.device.Runner
    look : callable
        Called again and again while something runs; takes some time itself.
    """

    def __init__(self, device: Device, look: Callable[[], object]) -> None:
        self._device, self._look = device, look
        self._most, self._machines = sys.maxsize, device.machines
        self._failures = self._hopeless = 0
        self._answered = 0.0

    def run(
        self, use: Use[Result], count: int, *, in_turns: bool
    ) -> tuple[dict[int, Result], set[int]]:
        """Run candidates.

        Parameters
        ----------
        use : callable
        count : int
            Of candidates.
        in_turns : bool
            Whether they are compared, so that as many as possible have to be run together.

        Returns
        -------
        results : dict
            What came of each.
        late : set
            Those that did not end in time. After some in a row, those that are in neither were not
            tried.

        Raises
        ------
        RunnerError
            The runner is lost.
        """
        # One that was lost may be back.
        self._machines = min(self._device.machines, self._machines + 1)
        machines = 1 if in_turns else min(self._machines, count)
        share = -(-count // machines)
        groups = deque(_Group(range(k, min(k + share, count))) for k in range(0, count, share))
        running: dict[Future[dict[int, Result]], _Group] = {}
        found: dict[int, Result] = {}
        late: set[int] = set()
        with ThreadPoolExecutor(machines) as pool:
            try:
                while groups or running:
                    while groups and len(running) < min(machines, self._machines):
                        group = groups.popleft()
                        if len(group.positions) > self._most and not in_turns:
                            groups.appendleft(_Group(group.positions[self._most :]))
                            group = _Group(group.positions[: self._most])
                        group.begun = time.monotonic()
                        running[pool.submit(use, group.positions)] = group
                    self._look()
                    for future in [future for future in running if future.done()]:
                        group = running.pop(future)
                        again = self._settle(group, future, found, in_turns)
                        if len(group.positions) == 1 and not any(one.positions for one in again):
                            late.update(k for k in group.positions if k not in found)
                        groups.extendleft(reversed(again))
                    if self._hopeless >= _HOPELESS:
                        groups.clear()
            except BaseException:
                self._device.abandon()
                raise
        if self._hopeless >= _HOPELESS:
            self._hopeless = 0
        return found, late

    def _settle(
        self,
        group: _Group,
        future: Future[dict[int, Result]],
        found: dict[int, Result],
        in_turns: bool,
    ) -> list[_Group]:
        """Enter what came of a use; what is to be run because of it."""
        try:
            results = future.result()
        except RunnerOverrun:
            if not group.positions:
                raise
            return self._overran(group, in_turns)
        except RunnerError:
            self._failures += 1
            if self._failures >= _ATTEMPTS * self._device.machines:
                raise
            time.sleep(_PAUSE_S)
            return [group]
        self._failures, self._answered = 0, time.monotonic()
        found.update(results)
        if results:
            self._hopeless = 0
            if self._answered - group.begun < _SHORT * self._device.timeout_s:
                self._most = max(self._most, 2 * len(results))
        return []

    def _overran(self, group: _Group, in_turns: bool) -> list[_Group]:
        """What is to be run after a use that did not end in time."""
        count, several = len(group.positions), self._device.machines > 1
        self._machines = max(1, self._machines - 1)
        group.overruns += 1
        silent = [] if self._answered > group.begun else [_Group(())]
        if several and group.overruns < 2 and (in_turns or count == 1):
            return [*silent, group]  # on another machine
        if count > 1:
            half = (count + 1) // 2
            self._most = min(self._most, half)
            halves = (group.positions[:half], group.positions[half:])
            return [*silent, *map(_Group, halves)]
        self._hopeless += 1
        return silent
