"""Memory for a kernel's buffers: between pages that end the process, or as an artifact has it."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

#: What TVM's kernels assume of every buffer, and what the planner gives.
ALIGNMENT = 64
_PAGE = mmap.PAGESIZE
_HUGE = 2 << 20
_NONE, _READ = 0, mmap.PROT_READ
_SLACK = 0xA5
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def half_of_memory() -> int:
    """Half of the machine's memory, in bytes: what a process that is not trusted may take."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _map(nbytes: int, advice: int) -> Bytes:
    """New private memory, with a hint whether to use huge pages."""
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without huge pages
        memory.madvise(advice)
    return np.frombuffer(memory, np.uint8)


def _protect(view: Bytes, rights: int) -> None:
    """Change the access rights to whole pages."""
    if view.size and _libc.mprotect(view.ctypes.data, view.size, rights):
        raise OSError(ctypes.get_errno(), "mprotect failed")


class Guarded:
    """A buffer with an inaccessible page right before its start or right after its end.

    Between it and the farther page is less than a page of slack, which has to stay as it is.

    Parameters
    ----------
    nbytes : int
    at_end : bool
        Whether the page after it is the close one, up to alignment.
    """

    def __init__(self, nbytes: int, *, at_end: bool) -> None:
        body = -(-max(nbytes, 1) // _PAGE) * _PAGE
        view = _map(body + 2 * _PAGE, mmap.MADV_NOHUGEPAGE)
        _protect(view[:_PAGE], _NONE)
        _protect(view[-_PAGE:], _NONE)
        self._pages = view[_PAGE:-_PAGE]
        start = (body - nbytes) // ALIGNMENT * ALIGNMENT if at_end else 0
        self.bytes: Bytes = self._pages[start : start + nbytes]
        self._slack = (self._pages[:start], self._pages[start + nbytes :])
        self.mark_slack()

    @classmethod
    def holding(cls, array: npt.NDArray[Any], *, at_end: bool) -> Guarded:
        """A copy of an array that only can be read."""
        made = cls(array.nbytes, at_end=at_end)
        made.bytes[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        _protect(made._pages, _READ)
        return made

    def mark_slack(self) -> None:
        """Fill the slack with what :meth:`overrun` looks for."""
        for part in self._slack:
            part[:] = _SLACK

    def overrun(self) -> bool:
        """Whether the slack has been written."""
        return any(bool((part != _SLACK).any()) for part in self._slack)


def arena(nbytes: int) -> Bytes:
    """Memory as the runtime allocates an artifact's activations: huge pages, if large enough."""
    if nbytes < _HUGE // 4:
        return _map(max(nbytes, 1), mmap.MADV_NOHUGEPAGE)[:nbytes]
    size = -(-nbytes // _HUGE) * _HUGE
    view = _map(size + _HUGE, mmap.MADV_HUGEPAGE)
    first = -view.ctypes.data % _HUGE
    return view[first : first + nbytes]


class Copies:
    """Some arrays several times, one after the other as a file of weights has them; read-only.

    Attributes
    ----------
    addresses : list of list of int
        Where the arrays of each copy lie.
    """

    def __init__(self, arrays: Sequence[npt.NDArray[Any]], times: int) -> None:
        sizes = [-(-array.nbytes // ALIGNMENT) * ALIGNMENT for array in arrays]
        starts = np.cumsum([0, *sizes])
        pages = -(-max(int(starts[-1]) * times, 1) // _PAGE)
        self._memory = _map(pages * _PAGE, mmap.MADV_NOHUGEPAGE)
        copies = self._memory[: int(starts[-1]) * times].reshape(times, int(starts[-1]))
        for array, start in zip(arrays, starts[:-1], strict=True):
            data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            copies[:, start : start + data.size] = data
        _protect(self._memory, _READ)
        first = self._memory.ctypes.data
        self.addresses = [
            [first + k * int(starts[-1]) + int(start) for start in starts[:-1]]
            for k in range(times)
        ]
