"""ONNX's own tests of backends: every case of the onnx package, and what becomes of it.

A case passes, or it is refused by name: ``onnx_refusals.txt`` lists the refused ones, with the
reason and with what the message of the refusal has to contain.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper

from tvmconv.layout import HALVES
from tvmconv.ops.options import DTYPES

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator", "real")
REFUSALS = Path(__file__).with_name("onnx_refusals.txt")
#: Seconds after which a case counts as hanging; the slowest takes some twenty.
TIME_LIMIT = 300.0

Case = Any


@dataclass(frozen=True)
class Outcome:
    """What became of a case: ``"passed"``, ``"refused"``, ``"wrong"`` or ``"crashed"``."""

    result: str
    detail: str
    seconds: float


@dataclass(frozen=True)
class Refusal:
    """Cases that are refused: a glob of names, why, and a pattern that the message contains."""

    glob: str
    reason: str
    message: str


@lru_cache(maxsize=1)
def refusals() -> list[Refusal]:
    """The list of refusals.

    A reason stands in brackets, the pattern of the message in the next line, after ``says:``; then
    comes one glob a line.
    """
    found, reason, message = [], "", ""
    for line in REFUSALS.read_text(encoding="utf-8").splitlines():
        line = line.strip()
        if line.startswith("["):
            reason = line.strip("[]")
        elif line.startswith("says:"):
            message = line.removeprefix("says:").strip()
        elif line and not line.startswith("#"):
            found.append(Refusal(line, reason, message))
    return found


def refusal(name: str) -> Refusal | None:
    """The entry of a case in the list, or None."""
    return next((entry for entry in refusals() if fnmatchcase(name, entry.glob)), None)


@lru_cache(maxsize=1)
def cases() -> dict[str, Case]:
    """Every test case of the onnx package, by kind and name.

    Operators that are written out as functions of others are of a kind of their own.
    """
    from onnx.backend.test.loader import load_model_tests

    found: dict[str, Case] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ONNX's own arithmetic
        for kind in KINDS:
            for case in load_model_tests(kind=kind):
                shown = "function" if "_expanded" in case.name else kind
                found[f"{shown}/{case.name.removeprefix('test_')}"] = case
    return found


def rounding(array: Any) -> float:
    """Four units of roundoff of halves: a function's expected result is rounded in every step."""
    dtype = str(getattr(array, "dtype", ""))
    return 4 * DTYPES[dtype].roundoff if dtype in HALVES else 0.0


def run(name: str) -> Outcome:
    """Run a case through the backend."""
    from onnx.backend.test.runner import Runner

    from tvmconv import backend
    from tvmconv.errors import InputError

    case = cases()[name]
    start = time.perf_counter()
    result, detail = "passed", ""
    try:
        model, sets = data_of(case)
        prepared = backend.prepare(model, "CPU")
        for inputs, expected in sets:
            outputs = prepared.run(inputs)
            rtol = max(case.rtol, *map(rounding, expected)) if "_expanded" in name else case.rtol
            Runner.assert_similar_outputs(expected, outputs, rtol, case.atol)
    except InputError as error:
        result, detail = "refused", str(error)
    except AssertionError as error:
        result, detail = "wrong", str(error)
    except Exception as error:  # noqa: BLE001  whatever else it is, it must be seen
        result, detail = "crashed", "".join(traceback.format_exception(error))
    return Outcome(result, detail, time.perf_counter() - start)


def fault(name: str, outcome: Outcome) -> str:
    """What is wrong about the outcome of a case; empty if nothing is."""
    entry = refusal(name)
    if outcome.result == "passed":
        return f"passes, but is listed as {entry.glob}: {entry.reason}" if entry else ""
    if outcome.result != "refused":
        return f"{outcome.result}: {outcome.detail}"
    if entry is None:
        return f"is refused and not listed: {outcome.detail}"
    if "\n" in outcome.detail or not re.search(entry.message, outcome.detail):
        return f"is refused by {outcome.detail!r}, not as listed: {entry.message}"
    return ""


def _start_worker(folder: str) -> None:
    """Keep schedules that somebody has tuned on this machine out of it."""
    os.environ["XDG_DATA_HOME"] = folder


@contextmanager
def running(names: Iterable[str]) -> Iterator[dict[str, Future[Outcome]]]:
    """Run cases in as many processes as there are CPUs; a crash ends none but theirs."""
    count = len(os.sched_getaffinity(0))
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        pool = ProcessPoolExecutor(count, context, _start_worker, (folder,))
        try:
            yield {name: pool.submit(run, name) for name in names}
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(getattr(pool, "_processes", None) or {}).copy():
                _end(process)


def _end(process: int) -> None:
    """End a worker that may hang."""
    import signal

    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return


def data_of(case: Case) -> tuple[onnx.ModelProto, Sequence[tuple[list[Any], list[Any]]]]:
    """The model of a case, with its sets of inputs and expected outputs."""
    if case.model is not None:
        return case.model, [
            ([_array(v) for v in inputs], [_array(v) for v in outputs])
            for inputs, outputs in case.data_sets
        ]
    if case.url is not None:
        return _light(Path(onnx.__file__).parent.parent / case.url)
    folder = Path(case.model_dir)
    model = onnx.load(folder / "model.onnx")
    ports = {"input": model.graph.input, "output": model.graph.output}
    sets = []
    for data in sorted(folder.glob("test_data_set*")):
        arrays = {
            what: [
                _load(data / f"{what}_{k}.pb", values[k].type)
                for k in range(len(list(data.glob(f"{what}_*.pb"))))
            ]
            for what, values in ports.items()
        }
        sets.append((arrays["input"], arrays["output"]))
    return model, sets


def _light(path: Path) -> tuple[onnx.ModelProto, Sequence[tuple[list[Any], list[Any]]]]:
    """A light network with the input that ONNX's runner gives it, and the output that it ships."""
    from onnx.backend.test.runner import Runner

    model = onnx.load(path)
    constants = {item.name for item in model.graph.initializer}
    given = [item for item in model.graph.input if item.name not in constants]
    inputs = [Runner.generate_dummy_data(item, name=path.stem) for item in given]
    expected = [
        numpy_helper.to_array(onnx.load_tensor(path.with_name(f"{path.stem}_output_{k}.pb")))
        for k in range(len(model.graph.output))
    ]
    return model, [(inputs, expected)]


def _array(value: Any) -> Any:
    """Node cases hold some of their tensors as messages."""
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def _load(path: Path, kind: onnx.TypeProto) -> Any:
    """A tensor from a file, or a list of tensors, as the model declares it."""
    if kind.HasField("sequence_type"):
        sequence = onnx.SequenceProto()
        sequence.ParseFromString(path.read_bytes())
        return numpy_helper.to_list(sequence)
    return numpy_helper.to_array(onnx.load_tensor(path))
