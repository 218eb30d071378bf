"""The owner's side of the process in which candidates run, which is replaced when it ends."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tvmconv.autoschedule.measure.channel import Channel, Garbage
from tvmconv.autoschedule.measure.crew import Crew, Job
from tvmconv.autoschedule.measure.outcome import Fault, Rejected, Unmeasurable
from tvmconv.errors import signal_name

#: Starting Python, and reading a workload's arrays: no candidate has a part in these.
_START_S, _PREPARE_S = 60.0, 120.0
_END_S = 2.0
_BLOCKS = 5
#: A candidate whose first blocks are this many times the best's time gets no more.
_HOPELESS, _FIRST_BLOCKS = 1.6, 2
#: A block is disturbed if threads wait for a CPU for more than this share of it.
_DISTURBED = 0.02


class NotLoaded(Exception):
    """A library of candidates cannot be loaded; ``status`` is what to say of a single one."""

    def __init__(self, status: Fault, message: str) -> None:
        super().__init__(message)
        self.status: Fault = status


@dataclass(frozen=True)
class Kernel:
    """Where a candidate is and what it runs on.

    Attributes
    ----------
    symbol : str
    library, workload : str
        Paths of the library and of the folder with its checks.
    """

    symbol: str
    library: str
    workload: str


@dataclass(frozen=True)
class Block:
    """Some calls in a row: microseconds a call, and whether other programs disturbed them."""

    time_us: float
    disturbed: bool


class AnyRunner(Protocol):
    """What a station needs of whatever runs candidates: see :class:`Runner`."""

    def begin(self, best_us: float, *, in_turns: bool) -> None:
        """Candidates follow: to be timed one by one against a best time, or all in turns."""

    def verify(self, kernel: Kernel) -> float:
        """Run a candidate on every check; its largest error over the bound."""

    def block(self, kernel: Kernel) -> Block:
        """Time one block of calls, in turns with other candidates."""

    def blocks(self, kernel: Kernel, best_us: float) -> list[Block]:
        """Time blocks, fewer if the first show that the best time is out of reach."""

    def forget(self, paths: Iterable[str]) -> None:
        """Free what there is of libraries and workloads."""

    def close(self) -> None:
        """End what runs."""


class Runner:
    """Runs candidates in a process of its own.

    Parameters
    ----------
    crew : Crew
    threads : int
    cold_bytes : int
        Bytes of weights between two uses of the same ones; 0 for a warm cache.
    limit_s : float
        How long a candidate may take for a check or for a block of calls.
    gpu : int, optional
        The number of the GPU to run on, if it is to be one.
    """

    def __init__(
        self, crew: Crew, threads: int, cold_bytes: int, limit_s: float, gpu: int | None = None
    ) -> None:
        self._crew, self._limit_s = crew, limit_s
        self._kind = "runner" if gpu is None else "gpu-runner"
        self._description: dict[str, Any] = {"gpu": gpu, "cold_bytes": cold_bytes}
        if gpu is None:
            self._description = {
                "threads": threads,
                "cold_bytes": cold_bytes,
                "limit_s": limit_s / 4,  # of one piece of a request
                "disturbed": _DISTURBED,
            }
        self._job: Job | None = None
        self._channel: Channel | None = None
        self._known: set[str] = set()
        self._verified: set[Kernel] = set()
        self._number = 0

    def begin(self, best_us: float, *, in_turns: bool) -> None:
        """Nothing has to be known before: each block is asked for."""

    def verify(self, kernel: Kernel) -> float:
        """Run a candidate on every check; its largest error over the bound, at most 1.

        Raises
        ------
        Rejected
            If it is wrong, crashes or hangs.
        NotLoaded
        Unmeasurable
            If there is no process that its workload's arrays fit into.
        """
        self._prepare(kernel)
        (ratio,) = self._run("verify", kernel, ("ratio",))
        self._verified.add(kernel)
        return ratio

    def block(self, kernel: Kernel) -> Block:
        """Time one block of calls.

        Raises
        ------
        Rejected, NotLoaded
            As :meth:`verify`, which comes first if this process has not yet done it.
        """
        if kernel not in self._verified:
            self.verify(kernel)
        seconds, waited = self._run("block", kernel, ("seconds", "waited"))
        return Block(1e6 * seconds, waited > _DISTURBED)

    def blocks(self, kernel: Kernel, best_us: float) -> list[Block]:
        """Time blocks, fewer if the first show that the best time is out of reach."""
        found: list[Block] = []
        for count in range(_BLOCKS):
            if count >= _FIRST_BLOCKS and min(b.time_us for b in found) > _HOPELESS * best_us:
                break
            found.append(self.block(kernel))
        return found

    def forget(self, paths: Iterable[str]) -> None:
        """Let the process free what it has of libraries and workloads."""
        known = self._known & set(paths)
        if known:
            self._known -= known
            self._verified = {
                k for k in self._verified if known.isdisjoint((k.library, k.workload))
            }
            with contextlib.suppress(Rejected):
                self._request({"do": "forget", "paths": sorted(known)}, self._limit_s)

    def close(self) -> None:
        """End the process; the next request starts another."""
        if self._channel is not None:
            self._channel.close()
        if self._job is not None and not self._crew.lost:
            self._crew.kill(self._job)
        self._channel, self._job, self._known = None, None, set()
        self._verified = set()

    def _prepare(self, kernel: Kernel) -> None:
        """Have the process, the buffers and the library that a candidate needs."""
        if self._job is None:
            self._start()
        if kernel.workload not in self._known:
            self._lay_out(kernel.workload)
        if kernel.library not in self._known:
            self._load(kernel.library)

    def _lay_out(self, workload: str) -> None:
        """Have the buffers of a workload; if need be, in a process that has those of no other."""
        message = {"do": "workload", "folder": workload}
        alone = not self._known
        try:
            self._own(message, _PREPARE_S)
        except Unmeasurable:
            if alone:
                raise
            self._start()
            self._own(message, _PREPARE_S)
        self._known.add(workload)

    def _load(self, library: str) -> None:
        """Load candidates; what they do to the process meanwhile is the fault of none so far."""
        try:
            reply = self._request({"do": "library", "path": library}, self._limit_s)
        except Rejected as error:
            raise NotLoaded(error.status, str(error)) from None
        if "error" in reply:
            raise NotLoaded("build-failed", str(reply["error"]))
        self._known.add(library)

    def _start(self) -> None:
        self._channel, theirs = Channel.pair()
        self._job = self._crew.start(self._kind, self._description, math.inf, theirs.fileno())
        theirs.close()
        self._own({"do": "forget", "paths": []}, _START_S)

    def _own(self, message: Mapping[str, Any], limit_s: float) -> None:
        """Make a request that has nothing to do with a candidate."""
        try:
            self._request(message, limit_s)
        except Rejected as error:
            raise Unmeasurable(f"the process to run candidates in: {error}") from None

    def _run(self, action: str, kernel: Kernel, names: Sequence[str]) -> list[float]:
        """Let a candidate run; the numbers of that name in the answer."""
        message = {"do": action, "library": kernel.library, "workload": kernel.workload,
                   "symbol": kernel.symbol}  # fmt: skip
        reply = self._request(message, self._limit_s)
        try:
            if "error" in reply:
                raise Rejected("crashed", str(reply["error"]))
            if reply["wrong"]:
                raise Rejected("wrong", str(reply["wrong"]), float(reply["ratio"]))
            return [float(reply[name]) for name in names]
        except (KeyError, TypeError, ValueError):
            self.close()
            raise Rejected("crashed", "its process sent a malformed answer") from None

    def _request(self, message: Mapping[str, Any], limit_s: float) -> dict[str, Any]:
        """Send a request and wait for its answer; without one, the process is ended."""
        if self._channel is None:
            raise ValueError("there is no process to run candidates in")
        self._number += 1
        answered = False
        try:
            self._channel.send({"number": self._number, **message})
            reply = self._answer(self._channel, limit_s)
            answered = True
        finally:
            if not answered:
                self.close()
        return reply

    def _answer(self, channel: Channel, limit_s: float) -> dict[str, Any]:
        end = time.monotonic() + limit_s
        while True:
            left = end - time.monotonic()
            ready = self._crew.turn([channel], left)
            if not ready:
                if self._job is not None and self._job.code is not None:
                    raise Rejected("crashed", self._how_it_ended(self._job))
                if left <= 0:
                    raise Rejected("timeout", f"did not end within {limit_s:g} s")
                continue
            try:
                received = channel.receive()
            except Garbage as error:
                raise Rejected("crashed", f"its process sent {error}") from None
            if received is None:
                raise Rejected("crashed", self._await_end())
            reply = received[0]
            if reply.get("number") != self._number:
                raise Rejected("crashed", f"its process sent an answer to nothing: {reply}"[:200])
            return reply

    def _await_end(self) -> str:
        """How the process ends that has closed its connection."""
        job, end = self._job, time.monotonic() + _END_S
        while job is not None and job.code is None and time.monotonic() < end:
            self._crew.turn((), end - time.monotonic())
        return self._how_it_ended(job) if job is not None else "its process ended"

    def _how_it_ended(self, job: Job) -> str:
        if job.code is None:
            return "its process closed the connection"
        lines = self._crew.errors(job) if job.code else []
        if job.code < 0:
            return f"its process was ended by {signal_name(-job.code)}"
        told = f": {lines[-1]}" if lines else ""
        return f"its process exited with code {job.code}{told}"[:300]
