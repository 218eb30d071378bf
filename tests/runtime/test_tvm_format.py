"""`--format tvm`: TVM's own runtime loads and calls the library, which still loads without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tvmconv.codegen.plan import KernelStep, Plan
from tvmconv.runtime.loader import load

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def path(
    build: Callable[..., Path],
    make_chain: Callable[..., Plan],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    return build(
        tmp_path_factory.mktemp("tvm") / "m.so", make_chain(["twice", "scratch"]), format="tvm"
    )


def test_tvm_runs_it(path: Path, x: Array) -> None:
    import tvm

    main = tvm.runtime.load_module(str(path))["main"]
    for k in range(10):
        y = tvm.runtime.tensor(np.zeros_like(x))
        main(tvm.runtime.tensor(x + k), y)
        assert (y.numpy() == 2 * (x + k) + 1).all()


def test_tvm_gets_the_errors(path: Path, x: Array) -> None:
    import tvm

    main = tvm.runtime.load_module(str(path))["main"]
    good = tvm.runtime.tensor(x)
    wrong: list[tuple[tuple[Any, ...], type[Exception], str]] = [
        ((good,), TypeError, "expected 2 arguments .* got 1"),
        ((good, 3), ValueError, "output 'y' is not a tensor"),
        ((good, tvm.runtime.tensor(x.astype("float64"))), ValueError, "'y' has the wrong dtype"),
        ((good, tvm.runtime.tensor(x[:999])), ValueError, "'y' has the wrong shape"),
        ((tvm.runtime.tensor(x[None]), good), ValueError, "'x' has the wrong number of dim"),
    ]
    for arguments, kind, message in wrong:
        with pytest.raises(kind, match=message):
            main(*arguments)
    with pytest.raises(ValueError, match="'x' is not contiguous"):
        main(np.repeat(x, 2)[::2], good)


def test_a_failing_kernel_is_an_exception_in_tvm(
    build: Callable[..., Path], make_chain: Callable[..., Plan], tmp_path: Path, x: Array
) -> None:
    import tvm

    plan = make_chain(["fails"])
    assert isinstance(plan.steps[1], KernelStep)
    main = tvm.runtime.load_module(str(build(tmp_path / "m.so", plan, format="tvm")))["main"]
    with pytest.raises(RuntimeError, match="this kernel always fails"):
        main(tvm.runtime.tensor(x), tvm.runtime.tensor(x))


def test_it_loads_without_tvm(path: Path, x: Array) -> None:
    with load(path) as module:
        assert (module(x)[0] == 2 * x + 1).all()
