"""The count of instructions that benchmarks take from QEMU, on a program of known length."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.benchmarks.qemu_guest import MARKED_PROCESS
from tests.benchmarks.qemu_plugin import QEMU, build_plugin, counts
from tvmconv.codegen.link import zig

#: Marks before and after a loop of three instructions, twice; then ends.
PROGRAM = f"""
    .macro mark
    mov x0, #0
    movz x1, #{MARKED_PROCESS & 0xFFFF}
    movk x1, #{MARKED_PROCESS >> 16}, lsl #16
    mov x8, #141
    svc #0
    .endm
    .macro loop trips
    movz x9, #(\\trips & 0xffff)
    movk x9, #(\\trips >> 16), lsl #16
1:  subs x9, x9, #1
    nop
    b.ne 1b
    .endm
    .globl _start
_start:
    mark
    loop 1000
    mark
    loop 1000003
    mark
    mov x0, #0
    mov x8, #93
    svc #0
"""


@pytest.mark.skipif(shutil.which(QEMU) is None, reason="qemu-user is not installed")
def test_every_instruction_between_two_marks_is_counted(tmp_path: Path) -> None:
    (tmp_path / "main.s").write_text(PROGRAM)
    flags = ["-target", "aarch64-linux-musl", "-nostdlib", "-static"]
    zig(["cc", *flags, "main.s", "-o", "main"], tmp_path, "build the program")
    found = counts([str(tmp_path / "main")], build_plugin(tmp_path))
    assert found == [3 * trips + 2 + 5 for trips in (1000, 1000003)]
