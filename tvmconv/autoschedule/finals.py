"""The last word on a task: which of those that were measured in turns is chosen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from tvmconv.autoschedule.record import Record

#: A challenger has to be faster than the untuned choice by this share …
_MARGIN = 0.01
#: … and in more than this share of the rounds.
_WON_ROUNDS = 0.5

Key = TypeVar("Key")


def beats(record: Record, other: Record) -> bool:
    """Whether one of two that were measured in turns is faster by more than noise."""
    if not math.isfinite(record.time_us) or not math.isfinite(other.time_us):
        return math.isfinite(record.time_us)
    if record.time_us > other.time_us * (1 - _MARGIN):
        return False
    rounds = list(zip(record.times_us, other.times_us, strict=False))
    return sum(time < of_other for time, of_other in rounds) > _WON_ROUNDS * len(rounds)


def winner(records: Mapping[Key, Record], untuned: Key) -> Key:
    """Choose among what was measured in turns: the fastest of those that beat the untuned choice.

    Parameters
    ----------
    records : mapping
        Of each contender, the untuned choice among them.
    untuned : Key

    Returns
    -------
    Key
        ``untuned`` if none beats it.
    """
    better = [key for key, record in records.items() if beats(record, records[untuned])]
    return min(better, key=lambda key: records[key].time_us, default=untuned)
