"""Trigonometric and hyperbolic functions and their inverses, by the C library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tvmconv import te_math
from tvmconv.ops.elementwise import Attrs, Function, importer_of, register_functions

#: ONNX's name -> NumPy's function; in C it has ONNX's name and an f for the type.
_KNOWN: dict[str, Callable[..., Any]] = {
    "sin": np.sin, "cos": np.cos, "tan": np.tan,
    "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan,
    "sinh": np.sinh, "cosh": np.cosh,
    "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh,
}  # fmt: skip


def _function(name: str, function: Callable[..., Any]) -> Function:
    def reference(x: Any, attrs: Attrs) -> Any:
        return function(x)

    def expression(x: Any, attrs: Attrs) -> Any:
        return te_math.libm(f"{name}f", x)

    return Function(f"{name}(x)", reference, expression)


FUNCTIONS = {name: _function(name, function) for name, function in _KNOWN.items()}

register_functions(FUNCTIONS, {name: {name.capitalize(): importer_of(name)} for name in FUNCTIONS})
