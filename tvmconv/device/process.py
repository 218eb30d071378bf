"""A command with a deadline: it may be slow, hang, print without end, or leave children behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

_CHUNK, _TAIL = 1 << 16, 1 << 13
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1
#: How long what a command has left behind may keep its output open.
_LINGER_S = 0.5


class Overdue(Exception):
    """The command did not end in time."""


class TooMuch(Exception):
    """The command printed more than it may."""


@dataclass(frozen=True)
class Finished:
    """How a command has ended.

    Attributes
    ----------
    code : int
        Its exit code, or a signal's number below zero.
    output : bytes
    errors : str
        The end of what it wrote to its standard error.
    """

    code: int
    output: bytes
    errors: str

    @property
    def last_error(self) -> str:
        """The last line of its errors; empty if there is none."""
        lines = [line.strip() for line in self.errors.splitlines() if line.strip()]
        return lines[-1][:300] if lines else ""


def end_with_parent(parent: int | None = None) -> None:
    """Have the system end this process as soon as its parent has ended.

    It ends at once if that is no longer ``parent``.
    """
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def python(module: str) -> list[str]:
    """A command that runs a module of this package.

    It finds modules where this process does; ``python -m`` would look into the current folder
    first.
    """
    run = f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    return [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; import runpy; {run}"]


def execute(
    command: Sequence[str],
    deadline: float,
    limit_bytes: int,
    abandoned: threading.Event | None = None,
    *,
    tied: bool = False,
) -> Finished:
    """Run a command, in a session of its own, of which nothing is left afterwards.

    Parameters
    ----------
    command : sequence of str
    deadline : float
        By ``time.monotonic()``.
    limit_bytes : int
        Output that it may print.
    abandoned : Event, optional
        Ends the time at once when it is set.
    tied : bool
        Whether the command also ends when this process is killed; for processes of one thread.

    Raises
    ------
    Overdue, TooMuch
    OSError
        It cannot be started.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=end_with_parent if tied else None,
    )
    try:
        abandoned = abandoned or threading.Event()
        output, errors = _read(process, deadline, limit_bytes, abandoned)
        code = _wait(process, deadline, abandoned)
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
    return Finished(code, output, errors.decode("utf-8", "replace"))


def _wait(process: subprocess.Popen[bytes], deadline: float, abandoned: threading.Event) -> int:
    """Wait for a command that has closed its outputs; its exit code."""
    while time.monotonic() < deadline and not abandoned.is_set():
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(min(max(0.0, deadline - time.monotonic()), 0.1))
    raise Overdue


def _read(
    process: subprocess.Popen[bytes],
    deadline: float,
    limit_bytes: int,
    abandoned: threading.Event,
) -> tuple[bytes, bytes]:
    """Read both outputs until they are closed, or the command has ended and nothing more comes."""
    output, errors = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        for pipe, store in ((process.stdout, output), (process.stderr, errors)):
            if pipe is not None:
                selector.register(pipe, selectors.EVENT_READ, store)
        ended_at = 0.0
        while selector.get_map():
            now = time.monotonic()
            if now >= deadline or abandoned.is_set():
                raise Overdue
            if process.poll() is not None:
                ended_at = ended_at or now
                if now - ended_at > _LINGER_S:
                    break
            for key, _ in selector.select(min(deadline - now, 0.1)):
                data = os.read(key.fd, _CHUNK)
                if not data:
                    selector.unregister(key.fileobj)
                key.data.extend(data)
            if len(output) > limit_bytes:
                raise TooMuch
            del errors[:-_TAIL]
    return bytes(output), bytes(errors)
