"""Builds for the emulated device what is wrong: each second candidate of a process, by its number.

The second one begins its sums with what lies at an address of nothing, the third one at 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tvmconv.autoschedule.measure import build_cuda
from tvmconv.autoschedule.measure.build import small_job
from tvmconv.cuda_emulator.emulation import emulated_images

SPOILED = {
    "candidate000002": (" = 0x0p+0f", " = *(volatile float*)8"),
    "candidate000003": (" = 0x0p+0f", " = 1.0f"),
}


def prepare(table: Mapping[str, Any], folder: Path) -> None:
    build(small_job(table), folder)


def build(job: Mapping[str, Any], folder: Path) -> None:
    def images(source: str, *rest: Any) -> Any:
        old, new = SPOILED.get(job["symbol"], ("", ""))
        if old not in source:
            raise ValueError(f"there is no {old} in the source")
        return emulated_images(source.replace(old, new) if old else source, *rest)

    build_cuda.build(job, folder, images)
