"""Count the instructions that a program executes between its marks, with QEMU's user mode.

``qemu_count.c`` says what a mark is.
"""

from __future__ import annotations

import itertools
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tvmconv.codegen.link import zig
from tvmconv.errors import EnvironmentError_

SOURCE = Path(__file__).with_name("qemu_count.c")
#: The static build of QEMU loads no plugins.
QEMU = "qemu-aarch64"
_COUNT = re.compile(r"^instructions (\d+)$", re.MULTILINE)
_LIMIT_S = 200.0


def build_plugin(folder: Path) -> Path:
    """Compile the plugin for this machine."""
    output = folder / "qemu_count.so"
    system = ["-target", f"{platform.machine()}-linux-gnu"]
    flags = ["-O2", "-g0", "-fPIC", "-shared", "-fno-sanitize=undefined"]
    zig(["cc", *system, *flags, str(SOURCE), "-o", str(output)], folder, "compile qemu_count.c")
    return output


def counts(
    command: Sequence[str],
    plugin: Path,
    options: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> list[int]:
    """The instructions between each two marks of an AArch64 program.

    Parameters
    ----------
    command : sequence of str
        The program and its arguments.
    plugin : Path
        Of :func:`build_plugin`.
    options : sequence of str
        Of QEMU, such as ``-cpu cortex-a72``.
    environment : mapping, optional
        Variables besides those of this process.

    Raises
    ------
    EnvironmentError_
        QEMU is missing, or the program fails.
    """
    line = [QEMU, *options, "-plugin", str(plugin), *command]
    variables = {**os.environ, **(environment or {})}
    try:
        done = subprocess.run(line, capture_output=True, text=True, env=variables, timeout=_LIMIT_S)
    except OSError as error:
        raise EnvironmentError_(f"{QEMU}: {error.strerror}: apt-get install qemu-user") from None
    except subprocess.TimeoutExpired:
        raise EnvironmentError_(f"{command[0]}: did not end within {_LIMIT_S:g} s") from None
    if done.returncode:
        raise EnvironmentError_(f"{command[0]}: code {done.returncode}: {done.stderr[-300:]}")
    marks = [int(number) for number in _COUNT.findall(done.stderr)]
    return [after - before for before, after in itertools.pairwise(marks)]
