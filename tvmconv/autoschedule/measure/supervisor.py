"""The process that owns all others of a measurement, and ends them.

It imports what a builder needs, TVM above all, once; then it forks a child for each job. It has one
thread, so forking is safe: importing TVM and compiling with it start none. When its owner closes
the connection or dies, however that happens, it kills every job and removes the temporary folder;
when it dies itself, the kernel kills its children.

Messages to it: ``{"start": number, "kind": kind}``, with the job's description in the file
``<number>.job``; ``{"kill": number}``; ``{"pause": bool}``. Messages from it: ``{"ready": true}``;
``{"started": number}``; ``{"ended": number, "code": exit code or negative signal}``;
``{"paused": true}``.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import select
import shutil
import signal
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tvmconv.autoschedule.measure.channel import Channel
from tvmconv.device.process import end_with_parent

#: The kinds of jobs that are programs of their own: where candidates run, here and on a GPU.
_RUNNERS = {"runner": "runner_main", "gpu-runner": "gpu_runner_main"}
_RUN = "from tvmconv.autoschedule.measure.{} import main; main()"
#: What a build or a candidate may write to one file, its error messages included.
_FILE_BYTES = 64 << 20
#: How often to look whether the owner still lives, should someone else hold its end open.
_LOOK_S = 1.0
_BUILDER_NICENESS = 5


@dataclass(frozen=True)
class Job:
    """What a forked child has to do.

    Attributes
    ----------
    number : int
    kind : str
    descriptor : int or None
        An open file for it.
    """

    number: int
    kind: str
    descriptor: int | None


class Supervisor:
    """Starts, stops and ends the jobs that its owner asks for."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._owner = os.getppid()
        self._running: dict[int, tuple[int, str]] = {}
        self._wakeup, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def serve(self) -> Job | None:
        """Serve the owner until it is gone; in a forked child, return the job to be done."""
        channel = self._channel.fileno()
        while os.getppid() == self._owner:
            ready, _, _ = select.select([channel, self._wakeup], [], [], _LOOK_S)
            if self._wakeup in ready:
                with suppress(BlockingIOError):
                    os.read(self._wakeup, 4096)
            self._reap()
            if channel not in ready:
                continue
            received = self._channel.receive()
            if received is None:
                return None
            job = self._obey(*received)
            if job is not None:
                return job
        return None

    def _obey(self, message: dict[str, Any], descriptor: int | None) -> Job | None:
        if "start" in message:
            job = Job(message["start"], message["kind"], descriptor)
            pid = os.fork()
            if pid == 0:
                return job
            with suppress(OSError):  # it does so too; whoever is second may be too late
                os.setpgid(pid, pid)
            if descriptor is not None:
                os.close(descriptor)
            self._running[job.number] = (pid, job.kind)
            self._channel.send({"started": job.number})
        elif "kill" in message:
            if message["kill"] in self._running:
                _signal(self._running[message["kill"]][0], signal.SIGKILL)
        elif "pause" in message:
            self._pause(message["pause"])
        return None

    def _pause(self, pause: bool) -> None:
        for pid, kind in self._running.values():
            if kind not in _RUNNERS:
                _signal(pid, signal.SIGSTOP if pause else signal.SIGCONT)
        if pause:
            self._channel.send({"paused": True})

    def _reap(self, wait: bool = False) -> None:
        """Take leave of children that have ended, and of what they have left in their groups."""
        options = os.WEXITED | os.WNOWAIT | (0 if wait else os.WNOHANG)
        for number, (pid, _) in list(self._running.items()):
            if os.waitid(os.P_PID, pid, options) is not None:
                _signal(pid, signal.SIGKILL)  # its number cannot be another's before it is reaped
                _, status = os.waitpid(pid, 0)
                del self._running[number]
                code = os.waitstatus_to_exitcode(status)
                self._channel.send({"ended": number, "code": code})

    def end(self) -> None:
        """Kill every job and wait until it is gone."""
        for pid, _ in self._running.values():
            _signal(pid, signal.SIGKILL)
        self._reap(wait=True)


def _signal(group: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def _settle(job: Job, parent: int, memory_bytes: int) -> None:
    """Make a forked child a process of its own: group, limits, output, signals."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with suppress(OSError):
        os.setpgid(0, 0)
    end_with_parent(parent)
    if job.kind != "gpu-runner":  # the driver of CUDA reserves addresses for all memory there is
        _limit(resource.RLIMIT_AS, memory_bytes)
    if job.kind in ("build", *_RUNNERS):
        _limit(resource.RLIMIT_FSIZE, _FILE_BYTES)
    if job.kind == "build":  # what is waited for goes first
        os.nice(_BUILDER_NICENESS)
    errors = os.open(f"{job.number}.err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(errors, 2)
    sys.excepthook = _report_and_exit


def _limit(kind: int, value: int) -> None:
    """Lower a limit of this process; never above what it may at most be."""
    _, most = resource.getrlimit(kind)
    value = value if most == resource.RLIM_INFINITY else min(value, most)
    resource.setrlimit(kind, (value, value))


def _report_and_exit(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """End a job that has failed, without what the parent would do at its end."""
    traceback.print_exception(kind, error, trace)
    os._exit(1)


def _perform(job: Job, folder: Path, builder: str) -> None:
    """Do a job in a forked child."""
    if job.kind in _RUNNERS:
        os.set_inheritable(job.descriptor or 0, True)
        program = _RUN.format(_RUNNERS[job.kind])
        command = [sys.executable, "-c", program, f"{job.number}.job", str(job.descriptor)]
        os.execv(sys.executable, command)
    description = json.loads((folder / f"{job.number}.job").read_text(encoding="utf-8"))
    if job.kind == "build":
        importlib.import_module(builder).build(description, folder)
    else:
        from tvmconv.autoschedule.measure import jobs

        jobs.KINDS[job.kind](description, folder)


def main() -> None:
    """Serve the owner: arguments are the connection, the builder's module and a memory limit.

    The working directory is the temporary folder; its file ``target`` has the target's table.
    """
    descriptor, builder, memory_bytes = sys.argv[1:]
    this, folder, supervisor = os.getpid(), Path.cwd(), None
    _limit(resource.RLIMIT_CORE, 0)
    channel = Channel.of(int(descriptor))
    try:
        supervisor = Supervisor(channel)
        table = json.loads((folder / "target").read_text(encoding="utf-8"))
        importlib.import_module(builder).prepare(table, folder)
        channel.send({"ready": True})
        gc.collect()
        gc.freeze()  # a collection in a child would copy every page it looks at
        job = supervisor.serve()
    finally:
        if os.getpid() == this:
            if supervisor is not None:
                supervisor.end()
            shutil.rmtree(folder, ignore_errors=True)
    if job is not None:
        channel.close()
        _settle(job, this, int(memory_bytes))
        _perform(job, folder, builder)
        os._exit(0)
