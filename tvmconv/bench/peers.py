"""The libraries that a user might choose instead, each behind the same call.

A peer gets the model with constant weights, the inputs, and a thread count, and gives back a
`Contender`. Every library is imported only when it is asked for. All compute in float32.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tvmconv.bench.harness import Contender
from tvmconv.errors import EnvironmentError_, InputError
from tvmconv.ops import nearest

if TYPE_CHECKING:
    import onnx

Inputs = Mapping[str, npt.NDArray[Any]]
Factory = Callable[["onnx.ModelProto", Inputs, int], Contender]


class PeerRefusal(InputError):
    """A library cannot run this model; the report says so and goes on with the others."""


@dataclass(frozen=True)
class Peer:
    """A library to compare with.

    Attributes
    ----------
    name : str
        As given to ``--against``.
    module : str
        What is imported, and what pip calls it.
    extra : str
        The extra of this package that installs it.
    make : callable
        ``(model, inputs, threads) -> Contender``; raises PeerRefusal.
    """

    name: str
    module: str
    make: Factory
    extra: str = "bench"


def load_library(module: str) -> Any:
    """Import a peer's Python package.

    Raises
    ------
    EnvironmentError_
        If it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise EnvironmentError_(
            f"{module.partition('.')[0]} cannot be imported: {first_line(error)}"
        ) from error


def make_onnxruntime(model: onnx.ModelProto, inputs: Inputs, threads: int) -> Contender:
    """Prepare an ONNX Runtime session on the CPU, its nodes in sequence, all optimisations on.

    Raises
    ------
    EnvironmentError_
        If onnxruntime is not installed.
    PeerRefusal
        If it cannot load the model.
    """
    ort = load_library("onnxruntime")
    errors = load_library("onnxruntime.capi.onnxruntime_pybind11_state")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except (errors.Fail, errors.InvalidGraph, errors.InvalidArgument, errors.NotImplemented) as e:
        raise PeerRefusal(f"onnxruntime: {first_line(e)}") from e
    feeds = dict(inputs)
    return Contender("onnxruntime", lambda: session.run(None, feeds), version=str(ort.__version__))


def make_openvino(model: onnx.ModelProto, inputs: Inputs, threads: int) -> Contender:
    """Prepare an OpenVINO request on the CPU, tuned for latency, in float32.

    OpenVINO computes in bfloat16 where the processor has instructions for it, unless
    ``INFERENCE_PRECISION_HINT`` says otherwise; that would be a different computation.

    Raises
    ------
    EnvironmentError_
        If openvino is not installed.
    PeerRefusal
        If it cannot load the model.
    """
    ov = load_library("openvino")
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    core = ov.Core()
    try:
        compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", settings)
        request = compiled.create_infer_request()
        for name, array in inputs.items():
            tensor = ov.Tensor(np.ascontiguousarray(array), shared_memory=True)
            request.set_tensor(name, tensor)
    except RuntimeError as error:
        raise PeerRefusal(f"openvino: {first_line(error)}") from error
    count = len(compiled.outputs)
    held = [compiled, request]

    def run() -> list[npt.NDArray[Any]]:
        request.infer()
        return [request.get_output_tensor(i).data for i in range(count)]

    return Contender("openvino", run, held.clear, str(ov.__version__).partition("-")[0])


def _make_torch(model: onnx.ModelProto, inputs: Inputs, threads: int) -> Contender:
    from tvmconv.bench.torch_peer import make_torch

    return make_torch(model, inputs, threads)


def _make_torch_channels_last(model: onnx.ModelProto, inputs: Inputs, threads: int) -> Contender:
    from tvmconv.bench.torch_peer import make_torch

    return make_torch(model, inputs, threads, channels_last=True)


def _make_ncnn(model: onnx.ModelProto, inputs: Inputs, threads: int) -> Contender:
    from tvmconv.bench.ncnn_peer import make_ncnn

    return make_ncnn(model, inputs, threads)


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer("onnxruntime", "onnxruntime", make_onnxruntime),
        Peer("openvino", "openvino", make_openvino),
        Peer("torch", "torch", _make_torch, "torch"),
        Peer("torch-channels-last", "torch", _make_torch_channels_last, "torch"),
        Peer("ncnn", "ncnn", _make_ncnn),
    )
}


def find_peer(name: str) -> Peer:
    """Look a library up by its name.

    Raises
    ------
    InputError
        If there is no such peer; names the nearest.
    """
    if name not in PEERS:
        raise InputError(f"unknown peer {name!r}, known: {', '.join(PEERS)}{nearest(name, PEERS)}")
    return PEERS[name]


def find_peers(names: Sequence[str]) -> list[Peer]:
    """Look libraries up, each once, and check that they are installed, without importing them.

    Raises
    ------
    InputError
        If there is no such peer.
    EnvironmentError_
        If one is not installed.
    """
    peers = [find_peer(name) for name in dict.fromkeys(names)]
    for peer in peers:
        if importlib.util.find_spec(peer.module) is None:
            how = f"pip install 'tvmconv[{peer.extra}]'"
            raise EnvironmentError_(f"{peer.name}: {peer.module} is not installed; {how}")
    return peers


def first_line(error: BaseException) -> str:
    """Shorten a library's message to one line of at most 200 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]
