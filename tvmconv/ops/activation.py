"""Activations that a problem can have after it: ``activation=NAME`` or ``NAME,PARAMETER…``.

One table holds what the reference, the accuracy formula and the fusion pass need to know of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
#: Absolute rounding error of functions that an exponential of the wrong sign makes underflow early.
_UNDERFLOW = 2.0**-80


@dataclass(frozen=True)
class Activation:
    """An elementwise function ``f(y, *parameters)``.

    Attributes
    ----------
    name : str
        In a problem's text.
    function : callable
        In NumPy.
    node : str
        The graph operator that computes it, whose attributes have the parameters' names.
    parameters : tuple of (name, default)
        ONNX's names and defaults.
    lipschitz : callable
        ``lipschitz(*parameters)``: the largest ``|f(a) - f(b)| / |a - b|``.
    exact : bool
        Whether f32 arithmetic computes it without rounding.
    spread : float
        Rounding errors of a good implementation are a few u·(|f| + spread); not 0 where f is a
        difference of numbers of size ``spread``.
    """

    name: str
    function: Callable[..., Float64]
    node: str
    parameters: tuple[tuple[str, float], ...] = ()
    lipschitz: Callable[..., float] = lambda *parameters: 1.0
    exact: bool = False
    spread: float = 0.0


def _sigmoid(y: Float64) -> Float64:
    e = np.exp(-np.abs(y))  # of a negative number, so accurate relative to both small results
    return np.asarray(np.where(y >= 0, 1.0, e) / (1.0 + e))


def _hard_sigmoid(y: Float64, alpha: float = 1 / 6, beta: float = 0.5) -> Float64:
    return np.clip(alpha * y + beta, 0.0, 1.0)


_TABLE = (
    Activation("relu", lambda y: np.maximum(y, 0.0), "relu", exact=True),
    Activation("relu6", lambda y: np.clip(y, 0.0, 6.0), "clip", exact=True),
    Activation(
        "clip",
        lambda y, low, high: np.minimum(np.maximum(y, low), high),
        "clip",
        (("min", -np.inf), ("max", np.inf)),
        exact=True,
    ),
    Activation(
        "leaky_relu",
        lambda y, alpha: np.where(y < 0, alpha * y, y),
        "leaky_relu",
        (("alpha", 0.01),),
        lambda alpha: max(1.0, abs(alpha)),
    ),
    Activation(
        "elu",
        lambda y, alpha: np.where(y < 0, alpha * np.expm1(np.minimum(y, 0.0)), y),
        "elu",
        (("alpha", 1.0),),
        lambda alpha: max(1.0, abs(alpha)),
        spread=1.0,
    ),
    Activation("sigmoid", _sigmoid, "sigmoid", lipschitz=lambda: 0.25, spread=_UNDERFLOW),
    Activation("tanh", np.tanh, "tanh", spread=1.0),
    Activation("silu", lambda y: y * _sigmoid(y), "silu", lipschitz=lambda: 1.1, spread=_UNDERFLOW),
    Activation(
        "hard_sigmoid",
        _hard_sigmoid,
        "hard_sigmoid",
        (("alpha", 0.2), ("beta", 0.5)),
        lambda alpha, beta: abs(alpha),
        spread=1.0,
    ),
    Activation(
        "hardswish",
        lambda y: y * _hard_sigmoid(y),
        "hard_swish",
        lipschitz=lambda: 1.5,
        spread=1.0,
    ),
)
ACTIVATIONS: dict[str, Activation] = {activation.name: activation for activation in _TABLE}


def canonical(text: str) -> str:
    """The one spelling of an activation: f32 parameters, without trailing defaults.

    A clip that is a relu or relu6 becomes that, and one without limits the empty text.

    Raises
    ------
    ValueError
        If the name is unknown or the parameters are too many or not numbers; the message fits
        after ``"activation "``.
    """
    name, *words = text.split(",")
    if name not in ACTIVATIONS:
        from tvmconv.ops import nearest

        known = ", ".join(ACTIVATIONS)
        raise ValueError(f"must be one of {known}, got {name[:40]!r}{nearest(name, ACTIVATIONS)}")
    defaults = [default for _, default in ACTIVATIONS[name].parameters]
    if len(words) > len(defaults):
        raise ValueError(f"{name} takes {len(defaults)} parameters, got {len(words)}")
    try:
        given = [float(np.float32(word)) for word in words]
    except ValueError:
        raise ValueError(f"{name} needs numbers, got {','.join(words)[:40]!r}") from None
    values = [np.float32(v) for v in given + defaults[len(given) :]]
    if any(np.isnan(v) for v in values):
        raise ValueError(f"{name} cannot have a parameter that is not a number")
    if name == "clip":
        return _canonical_clip(float(values[0]), float(values[1]))
    while values and values[-1] == np.float32(defaults[len(values) - 1]):
        values.pop()
    return ",".join([name, *(_shown(float(v)) for v in values)])


def _canonical_clip(low: float, high: float) -> str:
    largest = float(np.finfo(np.float32).max)
    if low > high:
        raise ValueError(f"clip needs min <= max, got {low:g} and {high:g}")
    if low <= -largest and high >= largest:
        return ""
    if low == 0 and high >= largest:
        return "relu"
    if (low, high) == (0.0, 6.0):
        return "relu6"
    return f"clip,{_shown(low)},{_shown(high)}"


def _shown(value: float) -> str:
    """The shortest digits that give the same f32 number."""
    return str(np.float32(value)).removesuffix(".0")


def split(text: str) -> tuple[Activation, tuple[float, ...]]:
    """The activation and all its parameters of a canonical text."""
    name, *words = text.split(",")
    activation = ACTIVATIONS[name]
    given = [float(np.float32(word)) for word in words]
    defaults = [float(np.float32(default)) for _, default in activation.parameters]
    return activation, tuple(given + defaults[len(given) :])


def apply(text: str, y: Float64) -> Float64:
    """``f(y)`` of a canonical text; ``y`` itself where the text is empty."""
    if not text:
        return y
    activation, parameters = split(text)
    return activation.function(y, *parameters)


def from_node(op: str, attrs: Mapping[str, Any]) -> str | None:
    """The canonical text of what a graph node computes; None if it is no activation.

    The text is empty for a clip without limits.
    """
    for activation in ACTIVATIONS.values():
        if activation.node == op and activation.name != "relu6":
            words = [str(np.float32(attrs.get(key, value))) for key, value in activation.parameters]
            return canonical(",".join([activation.name, *words]))
    return None
