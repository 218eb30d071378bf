"""What measures for a tuning run: opened when it is needed, closed whatever happens."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Protocol

from tvmconv.autoschedule.space import Candidate
from tvmconv.kernel import KernelSpec

if TYPE_CHECKING:
    from tvmconv.autoschedule.measure import Outcome


class Bench(Protocol):
    """What a session needs of a :class:`~tvmconv.autoschedule.measure.Measurer`."""

    def measure(
        self, spec: KernelSpec, candidates: Sequence[Candidate], best_us: float = math.inf
    ) -> Iterator[Outcome]:
        """Build, check and time candidates of a kernel; one outcome each, in order.

        Raises
        ------
        Unmeasurable
            If that cannot be had of this kernel, while others may be measured.
        """

    def compare(
        self, spec_candidates: Sequence[tuple[KernelSpec, Candidate]], rounds: int = 5
    ) -> list[Outcome]:
        """Time kernels in turns of blocks; raises as :meth:`measure`."""


#: ``make(cold_bytes)``: see :class:`~tvmconv.autoschedule.measure.Measurer`; 0 is warm.
MakeBench = Callable[[int], AbstractContextManager[Bench]]


class Benches:
    """Opens what measures when it is needed first, and closes it without interruption."""

    def __init__(self, make: MakeBench) -> None:
        self._make = make
        self._open: dict[int, Bench] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Benches:
        return self

    def __exit__(self, *error: object) -> None:
        with hold_interrupts():
            self._stack.close()

    def get(self, cold_bytes: int) -> Bench:
        """What measures with so many bytes read between two uses of a weight."""
        if cold_bytes not in self._open:
            self._open[cold_bytes] = self._stack.enter_context(self._make(cold_bytes))
        return self._open[cold_bytes]


@contextmanager
def hold_interrupts() -> Iterator[None]:
    """Let Ctrl-C wait until the block has ended: it ends processes and removes files."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    noted: list[tuple[int, FrameType | None]] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: noted.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if noted and callable(before):
            before(*noted[0])
