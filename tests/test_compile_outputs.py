"""What compilation writes besides the library: dumps; and the library in TVM's own form."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.onnx_models import judged, net, normal
from tvmconv.compiler import compile_to_file
from tvmconv.errors import EnvironmentError_, InputError
from tvmconv.runtime.loader import load
from tvmconv.target import load_target


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return net(
        "a = Conv <pads = [1, 1, 1, 1]> (x, w); b = Relu(a); y = GlobalMaxPool(b); z = Add(a, x)",
        outputs="float[] y, float[] z",
        w=normal(3, 3, 3, 3),
    )


def test_tvm_runs_a_compiled_network(model: onnx.ModelProto, tmp_path: Path) -> None:
    import tvm

    path = tmp_path / "model.so"
    compile_to_file(model, path, target=load_target("host"), format="tvm")
    x = normal(1, 3, 8, 8, seed=1)
    y, z = (np.zeros(shape, np.float32) for shape in ((1, 3, 1, 1), (1, 3, 8, 8)))
    results = [tvm.runtime.tensor(array) for array in (y, z)]
    tvm.runtime.load_module(str(path))["main"](tvm.runtime.tensor(x), *results)
    with load(path) as module:
        ours = module(x)
    for got, same, wanted in zip(results, ours, judged(model, {"x": x}), strict=True):
        np.testing.assert_array_equal(got.numpy(), same)
        np.testing.assert_allclose(same, wanted, 1e-4, 1e-5)


def test_everything_can_be_dumped(model: onnx.ModelProto, tmp_path: Path) -> None:
    dumps = {kind: tmp_path / kind for kind in ("asm", "c", "relax", "tir")}
    path, target = tmp_path / "model.so", load_target("host")
    compile_to_file(model, path, target=target, threads=2, dump=dumps)
    texts = {kind: file.read_text(encoding="utf-8") for kind, file in dumps.items()}
    assert set(tmp_path.iterdir()) == {path, *dumps.values()}
    symbols = {line.split()[1].rstrip(":") for line in texts["asm"].splitlines()
               if line.startswith("# tvmconv_")}  # fmt: skip
    assert len(symbols) == 4
    for symbol in symbols:
        assert f"__tvm_ffi_{symbol}:" in texts["asm"]
        assert f"def {symbol}(" in texts["tir"]
        assert f"__tvm_ffi_{symbol}" in texts["c"]
    assert "R.tvmconv.conv(" in texts["relax"]
    assert ", 2};" in texts["c"]  # the number of threads
    compile(texts["relax"], "relax", "exec")
    compile(texts["tir"], "tir", "exec")


def test_names_of_nodes_end_no_comment(model: onnx.ModelProto, tmp_path: Path) -> None:
    """A name may have line ends, or a backslash, which joins lines in C++."""
    named = onnx.ModelProto()
    named.CopyFrom(model)
    names = ("a\nint b(;\r\\", "c\u2028)\\", "\x00", "d\\\\")
    for node, name in zip(named.graph.node, names, strict=True):
        node.name = name
    for target, kinds in (("host", ("tir", "relax")), ("cuda", ("cuda", "ptx"))):
        dumps = {kind: tmp_path / kind for kind in kinds}
        compile_to_file(named, tmp_path / "model.so", target=load_target(target), dump=dumps)
    compile((tmp_path / "tir").read_text(encoding="utf-8"), "tir", "exec")
    compile((tmp_path / "relax").read_text(encoding="utf-8"), "relax", "exec")
    titles = re.findall("^// tvmconv_.*$", (tmp_path / "cuda").read_text(encoding="utf-8"), re.M)
    assert titles
    assert not any(title.endswith("\\") for title in titles)
    assert ".entry" in (tmp_path / "ptx").read_text(encoding="utf-8")


def test_dumps_that_cannot_be(model: onnx.ModelProto, tmp_path: Path) -> None:
    path, target = tmp_path / "model.so", load_target("host")
    with pytest.raises(InputError, match="there is no dump 'asn'; did you mean asm"):
        compile_to_file(model, path, target=target, dump={"asn": tmp_path / "x"})
    with pytest.raises(EnvironmentError_, match="nowhere"):
        compile_to_file(model, path, target=target, dump={"c": tmp_path / "nowhere" / "x"})
    assert not any(tmp_path.iterdir())


def test_a_buffer_too_large_for_the_kernels_indices_is_refused(tmp_path: Path) -> None:
    problem = "conv2d:1x1x20000x20000:1x1x1"
    output, target = tmp_path / "x.so", load_target("host")
    with pytest.raises(InputError, match=r"needs a buffer of 1x1x20000x20000x16 elements"):
        compile_to_file(problem, output, target=target)
    assert not output.exists()
