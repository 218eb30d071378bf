"""Linking: formats, symbols, names, places that cannot be written, several builds at once."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tvmconv.codegen import link
from tvmconv.codegen.artifact import RUNTIME, Format, write_artifact
from tvmconv.codegen.plan import (
    BlockedTensor,
    CopyStep,
    PackStep,
    Plan,
    Port,
    TensorArgument,
)
from tvmconv.errors import EnvironmentError_, InputError
from tvmconv.runtime.inspect import inspect_artifact
from tvmconv.runtime.loader import load

Array = np.ndarray[Any, Any]
Build = Callable[..., Path]
Chain = Callable[..., Plan]

#: A program that runs the model from two threads at once; the sizes are the chain's.
PROGRAM = """
#include <pthread.h>
#include <stdio.h>
#include "tvmconv.h"
static tvmconv_model *model;
static void *run(void *argument) {
  static float x[2][1000], y[2][1000];
  int k = *(int *)argument, wrong = 0;
  const void *inputs[] = {x[k]};
  void *outputs[] = {y[k]};
  for (int r = 0; r < 200; r++) {
    for (int i = 0; i < 1000; i++) x[k][i] = (float)(i + r + 7 * k);
    if (tvmconv_run(model, inputs, outputs)) puts(tvmconv_error());
    for (int i = 0; i < 1000; i++) wrong += y[k][i] != 2 * x[k][i] + 1;
  }
  printf("wrong: %d\\n", wrong);
  return NULL;
}
int main(void) {
  int numbers[] = {0, 1};
  pthread_t thread;
  if (tvmconv_create(&model, 2)) return 1;
  if (pthread_create(&thread, NULL, run, &numbers[1])) return 1;
  run(&numbers[0]);
  pthread_join(thread, NULL);
  tvmconv_destroy(model);
  return puts(tvmconv_metadata()) < 0;
}
"""


def _zig(*arguments: object, folder: Path) -> None:
    link.zig([str(argument) for argument in arguments], folder, "build the test program")


@pytest.mark.parametrize("format", ["shared", "static"])
def test_a_c_program_runs_the_model_from_two_threads(
    build: Build, make_chain: Chain, triple: str, tmp_path: Path, format: str
) -> None:
    plan = make_chain(["twice", "scratch"])
    library = tmp_path / ("libmodel.so" if format == "shared" else "libmodel.a")
    build(library, plan, format=format)
    source, program = tmp_path / "main.c", tmp_path / "main"
    source.write_text(PROGRAM)
    options = ["-O1", "-fno-sanitize=undefined", "-target", triple, f"-I{RUNTIME}", "-lpthread"]
    if format == "shared":
        options.append(f"-Wl,-rpath,{tmp_path}")
    _zig("cc", *options, source, library, "-o", program, folder=tmp_path)
    result = subprocess.run([program], capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[:2] == ["wrong: 0"] * 2
    assert json.loads(lines[2])["inputs"][0] == {"name": "x", "shape": [1000], "dtype": "float32"}


def test_the_archive_defines_nothing_but_the_interface(
    build: Build, make_chain: Chain, triple: str, tmp_path: Path
) -> None:
    """A program that has functions of the runtime's inner names links, and keeps them."""
    build(tmp_path / "libmodel.a", make_chain(["twice", "scratch"]), format="static")
    clash = "int tvmconv_launch(void) { return 1; }\nint __tvm_ffi_twice(void) { return 1; }\n"
    clash += "void *__TVMBackendParallelLaunch; char tvmconv_weights[9];\n"
    clash += "void TVMFFIErrorSetRaisedFromCStrParts(void) {}\n"
    (tmp_path / "main.c").write_text(PROGRAM + clash)
    options = ["-O1", "-fno-sanitize=undefined", "-target", triple, f"-I{RUNTIME}", "-lpthread"]
    _zig("cc", *options, "main.c", "libmodel.a", "-o", "main", folder=tmp_path)
    result = subprocess.run([tmp_path / "main"], capture_output=True, text=True, timeout=30)
    assert result.stdout.splitlines()[:2] == ["wrong: 0"] * 2, result.stderr


def _dynamic_symbols(path: Path) -> dict[str, bool]:
    """Each dynamic symbol, and whether the library defines it."""
    from elftools.elf.elffile import ELFFile

    with path.open("rb") as file:
        table = ELFFile(file).get_section_by_name(".dynsym")
        symbols = [s for s in table.iter_symbols() if s.name]
        return {s.name: s["st_shndx"] != "SHN_UNDEF" for s in symbols}


def test_only_the_interface_is_exported_and_only_libc_is_needed(small: Path) -> None:
    symbols = _dynamic_symbols(small)
    assert {name for name, defined in symbols.items() if defined} == set(link.abi_symbols())
    missing = {name for name, defined in symbols.items() if not defined}
    assert not any("tvm" in name.lower() for name in missing)
    from elftools.elf.elffile import ELFFile

    with small.open("rb") as file:
        dynamic = ELFFile(file).get_section_by_name(".dynamic")
        needed = {tag.needed.partition(".")[0] for tag in dynamic.iter_tags("DT_NEEDED")}
    assert needed <= {"libc", "libm", "libpthread", "ld-linux-x86-64", "ld-linux-aarch64"}


def test_weights_lie_in_a_section_of_their_own_and_are_read_in_place(
    build: Build, tmp_path: Path
) -> None:
    weights = np.random.default_rng(0).standard_normal((37, 53)).astype(np.float32)
    place = TensorArgument("weights", (37, 53))
    plan = Plan(
        0,
        [],
        [Port("y", (37, 53))],
        [CopyStep(place, TensorArgument("output", (37, 53)))],
    )
    file = tmp_path / "weights.bin"
    file.write_bytes(weights.tobytes())
    forms: list[Any] = [weights, weights.tobytes(), memoryview(weights.tobytes()), file]
    forms.append(np.asfortranarray(weights))
    for number, form in enumerate(forms):
        with load(build(tmp_path / f"{number}.so", plan, form)) as module:
            assert (module()[0] == weights).all()
    assert inspect_artifact(tmp_path / "0.so")["weights_bytes"] == weights.nbytes


def test_equal_plans_with_other_weights_do_not_get_the_old_ones(
    build: Build, tmp_path: Path
) -> None:
    """A compiler cache that does not look at the weights must not be in the way."""
    steps = [CopyStep(TensorArgument("weights", (16,)), TensorArgument("output", (16,)))]
    plan = Plan(0, [], [Port("y", (16,))], steps)
    for value in (1, 2, 3):
        path = build(tmp_path / "m.so", plan, np.full(16, value, np.float32))
        with load(path) as module:
            assert (module()[0] == value).all()


@pytest.mark.slow
def test_600_megabytes_of_weights_link_in_seconds(build: Build, tmp_path: Path) -> None:
    weights = np.zeros(600 << 18, np.float32)
    weights[-1] = 5
    place = TensorArgument("weights", (1,), offset=weights.nbytes - 4)
    steps = [CopyStep(place, TensorArgument("output", (1,)))]
    start = time.monotonic()
    path = build(tmp_path / "m.so", Plan(0, [], [Port("y", (1,))], steps), weights)
    assert time.monotonic() - start < 20
    with load(path) as module:
        assert module()[0][0] == 5


@pytest.mark.parametrize(
    "name", ["-o.so", "a b;c.so", "$(touch x).so", "@file.so", "été,\n.so", "x" * 200 + ".so"]
)
def test_odd_output_names(
    build: Build, make_chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = tmp_path / "a folder; -x"
    folder.mkdir()
    monkeypatch.chdir(folder)
    build(Path(name), make_chain([]))
    assert [path.name for path in folder.iterdir()] == [name]
    with load(name) as module:
        assert module.inputs[0].shape == (1000,)


def test_names_of_ports_can_be_anything(build: Build, tmp_path: Path) -> None:
    names = ['a"b\\', "??/\n\0", "été %s", "'; --", "x" * 5000]
    ports = [Port(name, (1,)) for name in names]
    steps = [
        CopyStep(TensorArgument("input", (1,), index=k), TensorArgument("output", (1,), index=k))
        for k in range(len(names))
    ]
    metadata = {"name": "\u2028</script>\U0001f600", "deep": {"a": [1, None, True]}}
    path = build(tmp_path / "m.so", Plan(0, ports, ports, steps, metadata))
    with load(path) as module:
        assert [port.name for port in module.inputs] == names
        assert module.metadata["name"] == metadata["name"]
        values = {name: np.float32([k]) for k, name in enumerate(names)}
        assert [int(y[0]) for y in module(values)] == [0, 1, 2, 3, 4]


def test_a_folder_that_is_not_there(build: Build, make_chain: Chain, tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere" / "m.so"):
        with pytest.raises(InputError, match=str(place)):
            build(place, make_chain([]))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(kernels: Path, triple: str, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: the system refuses the write as well."""
    program = f"""
import resource, signal
from pathlib import Path
from tvmconv.codegen.artifact import write_artifact
from tvmconv.codegen.plan import Plan
from tvmconv.errors import EnvironmentError_
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
output = Path({str(tmp_path / "m.so")!r})
try:
    write_artifact(Plan(0, [], [], []), [], bytes(4 << 20), output, target_triple={triple!r})
except EnvironmentError_ as error:
    print("\\n" not in str(error) and "m.so: File too large" in str(error))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout == "True\n", result.stdout + result.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_zig_the_message_says_how_to_get_it(
    build: Build, make_chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EnvironmentError_, match="pip install ziglang"):
        build(tmp_path / "m.so", make_chain([]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("seconds", "lines"), [(0.0, 0), (0.5, 1)])
def test_a_build_that_takes_long_says_why_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    seconds: float,
    lines: int,
) -> None:
    """zig says nothing while it builds musl."""
    link._say_why.cache_clear()
    monkeypatch.setattr(link, "_LONG_S", 0.2)
    monkeypatch.setattr(link, "_executable", lambda action: "sleep")
    for _ in range(1 + lines):
        link.zig([str(seconds)], tmp_path, "link")
    assert [record.message.startswith("zig builds") for record in caplog.records] == [True] * lines


def test_a_missing_kernel_is_one_line_that_names_it(
    build: Build, make_chain: Chain, tmp_path: Path
) -> None:
    with pytest.raises(EnvironmentError_, match="__tvm_ffi_nosuch") as info:
        build(tmp_path / "m.so", make_chain(["nosuch"]))
    assert "\n" not in str(info.value)
    assert list(tmp_path.iterdir()) == []


def test_a_home_that_cannot_be_written_is_no_hindrance(
    build: Build, make_chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ZIG_GLOBAL_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/proc/nowhere")
    build(tmp_path / "m.so", make_chain([]))


def test_builds_at_the_same_time_do_not_disturb_each_other(
    build: Build, make_chain: Chain, tmp_path: Path, x: Array
) -> None:
    """Some to files of their own, some to the same one, which is always whole."""
    errors: list[BaseException] = []

    def work(k: int) -> None:
        try:
            for name in (f"{k}.so", "same.so"):
                with load(build(tmp_path / name, make_chain(["twice", "scratch"]))) as module:
                    assert (module(x)[0] == 2 * x + 1).all()
        except BaseException as error:  # noqa: BLE001 - reported by the assertion below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert sorted(p.name for p in tmp_path.iterdir()) == [*(f"{k}.so" for k in range(4)), "same.so"]


@pytest.mark.parametrize(
    "target",
    ["aarch64-linux-gnu.2.17", "arm-linux-gnueabihf", "riscv64-linux-gnu", "x86_64-linux-musl"],
)
@pytest.mark.parametrize("format", ["shared", "static"])
def test_other_machines(tmp_path: Path, target: str, format: Format) -> None:
    tensor = BlockedTensor((1, 20, 9, 9), block=16, lows=(1, 1), highs=(1, 1))
    source = TensorArgument("input", (1, 20, 9, 9))
    plan = Plan(tensor.nbytes, [Port("x", source.shape)], [], [PackStep(source, tensor)])
    path = tmp_path / ("libm.so" if format == "shared" else "libm.a")
    write_artifact(plan, [], np.ones(5), path, target_triple=target, format=format)
    facts = inspect_artifact(path)
    if "musl" not in target:  # of which zig would build the whole libc, for a minute
        (tmp_path / "main.c").write_text(PROGRAM)
        options = ["-O1", "-fno-sanitize=undefined", "-target", target, f"-I{RUNTIME}"]
        _zig("cc", *options, "main.c", path, "-lpthread", "-o", "main", folder=tmp_path)
    assert facts["machine"] in (target.partition("-")[0], "x86-64")
    assert facts["weights_bytes"] == 40
    if not facts["machine"].startswith(("x86", "aarch64")):
        with pytest.raises(InputError, match=r"is for|static"):
            load(path)
