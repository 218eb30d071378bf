"""The owner's side of the supervisor: jobs, their deadlines, the pause while something is timed."""

from __future__ import annotations

import json
import math
import os
import select
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tvmconv.autoschedule.measure.channel import Channel, Garbage
from tvmconv.autoschedule.measure.folder import make_folder
from tvmconv.errors import EnvironmentError_
from tvmconv.target import Target

_SUPERVISOR = "from tvmconv.autoschedule.measure.supervisor import main; main()"
#: Importing TVM takes a second; on a machine that does other things as well, some.
_START_S, _END_S = 120.0, 10.0
_DISK_FULL = "No space left on device"
#: With less space than that left, programs fail that do not say why.
_LEAST_BYTES = 1 << 20


class CrewLost(EnvironmentError_):
    """The supervisor has ended by itself."""


@dataclass(eq=False)
class Job:
    """Something that a child of the supervisor does.

    Attributes
    ----------
    number : int
    kind : str
    limit_s : float
        How long it may take, pauses not counted.
    started : float or None
        When it was forked, by the crew's clock.
    code : int or None
        How it has ended: an exit code, or a signal's number below zero.
    overdue : bool
        Whether it was killed because it took too long.
    """

    number: int
    kind: str
    limit_s: float
    started: float | None = None
    code: int | None = None
    overdue: bool = False


class Crew:
    """The supervisor and its jobs.

    Parameters
    ----------
    builder : str
        The module that builds candidates, as :mod:`tvmconv.autoschedule.measure.build`.
    target : Target
        What they are built for.
    jobs : int
        How many build at a time.
    memory_bytes : int
        Address space of each job.
    pauses : bool
        Whether builds are stopped while something is timed.
    """

    def __init__(
        self, builder: str, target: Target, jobs: int, memory_bytes: int, pauses: bool
    ) -> None:
        self._jobs, self._pauses = jobs, pauses
        self._count, self._ready = 0, False
        self._paused_s, self._stopped_at, self._is_stopped = 0.0, math.inf, False
        self._running: dict[int, Job] = {}
        self._waiting: deque[Job] = deque()
        self._errors = os.memfd_create("errors")
        self.folder, self._lock = make_folder()
        self._channel, theirs = Channel.pair()
        self._begin = time.monotonic()
        arguments = [str(theirs.fileno()), builder, str(memory_bytes)]
        try:
            table = json.dumps(target.to_dict())
            (self.folder / "target").write_text(table, encoding="utf-8")
            self._process = subprocess.Popen(
                [sys.executable, "-c", _SUPERVISOR, *arguments],
                pass_fds=(theirs.fileno(), self._lock),
                start_new_session=True,  # Ctrl-C is for the owner alone
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                cwd=self.folder,
                env=_environment(),
            )
        except OSError as error:
            self._channel.close()
            self._release()
            raise EnvironmentError_(f"{self.folder}: cannot measure: {error}") from None
        finally:
            theirs.close()

    @property
    def pid(self) -> int:
        """Process and session of the supervisor; its jobs are of the same session."""
        return self._process.pid

    @property
    def lost(self) -> bool:
        """Whether it has ended."""
        return self._channel.fileno() < 0

    def clock(self) -> float:
        """Seconds, without those in which the builders were stopped."""
        return min(time.monotonic(), self._stopped_at) - self._paused_s

    def start(
        self, kind: str, description: Mapping[str, Any], limit_s: float, descriptor: int = -1
    ) -> Job:
        """Start a job; a build waits until fewer than ``jobs`` are under way."""
        self._count += 1
        job = Job(self._count, kind, limit_s)
        try:
            path = self.folder / f"{job.number}.job"
            path.write_text(json.dumps(description), encoding="utf-8")
        except OSError as error:
            raise EnvironmentError_(f"{path}: {error.strerror}") from None
        if kind == "build":
            self._waiting.append(job)
            self._advance()
        else:
            self._send_start(job, descriptor)
        return job

    def _send_start(self, job: Job, descriptor: int = -1) -> None:
        self._running[job.number] = job
        message = {"start": job.number, "kind": job.kind}
        self._channel.send(message, descriptor if descriptor >= 0 else None)

    def _advance(self) -> None:
        """Start builds that wait, as many as there is room for."""
        builds = sum(job.kind == "build" for job in self._running.values())
        stopped = self._stopped_at < math.inf
        while self._waiting and builds < self._jobs and not stopped:
            self._send_start(self._waiting.popleft())
            builds += 1

    def kill(self, job: Job) -> None:
        """End a job, at once if it has not started."""
        if job in self._waiting:
            self._waiting.remove(job)
            job.code = -9
        elif job.code is None:
            self._channel.send({"kill": job.number})

    def errors(self, job: Job) -> list[str]:
        """The last lines of what a job that has failed wrote to its standard error.

        Raises
        ------
        EnvironmentError_
            If the disk is full: then it is not the job that is at fault.
        """
        self.require_space()
        lines = self.told(job)
        if any(_DISK_FULL in line for line in lines):
            raise EnvironmentError_(f"{self.folder}: {_DISK_FULL}")
        return lines

    def require_space(self) -> None:
        """Find out whether there is room for the folder to grow.

        Raises
        ------
        EnvironmentError_
            If the disk is full.
        """
        if shutil.disk_usage(self.folder).free < _LEAST_BYTES:
            raise EnvironmentError_(f"{self.folder}: {_DISK_FULL}")

    def told(self, job: Job) -> list[str]:
        """The last lines that a job wrote to its standard error."""
        try:
            with (self.folder / f"{job.number}.err").open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 8192))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return []
        return [line.strip() for line in text.splitlines() if line.strip()]

    def discard(self, job: Job) -> None:
        """Remove a finished job's files."""
        for suffix in ("job", "err"):
            (self.folder / f"{job.number}.{suffix}").unlink(missing_ok=True)

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that jobs bring about."""
        while not condition():
            self.turn()

    def turn(self, others: Sequence[Channel] = (), timeout_s: float = 60.0) -> list[Channel]:
        """Wait once for messages; the ones of ``others`` that have some.

        Raises
        ------
        CrewLost
            If the supervisor has ended.
        """
        if self.lost:
            raise CrewLost("the measuring processes have ended")
        timeout_s = max(0.0, min(timeout_s, self._next_deadline()))
        poll = select.poll()  # select() takes no file above the 1024th
        for channel in (self._channel, *others):
            poll.register(channel, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(math.ceil(1000 * timeout_s))}
        found = [channel for channel in others if channel.fileno() in ready]
        if self._channel.fileno() in ready:
            self._handle()
        if not self._ready and time.monotonic() - self._begin > _START_S:
            self._lose(f"did not start within {_START_S:.0f} s")
        for job in self._running.values():
            if not job.overdue and self._left(job) <= 0:
                job.overdue = True
                self.kill(job)
        self._advance()
        return found

    def _left(self, job: Job) -> float:
        return math.inf if job.started is None else job.started + job.limit_s - self.clock()

    def _next_deadline(self) -> float:
        times = [self._left(job) for job in self._running.values() if not job.overdue]
        return max(0.0, min([*times, 60.0 if self._ready else 1.0]))

    def _handle(self) -> None:
        """Take one message."""
        try:
            received = self._channel.receive()
        except Garbage as error:
            self._lose(f"sent {error}")
        if received is None:
            self._lose("ended")
        message, _ = received
        if "ready" in message:
            self._ready = True
        elif "started" in message:
            self._running[message["started"]].started = self.clock()
        elif "ended" in message:
            self._running.pop(message["ended"]).code = message["code"]
        elif "paused" in message:
            self._is_stopped = True

    def _lose(self, why: str) -> NoReturn:
        """Give the crew up."""
        text = os.pread(self._errors, 1 << 16, max(0, os.fstat(self._errors).st_size - (1 << 16)))
        self.close()
        lines = text.decode("utf-8", "replace").strip().splitlines()
        told = f": {lines[-1].strip()}" if lines else ""
        raise CrewLost(f"the process that starts measurements {why}{told}")

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Stop the builders while something is timed, if they would take the cores it needs."""
        if not self._pauses or all(job.kind == "runner" for job in self._running.values()):
            yield
            return
        self._stopped_at, self._is_stopped = time.monotonic(), False
        try:
            self._channel.send({"pause": True})
            self.until(lambda: self._is_stopped)
            yield
        finally:
            self._paused_s += time.monotonic() - self._stopped_at
            self._stopped_at = math.inf
            self._channel.send({"pause": False})

    def close(self) -> None:
        """End everything. Ending the connection is enough: the rest is to wait until it is done."""
        if self.lost:
            return
        self._channel.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._release()

    def _release(self) -> None:
        """Remove the folder, should it still be there, and close what is open."""
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)
        os.close(self._errors)


def _environment() -> dict[str, str]:
    """The environment of the processes: this one's modules, and no threads that spin for work."""
    paths = [str(Path(path).absolute()) for path in sys.path]
    threads = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "TVM_NUM_THREADS")
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **dict.fromkeys(threads, "1")}
