"""Builds candidates that are measured on the emulated device: tuning, rehearsed without a GPU.

A module as :mod:`tvmconv.autoschedule.measure.build_cuda`. The times are those of this CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tvmconv.autoschedule.measure import build_cuda
from tvmconv.autoschedule.measure.build import small_job
from tvmconv.cuda_emulator.emulation import emulated_images


def prepare(table: Mapping[str, Any], folder: Path) -> None:
    """Build a small kernel."""
    build(small_job(table), folder)


def build(job: Mapping[str, Any], folder: Path) -> None:
    """Write ``<symbol>.o`` and ``<symbol>.trace``."""
    build_cuda.build(job, folder, emulated_images)
