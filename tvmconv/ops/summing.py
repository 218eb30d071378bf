"""Long sums as sums of shorter ones: the error of a chain of additions grows with its length."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tvmconv.kernel import KIND
from tvmconv.ops import Shape

#: Terms that one chain of additions sums.
CHAIN = 1024
#: Terms below which a chain is not worth the addition of its sum to the others.
_SHORTEST_CHAIN = 32


def together(trips: int, terms: int, chain: int = CHAIN) -> int:
    """How many trips of ``terms`` terms one chain of additions takes: a divisor of ``trips``.

    All of them where the sum is short, or where no divisor makes chains of a sensible length.

    The error of a chain of K random terms grows as √K; a sum of sums has that of the shorter
    chains, at the price of one more addition a chain.
    """
    if trips * terms <= 2 * chain:
        return trips
    fitting = [d for d in range(1, trips + 1) if trips % d == 0 and d * terms <= chain]
    found = max(fitting, default=1)
    return found if found * terms >= _SHORTEST_CHAIN else trips


def summed(
    shape: Shape,
    terms: Callable[..., Any],
    trips: int,
    length: int,
    kind: str,
    attrs: Mapping[str, Any] | None = None,
) -> Any:
    """The whole sum of each output element, in one chain of additions or as a sum of parts.

    The parts have the kind and the other attributes.
    """
    from tvmconv._tvm import te

    attrs = {KIND: kind, **(attrs or {})}
    if length == trips:
        return te.compute(shape, lambda *index: terms(index, 0), name="conv", attrs=attrs)
    parts = trips // length
    part = te.compute(
        (parts, *shape),
        lambda number, *index: terms(index, number * length),
        name="part",
        attrs=attrs,
    )
    ro = te.reduce_axis((0, parts), "ro")
    return te.compute(
        shape,
        lambda *index: te.sum(part(ro, *index), axis=ro),
        name="conv",
        attrs={KIND: "total"},
    )
