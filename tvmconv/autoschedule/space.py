"""The registry of design spaces.

A module of :mod:`tvmconv.schedules` registers the :class:`DesignSpace` of a hardware family; the
modules are imported at the first look-up. Nothing else of the package names a family.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

from tvmconv._tvm import TVMObject
from tvmconv.errors import InputError
from tvmconv.target import Target


@dataclass(frozen=True)
class DesignSpace:
    """Every schedule that a hardware family has for a kernel, best first.

    Attributes
    ----------
    arch : str
        The ``arch`` of the targets that it serves.
    count : callable
        ``count(func, target)``: how many schedules there are for a kernel.
    schedule : callable
        ``schedule(func, target, rank)``: the one that the cost model puts at a rank, from 0, as a
        ``tvm.s_tir.Schedule``.
    """

    arch: str
    count: Callable[[TVMObject, Target], int]
    schedule: Callable[[TVMObject, Target, int], TVMObject]


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
