"""The CUDA runtime beside a driver that counts, and fails where it is told to."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tvmconv.codegen import link
from tvmconv.codegen.artifact import RUNTIME
from tvmconv.codegen.cuda.build import Image, write_cuda_artifact
from tvmconv.codegen.plan import CopyStep, Plan, Port, TensorArgument
from tvmconv.errors import EnvironmentError_, InputError, TvmconvError
from tvmconv.runtime.inspect import inspect_artifact
from tvmconv.runtime.loader import Module, load
from tvmconv.target import Target, Zig, load_target

TRIPLE = f"{platform.machine()}-linux-gnu.2.17"
FAKE = Path(__file__).parent / "fake_cuda.c"
OUT_OF_MEMORY, NO_BINARY, BAD_PTX, LAUNCH_FAILED = 2, 209, 222, 219

Write = Callable[..., Path]


def compile_driver(folder: Path, source: Path = FAKE) -> Path:
    objects = link.compile_sources([source], folder, RUNTIME, TRIPLE, [])
    path = folder / "libfake.so"
    command = ["cc", "-target", TRIPLE, "-shared", str(objects[0]), "-o", str(path)]
    link.zig(command, folder, "link the fake driver")
    return path


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_driver(tmp_path_factory.mktemp("driver"))


class Fake(ctypes.CDLL):
    """The driver's knobs and counters."""

    def fail(self, name: str, at: int, code: int) -> None:
        self.fake_fail(name.encode(), at, code)

    def devices(self, *sms: int) -> None:
        self.fake_devices(len(sms), (ctypes.c_int * len(sms))(*sms))

    def count(self, name: str) -> int:
        return int(self.fake_count(name.encode()))


@pytest.fixture
def fake(driver: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    monkeypatch.setenv("TVMCONV_CUDA_DRIVER", str(driver))
    library = Fake(str(driver))
    library.fake_reset()
    yield library
    assert library.fake_live() == 0, "something was made and not destroyed"
    assert library.fake_depth() == 0, "a context was pushed and not popped"


def here() -> Target:
    """A GPU beside this machine's CPU."""
    gpu = load_target("h100")
    arch = platform.machine()
    llvm = replace(gpu.llvm, triple=f"{arch}-unknown-linux-gnu")
    return replace(gpu, llvm=llvm, zig=Zig(TRIPLE, "baseline"))


PLAN = Plan(
    64,
    [Port("x", (4,))],
    [Port("y", (4,))],
    [
        CopyStep(TensorArgument("input", (4,)), TensorArgument("arena", (4,)), "first"),
        CopyStep(TensorArgument("weights", (4,)), TensorArgument("arena", (4,)), "second"),
        CopyStep(TensorArgument("arena", (4,)), TensorArgument("output", (4,)), "third"),
    ],
)


def image(sm: int, kind: str = "cubin", code: int = 0) -> Image:
    return Image(sm, kind, bytes([code, sm + (kind == "ptx")]), {}, "hand")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(*images: Image, plan: Plan = PLAN, name: str = "m.so") -> Path:
        found: Sequence[Image] = images or [image(90)]
        path = tmp_path / name
        write_cuda_artifact(
            plan, {}, bytes(16), path, lambda source, target, extents: found, target=here()
        )
        return path

    return make


X = np.arange(4, dtype=np.float32)


def test_a_run_copies_in_starts_the_graph_and_copies_out(fake: Fake, write: Write) -> None:
    with load(write()) as module:
        assert fake.count("cuLaunchKernel") == 3  # recorded, once and for all
        assert fake.count("cuMemcpyAsync") == 1  # the weights
        for run in (1, 2):
            (y,) = module(X)
            assert (y == 0).all()  # the arena is clear, and the fake's kernels do nothing
            assert fake.count("cuGraphLaunch") == run
            assert fake.count("cuMemcpyAsync") == 1 + 2 * run
        assert fake.count("cuLaunchKernel") == 3


def test_profile_times_every_step_on_the_device(fake: Fake, write: Write) -> None:
    with load(write()) as module:
        for _ in range(2):
            times = module.profile(X)
            assert times == [(name, pytest.approx(2e-3)) for name in ("first", "second", "third")]
    assert fake.count("cuGraphLaunch") == 0
    assert fake.count("cuLaunchKernel") == 9
    assert fake.count("cuEventCreate") == fake.count("cuEventDestroy_v2") == 4


def test_a_replay_copies_nothing(fake: Fake, write: Write) -> None:
    with load(write()) as module:
        assert module.replay(4) == pytest.approx(2e-3 / 4)
        assert fake.count("cuGraphLaunch") == 4
        assert fake.count("cuMemcpyAsync") == 1  # the weights, when it was made
        assert module._library.replay(module._model, 0, ctypes.c_double()) == 1
    with pytest.raises(InputError, match="the module is closed"):
        module.replay(1)


def test_a_model_without_steps(fake: Fake, write: Write) -> None:
    port = [Port("x", (4,))]
    with load(write(plan=Plan(0, port, port, []))) as module:
        assert module(X)[0].shape == (4,)
        assert module.replay(3) == 0
    assert fake.count("cuGraphLaunch") == 0


def test_two_models_of_a_file_have_memory_of_their_own(fake: Fake, write: Write) -> None:
    path = write()
    with load(path) as one, load(path) as other:
        assert fake.count("cuMemAlloc_v2") == 4
        assert (one(X)[0] == other(X)[0]).all()


# --- which device and which code

CUBINS = [image(80), image(86), image(90), image(100), image(80, "ptx")]


@pytest.mark.parametrize(
    ("sm", "loaded"),
    [
        (80, 80),
        (86, 86),
        (89, 86),  # machine code of an earlier device of the generation
        (87, 81),  # but not on Jetson
        (90, 90),
        (100, 100),
        (103, 100),
        (120, 81),  # PTX on a later generation
    ],
)
def test_the_best_code_for_the_device_is_loaded(
    fake: Fake, write: Write, sm: int, loaded: int
) -> None:
    fake.devices(sm)
    load(write(*CUBINS)).close()
    assert fake.fake_loaded() == loaded


def test_the_first_device_that_the_file_has_code_for_is_taken(fake: Fake, write: Write) -> None:
    fake.devices(75, 86, 90)
    load(write(image(90))).close()
    assert fake.fake_loaded() == 90


def test_code_that_the_driver_refuses_is_followed_by_the_next_best(
    fake: Fake, write: Write
) -> None:
    load(write(image(90, code=NO_BINARY), image(80, "ptx"))).close()
    assert fake.fake_loaded() == 81


@pytest.mark.parametrize(
    ("images", "sms", "message"),
    [
        ([image(80), image(86)], [75], r"code for sm_80, sm_86; this machine has Fake 0 \(sm_75\)"),
        ([image(90)], [80, 100], r"code for sm_90; .* Fake 0 \(sm_80\), Fake 1 \(sm_100\)"),
        ([image(90, "ptx")], [89], r"PTX for sm_90; this machine has Fake 0 \(sm_89\)"),
        ([image(87)], [86], r"code for sm_87; this machine has"),
        ([image(90, code=BAD_PTX)], [90], "does not take the file's code: CUDA_ERROR_222"),
    ],
)
def test_no_code_for_any_device(
    fake: Fake, write: Write, images: list[Image], sms: list[int], message: str
) -> None:
    fake.devices(*sms)
    with pytest.raises(InputError, match=f"m.so: cannot be started: .*{message}"):
        load(write(*images))


# --- no driver, no device, no memory


def test_no_driver(write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TVMCONV_CUDA_DRIVER", raising=False)
    if not any(Path(folder, "libcuda.so.1").exists() for folder in ("/usr/lib", "/usr/lib64")):
        with pytest.raises(EnvironmentError_, match=r"no CUDA driver \(libcuda\.so\.1\)$"):
            load(write())
    monkeypatch.setenv("TVMCONV_CUDA_DRIVER", str(tmp_path / "none.so"))
    with pytest.raises(EnvironmentError_, match=r"no CUDA driver \(TVMCONV_CUDA_DRIVER: .*none.so"):
        load(write(name="other.so"))


def test_a_driver_that_lacks_a_function_is_too_old(
    write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old = tmp_path / "old.c"
    old.write_text(FAKE.read_text().replace("cuGraphInstantiateWithFlags", "cuGraphInstantiate"))
    monkeypatch.setenv("TVMCONV_CUDA_DRIVER", str(compile_driver(tmp_path, old)))
    with pytest.raises(EnvironmentError_, match="too old: it has no cuGraphInstantiateWithFlags"):
        load(write())


@pytest.mark.parametrize(
    ("name", "at", "code", "kind", "message"),
    [
        ("cuInit", 0, 100, EnvironmentError_, "no CUDA device$"),
        ("cuInit", 0, 803, EnvironmentError_, "the CUDA driver cannot be started: CUDA_ERROR_803"),
        ("cuDeviceGetCount", 0, 3, EnvironmentError_, "count the CUDA devices: CUDA_ERROR_3"),
        ("cuDevicePrimaryCtxRetain", 0, 1, EnvironmentError_, "Fake 0: CUDA_ERROR_1"),
        ("cuDevicePrimaryCtxRetain", 0, OUT_OF_MEMORY, EnvironmentError_, "Fake 0: CUDA_ERROR_2"),
        ("cuStreamCreate", 0, 1, EnvironmentError_, "cannot make a stream"),
        ("cuModuleGetFunction", 0, 500, InputError, "tvmconv_copy_.*: CUDA_ERROR_500"),
        ("cuMemAlloc_v2", 0, OUT_OF_MEMORY, EnvironmentError_, "no memory on Fake 0 for .* of act"),
        ("cuMemAlloc_v2", 1, OUT_OF_MEMORY, EnvironmentError_, "no memory on Fake 0 for 16 bytes"),
        ("cuMemcpyAsync", 0, 1, EnvironmentError_, "cannot upload the weights"),
        ("cuLaunchKernel", 1, LAUNCH_FAILED, InputError, "tvmconv_copy_.*: CUDA_ERROR_219"),
        ("cuStreamEndCapture", 0, 901, InputError, "cannot record the launches: CUDA_ERROR_901"),
        ("cuGraphInstantiateWithFlags", 0, 1, InputError, "cannot make a graph"),
    ],
)
def test_failures_to_start(
    fake: Fake, write: Write, name: str, at: int, code: int, kind: type[Exception], message: str
) -> None:
    path = write()
    fake.fail(name, at, code)
    with pytest.raises(kind, match=f"m.so: cannot be started: .*{message}"):
        load(path)


def test_no_device(fake: Fake, write: Write) -> None:
    fake.devices()
    with pytest.raises(EnvironmentError_, match=r"no CUDA device$"):
        load(write())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cuCtxPushCurrent_v2", "Fake 0: CUDA_ERROR_700"),
        ("cuMemcpyAsync", "x: CUDA_ERROR_700"),
        ("cuGraphLaunch", "cannot start the kernels: CUDA_ERROR_700"),
        ("cuStreamSynchronize", "the kernels failed: CUDA_ERROR_700"),
    ],
)
def test_failures_to_run(fake: Fake, write: Write, name: str, message: str) -> None:
    with load(write()) as module:
        fake.fail(name, fake.count(name), 700)
        with pytest.raises(TvmconvError, match=f"m.so: cannot run: {message}"):
            module(X)
        assert module(X)[0].shape == (4,)


@pytest.mark.parametrize("name", ["cuEventCreate", "cuEventRecord", "cuEventElapsedTime"])
def test_failures_to_profile(fake: Fake, write: Write, name: str) -> None:
    with load(write()) as module:
        fake.fail(name, 1, 700)
        with pytest.raises(TvmconvError, match=r"cannot run: cannot .*CUDA_ERROR_700"):
            module.profile(X)
        assert len(module.profile(X)) == 3  # with the events that were missing


@pytest.mark.parametrize(
    "name", ["cuEventCreate", "cuEventRecord", "cuGraphLaunch", "cuEventElapsedTime"]
)
def test_failures_to_replay(fake: Fake, write: Write, name: str) -> None:
    with load(write()) as module:
        fake.fail(name, 0, 700)
        with pytest.raises(TvmconvError, match=r"m.so: cannot run: cannot .*CUDA_ERROR_700"):
            module.replay(2)
        assert module.replay(2) > 0


def test_null_pointers_are_refused(fake: Fake, write: Write) -> None:
    module = Module(write())
    library, null = module._library, ctypes.POINTER(ctypes.c_void_p)()
    array = (ctypes.c_void_p * 1)()
    for arguments, text in (
        ((module._model, null, array), "the array of inputs is NULL"),
        ((module._model, array, null), "the array of outputs is NULL"),
        ((module._model, array, array), "input 'x' is NULL"),
        ((None, array, array), "the model is NULL"),
    ):
        assert library.run(*arguments) == 1
        assert library.error() == text
    assert library.create(null, 0) == 1
    library.destroy(None)
    module.close()


def test_the_command_line_says_what_is_missing(write: Write) -> None:
    path = write()
    result = subprocess.run(
        [sys.executable, "-m", "tvmconv", "run", str(path), "--seed", "1"],
        capture_output=True,
        text=True,
        env={"PATH": "", "TVMCONV_CUDA_DRIVER": "/none.so", "PYTHONPATH": ":".join(sys.path)},
    )
    assert result.returncode == 4
    assert result.stderr.startswith(f"tvmconv: {path}: cannot be started: no CUDA driver")
    assert result.stderr.count("\n") == 1


def test_inspect_lists_the_images(write: Write) -> None:
    facts: dict[str, Any] = inspect_artifact(write(*CUBINS))
    assert [(i["kind"], i["sm"]) for i in facts["images"]] == [
        ("cubin", 80), ("cubin", 86), ("cubin", 90), ("cubin", 100), ("ptx", 80)
    ]  # fmt: skip
    assert facts["arena_bytes"] == 512 + 16  # 64 of the arena, input and output at 256 and 512


def test_the_list_of_code_is_cut_where_the_message_ends(fake: Fake, write: Write) -> None:
    fake.devices(75)
    with pytest.raises(InputError, match="the file has code for sm_80") as caught:
        load(write(*[image(80 + k % 9) for k in range(200)]))
    assert len(str(caught.value)) < 700
