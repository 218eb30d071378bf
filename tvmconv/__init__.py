"""Compile convolutional networks, or one convolution problem, to fast native code.

>>> import tvmconv
>>> module = tvmconv.compile("model.onnx")  # doctest: +SKIP
>>> (y,) = module(x)  # doctest: +SKIP

Names are imported when they are first used: ``import tvmconv`` itself loads neither TVM nor ONNX.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tvmconv.versions import VERSION as __version__

if TYPE_CHECKING:
    from tvmconv.autoschedule.tune_report import TuneReport
    from tvmconv.autoschedule.tuner import tune
    from tvmconv.bench import BenchReport
    from tvmconv.bench import bench_models as bench
    from tvmconv.compiler import compile
    from tvmconv.errors import EnvironmentError_, InputError, TvmconvError, VerificationError
    from tvmconv.explain import explain
    from tvmconv.explain.model import ModelExplanation
    from tvmconv.explain.problem import ProblemExplanation
    from tvmconv.export import ExportReport
    from tvmconv.export import export_model as export
    from tvmconv.problem import Problem
    from tvmconv.runtime.loader import Module, load
    from tvmconv.target import Target, load_target
    from tvmconv.verify import VerifyReport, verify

#: Where each public name is, and what it is called there.
_PUBLIC = {
    "BenchReport": ("tvmconv.bench", "BenchReport"),
    "EnvironmentError_": ("tvmconv.errors", "EnvironmentError_"),
    "ExportReport": ("tvmconv.export", "ExportReport"),
    "InputError": ("tvmconv.errors", "InputError"),
    "ModelExplanation": ("tvmconv.explain.model", "ModelExplanation"),
    "Module": ("tvmconv.runtime.loader", "Module"),
    "Problem": ("tvmconv.problem", "Problem"),
    "ProblemExplanation": ("tvmconv.explain.problem", "ProblemExplanation"),
    "Target": ("tvmconv.target", "Target"),
    "TuneReport": ("tvmconv.autoschedule.tune_report", "TuneReport"),
    "TvmconvError": ("tvmconv.errors", "TvmconvError"),
    "VerificationError": ("tvmconv.errors", "VerificationError"),
    "VerifyReport": ("tvmconv.verify", "VerifyReport"),
    "bench": ("tvmconv.bench", "bench_models"),
    "compile": ("tvmconv.compiler", "compile"),
    "explain": ("tvmconv.explain", "explain"),
    "export": ("tvmconv.export", "export_model"),
    "load": ("tvmconv.runtime.loader", "load"),
    "load_target": ("tvmconv.target", "load_target"),
    "tune": ("tvmconv.autoschedule.tuner", "tune"),
    "verify": ("tvmconv.verify", "verify"),
}

__all__ = [
    "BenchReport",
    "EnvironmentError_",
    "ExportReport",
    "InputError",
    "ModelExplanation",
    "Module",
    "Problem",
    "ProblemExplanation",
    "Target",
    "TuneReport",
    "TvmconvError",
    "VerificationError",
    "VerifyReport",
    "__version__",
    "bench",
    "compile",
    "explain",
    "export",
    "load",
    "load_target",
    "tune",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import a public name (PEP 562)."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Keeps ``tvmconv.verify``, ``bench``, ``explain`` and ``export`` the functions.

    When the import system has loaded a submodule it sets it as an attribute of the package, which
    would hide the public function of the same name.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _PUBLIC and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
