"""Loading and calling: the right arrays run, the wrong ones are one line, files may be broken."""

from __future__ import annotations

import contextlib
import gc
import platform
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tvmconv.codegen.plan import CopyStep, Plan, Port, TensorArgument
from tvmconv.errors import InputError, TvmconvError
from tvmconv.runtime.inspect import inspect_artifact
from tvmconv.runtime.loader import Module, load

Array = np.ndarray[Any, Any]
Build = Callable[..., Path]


@pytest.fixture
def module(small: Path) -> Any:
    with load(small) as module:
        yield module


@pytest.fixture(scope="module")
def two(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that swaps two inputs of different types."""
    ports = [Port("image", (2, 3)), Port("length", (4,), "int64")]
    steps = [
        CopyStep(
            TensorArgument("input", ports[k].shape, ports[k].dtype, index=k),
            TensorArgument("output", ports[k].shape, ports[k].dtype, index=1 - k),
        )
        for k in (0, 1)
    ]
    return build(tmp_path_factory.mktemp("two") / "two.so", Plan(0, ports, ports[::-1], steps))


def test_arrays_by_position_and_by_name(two: Path) -> None:
    image, length = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(4)
    with load(two) as module:
        for outputs in (module(image, length), module({"length": length, "image": image})):
            assert (outputs[0] == length).all()
            assert (outputs[1] == image).all()
            assert [y.dtype for y in outputs] == [np.int64, np.float32]


def test_arrays_that_are_not_contiguous_are_copied(two: Path) -> None:
    image, length = np.arange(6, dtype=np.float32).reshape(3, 2).T, np.arange(8)[::-2]
    with load(two) as module:
        outputs = module(image, length)
    assert (outputs[1] == image).all()
    assert (outputs[0] == length).all()


def test_a_read_only_input_and_given_outputs(module: Module, x: Array) -> None:
    x.flags.writeable = False
    y = np.empty_like(x)
    (result,) = module(x, out=[y])
    assert result is y
    assert (y == 2 * x + 1).all()


class _Exporter:
    """An array that only speaks DLPack, in memory of a given kind."""

    def __init__(self, array: Array, device: int = 1) -> None:
        self.array, self.device = array, device

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device, 0


def test_results_that_somebody_has_are_not_written_to(module: Module, x: Array) -> None:
    first, second = module(x)[0], module(x)[0]
    view = first[..., :1]
    held = view.copy()
    del first
    places = {second.ctypes.data, view.ctypes.data}
    for _ in range(4):
        other = module(2 * x)[0]
        assert other.ctypes.data not in places
    np.testing.assert_array_equal(view, held)


def test_memory_of_forgotten_results_is_used_again(module: Module, x: Array) -> None:
    y = module(x)[0]
    places = set()
    for _ in range(6):
        y = module(x)[0]
        places.add(y.ctypes.data)
        assert y.ctypes.data % 64 == 0
    assert len(places) == 2


def test_large_results_have_pages_of_their_own(build: Build, tmp_path: Path) -> None:
    port = Port("x", (3, 1 << 20))
    step = CopyStep(TensorArgument("input", port.shape), TensorArgument("output", port.shape))
    x = np.random.default_rng(0).random(port.shape, np.float32)
    with load(build(tmp_path / "large.so", Plan(0, [port], [port], [step]))) as module:
        y = module(x)[0]
        assert y.ctypes.data % 4096 == 0
    np.testing.assert_array_equal(x, y)  # outlives the module


def test_dlpack(module: Module, x: Array) -> None:
    assert (module(_Exporter(x))[0] == 2 * x + 1).all()
    with pytest.raises(InputError, match=r"input 'x': .* memory of a device"):
        module(_Exporter(x, device=2))


WRONG: dict[str, tuple[tuple[Any, ...], str]] = {
    "none": ((), r"expected 1 inputs \(x\), got 0"),
    "two": ((np.zeros(1000, "f"),) * 2, r"expected 1 inputs \(x\), got 2"),
    "dtype": ((np.zeros(1000),), "input 'x': expected dtype float32, got float64"),
    "byte order": ((np.zeros(1000, ">f4"),), "input 'x': expected dtype float32, got >f4"),
    "short": ((np.zeros(999, "f"),), "input 'x': expected shape 1000, got 999"),
    "rank": ((np.zeros((1000, 1), "f"),), "input 'x': expected shape 1000, got 1000x1"),
    "scalar": ((np.float32(1),), "input 'x': expected shape 1000, got scalar"),
    "empty": ((np.zeros((0, 1000), "f"),), "input 'x': expected shape 1000, got 0x1000"),
    "list": (([[1], [1, 2]],), "input 'x': cannot be read as an array"),
    "text": (("x",), "input 'x': expected dtype float32, got <U1"),
    "nothing": ((None,), "input 'x': expected dtype float32, got object"),
    "name": (({"y": np.zeros(1000, "f")},), "input 'y': the model has none of that name"),
    "no name": (({},), "input 'x' is missing"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_input_is_one_line_that_names_it(module: Module, kind: str) -> None:
    arguments, message = WRONG[kind]
    with pytest.raises(InputError, match=message) as info:
        module(*arguments)
    assert "\n" not in str(info.value)


def test_a_mistyped_name_gets_a_suggestion(two: Path) -> None:
    with load(two) as module, pytest.raises(InputError, match="did you mean length"):
        module({"image": np.zeros((2, 3), "f"), "lenght": np.zeros(4, int)})


def test_wrong_outputs_are_refused(module: Module, two: Path, x: Array) -> None:
    frozen = np.empty(1000, np.float32)
    frozen.flags.writeable = False
    wrong: list[tuple[Any, str]] = [
        (np.empty(1000, "f"), "out: expected a sequence of 1 arrays"),
        ([], "out: expected a sequence of 1 arrays"),
        ([[0.0] * 1000], "output 'y': expected a NumPy array, got list"),
        ([np.empty(1000)], "output 'y': expected dtype float32"),
        ([np.empty(999, "f")], "output 'y': expected shape 1000, got 999"),
        ([np.empty(2000, "f")[::2]], "output 'y': the array is not contiguous"),
        ([frozen], "output 'y': the array is not contiguous and writable"),
        ([x], "output 'y': the array overlaps an input"),
    ]
    for out, message in wrong:
        with pytest.raises(InputError, match=message):
            module(x, out=out)
    space = np.zeros(64, np.uint8)
    overlapping = [space[:32].view(np.int64), space[8:32].view(np.float32).reshape(2, 3)]
    with load(two) as swap, pytest.raises(InputError, match="two of the arrays overlap"):
        swap(np.zeros((2, 3), "f"), np.zeros(4, np.int64), out=overlapping)


def test_a_profile_has_every_step_in_order(module: Module, x: Array) -> None:
    profile = module.profile(x)
    assert [name for name, _ in profile] == ["copy", "twice 0", "scratch 1", "copy"]
    assert all(0 <= seconds < 1 for _, seconds in profile)


def test_what_a_module_tells_of_itself(module: Module) -> None:
    assert module.metadata["name"] == 'café "\\\n'
    assert [(p.name, p.shape, p.dtype) for p in module.outputs] == [("y", (1000,), "float32")]
    assert "x: float32[1000] -> y: float32[1000]" in repr(module)


def test_messages_call_a_module_by_its_name(small: Path, tmp_path: Path, x: Array) -> None:
    module = load(small, 1, "net.onnx")
    assert repr(module).startswith("Module('net.onnx': ")
    module.close()
    with pytest.raises(InputError, match=r"^net\.onnx: the module is closed$"):
        module(x)
    (tmp_path / "x.so").write_bytes(b"no ELF")
    with pytest.raises(InputError, match=r"^net\.onnx: is "):
        load(tmp_path / "x.so", name="net.onnx")


def test_saving_copies_the_file_even_after_it_was_removed(
    small: Path, tmp_path: Path, x: Array
) -> None:
    first, second = tmp_path / "first.so", tmp_path / "second.so"
    first.write_bytes(small.read_bytes())
    with load(first) as module:
        first.unlink()
        module.save(second)
        module.save(second)
        assert second.read_bytes() == small.read_bytes()
        assert [path.name for path in tmp_path.iterdir()] == ["second.so"]
        with load(second) as copy:
            assert (copy(x)[0] == module(x)[0]).all()
        with pytest.raises(InputError, match="nowhere"):
            module.save(tmp_path / "nowhere" / "m.so")


def test_a_file_that_was_replaced_is_loaded_anew(
    build: Build, make_chain: Callable[..., Plan], tmp_path: Path, x: Array
) -> None:
    path = tmp_path / "m.so"
    expected = {"twice": 2 * x, "scratch": x + 1}
    loaded = []
    for kernel in ("twice", "scratch", "twice"):
        loaded.append((load(build(path, make_chain([kernel]))), expected[kernel]))
    for module, y in loaded:
        assert (module(x)[0] == y).all()
        module.close()


def test_closing(small: Path, x: Array) -> None:
    module = load(small)
    module.close()
    module.close()
    for use in (lambda: module(x), lambda: module.save(small), lambda: module.profile(x)):
        with pytest.raises(InputError, match="is closed"):
            use()


def test_a_forgotten_module_frees_its_threads(small: Path, x: Array) -> None:
    tasks = Path("/proc/self/task")
    before = len(list(tasks.iterdir()))
    load(small, 3)(x)
    gc.collect()
    assert len(list(tasks.iterdir())) == before


def test_tvm_is_not_imported(small: Path) -> None:
    program = f"""
import sys
from tvmconv.runtime.loader import load
load({str(small)!r}).close()
print([name for name in sys.modules if name.split(".")[0] in ("tvm", "tvm_ffi", "onnx", "torch")])
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout == "[]\n", result.stderr


def test_files_that_are_no_artifacts(tmp_path: Path, small: Path) -> None:
    python = Path(sys.executable).resolve()
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("hello " * 100)
    (tmp_path / "archive").write_bytes(b"!<arch>\n" + b"x" * 100)
    (tmp_path / "void archive").write_bytes(b"!<arch>\n")
    for path in (*tmp_path.iterdir(), python, tmp_path, tmp_path / "none", Path("/dev/null")):
        for read in (load, inspect_artifact):
            with pytest.raises(InputError, match=r"^[^\n]*$") as info:
                read(path)
            assert str(info.value).startswith(f"{path}: ")


def test_wrong_thread_counts(small: Path) -> None:
    for threads in (0, -1):
        with pytest.raises(InputError, match=f"threads: {threads} is not positive"):
            load(small, threads)


def test_an_archive_can_be_inspected_but_not_loaded(
    build: Build, make_chain: Callable[..., Plan], tmp_path: Path
) -> None:
    path = build(tmp_path / "m.a", make_chain(["twice"]), format="static")
    assert inspect_artifact(path)["inputs"][0]["name"] == "x"
    with pytest.raises(InputError, match="static library"):
        load(path)


def test_a_truncated_file_is_refused(small: Path, tmp_path: Path) -> None:
    whole, path = small.read_bytes(), tmp_path / "cut.so"
    for size in {*range(0, len(whole), 997), *range(64), len(whole) - 1}:
        path.write_bytes(whole[:size])
        for read in (load, inspect_artifact):
            with pytest.raises(InputError, match=r"cut.so: "):
                read(path)


def test_malformed_metadata_is_refused(
    build: Build, make_chain: Callable[..., Plan], tmp_path: Path
) -> None:
    whole = build(tmp_path / "m.so", make_chain([])).read_bytes()
    path = tmp_path / "bad.so"
    replacements = [
        (b'{"abi": 1', b'["abi", 1'),
        (b'"abi": 1', b'"abi": 2'),
        (b'"abi": 1', b'"abi":"1'),
        (b"[1000]", b"[-100]"),
        (b"[1000]", b"[1e99]"),
        (b"[1000]", b"[0   ]"),
        (b'"float32"', b'"float31"'),
        (b'"inputs"', b'"output"'),
        (b'"steps"', b'"stepz"'),
        (b'"tvmconv"', b'"tvm-onv"'),
        (b'{"abi": 1', b"\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
        (b'{"abi": 1', b"[[[[[[[[["),
    ]
    for old, new in replacements:
        assert old in whole
        assert len(old) == len(new)
        path.write_bytes(whole.replace(old, new, 1))
        for read in (load, inspect_artifact):
            with pytest.raises(InputError, match=r"bad.so: (has malformed|was made for version 2)"):
                read(path)


def test_inspecting_damaged_files_never_does_worse_than_refuse(small: Path, tmp_path: Path) -> None:
    whole, path = small.read_bytes(), tmp_path / "bad.so"
    rng = random.Random(3)
    table = int.from_bytes(whole[40:48], "little")
    for _ in range(1500):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            where = rng.choice([rng.randrange(64), rng.randrange(table, len(whole))])
            damaged[where] = rng.choice([0, 1, 0x7F, 0xFF, rng.randrange(256)])
        path.write_bytes(damaged)
        with contextlib.suppress(InputError):
            inspect_artifact(path)


def test_a_kernels_failure_is_not_an_input_error(
    build: Build, make_chain: Callable[..., Plan], tmp_path: Path, x: Array
) -> None:
    with (
        load(build(tmp_path / "m.so", make_chain(["fails"]))) as module,
        pytest.raises(TvmconvError, match=r"m.so: cannot run: ValueError") as info,
    ):
        module(x)
    assert not isinstance(info.value, InputError)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names an x86 processor")
def test_a_model_for_a_newer_cpu_is_refused_instead_of_dying(
    build: Build, make_chain: Callable[..., Plan], tmp_path: Path
) -> None:
    path = build(tmp_path / "m.so", make_chain([]), cpu_flags=["-mcpu=graniterapids"])
    try:
        load(path).close()
    except InputError as error:
        assert re.search(r"m.so: .* needs \S+, which this CPU does not have$", str(error))  # noqa: PT017
    else:
        pytest.skip("this CPU has everything")
