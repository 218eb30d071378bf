"""Benchmarks: our code and other libraries on the same model, in turns, with the noise shown.

Names are imported when they are first used: the list of libraries is there without ONNX.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tvmconv.bench.peak import Peak, measure_peak
    from tvmconv.bench.report import BenchReport
    from tvmconv.bench.run import bench_models

_PUBLIC = {
    "BenchReport": "tvmconv.bench.report",
    "Peak": "tvmconv.bench.peak",
    "bench_models": "tvmconv.bench.run",
    "measure_peak": "tvmconv.bench.peak",
}

__all__ = ["BenchReport", "Peak", "bench_models", "measure_peak"]


def __getattr__(name: str) -> Any:
    """Import a public name (PEP 562)."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
