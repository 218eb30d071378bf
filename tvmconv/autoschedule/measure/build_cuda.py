"""What a builder does for a GPU: lower a candidate, and compile its CUDA source.

A module as :mod:`tvmconv.autoschedule.measure.build`. A built candidate is one file: a line of JSON
with its launches, then the code that the driver loads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tvmconv.autoschedule.measure.build import read_job, small_job
from tvmconv.codegen.cuda.build import ImageBuilder, image_builder
from tvmconv.codegen.cuda.device import cuda_source
from tvmconv.codegen.cuda.usage import check_launches
from tvmconv.codegen.kernels import device_kernel

#: The trace of a GPU's record, which its knobs stand for: no instructions, no decisions.
_NO_TRACE: list[Any] = [[], []]


def prepare(table: Mapping[str, Any], folder: Path) -> None:
    """Build a small kernel for a target: what that imports and loads is there for all others."""
    build(small_job(table), folder)


def build(job: Mapping[str, Any], folder: Path, images: ImageBuilder | None = None) -> None:
    """Write ``<symbol>.o`` and ``<symbol>.trace``.

    Parameters
    ----------
    job : mapping
        As :func:`tvmconv.autoschedule.measure.build.build` takes it.
    folder : Path
    images : callable, optional
        Makes the code; NVRTC if left out.

    Raises
    ------
    InputError
        The kernel needs more than the device has, or does not compile.
    """
    spec, symbol, target, choice = read_job(job)
    kernel = device_kernel(spec, symbol, target, choice)
    image = (images or image_builder(target))(cuda_source([kernel]), target, {})[0]
    check_launches(kernel.launches, image.usage, target.gpu, image.sm, symbol)
    launches = [asdict(launch) for launch in kernel.launches]
    head = json.dumps({"launches": launches, "scratch_bytes": kernel.scratch_bytes})
    (folder / f"{symbol}.o").write_bytes(head.encode() + b"\n" + image.code)
    (folder / f"{symbol}.trace").write_text(json.dumps(_NO_TRACE), encoding="utf-8")
