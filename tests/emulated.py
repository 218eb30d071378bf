"""Models for a GPU that run on the CPU, through the emulated driver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tvmconv.codegen.cuda.build import Image
from tvmconv.compiler import compile
from tvmconv.cuda_emulator import driver, host_image
from tvmconv.runtime.loader import Module
from tvmconv.target import Target, load_target


def images(source: str, target: Target, extents: Mapping[str, Sequence[int]]) -> list[Image]:
    code = host_image(source, extents=extents, sm=target.gpu.sm)
    return [Image(0, "emulated", code, {}, "zig")]


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Compile for an emulated GPU: ``on_gpu(model)`` is a module."""
    monkeypatch.setenv("TVMCONV_CUDA_DRIVER", str(driver()))

    def make(model: Any, name: str = "a100", **options: Any) -> Module:
        return compile(model, load_target(name), tuned=False, images=images, **options)

    return make
