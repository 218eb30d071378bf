"""The process in which candidates run. It never imports TVM.

It answers each request of its parent, ``{"number": n, "do": action, ...}``, by ``{"number": n,
...}``. Actions: ``library`` loads candidates, ``workload`` lays out buffers, ``verify`` runs a
candidate on every check, ``block`` times one block of calls, ``forget`` frees.
"""

from __future__ import annotations

import _ctypes
import ctypes
import json
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from tvmconv.autoschedule.measure.channel import Channel
from tvmconv.autoschedule.measure.check import Verdict
from tvmconv.autoschedule.measure.stage import ArgumentSets, Block, Key, Stage


class KernelFailed(Exception):
    """A candidate has returned an error."""


class AnyLibrary(Protocol):
    """Candidates that are loaded."""

    def call(self, symbol: str) -> Any:
        """What a stage runs a candidate by."""

    def close(self) -> None:
        """Unload them."""


class AnyStage(Protocol):
    """The buffers of a workload: see :class:`~tvmconv.autoschedule.measure.stage.Stage`."""

    def verify(self, key: Key, call: Any) -> Verdict:
        """Run a candidate on every check."""

    def block(self, key: Key, call: Any) -> Block:
        """Time one block of calls of a verified candidate."""

    def forget(self, library: str) -> None:
        """Free what is kept of a library's candidates."""


class Library:
    """Candidates that are linked together, with the threads that run them.

    Parameters
    ----------
    path : str
    threads : int
    limit_s : float
        How long calls may go on.
    """

    def __init__(self, path: str, threads: int, limit_s: float) -> None:
        self._limit_s = limit_s
        self._library = ctypes.CDLL(path)
        self._calls = self._library.tvmconv_measure_calls
        self._calls.argtypes = [
            ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int,
            ctypes.c_int, ctypes.c_double, ctypes.c_void_p,
        ]  # fmt: skip
        self._library.tvmconv_measure_error.restype = ctypes.c_char_p
        if self._library.tvmconv_measure_open(threads):
            raise OSError(self._error())

    def _error(self) -> str:
        text: bytes = self._library.tvmconv_measure_error()
        return text.decode("utf-8", "replace")

    def call(self, symbol: str) -> Callable[[ArgumentSets, int, int], list[float]]:
        """The function that calls a candidate, as :data:`~...measure.stage.Call`."""
        limit_s = self._limit_s
        kernel = ctypes.cast(self._library[f"__tvm_ffi_{symbol}"], ctypes.c_void_p)

        def call(sets: ArgumentSets, first: int, calls: int) -> list[float]:
            seconds = (ctypes.c_double * calls)()
            done = self._calls(
                kernel, sets.pointer, sets.count, sets.arguments, first, calls, limit_s, seconds
            )
            if done < 0:
                raise KernelFailed(self._error())
            return list(seconds[:done])

        return call

    def close(self) -> None:
        """End the threads and unload."""
        self._library.tvmconv_measure_close()
        _ctypes.dlclose(self._library._handle)


class Runner:
    """What the process has loaded.

    Parameters
    ----------
    load : callable
        ``load(path)``: a library.
    lay_out : callable
        ``lay_out(folder)``: the buffers of a workload.
    """

    def __init__(
        self, load: Callable[[str], AnyLibrary], lay_out: Callable[[Path], AnyStage]
    ) -> None:
        self._load, self._lay_out = load, lay_out
        self._libraries: dict[str, AnyLibrary] = {}
        self._stages: dict[str, AnyStage] = {}

    def library(self, path: str) -> dict[str, Any]:
        """Load candidates; ``error`` says why that fails."""
        try:
            self._libraries[path] = self._load(path)
        except OSError as error:
            return {"error": str(error)}
        return {}

    def workload(self, folder: str) -> dict[str, Any]:
        """Lay out the buffers of a workload."""
        self._stages[folder] = self._lay_out(Path(folder))
        return {}

    def verify(self, library: str, workload: str, symbol: str) -> dict[str, Any]:
        """Run a candidate on every check."""
        call = self._libraries[library].call(symbol)
        try:
            verdict = self._stages[workload].verify((library, symbol), call)
        except KernelFailed as error:
            return {"error": str(error)}
        return {"ratio": verdict.ratio, "wrong": verdict.message}

    def block(self, library: str, workload: str, symbol: str) -> dict[str, Any]:
        """Time a block of calls of a candidate."""
        call = self._libraries[library].call(symbol)
        try:
            block = self._stages[workload].block((library, symbol), call)
        except KernelFailed as error:
            return {"error": str(error)}
        told = {"ratio": block.verdict.ratio, "wrong": block.verdict.message}
        return {"seconds": block.seconds, "waited": block.waited, **told}

    def forget(self, paths: list[str]) -> dict[str, Any]:
        """Unload libraries and free workloads."""
        for path in paths:
            self._stages.pop(path, None)
            if path in self._libraries:
                self._libraries.pop(path).close()
                for stage in self._stages.values():
                    stage.forget(path)
        return {}


def read_arguments() -> tuple[Mapping[str, Any], Channel]:
    """The arguments of this process: a file that describes the job, and the connection."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    return job, Channel.of(int(sys.argv[2]))


def main() -> None:
    """Run candidates on this machine's CPU."""
    job, channel = read_arguments()
    load = partial(Library, threads=job["threads"], limit_s=job["limit_s"])
    lay_out = partial(Stage, cold_bytes=job["cold_bytes"], disturbed=job["disturbed"])
    serve(channel, Runner(load, lay_out))


def serve(channel: Channel, runner: Runner) -> None:
    """Answer requests until there are no more, and end the process."""
    actions: dict[str, Callable[..., dict[str, Any]]] = {
        name: getattr(runner, name)
        for name in ("library", "workload", "verify", "block", "forget")
    }  # fmt: skip
    while (received := channel.receive()) is not None:
        message, _ = received
        number, action = message.pop("number"), actions[message.pop("do")]
        channel.send({"number": number, **action(**message)})
    os._exit(0)
