"""A C program that uses the compiled classifier: what a user would write, compiled and run here."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tvmconv.codegen.artifact import RUNTIME
from tvmconv.codegen.link import zig
from tvmconv.errors import EnvironmentError_

RUN_LIMIT_S = 30.0
SOURCE = """\
#include <stdio.h>
#include "tvmconv.h"

int main(void) {
  float image[32 * 32], logits[10]; /* shapes: tvmconv inspect digits.so */
  const void *inputs[] = {image};
  void *outputs[] = {logits};
  tvmconv_model *model;
  if (fread(image, sizeof image, 1, stdin) != 1) return 2;
  if (tvmconv_create(&model, 0) || tvmconv_run(model, inputs, outputs))
    return fprintf(stderr, "%s\\n", tvmconv_error()), 1;
  int digit = 0;
  for (int i = 1; i < 10; i++)
    if (logits[i] > logits[digit]) digit = i;
  printf("%d\\n", digit);
  tvmconv_destroy(model);
  return 0;
}
"""
#: How the program is made; any other C compiler takes the same arguments.
ARGUMENTS = ("-O2", "digit.c", "digits.so", "-Wl,-rpath,$ORIGIN", "-o", "digit")
BUILD = "python -m ziglang cc " + shlex.join(ARGUMENTS)
RUN = "./digit < digit.f32"


def write_example(folder: Path, image: npt.NDArray[np.float32]) -> None:
    """Put the program, its header and one image beside ``digits.so``.

    Raises
    ------
    EnvironmentError_
        If the system refuses to write.
    """
    try:
        (folder / "digit.c").write_text(SOURCE, encoding="ascii")
        shutil.copyfile(RUNTIME / "tvmconv.h", folder / "tvmconv.h")
        (folder / "digit.f32").write_bytes(image.astype(np.float32).tobytes())
    except OSError as error:
        raise EnvironmentError_(f"{folder}: cannot be written: {error.strerror}") from error


def run_example(folder: Path) -> str:
    """Compile the program, run it on the image, and give what it printed.

    Raises
    ------
    EnvironmentError_
        If it cannot be compiled or run, or fails.
    """
    zig(["cc", *ARGUMENTS], folder, "compile digit.c")
    with (folder / "digit.f32").open("rb") as image:
        try:
            done = subprocess.run(
                [os.fspath((folder / "digit").resolve())],
                stdin=image,
                capture_output=True,
                text=True,
                timeout=RUN_LIMIT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EnvironmentError_(f"cannot run {folder / 'digit'}: {error}") from error
    if done.returncode:
        raise EnvironmentError_(f"{folder / 'digit'}: {done.stderr.strip() or done.returncode}")
    return done.stdout.strip()
