"""A builder of candidates with faults: their kernels', or its own."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tvmconv.codegen import link
from tvmconv.codegen.artifact import RUNTIME

#: As long as every candidate's symbol.
_PLACE = "candidate______"
#: Faults of kernel.c and of the builder; a candidate's knobs are places in these lists.
_SOURCE = Path(__file__).with_name("kernel.c")
KERNELS = tuple(
    re.findall(r"\w+", _SOURCE.read_text().partition("enum fault {")[2].partition("}")[0])
)
BUILDS = (
    "right", "hangs", "busy", "no_memory", "raises", "no_object", "segfault", "garbage_object",
    "disk_full", "leaves_a_child", "prints", "exits",
)  # fmt: skip


def knobs(kernel: str = "RIGHT", build: str = "right", number: int = 0) -> tuple[Any, ...]:
    """The knobs of a candidate with a fault."""
    chosen = {"kernel": KERNELS.index(kernel), "build": BUILDS.index(build), "number": number}
    return tuple(chosen.items())


def prepare(table: dict[str, Any], folder: Path) -> None:
    pass


def build(job: dict[str, Any], folder: Path) -> None:
    chosen, path = dict(job["knobs"]), folder / f"{job['symbol']}.o"
    _compile(job, path, KERNELS[chosen["kernel"]])
    globals()[f"_{BUILDS[chosen['build']]}"](path)
    path.with_suffix(".trace").write_text("[[], []]")


def _compile(job: dict[str, Any], path: Path, fault: str) -> None:
    """Compile a fault once, and give each object a symbol of its own."""
    compiled, unfinished = path.with_name(f"{fault}.o"), path.with_suffix(".unfinished")
    if not compiled.exists():
        defined = [f"-DFAULT={fault}", f"-DIS_{fault}", f"-DSYMBOL=__tvm_ffi_{_PLACE}"]
        flags = ["-O1", "-fPIC", "-w", "-fno-sanitize=undefined", "-I", str(RUNTIME)]
        triple = job["target"]["zig"]["triple"]
        command = ["cc", "-target", triple, *defined, *flags, "-c", str(_SOURCE)]
        link.zig([*command, "-o", str(unfinished)], path.parent, "compile a fault")
        unfinished.rename(compiled)
    path.write_bytes(compiled.read_bytes().replace(_PLACE.encode(), job["symbol"].encode()))


def _right(_: Path) -> None:
    pass


def _hangs(_: Path) -> None:
    time.sleep(1000)


def _busy(_: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        pass


def _no_memory(_: Path) -> None:
    held = []
    while True:
        held.append(bytearray(64 << 20))


def _raises(_: Path) -> None:
    raise ValueError("no such tile")


def _no_object(path: Path) -> None:
    path.unlink()


def _segfault(_: Path) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _garbage_object(path: Path) -> None:
    path.write_bytes(b"no object file" * 1000)


def _disk_full(_: Path) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _leaves_a_child(_: Path) -> None:
    subprocess.Popen(["sleep", "1000"])


def _prints(_: Path) -> None:
    for file in (1, 2):
        os.write(file, b"\xff\0{]" * 10000)


def _exits(_: Path) -> None:
    sys.exit(0)
