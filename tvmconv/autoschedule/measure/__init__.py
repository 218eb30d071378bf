"""Building, verifying and timing candidates in processes that may crash, hang or be killed."""

from __future__ import annotations

from tvmconv.autoschedule.measure.measurer import Measurer
from tvmconv.autoschedule.measure.outcome import Outcome, Unmeasurable

__all__ = ["Measurer", "Outcome", "Unmeasurable"]
