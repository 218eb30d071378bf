"""What :mod:`tests.benchmarks.qemu_instructions` runs in the emulated processor.

    python3 -S qemu_guest.py CONTENDER FOLDER RUNS

Prepares one convolution, of the files of the folder, in one library, runs it once, marks, runs it
RUNS times, marks, and writes the output to ``y.<contender>.npy``. A mark is a system call that
nothing else makes, and that the emulator's plugin (``qemu_count.c``) answers with a count.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
#: What is counted, and what makes a NumPy array of what it returns.
Layer = tuple[Callable[[], Any], Callable[[Any], Array]]

#: Asks for the priority of a process that cannot exist, as ``qemu_count.c`` expects it.
MARKED_PROCESS = 0x7C6F76


def mark() -> None:
    """Have the plugin say how many instructions there were up to here."""
    _LIBC.getpriority(0, MARKED_PROCESS)


_LIBC = ctypes.CDLL(None)


def _tvmconv(folder: Path, x: Array) -> Layer:
    from tvmconv.runtime.loader import load

    module = load(folder / "model.so", 1)
    return lambda: module(x)[0], np.asarray


def _ncnn(folder: Path, x: Array) -> Layer:
    """All of its float32 algorithms."""
    import ncnn

    net = ncnn.Net()
    options = net.opt
    options.num_threads = 1
    options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
    options.use_bf16_packed = options.use_bf16_storage = False
    if net.load_param(str(folder / "layer.param")) or net.load_model(str(folder / "layer.bin")):
        raise SystemExit("ncnn cannot load the layer")
    source = ncnn.Mat(x[0]).clone()  # its rows are aligned as ncnn wants them

    def run() -> Any:
        extractor = net.create_extractor()
        extractor.input("in0", source)
        return extractor.extract("out0")[1]

    return run, lambda result: np.asarray(result)[None]


def _onnxruntime(folder: Path, x: Array) -> Layer:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(folder / "layer.onnx"), options, providers=["CPUExecutionProvider"]
    )
    return lambda: session.run(None, {"x": x})[0], np.asarray


def _xnnpack(folder: Path, x: Array) -> Layer:
    """Its operator takes and gives NHWC: no change of layout is counted."""
    layer = json.loads((folder / "layer.json").read_text())
    library = ctypes.CDLL("libXNNPACK.so.0")
    arrays = np.load(folder / "layer.npz")
    weight = np.ascontiguousarray(arrays["weight"].transpose(0, 2, 3, 1))
    bias = arrays["bias"]
    groups, (_, co, oh, ow), (_, ci, ih, iw) = layer["groups"], layer["output_shape"], x.shape
    operator = ctypes.c_void_p()
    u32, size, f32 = ctypes.c_uint32, ctypes.c_size_t, ctypes.c_float

    def call(name: str, *arguments: Any) -> None:
        code = library[f"xnn_{name}"](*arguments)
        if code:
            raise SystemExit(f"XNNPACK: {name} returned {code}")

    call("initialize", None)
    call(
        "create_convolution2d_nhwc_f32",
        *(u32(n) for key in ("pads", "kernel", "stride", "dilation") for n in layer[key]),
        u32(groups),
        *(size(n) for n in (ci // groups, co // groups, ci, co)),
        ctypes.c_void_p(weight.ctypes.data),
        ctypes.c_void_p(bias.ctypes.data),
        f32(0.0 if layer["relu"] else -np.inf),
        f32(np.inf),
        u32(0),
        ctypes.byref(operator),
    )
    source = np.zeros(x.size + 64, np.float32)  # it may read some bytes past the end
    source[: x.size].reshape(1, ih, iw, ci)[...] = x.transpose(0, 2, 3, 1)
    result = np.empty((1, oh, ow, co), np.float32)
    places = [array.ctypes.data_as(ctypes.c_void_p) for array in (source, result)]
    extents = [size(n) for n in (1, ih, iw)]
    call("setup_convolution2d_nhwc_f32", operator, *extents, *places, None)

    def run() -> Array:
        call("run_operator", operator, None)
        return result if places else source  # both are used where they lie

    return run, lambda result: result.transpose(0, 3, 1, 2)


CONTENDERS: dict[str, Callable[[Path, Array], Layer]] = {
    "tvmconv": _tvmconv,
    "ncnn": _ncnn,
    "onnxruntime": _onnxruntime,
    "xnnpack": _xnnpack,
}


def main(name: str, folder: Path, runs: int) -> None:
    """Count one contender, and write its output."""
    run, read = CONTENDERS[name](folder, np.load(folder / "x.npy"))
    result = run()
    mark()
    for _ in range(runs):
        result = run()
    mark()
    np.save(folder / f"y.{name}.npy", read(result))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
