"""The C runtime under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer.

They need a C compiler that brings the sanitizers' libraries; zig does not.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tvmconv.codegen.artifact import RUNTIME
from tvmconv.codegen.plan import BlockedTensor, PackStep, Plan, Port, TensorArgument, UnpackStep
from tvmconv.codegen.plan_c import METADATA_SYMBOL, WEIGHTS_SYMBOL, plan_source

HERE = Path(__file__).parent
DATA = f'const unsigned char {WEIGHTS_SYMBOL}[64]; const char {METADATA_SYMBOL}[] = "{{}}";\n'


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A C compiler with which the sanitizers work."""
    folder = tmp_path_factory.mktemp("compiler")
    (folder / "main.c").write_text("int main(void) { return 0; }\n")
    for name in ("gcc", "clang"):
        found = shutil.which(name)
        if found is None:
            continue
        for sanitizer in ("address,undefined", "thread"):
            command = [found, f"-fsanitize={sanitizer}", "main.c", "-o", "main"]
            if subprocess.run(command, cwd=folder, capture_output=True).returncode:
                break
        else:
            return found
    pytest.skip("neither gcc nor clang with the sanitizers' libraries is installed")


def _build(
    compiler: str, folder: Path, plan: Plan, sanitizer: str, options: Sequence[str] = ()
) -> Path:
    (folder / "plan.c").write_text(plan_source(plan))
    (folder / "data.c").write_text(DATA)
    others = ("tvm_entry.c", "cuda_driver.c", "cuda_images.c", "cuda_model.c")
    runtime = sorted(path for path in RUNTIME.glob("*.c") if path.name not in others)
    program = folder / "stress"
    flags = ["-std=gnu11", "-O1", "-g", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    sources = [folder / "plan.c", folder / "data.c", HERE / "stress.c", *runtime]
    command = [compiler, *flags, *options, f"-I{RUNTIME}", *sources, "-o", program, "-lpthread"]
    subprocess.run(command, check=True)
    return program


def _run(program: Path, *numbers: int) -> None:
    command = [str(program), *map(str, numbers)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if "unexpected memory mapping" in result.stderr:
        pytest.skip("this kernel lays out memory in a way that ThreadSanitizer cannot take")
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout == "wrong: 0\n"


def _round_trips() -> Plan:
    """A model that packs and unpacks tensors of many layouts, each at the very end of the arena."""
    rng = np.random.default_rng(11)
    tensors = [BlockedTensor((1, 40, 40, 61), block=16, lows=(1, 1), highs=(1, 1))]
    tensors.append(BlockedTensor((1, 33, 64, 31), block=16))
    for _ in range(80):
        rank = int(rng.integers(0, 4))
        spatial = tuple(int(n) for n in rng.integers(1, 20, rank))
        lows, highs = (tuple(int(n) for n in rng.integers(0, 3, rank)) for _ in range(2))
        dtype = str(rng.choice(["float32", "float32", "int8", "float16", "float64"]))
        shape = (int(rng.integers(1, 3)), int(rng.integers(1, 40)), *spatial)
        halo = (lows, highs) if rng.integers(0, 2) else ((), ())
        block = int(rng.choice([1, 4, 8, 16, 16, 5]))
        tensors.append(BlockedTensor(shape, 0, block, *halo, dtype=dtype))
    arena_bytes = max(tensor.nbytes for tensor in tensors)
    ports = [Port(f"x{k}", t.shape, t.dtype) for k, t in enumerate(tensors)]
    steps: list[PackStep | UnpackStep] = []
    for k, tensor in enumerate(tensors):
        tensor = replace(tensor, offset=arena_bytes - tensor.nbytes)
        plain = TensorArgument("input", tensor.shape, tensor.dtype, index=k)
        steps += [PackStep(plain, tensor), UnpackStep(tensor, replace(plain, space="output"))]
    return Plan(arena_bytes, ports, ports, steps)


VECTORS = ["", "-mavx2", "-march=native"] if platform.machine() == "x86_64" else [""]


@pytest.mark.parametrize("option", VECTORS, ids=lambda option: option or "baseline")
def test_native_steps_stay_inside_their_buffers(compiler: str, tmp_path: Path, option: str) -> None:
    options = [option] if option else []
    program = _build(compiler, tmp_path, _round_trips(), "address,undefined", options)
    _run(program, 1, 1, 2)
    _run(program, 3, 1, 2)


@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_threads_share_nothing_unguarded(
    compiler: str, tmp_path: Path, make_chain: Callable[..., Plan], sanitizer: str
) -> None:
    plan = make_chain(["twice", "scratch"], 40_000)
    options = ["-DAFFINE", str(HERE / "kernels.c")]
    program = _build(compiler, tmp_path, plan, sanitizer, options)
    for threads, callers in ((1, 2), (3, 2), (2, 5)):
        _run(program, threads, callers, 60)
