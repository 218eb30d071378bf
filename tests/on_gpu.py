"""Models for a GPU that run on the CPU, through the emulated driver."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tvmconv.compiler import compile
from tvmconv.cuda_emulator.emulation import emulated_images, emulation, on_this_host
from tvmconv.runtime.loader import Module
from tvmconv.target import load_target


@pytest.fixture
def on_gpu() -> Iterator[Any]:
    """Compile for an emulated GPU: ``on_gpu(model)`` is a module."""
    target = on_this_host(load_target("a100"))

    def make(model: Any, **options: Any) -> Module:
        return compile(model, target, tuned=False, images=emulated_images, **options)

    with emulation(target):
        yield make
