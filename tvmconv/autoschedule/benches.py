"""What measures for a tuning run: opened when it is needed, closed whatever happens."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
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


_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
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
    """Let what ends this process wait until the block has ended, which removes what there is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    noted: list[int] = []
    before = {n: signal.signal(n, lambda number, _: noted.append(number)) for n in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if noted:
            signal.raise_signal(noted[0])
