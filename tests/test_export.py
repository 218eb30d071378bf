"""Exports: what a C program can be made of, on this machine and, under qemu, on others."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile
from onnx import TensorProto, helper

import tvmconv
from tvmconv.codegen import link
from tvmconv.cuda_emulator.build import driver
from tvmconv.cuda_emulator.emulation import emulated_images, on_this_host
from tvmconv.errors import EnvironmentError_, InputError
from tvmconv.export.texts import check_prefix, header
from tvmconv.models import light_model
from tvmconv.runtime.loader import load
from tvmconv.target import load_target

PROBLEM = "conv2d:1x3x9x9:20x3x3:padding=1:bias=true"
OTHER = "max_pool2d:1x4x8x8:2x2:stride=2"
LIBRARIES = {"libc.so.6", "libm.so.6", "libpthread.so.0"}
#: Target → the emulator of its processor.
EMULATORS = {"cortex-a72": "qemu-aarch64-static", "cortex-a7": "qemu-arm-static",
             "riscv64": "qemu-riscv64-static"}  # fmt: skip


def parameters() -> dict[str, Any]:
    rng = np.random.default_rng(3)
    weight = rng.standard_normal((20, 3, 3, 3)).astype(np.float32)
    return {"weight": weight, "bias": rng.standard_normal(20).astype(np.float32)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export for this machine, in a place with a name that a shell would not like."""
    place = tmp_path_factory.mktemp("export") / "-o; caf\u00e9 $(x)"
    tvmconv.export(PROBLEM, place, params=parameters())
    return place


def zig(folder: Path, *arguments: object) -> None:
    command = ["cc", "-O2", "-fno-sanitize=undefined", "-Werror", "-Wall", *map(str, arguments)]
    link.zig([*command, "-lpthread", "-lm"], folder, "build the example")


def run(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )


def needed(path: Path) -> set[str]:
    with path.open("rb") as file:
        dynamic = ELFFile(file).get_section_by_name(".dynamic")
        names = {tag.needed for tag in dynamic.iter_tags() if tag.entry.d_tag == "DT_NEEDED"}
    return {name for name in names if not name.startswith("ld-linux")}  # libc's own loader


def test_the_folder(folder: Path) -> None:
    names = "CMakeLists.txt README.md expected_0.raw input_0.raw libmodel.a libmodel.so main.c"
    assert sorted(path.name for path in folder.iterdir()) == [*names.split(), "tvmconv.h"]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert (folder / "libmodel.so").stat().st_mode & 0o111
    assert not list(re.finditer(r"@[A-Z_]+@", "".join(
        (folder / name).read_text() for name in ("README.md", "main.c", "CMakeLists.txt")
    )))  # fmt: skip
    assert needed(folder / "libmodel.so") <= LIBRARIES
    (y,) = load(folder / "libmodel.so")(
        np.frombuffer((folder / "input_0.raw").read_bytes(), np.float32).reshape(1, 3, 9, 9)
    )
    expected = np.frombuffer((folder / "expected_0.raw").read_bytes(), np.float32)
    np.testing.assert_allclose(y.reshape(-1), expected, rtol=1e-4, atol=1e-4)


def test_main_runs_checks_and_refuses(folder: Path, tmp_path: Path) -> None:
    program = tmp_path / "main"
    zig(folder, "main.c", "libmodel.a", "-o", program)
    assert needed(program) <= LIBRARIES
    result = run(program, "--check", cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    assert "y: right" in result.stdout
    assert "peak memory of this process" in result.stdout

    result = run(program, "--threads", "2", "--runs", "3", folder / "input_0.raw", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "output_0.raw: y, float32 1x20x9x9" in result.stdout
    expected = (folder / "expected_0.raw").read_bytes()
    got = np.fromfile(tmp_path / "output_0.raw", np.float32)
    np.testing.assert_allclose(got, np.frombuffer(expected, np.float32), rtol=1e-4, atol=1e-4)

    shutil.copy(folder / "input_0.raw", tmp_path)
    wrong = np.frombuffer(expected, np.float32).copy()
    wrong[7] += 0.01
    (tmp_path / "expected_0.raw").write_bytes(wrong.tobytes())
    result = run(program, "--check", tmp_path, cwd=folder)
    assert result.returncode == 1
    assert "y: WRONG" in result.stdout
    wrong[7] = np.nan
    (tmp_path / "expected_0.raw").write_bytes(wrong.tobytes())
    assert run(program, "--check", tmp_path, cwd=folder).returncode == 1

    for size in (971, 973):
        (tmp_path / "x.raw").write_bytes(bytes(size))
        result = run(program, "x.raw", cwd=tmp_path)
        assert result.returncode == 2
        assert result.stderr == "x.raw: has not the 972 bytes of x, float32 1x3x9x9\n"
    assert run(program, "nosuch.raw", cwd=tmp_path).stderr == (
        "nosuch.raw: No such file or directory\n"
    )
    for arguments in ((), ("a", "b"), ("--frob", "a"), ("--runs",), ("--runs", "0", "a")):
        result = run(program, *arguments, cwd=tmp_path)
        assert result.returncode == 2
        assert result.stderr.startswith("usage: ")


def test_two_models_in_one_program(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    tvmconv.export(PROBLEM, first, params=parameters(), prefix="conv")
    report = tvmconv.export(OTHER, second, prefix="pool2_")
    assert set(report.files) == {path.name for path in second.iterdir()}
    (tmp_path / "main.c").write_text("""
#include <math.h>
#include <stdio.h>
#include "first/conv.h"
#include "second/pool2_.h"
static float x[243], y[1620], a[256], b[64];
static void read_raw(const char *path, float *data, size_t count) {
  FILE *file = fopen(path, "rb");
  if (!file || fread(data, 4, count, file) != count) puts("unread");
  fclose(file);
}
int main(void) {
  conv_model *conv;
  pool2__model *pool;
  const void *xs[] = {x}, *as[] = {a};
  void *ys[] = {y}, *bs[] = {b};
  float expected_y[1620], expected_b[64];
  int wrong = 0;
  read_raw("first/input_0.raw", x, 243);
  read_raw("second/input_0.raw", a, 256);
  read_raw("first/expected_0.raw", expected_y, 1620);
  read_raw("second/expected_0.raw", expected_b, 64);
  if (conv_create(&conv, 2) || pool2__create(&pool, 2)) return 1;
  if (conv_run(conv, xs, ys) || pool2__run(pool, as, bs) || conv_run(conv, xs, ys)) return 2;
  for (int i = 0; i < 1620; i++) wrong += !(fabsf(y[i] - expected_y[i]) < 1e-3f);
  for (int i = 0; i < 64; i++) wrong += b[i] != expected_b[i];
  conv_destroy(conv);
  pool2__destroy(pool);
  return printf("%d wrong, %d\\n", wrong, CONV_NO_MEMORY == POOL2__NO_MEMORY) < 0;
}
""")
    zig(tmp_path, "main.c", "first/libconv.a", "second/libpool2_.a", "-o", "main")
    assert run("./main", cwd=tmp_path).stdout == "0 wrong, 1\n"
    assert load(first / "libconv.so").metadata["prefix"] == "conv"
    (b,) = load(second / "libpool2_.so")(np.arange(256, dtype=np.float32).reshape(1, 4, 8, 8))
    assert b.shape == (1, 4, 4, 4)


def test_weights_are_once_in_the_file_and_not_copied(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    params = {"weight": rng.standard_normal((512, 512, 3, 3)).astype(np.float32)}
    weight_bytes = params["weight"].nbytes
    text = "conv2d:1x512x6x6:512x3x3:padding=1:algorithm=direct"
    report = tvmconv.export(text, tmp_path / "out", params=params)
    assert weight_bytes <= report.weights_bytes < 1.01 * weight_bytes
    for name in ("libmodel.so", "libmodel.a"):
        assert report.files[name] < report.weights_bytes + (1 << 20)
    assert report.peak_memory_bytes == report.weights_bytes + report.arena_bytes
    program = f"""
import re, sys
import numpy as np
from tvmconv.runtime.loader import load
path = sys.argv[1]
def kilobytes(key, text):
    return sum(map(int, re.findall(rf"^{{key}}: +(\\d+) kB", text, re.M)))
def anonymous():
    return kilobytes("Anonymous", open("/proc/self/smaps").read())
x = np.fromfile(sys.argv[2], np.float32).reshape(1, 512, 6, 6)
before = anonymous()
module = load(path, threads=1)
module(x)
grown = anonymous() - before
parts = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", open("/proc/self/smaps").read(), flags=re.M)
mapped = [part for part in parts if "libmodel.so" in part.partition("\\n")[0]]
large = [part for part in mapped if kilobytes("Size", part) * 1024 >= {weight_bytes}]
(weights,) = large
print(weights.split()[1], kilobytes("Private_Dirty", weights), kilobytes("Anonymous", weights))
print(grown)
"""
    command = [sys.executable, "-c", program, tmp_path / "out/libmodel.so"]
    result = run(*command, tmp_path / "out/input_0.raw", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    facts, grown = result.stdout.splitlines()
    assert facts == "r--p 0 0"
    assert int(grown) * 1024 < weight_bytes / 2


@pytest.mark.parametrize("name", EMULATORS)
def test_a_cross_compiled_example_runs_under_qemu(name: str, tmp_path: Path) -> None:
    emulator = shutil.which(EMULATORS[name])
    if emulator is None:
        pytest.skip(f"{EMULATORS[name]} is not installed (Debian's qemu-user-static)")
    tvmconv.export(PROBLEM, tmp_path / "out", name, params=parameters(), threads=2)
    readme = (tmp_path / "out/README.md").read_text()
    commands = re.findall(r"^python -m ziglang (.*)$", readme, re.M)
    for command in commands:  # with glibc, then a static one
        link.zig(command.split(), tmp_path / "out", "build the example")
        with (tmp_path / "out/main").open("rb") as file:
            if ELFFile(file).get_section_by_name(".dynamic") is not None:
                assert needed(tmp_path / "out/main") <= LIBRARIES
    result = run(emulator, "./main", "--check", cwd=tmp_path / "out")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "y: right" in result.stdout
    assert needed(tmp_path / "out/libmodel.so") <= LIBRARIES


@pytest.mark.parametrize("options", [[], ["-DSHARED_MODEL=ON"]], ids=["static", "shared"])
@pytest.mark.parametrize("target", ["host", "cortex-a72"])
def test_cmake_builds_the_example(target: str, options: list[str], tmp_path: Path) -> None:
    compiler = "cc" if target == "host" else "aarch64-linux-gnu-gcc"
    emulator = [] if target == "host" else ["qemu-aarch64-static", "-L", "/usr/aarch64-linux-gnu"]
    for tool in ("cmake", compiler, *emulator[:1]):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    tvmconv.export(PROBLEM, tmp_path / "out", target, params=parameters(), prefix="conv")
    cross = [] if target == "host" else ["-DCMAKE_SYSTEM_NAME=Linux"]
    configure = ["cmake", "-B", "build", f"-DCMAKE_C_COMPILER={compiler}", *cross, *options]
    for command in (configure, ["cmake", "--build", "build"]):
        result = run(*command, cwd=tmp_path / "out")
        assert result.returncode == 0, result.stderr
        assert "warning" not in (result.stdout + result.stderr).lower()
    result = run(*emulator, "build/main", "--check", cwd=tmp_path / "out")
    assert result.returncode == 0, result.stdout + result.stderr
    own = {"libconv.so"} if options else set()
    assert needed(tmp_path / "out/build/main") <= LIBRARIES | own


def test_a_model_for_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the README says, with an emulated driver; no static program could load one."""
    monkeypatch.setenv("TVMCONV_CUDA_DRIVER", str(driver()))
    machine = on_this_host(load_target("cuda"))
    options = {"images": emulated_images, "params": parameters()}
    tvmconv.export(PROBLEM, tmp_path / "out", machine, **options)
    readme = (tmp_path / "out/README.md").read_text()
    assert "its C library and NVIDIA's driver, nothing else" in readme
    assert "musl" not in readme
    assert "mapped" not in readme
    (command,) = re.findall(r"^python -m ziglang (.*)$", readme, re.M)
    link.zig(command.split(), tmp_path / "out", "build the example")
    result = run("./main", "--check", cwd=tmp_path / "out")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "y: right" in result.stdout
    assert "Threads::Threads;m;${CMAKE_DL_LIBS}" in (tmp_path / "out/CMakeLists.txt").read_text()


def test_a_network_s_sample_is_what_numpy_computes(tmp_path: Path) -> None:
    tvmconv.export(light_model("light_shufflenet"), tmp_path / "out")
    zig(tmp_path / "out", "main.c", "libmodel.so", "-Wl,-rpath,.", "-o", "main")
    result = run("./main", "--check", cwd=tmp_path / "out")
    assert result.returncode == 0, result.stdout + result.stderr
    scores = np.fromfile(tmp_path / "out/expected_0.raw", np.float32)
    assert scores.sum() == pytest.approx(1, abs=1e-4)  # a softmax over all classes together


def test_hostile_names_of_tensors(tmp_path: Path) -> None:
    names = ['in "put";\\ %s\n|`caf\u00e9', "-out ??/ */ $(x)\x1b[31m"]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in names]
    node = helper.make_node("Relu", names[:1], names[1:])
    graph = helper.make_graph([node], "-g; `x`\n| @PREFIX@", ports[:1], ports[1:])
    opsets = [helper.make_opsetid("", 17)]
    tvmconv.export(helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "out")
    zig(tmp_path / "out", "main.c", "libmodel.a", "-o", "main")
    result = run("./main", "--check", cwd=tmp_path / "out")
    shown = names[1].replace("\x1b", "\\x1b")
    assert result.stdout.endswith(f"{shown}: right, largest error 0 of what is allowed\n")
    readme = (tmp_path / "out/README.md").read_text()
    assert readme.startswith("# `-g; 'x'\\n\\| @PREFIX@`, compiled for ")
    assert all(line.count(" | ") in (2, 4) for line in readme.splitlines() if line[:2] == "| ")


@pytest.mark.parametrize(
    "prefix",
    ["", "A", "a-b", "a;b", "-a", "_a", "1a", "caf\u00e9", "a b", "pthread", "c", "a" * 64],
)
def test_hostile_prefixes_are_refused(
    tvmconv: Callable[..., Any], tmp_path: Path, prefix: str
) -> None:
    result = tvmconv("export", PROBLEM, "-o", tmp_path / "out", "--prefix", prefix)
    assert result.code == 2
    assert result.err.startswith("tvmconv: prefix: ")
    assert result.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_headers_name_everything_by_the_prefix() -> None:
    check_prefix("digits")
    text = header("digits")
    assert "int digits_create(digits_model **model, int threads);" in text
    assert "DIGITS_NO_MEMORY = 2" in text
    assert "tvmconv" not in text.lower()


def test_folders_that_cannot_be_made(
    tvmconv: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("kept")
    (tmp_path / "file").write_text("kept")
    (tmp_path / "empty").mkdir()
    cases = {
        full: (2, "full: exists and is not empty"),
        tmp_path / "file": (2, "file: is not a directory"),
        tmp_path / "nosuch/out": (2, "nosuch is not a directory"),
        Path("/proc/out"): (4, "/proc/out: cannot be written"),
        Path("x" * 300): (4, "cannot be written: File name too long"),
    }
    for place, (code, message) in cases.items():
        result = tvmconv("export", PROBLEM, "-o", place)
        assert (result.code, result.err.count("\n")) == (code, 1)
        assert message in result.err
        assert result.err.startswith(f"tvmconv: {place}: ")
    monkeypatch.chdir(tmp_path / "empty")
    assert "is the current directory" in tvmconv("export", PROBLEM, "-o", ".").err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "full"]
    assert (full / "mine").read_text() == "kept"


def test_nothing_is_left_of_what_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(InputError):
        tvmconv.export(tmp_path / "bad.onnx", tmp_path / "out")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(import_module("tvmconv.export.export"), "_write_raw", fail)
    with pytest.raises(EnvironmentError_, match=r"out: cannot be written: No space left"):
        tvmconv.export(OTHER, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.onnx"]


def test_the_command_reports_sizes(tvmconv: Callable[..., Any], tmp_path: Path) -> None:
    result = tvmconv("export", OTHER, "-o", tmp_path / "out", "--prefix", "pool")
    assert (result.code, result.err) == (0, "")
    for path in (tmp_path / "out").iterdir():
        assert re.search(rf"^{re.escape(path.name)} +{path.stat().st_size}$", result.out, re.M)
    assert "peak memory" in result.out
