"""Networks for ncnn, by its own converter: pnnx, a package of its own.

References
----------
ncnn, tools/pnnx/README.md: options of the command, and names of what it writes.
"""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

import onnx

from tvmconv.bench.peers import PeerRefusal

_LIMIT_S = 300


def convert(model: onnx.ModelProto, folder: Path) -> tuple[Path, Path]:
    """Write a network as ncnn's param and bin files, with weights in float32.

    Its inputs are called in0, in1, … there, its outputs out0, out1, …

    Raises
    ------
    PeerRefusal
        If pnnx is not installed, or cannot convert the network.
    """
    program = _converter()
    source = folder / "network.onnx"
    onnx.save(model, source)
    try:
        done = subprocess.run(
            [program, source.name, "fp16=0"],
            cwd=folder, capture_output=True, text=True, errors="replace", timeout=_LIMIT_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise PeerRefusal(f"ncnn: pnnx did not end within {_LIMIT_S} s") from None
    except OSError as error:
        raise PeerRefusal(f"ncnn: pnnx cannot be started: {error.strerror}") from None
    files = folder / "network.ncnn.param", folder / "network.ncnn.bin"
    if done.returncode or not all(file.is_file() for file in files):
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise PeerRefusal(f"ncnn: pnnx cannot convert the network: {last}")
    return files


def _converter() -> Path:
    """The program of the package, which Python could only call after importing PyTorch."""
    found = importlib.util.find_spec("pnnx")
    if found is None or found.origin is None:
        raise PeerRefusal("ncnn: runs networks only with its converter: pip install pnnx")
    return Path(found.origin).with_name("pnnx")
