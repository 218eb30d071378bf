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
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tvmconv.autoschedule.measure.channel import Channel
from tvmconv.autoschedule.measure.stage import ArgumentSets, Stage


class KernelFailed(Exception):
    """A candidate has returned an error."""


class Library:
    """Candidates that are linked together, with the threads that run them."""

    def __init__(self, path: str, threads: int) -> None:
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

    def call(self, symbol: str, limit_s: float) -> Callable[[ArgumentSets, int, int], list[float]]:
        """The function that calls a candidate, as :data:`~...measure.stage.Call`."""
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
    threads : int
    cold_bytes : int
    limit_s : float
        How long calls may go on.
    disturbed : float
        As for :class:`~tvmconv.autoschedule.measure.stage.Stage`.
    """

    def __init__(self, threads: int, cold_bytes: int, limit_s: float, disturbed: float) -> None:
        self._threads, self._limit_s = threads, limit_s
        self._cold_bytes, self._disturbed = cold_bytes, disturbed
        self._libraries: dict[str, Library] = {}
        self._stages: dict[str, Stage] = {}

    def library(self, path: str) -> dict[str, Any]:
        """Load candidates; ``error`` says why that fails."""
        try:
            self._libraries[path] = Library(path, self._threads)
        except OSError as error:
            return {"error": str(error)}
        return {}

    def workload(self, folder: str) -> dict[str, Any]:
        """Lay out the buffers of a workload."""
        self._stages[folder] = Stage(Path(folder), self._cold_bytes, self._disturbed)
        return {}

    def verify(self, library: str, workload: str, symbol: str) -> dict[str, Any]:
        """Run a candidate on every check."""
        call = self._libraries[library].call(symbol, self._limit_s)
        try:
            verdict = self._stages[workload].verify((library, symbol), call)
        except KernelFailed as error:
            return {"error": str(error)}
        return {"ratio": verdict.ratio, "wrong": verdict.message}

    def block(self, library: str, workload: str, symbol: str) -> dict[str, Any]:
        """Time a block of calls of a candidate."""
        call = self._libraries[library].call(symbol, self._limit_s)
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


def main() -> None:
    """Serve: arguments are the file that describes the job, and the connection."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    channel = Channel.of(int(sys.argv[2]))
    runner = Runner(**job)
    actions: dict[str, Callable[..., dict[str, Any]]] = {
        name: getattr(runner, name)
        for name in ("library", "workload", "verify", "block", "forget")
    }  # fmt: skip
    while (received := channel.receive()) is not None:
        message, _ = received
        number, action = message.pop("number"), actions[message.pop("do")]
        channel.send({"number": number, **action(**message)})
    os._exit(0)
