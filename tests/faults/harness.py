"""A measurer of faulty candidates, and what it may have left behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.faults.faulty import knobs
from tvmconv.autoschedule.measure import Measurer, measurer
from tvmconv.autoschedule.space import Candidate
from tvmconv.kernel import KernelSpec, canonical_json
from tvmconv.layout import Layout
from tvmconv.target import load_target

#: What is allowed for things to be gone, on a machine that has other things to do.
PATIENCE_S = 20.0


def relu() -> KernelSpec:
    """What the candidates compute."""
    layout = Layout((1, 32, 6, 6), 16)
    attrs = canonical_json({"program": [{"op": "relu"}]})
    return KernelSpec("elementwise", attrs, (layout,), layout)


def candidate(kernel: str = "RIGHT", build: str = "right", number: int = 0) -> Candidate:
    return Candidate(knobs(kernel, build, number), 1.0)


@contextmanager
def measuring(**options: Any) -> Iterator[Measurer]:
    """A measurer whose builder is tests.faults.faulty."""
    before, measurer.BUILDER = measurer.BUILDER, "tests.faults.faulty"
    target = replace(load_target("host"), cores=2)
    try:
        with Measurer(target, jobs=2, **options) as made:
            yield made
    finally:
        measurer.BUILDER = before


def processes(session: int) -> dict[int, str]:
    """The processes of a session that have not ended, with their states."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, *numbers = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(numbers[2]) == session and state != "Z":
            found[int(path.parent.name)] = state
    return found


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether something comes about in time."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def gone(folder: Path, session: int) -> bool:
    """Whether nothing is left of a measurement."""
    return eventually(lambda: not processes(session)) and eventually(lambda: not folder.exists())
