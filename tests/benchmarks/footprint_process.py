"""What :mod:`tests.benchmarks.footprint` runs in a process of its own.

    python footprint_process.py CONTENDER FOLDER THREADS

Loads one network in one library, runs it once and again, and prints as JSON the milliseconds and
the memory that this took beyond Python and NumPy. Nothing is imported here before it is timed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Run = Callable[[Array], Array]
RUNS = 20


def _tvmconv(folder: Path, threads: int) -> Callable[[], Run]:
    from tvmconv.runtime.loader import load

    def start() -> Run:
        module = load(folder / "model.so", threads)
        return lambda x: module(x)[0]

    return start


def _onnxruntime(folder: Path, threads: int) -> Callable[[], Run]:
    import onnxruntime

    def start() -> Run:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        path, providers = str(folder / "model.onnx"), ["CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(path, options, providers=providers)
        name = session.get_inputs()[0].name
        result: Callable[[Array], Any] = lambda x: session.run(None, {name: x})[0]  # noqa: E731
        return result

    return start


CONTENDERS: dict[str, Callable[[Path, int], Callable[[], Run]]] = {
    "tvmconv": _tvmconv,
    "onnxruntime": _onnxruntime,
}


def _peak_bytes() -> int:
    """The most memory that this process has had."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


def main(name: str, folder: Path, threads: int) -> None:
    """Measure one contender."""
    x = np.load(folder / "x.npy")
    before, times = _peak_bytes(), [time.perf_counter()]

    def lap() -> None:
        times.append(time.perf_counter())

    start = CONTENDERS[name](folder, threads)
    lap()
    run = start()
    lap()
    y = run(x)
    lap()
    memory = _peak_bytes() - before
    found = dict(zip(("import", "create", "first"), 1e3 * np.diff(times), strict=True))
    seconds = []
    for _ in range(RUNS):
        lap()
        run(x)
        seconds.append(time.perf_counter() - times[-1])
    np.save(folder / f"y.{name}.npy", y)
    print(json.dumps({**found, "later": 1e3 * float(np.median(seconds)), "bytes": memory}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
