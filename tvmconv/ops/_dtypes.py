"""Rules for element types, of operators that are not for float32 alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvmconv.errors import InputError
from tvmconv.ops import Attrs


def taking(*wanted: str, result: str = "") -> Callable[[Sequence[str], Attrs], str]:
    """Make an ``Operator.output_dtype`` for inputs of fixed element types.

    Parameters
    ----------
    *wanted : str
        One for each input.
    result : str, optional
        That of the first input if left out.
    """

    def output_dtype(dtypes: Sequence[str], attrs: Attrs) -> str:
        """Return the element type of the result; refuse other inputs than the operator has."""
        for given, expected in zip(dtypes, wanted, strict=True):
            if given != expected:
                raise InputError(f"takes {expected}, not {given}")
        return result or wanted[0]

    return output_dtype
