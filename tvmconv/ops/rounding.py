"""Functions of one element whose results are integers: to the next one, and the sign."""

from __future__ import annotations

from typing import Any

import numpy as np

from tvmconv import te_math
from tvmconv.ops.elementwise import Attrs, Function, importer_of, register_functions


def _sign(x: Any, attrs: Attrs) -> Any:
    """Return −1, 0 or 1, and NaN where x is."""
    x, zero = te_math.bind(x), te_math.number(0.0)
    below = te_math.select(x < zero, te_math.number(-1.0), x)
    return te_math.select(x > zero, te_math.number(1.0), below)


FUNCTIONS = {
    "floor": Function("⌊x⌋", lambda x, a: np.floor(x), lambda x, a: te_math.floor(x)),
    "ceil": Function("⌈x⌉", lambda x, a: np.ceil(x), lambda x, a: te_math.ceil(x)),
    "round": Function(
        "x to the nearest integer, the even one of two",
        lambda x, a: np.round(x),
        lambda x, a: te_math.round_even(x),
    ),
    "sign": Function("x / |x|, 0 of 0", lambda x, a: np.sign(x), _sign),
}

register_functions(FUNCTIONS, {name: {name.capitalize(): importer_of(name)} for name in FUNCTIONS})
