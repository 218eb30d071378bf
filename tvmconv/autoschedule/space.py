"""The registry of design spaces.

A module of :mod:`tvmconv.schedules` registers the :class:`DesignSpace` of a hardware family; the
modules are imported at the first look-up. Nothing else of the package names a family.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from tvmconv._tvm import TVMObject
from tvmconv.errors import InputError
from tvmconv.target import Target


@dataclass(frozen=True)
class Candidate:
    """One point of a design space.

    Attributes
    ----------
    knobs : tuple of (str, int)
        Its named coordinates; no other point of the space has the same.
    cycles : float
        Time of the whole kernel that the cost model predicts, in cycles of one core.
    """

    knobs: tuple[tuple[str, int], ...]
    cycles: float


#: The model's time of a candidate, in cycles, given those of its arithmetic and how many parallel
#: loops it has.
Arithmetic: TypeAlias = Callable[[Candidate, float, int], float]


@dataclass(frozen=True)
class DesignSpace:
    """Every schedule that a hardware family has for a kernel.

    Attributes
    ----------
    arch : str
        The ``arch`` of the targets that it serves.
    candidates : callable
        ``candidates(func, target)``: all points, the one that the model expects to be fastest
        first; never empty.
    schedule : callable
        ``schedule(func, target, candidate)``: the kernel scheduled so, as a
        ``tvm.s_tir.Schedule``.
    with_arithmetic : callable, optional
        ``with_arithmetic(func, target)``: the model of a kernel with another's arithmetic.
    """

    arch: str
    candidates: Callable[[TVMObject, Target], list[Candidate]]
    schedule: Callable[[TVMObject, Target, Candidate], TVMObject]
    with_arithmetic: Callable[[TVMObject, Target], Arithmetic] | None = None


_SPACES: dict[str, DesignSpace] = {}


def register(space: DesignSpace) -> DesignSpace:
    """Add a design space to the registry and return it."""
    if space.arch in _SPACES:
        raise ValueError(f"design space of {space.arch!r} is registered twice")
    _SPACES[space.arch] = space
    return space


def space_for(target: Target) -> DesignSpace:
    """The design space of a target.

    Raises
    ------
    InputError
        If no family has the target's architecture.
    """
    if target.arch not in _SPACES:
        from tvmconv import schedules

        for module in pkgutil.iter_modules(schedules.__path__):
            importlib.import_module(f"{schedules.__name__}.{module.name}")
    if target.arch not in _SPACES:
        known = ", ".join(sorted(_SPACES))
        raise InputError(f"{target.name}: no schedules for arch {target.arch!r}; there are {known}")
    return _SPACES[target.arch]
