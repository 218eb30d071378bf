"""The thread pool: what runs where, errors from any thread, several models and callers at once."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tvmconv.codegen.plan import CopyStep, KernelStep, Plan, Port, TensorArgument
from tvmconv.errors import TvmconvError
from tvmconv.runtime.loader import load

Array = np.ndarray[Any, Any]
Build = Callable[..., Path]


def _probe(kernel: str, threads: int = 0) -> Plan:
    """A model that runs one kernel on 16 numbers and copies them out."""
    place = TensorArgument("arena", (16,))
    steps = [KernelStep(kernel, (place,)), CopyStep(place, TensorArgument("output", (16,)))]
    return Plan(64, [], [Port("y", (16,))], steps, threads=threads)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_the_result_does_not_depend_on_the_number_of_threads(
    small: Path, x: Array, threads: int
) -> None:
    with load(small, threads) as module:
        for _ in range(50):
            (y,) = module(x)
            assert (y == 2 * x + 1).all()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_launch_has_one_task_a_thread(build: Build, tmp_path: Path, threads: int) -> None:
    with load(build(tmp_path / "m.so", _probe("tasks")), threads) as module:
        assert module()[0][0] == threads


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("iterations", [1, 2, 7, 34, 37, 130, 1000, 3137])
def test_every_iteration_of_a_loop_runs_once(
    build: Build, make_chain: Callable[..., Plan], tmp_path: Path, iterations: int, threads: int
) -> None:
    x = np.arange(iterations, dtype=np.float32)
    with load(build(tmp_path / "m.so", make_chain(["announced"] * 4, iterations)), threads) as m:
        for _ in range(20):
            assert (m(x)[0] == x + 4).all()


@pytest.mark.parametrize(
    ("iterations", "threads", "tasks"),
    [(1, 2, 1), (7, 2, 7), (34, 2, 34), (36, 2, 18), (3137, 2, 32), (3137, 7, 126), (3137, 1, 1)],
)
def test_an_announced_loop_is_cut_into_tasks_that_end_together(
    build: Build,
    make_chain: Callable[..., Plan],
    tmp_path: Path,
    iterations: int,
    threads: int,
    tasks: int,
) -> None:
    x = np.zeros(iterations, np.float32)
    with load(build(tmp_path / "m.so", make_chain(["cut"], iterations)), threads) as module:
        assert module(x)[0][0] == tasks


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("iterations", [1, 2, 34, 3137])
def test_a_thread_that_is_held_up_has_its_work_done_by_others(
    build: Build, make_chain: Callable[..., Plan], tmp_path: Path, iterations: int, threads: int
) -> None:
    x = np.arange(iterations, dtype=np.float32)
    with load(build(tmp_path / "m.so", make_chain(["held_up"] * 2, iterations)), threads) as m:
        for _ in range(20):
            assert (m(x)[0] == x + 2).all()


def test_the_default_is_what_the_model_was_compiled_for_but_no_more_than_the_cpus(
    build: Build, tmp_path: Path
) -> None:
    cpus = len(os.sched_getaffinity(0))
    one, many, free = (
        load(build(tmp_path / f"{n}.so", _probe("tasks", n))) for n in (1, cpus + 50, 0)
    )
    with one, many, free:
        assert one()[0][0] == 1
        assert 1 <= many()[0][0] <= cpus
        assert 1 <= free()[0][0] <= cpus


def test_the_affinity_mask_limits_the_default(build: Build, tmp_path: Path) -> None:
    path = build(tmp_path / "m.so", _probe("tasks"))
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        with load(path) as default, load(path, 2) as explicit:
            assert default()[0][0] == 1
            assert explicit()[0][0] == 2
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_on_any_thread_reaches_the_caller(
    build: Build, tmp_path: Path, threads: int
) -> None:
    with load(build(tmp_path / "m.so", _probe("fails")), threads) as module:
        for _ in range(20):
            with pytest.raises(TvmconvError, match="ValueError: this kernel always fails") as info:
                module()
            assert "\n" not in str(info.value)
            assert f"number {threads - 1}" in str(info.value)


def test_a_model_still_runs_after_an_error(build: Build, tmp_path: Path) -> None:
    with load(build(tmp_path / "m.so", _probe("greedy")), 2) as module:
        for _ in range(3):
            with pytest.raises(TvmconvError, match="no memory for 1152921504606846976 bytes"):
                module()


def test_one_model_called_from_several_threads(small: Path, x: Array) -> None:
    with load(small, 2) as module:
        _hammer(lambda k: (module(x + k)[0] == 2 * (x + k) + 1).all())


def test_one_instance_called_from_several_threads_through_the_c_interface(
    small: Path, x: Array
) -> None:
    """As above, without the loader's own lock."""
    library = ctypes.CDLL(str(small))
    model = ctypes.c_void_p()
    assert library.tvmconv_create(ctypes.byref(model), 2) == 0

    def run(k: int) -> bool:
        source, y = x + k, np.empty_like(x)
        pointers = [(ctypes.c_void_p * 1)(a.ctypes.data) for a in (source, y)]
        return library.tvmconv_run(model, *pointers) == 0 and (y == 2 * source + 1).all()

    _hammer(run)
    library.tvmconv_destroy.restype = None
    library.tvmconv_destroy(model)


def _hammer(run: Callable[[int], bool]) -> None:
    results: list[bool] = []
    threads = [
        threading.Thread(target=lambda k=k: results.extend(run(k) for _ in range(100)))
        for k in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 400


def test_several_models_run_concurrently(
    small: Path, build: Build, make_chain: Callable[..., Plan], tmp_path: Path, x: Array
) -> None:
    other = build(tmp_path / "other.so", make_chain(["scratch", "scratch", "twice"]))
    with load(small, 2) as first, load(other, 2) as second, load(small, 3) as third:

        def run(k: int) -> bool:
            module = (first, second, third)[k % 3]
            expected = 2 * (x + 2) if module is second else 2 * x + 1
            return bool(np.array_equal(module(x)[0], expected.astype(np.float32)))

        assert run(0)
        expected = (2 * ((x + np.float32(1)) + np.float32(1))).astype(np.float32)
        assert (second(x)[0] == expected).all()
        _hammer(lambda k: bool((first(x)[0] == 2 * x + 1).all() if k % 2 else third(x)[0].any()))


def test_models_do_not_see_each_others_symbols(
    small: Path, build: Build, make_chain: Callable[..., Plan], tmp_path: Path, x: Array
) -> None:
    """Two libraries with equal names, both in the global scope: each uses its own."""
    failing = build(tmp_path / "failing.so", _probe("fails"))
    program = f"""
import ctypes, numpy as np
libraries = [ctypes.CDLL(path, ctypes.RTLD_GLOBAL) for path in ({str(failing)!r}, {str(small)!r})]
models = []
for library in libraries:
    models.append(ctypes.c_void_p())
    assert library.tvmconv_create(ctypes.byref(models[-1]), 2) == 0
    library.tvmconv_error.restype = ctypes.c_char_p
x, y = np.arange(1000, dtype=np.float32), np.empty(1000, np.float32)
a, b = ((ctypes.c_void_p * 1)(v.ctypes.data) for v in (x, y))
for _ in range(100):
    assert libraries[0].tvmconv_run(models[0], a, b) == 3
    assert libraries[1].tvmconv_run(models[1], a, b) == 0, libraries[1].tvmconv_error()
    assert (y == 2 * x + 1).all()
    assert b"always fails" in libraries[0].tvmconv_error() and not libraries[1].tvmconv_error()
print("fine")
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout == "fine\n", result.stderr


def test_a_model_works_in_a_forked_process(small: Path) -> None:
    program = f"""
import os, numpy as np
from tvmconv.runtime.loader import load
module, x = load({str(small)!r}, 3), np.arange(1000, dtype=np.float32)
assert (module(x)[0] == 2 * x + 1).all()
child = os.fork()
if child == 0:
    fine = all((module(x + k)[0] == 2 * (x + k) + 1).all() for k in range(20))
    module.close()
    os._exit(0 if fine else 1)
assert os.waitpid(child, 0)[1] == 0
untouched = os.fork()
if untouched == 0:
    module.close()
    os._exit(0)
assert os.waitpid(untouched, 0)[1] == 0
assert (module(x)[0] == 2 * x + 1).all()
print("fine")
"""
    command = [sys.executable, "-W", "ignore", "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert result.stdout == "fine\n", result.stderr


def test_threads_and_memory_go_when_an_instance_does(small: Path, tmp_path: Path, x: Array) -> None:
    path = tmp_path / "own-copy.so"
    path.write_bytes(small.read_bytes())

    def threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    before = threads()
    for _ in range(100):
        with load(path, 4) as module:
            module(x)
            assert threads() == before + 3
    assert threads() == before
    assert "own-copy" not in Path("/proc/self/maps").read_text()


def test_idle_threads_do_not_spin_for_long(small: Path, x: Array) -> None:
    with load(small, 2) as module:
        module(x)
        threading.Event().wait(0.05)
        before = _cpu_seconds()
        threading.Event().wait(0.2)
        assert _cpu_seconds() - before < 0.05


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system


def test_what_cannot_be_had_is_an_error_not_a_crash(small: Path) -> None:
    program = f"""
import resource
from tvmconv.errors import EnvironmentError_
from tvmconv.runtime.loader import load
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 64 * 2**20, -1))
try:
    load({str(small)!r}, 5000)
except EnvironmentError_ as error:
    print("\\n" not in str(error) and "cannot start 5000 threads" in str(error))
"""
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.stdout == "True\n", result.stderr


def test_an_arena_that_does_not_fit_is_an_error(build: Build, tmp_path: Path) -> None:
    plan = Plan(1 << 50, [], [Port("y", (16,))], _probe("tasks").steps)
    with pytest.raises(TvmconvError, match="no memory for 1125899906842624 bytes"):
        load(build(tmp_path / "m.so", plan))


_SPREAD = """
import os, sys
from tvmconv.runtime.loader import load
cpus = sorted(os.sched_getaffinity(0))[:2]
os.sched_setaffinity(0, cpus)
module = load(sys.argv[1], 2)
before = {int(t) for t in os.listdir("/proc/self/task")} - {os.getpid()}
for here, there in (cpus, cpus[::-1]):
    os.sched_setaffinity(0, {here})
    os.sched_setaffinity(0, cpus)  # the caller stays where it is for a while
    module()
    masks = [os.sched_getaffinity(t) for t in before]
    print(sum(mask == {there} for mask in masks))
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_a_worker_leaves_the_callers_cpu(build: Build, tmp_path: Path) -> None:
    """Also where the operating system would let the two share it."""
    path = build(tmp_path / "m.so", _probe("tasks"))
    command = [sys.executable, "-c", _SPREAD, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.split() == ["1", "1"]
