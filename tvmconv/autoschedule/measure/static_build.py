"""What a builder does that only estimates: schedule a candidate, compile it, read its code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tvmconv.autoschedule.measure.build import compiled, prepare
from tvmconv.codegen.estimate import estimate
from tvmconv.target import from_dict

__all__ = ["build", "prepare"]


def build(job: Mapping[str, Any], folder: Path) -> None:
    """Write ``<symbol>.estimate`` and ``<symbol>.trace``, for a job as ``build.build`` gets it."""
    module, target = compiled(job, folder), from_dict(job["target"], "target")
    found = estimate(module.inspect_source("asm"), module.inspect_source("ll"), target)
    text = json.dumps(asdict(found))
    (folder / f"{job['symbol']}.estimate").write_text(text, encoding="utf-8")
