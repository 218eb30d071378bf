"""Small models around hand-written kernels, so that the runtime is tested without TVM."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tvmconv.codegen import link
from tvmconv.codegen.artifact import RUNTIME, write_artifact
from tvmconv.codegen.plan import CopyStep, KernelStep, Plan, Port, Step, TensorArgument

TRIPLE = f"{platform.machine()}-linux-gnu"
KERNELS = Path(__file__).parent / "kernels.c"

Build = Callable[..., Path]


@pytest.fixture(scope="session")
def triple() -> str:
    """The zig triple of this machine."""
    return TRIPLE


@pytest.fixture(scope="session")
def kernels_source() -> Path:
    return KERNELS


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The object file with the kernels of kernels.c."""
    folder = tmp_path_factory.mktemp("kernels")
    (object_file,) = link.compile_sources([KERNELS], folder, RUNTIME, TRIPLE, [])
    return object_file


def chain(names: Sequence[str], elements: int = 1000) -> Plan:
    """A model that copies its input in, runs kernels on it, and copies it out."""
    size = -(-elements * 4 // 64) * 64
    places = [TensorArgument("arena", (elements,), offset=k * size) for k in range(2)]
    steps: list[Step] = [CopyStep(TensorArgument("input", (elements,)), places[0])]
    for k, name in enumerate(names):
        steps.append(KernelStep(name, (places[k % 2], places[(k + 1) % 2]), f"{name} {k}"))
    steps.append(CopyStep(places[len(names) % 2], TensorArgument("output", (elements,))))
    return Plan(2 * size, [Port("x", (elements,))], [Port("y", (elements,))], steps)


@pytest.fixture(scope="session")
def make_chain() -> Callable[..., Plan]:
    return chain


@pytest.fixture(scope="session")
def build(kernels: Path) -> Build:
    """Write an artifact for this machine: ``build(path, plan, weights=..., format=...)``."""

    def write(path: Path, plan: Plan, weights: Any = b"", **options: Any) -> Path:
        options = {"target_triple": TRIPLE, "cpu_flags": [], **options}
        used = any(isinstance(step, KernelStep) for step in plan.steps)
        write_artifact(plan, [kernels] if used else [], weights, path, **options)
        return path

    return write


@pytest.fixture(scope="session")
def small(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that computes 2 x + 1 for 1000 numbers, with a name that a shell would not like."""
    plan = replace(chain(["twice", "scratch"]), metadata={"name": 'caf\u00e9 "\\\n'})
    return build(tmp_path_factory.mktemp("small") / "-small; model.so", plan)


@pytest.fixture
def x() -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).standard_normal(1000).astype(np.float32)
