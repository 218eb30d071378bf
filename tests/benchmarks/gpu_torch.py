"""cuDNN through PyTorch: layers and networks in channels-last order, replayed as CUDA graphs.

Every layer and network runs in two forms, and the faster counts: as PyTorch's functions are called,
and with cuDNN's fused convolutions (bias, residual sum and relu in one kernel) where they fit.
Without a CUDA device everything runs on the CPU, in float32, once: a rehearsal.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tvmconv.accuracy import random_inputs
from tvmconv.bench.torch_peer import layer_function
from tvmconv.graph.ir import Graph, Node, Value
from tvmconv.problem import Problem

#: Runs of a layer in one graph, seconds of a block, blocks.
_CALLS, _BLOCK_S, _BLOCKS = 20, 0.02, 5
#: Relative L2 norm of differences between two computations of the same, in halves or TF32.
_DIFFERENCE = 0.03
#: A network's function, which has run; its time follows from replays of a graph of it.
Run = Callable[[], Any]


class Torch:
    """PyTorch with cuDNN as a user would set it up for one precision.

    Parameters
    ----------
    precision : "float16", "tf32" or "float32"

    Raises
    ------
    ImportError
        PyTorch is not installed.
    """

    def __init__(self, precision: str) -> None:
        import torch

        self.torch = torch
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.dtype = "float16" if precision == "float16" and self.device == "cuda" else "float32"
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"

    @property
    def description(self) -> dict[str, str]:
        """Versions, and the device by PyTorch's name."""
        torch = self.torch
        found = {"torch": str(torch.__version__), "device": self.device}
        if self.device == "cuda":
            name = torch.cuda.get_device_name()
            found |= {"device": name, "cudnn": str(torch.backends.cudnn.version())}
        return found

    def tensor(self, array: Any) -> Any:
        """An array on the device, in its order and type."""
        made = self.torch.tensor(np.asarray(array), device=self.device)
        made = made.to(getattr(self.torch, self.dtype)) if made.is_floating_point() else made
        if made.ndim != 4:
            return made
        return made.contiguous(memory_format=self.torch.channels_last)

    # --- what is timed

    def layer(self, text: str) -> dict[str, float]:
        """Microseconds of a layer in each form, channels-last in and out."""
        problem = Problem.parse(text).replace(dtype="float32")
        arrays = random_inputs(problem, 0)
        x = self.tensor(arrays.pop("x"))
        forms = {"eager": self.function(problem, arrays)}
        fused = self._fused(problem, arrays)
        if fused is not None:
            forms["fused"] = fused
            self._check(fused(x), forms["eager"](x))
        return {name: self.time_us(lambda f=f: f(x), _CALLS) for name, f in forms.items()}

    def network(self, graph: Graph, feed: Any, expected: Any) -> dict[str, float]:
        """Microseconds of a network of one input and one output in each form.

        Raises
        ------
        ValueError
            The output is not the one that is expected.
        """
        x = self.tensor(feed)
        forms = {"eager": Network(self, graph, fused=False)}
        if self.device == "cuda":
            forms["fused"] = Network(self, graph, fused=True)
        for function in forms.values():
            self._check(function(x)[0], self.tensor(expected))
        return {name: self.time_us(lambda f=f: f(x), 1) for name, f in forms.items()}

    def _check(self, got: Any, wanted: Any) -> None:
        """Refuse what is not the same computation; rounding differs, so this is coarse."""
        norm = self.torch.linalg.vector_norm
        share = float(norm(got.float() - wanted.float()) / norm(wanted.float()))
        if not share <= _DIFFERENCE:
            raise ValueError(f"its output differs by {share:.2g} in relative L2 norm")

    def time_us(self, run: Run, calls: int) -> float:
        """Microseconds of one call: of replays of a graph of some, by the device's clock."""
        with self.torch.inference_mode():
            return self._replayed_us(run, calls) if self.device == "cuda" else _wall_us(run)

    def _replayed_us(self, run: Run, calls: int) -> float:
        cuda = self.torch.cuda
        stream = cuda.Stream()
        stream.wait_stream(cuda.current_stream())
        with cuda.stream(stream):
            for _ in range(3):  # cuDNN chooses its algorithms
                run()
        cuda.current_stream().wait_stream(stream)
        graph = cuda.CUDAGraph()
        with cuda.graph(graph):
            for _ in range(calls):
                run()
        begin, end = (cuda.Event(enable_timing=True) for _ in range(2))

        def block_us(count: int) -> float:
            begin.record()
            for _ in range(count):
                graph.replay()
            end.record()
            cuda.synchronize()
            return 1e3 * float(begin.elapsed_time(end)) / count

        block_us(3)
        count = max(1, min(int(1e6 * _BLOCK_S / block_us(3)), 2000))
        return statistics.median(block_us(count) for _ in range(_BLOCKS)) / calls

    # --- functions of one layer

    def function(self, problem: Problem, arrays: dict[str, Any]) -> Callable[[Any], Any]:
        """A layer as a function of one tensor."""
        if problem.op == "avg_pool" and problem.pads_low != problem.pads_high:
            return self._uneven_mean(problem)
        constants = {name: array.astype(self.dtype) for name, array in arrays.items()}
        with self.torch.device(self.device):
            return layer_function(self.torch, problem, constants, "torch", channels_last=True)

    def _uneven_mean(self, problem: Problem) -> Callable[[Any], Any]:
        """A mean with more padding on one side, which is not counted: PyTorch has no such layer."""
        f, torch = self.torch.nn.functional, self.torch
        (top, left), (bottom, right) = problem.pads_low, problem.pads_high

        def sums(x: Any) -> Any:
            padded = f.pad(x, (left, right, top, bottom))
            return f.avg_pool2d(padded, problem.kernel, problem.stride, divisor_override=1)

        counts = sums(torch.ones(1, 1, *problem.in_spatial, device=self.device))
        shares = (1 / counts).to(getattr(torch, self.dtype))
        return lambda x: sums(x) * shares

    def _fused(
        self, problem: Problem, arrays: dict[str, Any], residual: bool = False
    ) -> Callable[..., Any] | None:
        """cuDNN's convolution with bias, a sum if asked for, and relu; None where it has none."""
        convolution = problem.op in ("conv", "depthwise_conv") and problem.rank == 2
        symmetric = problem.pads_low == problem.pads_high
        relu = problem.activation == "relu"
        if self.device != "cuda" or not (convolution and symmetric and relu and problem.bias):
            return None
        weight, bias = self.tensor(arrays["weight"]), self.tensor(arrays["bias"])
        settings = (problem.stride, problem.pads_low, problem.dilation, problem.groups)
        if residual:
            add = self.torch.cudnn_convolution_add_relu
            return lambda x, z: add(x, weight, z, 1.0, bias, *settings)
        plain = self.torch.cudnn_convolution_relu
        return lambda x: plain(x, weight, bias, *settings)


def _wall_us(run: Run) -> float:
    begin = time.perf_counter()
    run()
    return 1e6 * (time.perf_counter() - begin)


class Network:
    """A simplified graph as PyTorch's functions.

    Parameters
    ----------
    torch : Torch
    graph : Graph
        Of :func:`tvmconv.frontend.load`: batch normalisation is folded.
    fused : bool
        Whether a convolution computes the sum and the relu that follow it.
    """

    def __init__(self, torch: Torch, graph: Graph, *, fused: bool) -> None:
        self._torch, self._graph = torch, graph
        self._steps: list[tuple[Callable[..., Any], list[Value], Value]] = []
        self._constants: dict[Value, Any] = {}
        readers, skipped = graph.consumers(), set[Node]()
        for node in graph.nodes:
            if node in skipped:
                continue
            step = self._with_followers(node, readers, skipped) if fused else None
            if step is None:
                step = self._function(node), _operands(node), node.output
            for value in step[1]:
                if value.is_constant and value not in self._constants:
                    self._constants[value] = torch.tensor(value.data)
            self._steps.append(step)

    def __call__(self, x: Any) -> list[Any]:
        """Run once."""
        values = {**self._constants, self._graph.inputs[0]: x}
        for function, inputs, output in self._steps:
            values[output] = function(*(values[value] for value in inputs))
        return [values[output] for output in self._graph.outputs]

    def _function(self, node: Node) -> Callable[..., Any]:
        if "problem" in node.attrs:
            problem = Problem.parse(node.attrs["problem"])
            return self._torch.function(problem, _arrays(node, problem))
        torch, f = self._torch.torch, self._torch.torch.nn.functional
        attrs = node.attrs
        table: dict[str, Callable[..., Any]] = {
            "relu": torch.relu,
            "add": torch.add,
            "concat": lambda *values: torch.cat(values, attrs["axis"]),
            "softmax": lambda x: torch.softmax(x, attrs["axis"]),
            "reshape": lambda x: x.reshape(attrs["shape"]),
            "lrn": lambda x: f.local_response_norm(
                x, attrs["size"], attrs["alpha"], attrs["beta"], attrs["bias"]
            ),
            "scale_shift": lambda x, s, t: x * s.view(1, -1, 1, 1) + t.view(1, -1, 1, 1),
            "channel_shuffle": lambda x: f.channel_shuffle(x, attrs["groups"]),
        }
        if node.op not in table:
            raise NotImplementedError(f"{node.name}: {node.op} is not run by PyTorch here")
        return table[node.op]

    def _with_followers(
        self, node: Node, readers: dict[Value, list[Node]], skipped: set[Node]
    ) -> tuple[Callable[..., Any], list[Value], Value] | None:
        """A convolution with the sum and the relu that alone read it, as one function."""
        if "problem" not in node.attrs:
            return None
        problem = Problem.parse(node.attrs["problem"])
        last, chain, other = node, [], None
        for op in ("add", "relu"):
            following = readers.get(last.output, [])
            alone = len(following) == 1 and last.output not in self._graph.outputs
            if alone and following[0].op == op:
                last = following[0]
                chain.append(last)
                if op == "add":
                    other = next(v for v in last.inputs if v is not node.output)
        if not chain or chain[-1].op != "relu":
            return None
        known = {output for _, _, output in self._steps} | set(self._graph.inputs)
        if other is not None and other not in known:
            return None
        problem = problem.replace(activation="relu")
        made = self._torch._fused(problem, _arrays(node, problem), other is not None)
        if made is None:
            return None
        skipped.update(chain)
        return made, [node.inputs[0], *([other] if other is not None else [])], last.output


def _operands(node: Node) -> list[Value]:
    """What a node's function is called with: the weights of a layer are its own."""
    return node.inputs[:1] if "problem" in node.attrs else node.inputs


def _arrays(node: Node, problem: Problem) -> dict[str, Any]:
    """The constants of a layer's node, by the problem's names."""
    names = [name for name in problem.inputs if name != "x"]
    return {n: np.asarray(v.data) for n, v in zip(names, node.inputs[1:], strict=True)}
