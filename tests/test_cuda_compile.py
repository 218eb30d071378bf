"""Compiling for GPUs where there is none: code for every target, limits, what is refused."""

from __future__ import annotations

import importlib.util
import json
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.kernels import problem_spec
from tvmconv.codegen.cuda import nvrtc, sass
from tvmconv.codegen.cuda.build import Image, compiled_images, image_builder
from tvmconv.codegen.cuda.device import Launch, Operand, cuda_source, lower_kernel
from tvmconv.codegen.cuda.nvrtc import CompileError, Nvrtc, compiler
from tvmconv.codegen.cuda.plan import device_plan
from tvmconv.codegen.cuda.steps import step_kernel
from tvmconv.codegen.cuda.usage import Usage, check_launches, occupancy, read_usage
from tvmconv.codegen.kernels import device_kernel, schedule
from tvmconv.codegen.plan import BlockedTensor, BorderStep, PackStep, Plan, TensorArgument
from tvmconv.compiler import compile_to_file
from tvmconv.errors import EnvironmentError_, InputError
from tvmconv.layout import Layout
from tvmconv.problem import Problem
from tvmconv.runtime.inspect import inspect_artifact
from tvmconv.target import Target, load_target, targets

PROBLEM = "conv2d:1x33x8x8:20x3x3:padding=1:bias=true:activation=relu"
GPUS = [target for target in targets().values() if target.is_gpu]
H100 = load_target("h100")
SHARED = """extern "C" __global__ void __launch_bounds__(32) wide(float* p) {
  __shared__ float s[%d];
  s[threadIdx.x] = p[threadIdx.x]; __syncthreads();
  p[threadIdx.x] = s[31 - threadIdx.x];
}"""


@pytest.mark.parametrize("target", GPUS, ids=lambda target: target.name)
def test_every_target(target: Target, tmp_path: Path) -> None:
    path = compile_to_file(PROBLEM, tmp_path / "m.so", target=target, tuned=False)
    facts = inspect_artifact(path)
    found = [(image["kind"], image["sm"]) for image in facts["images"]]
    device = target.gpu
    assert found == [("cubin", sm) for sm in device.cubins] + [("ptx", device.sm)] * device.ptx
    assert facts["machine"] == ("aarch64" if device.sm == 87 else "x86-64")
    assert facts["target"] == target.name
    assert {entry["sm"] for entry in facts["functions"]} == set(device.cubins)
    assert min(entry["registers"] for entry in facts["functions"]) > 0
    assert max(entry["spill_bytes"] for entry in facts["functions"]) == 0
    assert "border" not in {step["kind"] for step in facts["steps"]}


def test_the_file_needs_only_libc(tmp_path: Path) -> None:
    path = compile_to_file(PROBLEM, tmp_path / "m.so", target=H100, tuned=False)
    text = subprocess.run(["readelf", "-d", path], capture_output=True, text=True, check=True)
    needed = re.findall(r"NEEDED.*\[(.*)\]", text.stdout)
    assert all(re.match(r"lib(c|m|dl|pthread)\.so|ld-linux", name) for name in needed)


def test_static_library(tmp_path: Path) -> None:
    path = tmp_path / "m.a"
    compile_to_file(PROBLEM, path, target=H100, tuned=False, format="static")
    assert inspect_artifact(path)["images"][0]["sm"] == 90


def test_dumps(tvmconv: Callable[..., Any], tmp_path: Path) -> None:
    arguments = ("--target", "h100", "-o", tmp_path / "m.so", "--untuned")
    result = tvmconv("compile", PROBLEM, *arguments, "--dump", "cuda", "--dump", "ptx")
    assert (result.code, result.err) == (0, "")
    source, ptx = ((tmp_path / f"m.{kind}").read_text() for kind in ("cu", "ptx"))
    functions = re.findall(r"__global__ void __launch_bounds__\(\d+\) (\w+)\([^)]*\) {", source)
    assert re.findall(r"\.entry (\w+)", ptx) != []
    assert set(re.findall(r"\.entry (\w+)", ptx)) == set(functions)
    assert ".target sm_90" in ptx
    assert "// tvmconv_" in source


def test_inspect_shows_what_kernels_use(tvmconv: Callable[..., Any], tmp_path: Path) -> None:
    tvmconv("compile", PROBLEM, "--target", "h100", "-o", tmp_path / "m.so", "--untuned")
    printed = tvmconv("inspect", tmp_path / "m.so").out
    assert re.search(r"kind +sm +bytes +compiler\ncubin +90 +\d+ +NVRTC", printed)
    assert "registers  shared_bytes  spill_bytes  occupancy" in printed
    functions = json.loads(tvmconv("inspect", tmp_path / "m.so", "--json").out)["functions"]
    assert all(32 <= entry["threads"] <= 1024 for entry in functions)


@pytest.mark.parametrize(
    ("target", "dtype", "instruction"),
    [
        ("t4", "float16", "HMMA.1688.F32 "),
        ("a100", "bfloat16", "HMMA.16816.F32.BF16 "),
        ("jetson-orin", "tf32", "HMMA.1688.F32.TF32 "),
        ("h100", "float16", "HMMA.16816.F32 "),
    ],
)
def test_machine_code_multiplies_on_tensor_cores(
    tvmconv: Callable[..., Any], tmp_path: Path, target: str, dtype: str, instruction: str
) -> None:
    tf32 = dtype == "tf32"
    problem = "conv2d:1x32x8x8:32x1x1" + f":dtype={dtype}" * (not tf32)
    options = ("--target", target, "-o", tmp_path / "m.so", *["--allow-tf32"] * tf32)
    assert tvmconv("compile", problem, *options).code == 0
    printed = tvmconv("inspect", tmp_path / "m.so", "--sass").out
    assert len(re.findall(r"\.global +tvmconv_", printed)) >= 3
    assert instruction in printed


# --- what is refused


def test_machine_code_that_is_not_there(tvmconv: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "m.so"
    compile_to_file("max_pool2d:1x1x4x4:2x2", path, target=load_target("x86-64-v3"))
    for arguments, message in (
        ((path, "--sass"), f"{path}: has no machine code for GPUs"),
        ((tmp_path, "--sass"), f"{tmp_path}: cannot be read: Is a directory"),
        ((path, "--sass", "--json"), "sass: is text, there is no JSON of it"),
    ):
        result = tvmconv("inspect", *arguments)
        assert (result.code, result.err) == (2, f"tvmconv: {message}\n")


def test_no_disassembler(
    tvmconv: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.so"
    compile_to_file("max_pool2d:1x1x4x4:2x2", path, target=H100)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(nvrtc, "package_folders", list)
    result = tvmconv("inspect", path, "--sass")
    message = "cannot disassemble: nvdisasm is missing: pip install nvidia-cuda-nvdisasm"
    assert (result.code, result.err) == (4, f"tvmconv: {message}\n")


def test_code_that_the_disassembler_refuses(tvmconv: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "m.so"
    images = [Image(90, "cubin", b"no cubin", {}, "hand")]
    compile_to_file("max_pool2d:1x1x4x4:2x2", path, target=H100, images=lambda *given: images)
    result = tvmconv("inspect", path, "--sass")
    assert result.code == 4
    assert re.fullmatch(r"tvmconv: .*nvdisasm: sm_90: .+\n", result.err)


@pytest.mark.parametrize(
    "images",
    [7, {}, [7], [{"sm": 90, "bytes": 8}], [{"kind": "cubin", "bytes": 8}],
     [{"kind": "cubin", "sm": 90}], [{"kind": "cubin", "sm": "90", "bytes": 8}],
     [{"kind": "cubin", "sm": 90, "bytes": "8"}], [{"kind": "cubin", "sm": 90, "bytes": -8}],
     [{"kind": "cubin", "sm": 90, "bytes": True}], [{"kind": "cubin", "sm": 90, "bytes": 1 << 40}],
     [{"kind": 7, "sm": 90, "bytes": 8}]],
    ids=str,
)  # fmt: skip
def test_code_that_metadata_does_not_describe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: Any
) -> None:
    path = tmp_path / "m.so"
    path.touch()
    monkeypatch.setattr(sass, "read_metadata", lambda file: (None, {"images": images}))
    monkeypatch.setattr(sass, "read_section", lambda *given: b"12345678")
    with pytest.raises(InputError, match=r"m\.so: (has malformed metadata: images|has no machine)"):
        list(sass.cubins(path))


def test_a_disassembler_that_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sass, "cubins", lambda path: iter([(90, b"code")]))
    tool = tmp_path / "nvdisasm"
    tool.write_text("#!/bin/sh\nexec sleep 60\n")
    tool.chmod(0o755)
    monkeypatch.setattr(sass, "_nvdisasm", lambda: str(tool))
    monkeypatch.setattr(sass, "_LIMIT_S", 0.1)
    with pytest.raises(EnvironmentError_, match=r"sm_90: took more than 0\.1 seconds"):
        list(sass.disassembled(tmp_path / "m.so"))


def test_tf32_is_refused_where_there_is_none(tvmconv: Callable[..., Any], tmp_path: Path) -> None:
    for name in ("cuda-sm75", "x86-64-v3"):
        options = ("--target", name, "-o", tmp_path / "m.so", "--allow-tf32")
        result = tvmconv("compile", PROBLEM, *options)
        message = "TF32 is for GPUs with tensor cores for it, from 8.0 on"
        assert (result.code, result.err) == (2, f"tvmconv: {name}: {message}\n")


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--target", "h100", "--format", "tvm"], 2, "cuda-sm90: a file for TVM's runtime can be"),
        (["--target", "h100", "--dump", "asm"], 2, "cuda-sm90: there is no dump 'asm' for this"),
        (["--target", "znver3", "--dump", "ptx"], 2, "znver3: there is no dump 'ptx' for this"),
        (["--target", "sm91"], 2, "unknown target 'sm91'; did you mean sm90"),
        (["--target", "znver3", "--nvcc", "nvcc"], 2, "znver3: is a CPU and has no [device]"),
        (["--target", "h100", "--nvcc", "/none"], 4, "/none: cannot be started: No such file"),
        (["--target", "h100", "--nvcc", "/bin/true"], 4, "/bin/true: is no nvcc"),
    ],
)
def test_options_are_refused(
    tvmconv: Callable[..., Any], tmp_path: Path, options: list[str], code: int, message: str
) -> None:
    result = tvmconv("compile", PROBLEM, "-o", tmp_path / "m.so", *options)
    assert result.code == code
    assert result.err.startswith(f"tvmconv: {message}")
    assert result.err.count("\n") == 1
    assert not (tmp_path / "m.so").exists()


@pytest.fixture
def nothing_found() -> Any:
    Nvrtc.find.cache_clear()
    yield
    Nvrtc.find.cache_clear()


@pytest.mark.usefixtures("nothing_found")
def test_without_nvrtc(
    tvmconv: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvrtc, "package_folders", list)
    result = tvmconv("compile", PROBLEM, "-o", tmp_path / "m.so", "--target", "h100")
    assert result.code == 4
    assert result.err == (
        "tvmconv: cannot compile for CUDA: NVRTC is missing: pip install 'tvmconv[cuda]'\n"
    )


@pytest.mark.usefixtures("nothing_found")
def test_a_broken_nvrtc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/libnvrtc.so.12").write_bytes(b"")
    monkeypatch.setattr(nvrtc, "package_folders", lambda: [tmp_path])
    with pytest.raises(EnvironmentError_, match=r"cannot compile for CUDA: .*libnvrtc\.so\.12"):
        compiler()


@pytest.mark.usefixtures("nothing_found")
@pytest.mark.parametrize(
    ("versions", "newest"),
    [
        (["13.5", "12.8", "12.10", "12.9", "9.0"], "12.10"),  # of CUDA 12, if there is one
        (["13.5", "9.0"], "13.5"),  # by numbers, not by names
    ],
)
def test_the_newest_nvrtc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, versions: list[str], newest: str
) -> None:
    for version in versions:
        folder = tmp_path / version / "lib"
        folder.mkdir(parents=True)
        (folder / f"libnvrtc.so.{version.partition('.')[0]}").touch()
        (folder / f"libnvrtc-builtins.so.{version}").touch()
    monkeypatch.setattr(nvrtc, "package_folders", lambda: sorted(tmp_path.iterdir()))
    with pytest.raises(EnvironmentError_, match=f"/{newest}/lib/libnvrtc.so.* too short"):
        Nvrtc.find()


def test_a_capability_that_the_compiler_does_not_know() -> None:
    later = replace(H100, device=replace(H100.gpu, sm=250, cubins=(250,)))
    with pytest.raises(EnvironmentError_, match=r"NVRTC .* knows no sm_250, only .*sm_90"):
        image_builder(later)


def test_what_the_compiler_says_of_a_kernel() -> None:
    for source, message in (
        ('extern "C" __global__ void f() { nonsense; }', r'error: identifier "nonsense"'),
        (SHARED % 100_000, r"error +: Entry function 'wide' uses too much shared data"),
    ):
        with pytest.raises(InputError, match=f"cuda-sm90: NVRTC .*: sm_90: .*{message}"):
            compiled_images(source, H100, {}, using=compiler())


def test_a_source_that_is_none() -> None:
    with pytest.raises(CompileError, match="nonsense"):
        compiler().ptx("nonsense", 90)


@pytest.mark.usefixtures("nothing_found")
def test_who_brings_images_needs_no_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvrtc, "package_folders", list)
    seen: dict[str, Any] = {}

    def images(source: str, target: Target, extents: Any) -> list[Image]:
        seen.update(extents)
        assert target is H100
        assert all(name in source for name in extents)
        return [Image(0, "own", b"code", {}, "hand")]

    path = tmp_path / "m.so"
    compile_to_file(PROBLEM, path, target=H100, tuned=False, images=images)
    assert inspect_artifact(path)["images"][0]["kind"] == "own"
    packed = next(sizes for name, sizes in seen.items() if name.startswith("tvmconv_pack"))
    assert packed == (33 * 64 * 4, 48 * 100 * 4)


# --- what kernels use


def test_the_assembler_s_report_is_read() -> None:
    used = read_usage(compiler().cubin(SHARED % 64, 90).log)
    assert used["wide"].shared_bytes == 256
    assert 0 < used["wide"].registers <= 32
    assert used["wide"].spill_bytes == 0


def test_spills_are_seen() -> None:
    sums = "".join(f"  float s{k} = p[{k} * n + i];\n" for k in range(64))
    stores = "".join(f"  p[{k} * n + i] = s{k} * s{(k + 1) % 64};\n" for k in range(64))
    head = 'extern "C" __global__ void __launch_bounds__(1024, 2) spilled(float* p, int n) {\n'
    source = f"{head}  int i = threadIdx.x;\n{sums}  __syncthreads();\n{stores}}}"
    used = read_usage(compiler().cubin(source, 90).log)
    assert used["spilled"].spill_bytes > 0
    assert used["spilled"].registers == 32


def test_a_report_without_registers_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="reported for f"):
        read_usage("Compiling entry function 'f' for 'sm_90'\n nothing")


def launch(threads: int, dynamic_bytes: int = 0) -> Launch:
    return Launch("f", (1, 1, 1), (threads, 1, 1), dynamic_bytes, ())


@pytest.mark.parametrize(
    ("threads", "dynamic", "used", "message"),
    [
        (1025, 0, Usage(8, 0, 0), "1025 threads in a block; sm_90 has 1024"),
        (32, 200_000, Usage(8, 40_000, 0), "240000 bytes of shared memory; sm_90 has 232448"),
        (1024, 0, Usage(72, 0, 0), "73728 registers in a block; sm_90 has 65536"),
    ],
)
def test_limits(threads: int, dynamic: int, used: Usage, message: str) -> None:
    with pytest.raises(InputError, match=f"m.so: kernel f needs {message}"):
        check_launches([launch(threads, dynamic)], {"f": used}, H100.gpu, 90, "m.so")
    check_launches([launch(1024, 100)], {"f": Usage(64, 0, 0)}, H100.gpu, 90, "m.so")


def test_a_kernel_over_the_limits_is_refused_when_it_is_compiled(tmp_path: Path) -> None:
    few = replace(H100, device=replace(H100.gpu, threads_per_block=64))
    with pytest.raises(InputError, match=r"m\.so: kernel tvmconv_\w+ needs \d+ threads in a block"):
        compile_to_file(PROBLEM, tmp_path / "m.so", target=few, tuned=False)
    assert not (tmp_path / "m.so").exists()


@pytest.mark.parametrize(
    ("threads", "dynamic", "used", "share"),
    [
        (256, 0, Usage(32, 0, 0), 1.0),
        (256, 0, Usage(64, 0, 0), 0.5),
        (256, 0, Usage(65, 0, 0), 0.375),  # 72 registers after rounding: 3 blocks of 256
        (128, 0, Usage(255, 0, 0), 0.125),
        (32, 0, Usage(16, 0, 0), 0.5),  # 32 blocks
        (256, 100 * 1024, Usage(32, 0, 0), 0.25),  # 2 blocks in 228 KB
    ],
)
def test_occupancy(threads: int, dynamic: int, used: Usage, share: float) -> None:
    assert occupancy(launch(threads, dynamic), used, H100.gpu) == share


# --- nvcc

NVCC = """#!{python}
import sys
from pathlib import Path
arguments = sys.argv[1:]
if "--version" in arguments:
    print("Cuda compilation tools, release 12.9, V12.9.86")
elif "--list-gpu-code" in arguments:
    print("sm_80\\nsm_90")
elif "nonsense" in Path(arguments[-3]).read_text():
    sys.exit("kernels.cu(1): error: nonsense")
else:
    from tvmconv.codegen.cuda.nvrtc import Nvrtc
    source = Path(arguments[-3]).read_text()
    sm = int(arguments[1].rpartition("_")[2])
    nvrtc = Nvrtc.find()
    found = nvrtc.cubin(source, sm) if "-cubin" in arguments else nvrtc.ptx(source, sm)
    Path(arguments[-1]).write_bytes(found.code)
    sys.stderr.write(found.log)
"""


@pytest.fixture
def nvcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path) -> Path:
    """A program with nvcc's options."""
    path = tmp_path / "nvcc"
    path.write_text(NVCC.format(python=sys.executable))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PYTHONPATH", str(repository))
    return path


def test_nvcc(tvmconv: Callable[..., Any], nvcc: Path, tmp_path: Path) -> None:
    output = tmp_path / "m.so"
    result = tvmconv("compile", PROBLEM, "--target", "h100", "-o", output, "--nvcc", nvcc)
    assert (result.code, result.err) == (0, "")
    facts = inspect_artifact(output)
    assert facts["images"][0]["compiler"] == "nvcc 12.9"
    assert facts["functions"][0]["registers"] > 0
    assert compiler(nvcc).ptx(SHARED % 64, 80).code.startswith(b"//")
    with pytest.raises(CompileError, match="error: nonsense"):
        compiler(nvcc).cubin("nonsense", 90)
    with pytest.raises(EnvironmentError_, match=r"nvcc 12\.9 knows no sm_100, only sm_80, sm_90"):
        image_builder(load_target("b200"), nvcc)


# --- device functions


def test_launches_and_scratch() -> None:
    kernel = device_kernel(problem_spec(Problem.parse(PROBLEM)), "k", H100)
    parameters = {operand.parameter for one in kernel.launches for operand in one.operands}
    assert parameters >= {0, 1, 2, 3}  # input, weights, bias, output
    for one in kernel.launches:
        for operand in one.operands:
            if operand.parameter < 0:
                assert operand.offset % 256 == 0
                assert operand.offset + operand.nbytes <= kernel.scratch_bytes
    names = re.findall(r"__global__ void .*? (\w+)\([^)]*\) {", cuda_source([kernel]))
    assert names == [one.function for one in kernel.launches]


def test_a_function_that_is_not_bound_to_threads_is_a_mistake() -> None:
    from tvmconv.codegen.kernels import prim_func

    with pytest.raises(Exception, match=r"bound|thread"):
        lower_kernel(prim_func(problem_spec(Problem.parse(PROBLEM)), "k"), "k", H100)


def test_a_plan_that_clears_halos_is_a_mistake() -> None:
    tensor = BlockedTensor((1, 16, 4, 4), 0, 16, (1, 1), (1, 1))
    with pytest.raises(ValueError, match="the halo is not resident"):
        device_plan(Plan(4096, [], [], [BorderStep(tensor, "b")]), {})


def test_the_kernel_of_a_step_is_named_after_what_it_does() -> None:
    plain = TensorArgument("input", (1, 3, 4, 4))
    blocked = BlockedTensor.of(Layout((1, 3, 4, 4), 16))
    source, one = step_kernel(PackStep(plain, blocked))
    assert one.function in source
    assert one.function.startswith("tvmconv_pack_")
    assert one.operands == (Operand(0), Operand(1))
    assert one.grid == (1, 1, 1)
    other, two = step_kernel(PackStep(plain, replace(blocked, offset=64)))
    assert (other, two) == (source, one)
    wide = BlockedTensor.of(Layout((1, 3, 4, 5), 16))
    assert step_kernel(PackStep(TensorArgument("input", (1, 3, 4, 5)), wide))[1] != one


def test_headers_for_half_are_found() -> None:
    source = """#include <cuda_fp16.h>
extern "C" __global__ void h(__half* p) { p[threadIdx.x] = __hadd(p[threadIdx.x], p[0]); }"""
    assert compiler().cubin(source, 80).code[:4] == b"\x7fELF"


def test_the_package_of_the_extra_is_the_one_that_is_found() -> None:
    spec = importlib.util.find_spec("nvidia.cuda_nvrtc")
    assert spec is not None
    assert compiler().name.startswith("NVRTC 12.")


def test_networks_have_a_kernel_for_every_step(tmp_path: Path) -> None:
    path = tmp_path / "m.so"
    compile_to_file("light_shufflenet.onnx", path, target=H100, tuned=False)
    facts = inspect_artifact(path)
    assert len(facts["steps"]) > 50
    assert np.isfinite([entry["occupancy"] for entry in facts["functions"]]).all()
    assert max(entry["spill_bytes"] for entry in facts["functions"]) == 0


def test_plain_tensors_are_aligned_on_a_device() -> None:
    """No shared array takes over that a caller's tensor may lie anywhere."""
    spec = problem_spec(Problem.parse("conv2d:1x3x8x8:16x1x1"))
    assert spec.inputs[0].is_plain
    for target, alignment in ((load_target("znver3"), 1), (H100, 64)):
        func = schedule(spec, "k", target).mod["main"]
        assert int(func.params[0].ty.data_alignment) == alignment
