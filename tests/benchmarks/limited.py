"""A command with all its children, for so long."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress

from tvmconv.device.process import end_with_parent


def limited(command: list[str], seconds: float, stdout: int | None = None) -> int | None:
    """Run a command, and end it after so long; then whatever it has left running, too.

    Returns
    -------
    int or None
        The code with which it exits; None if it was late.
    """
    with subprocess.Popen(
        command, start_new_session=True, stdout=stdout, preexec_fn=end_with_parent
    ) as child:
        try:
            return child.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
