"""Blocks of well-known networks, each compiled whole and compared with ONNX's evaluator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import tvmconv
from tvmconv.blocks import BLOCKS, block_model, main
from tvmconv.explain import explain
from tvmconv.explain.model import ModelExplanation
from tvmconv.frontend import load


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_is_right(name: str) -> None:
    model = block_model(name, small=True)
    onnx.checker.check_model(model, full_check=True)
    report = tvmconv.verify(model)
    assert report.ok, report.outputs[0].message


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_is_worth_computing(name: str) -> None:
    """Its output has many values of a usual size."""
    model = block_model(name, small=True)
    graph = load(model)
    x = np.random.default_rng(0).standard_normal(graph.inputs[0].shape).astype(np.float32)
    from tvmconv.graph.evaluate import evaluate

    (y,) = evaluate(graph, [x])
    assert 1e-3 < y.std() < 1e3
    assert len(np.unique(y)) > y.size // 4


#: Output shape and multiply-adds in the papers' sizes.
FULL = {
    "lenet": ((1, 10), 28 * 28 * 6 * 25 + 100 * 16 * 150 + 400 * 120 + 120 * 84 + 840),
    "inception": ((1, 256, 28, 28), 784 * (192 * 208 + 96 * 128 * 9 + 16 * 32 * 25)),
    "dcgan": ((1, 3, 64, 64), None),
    "c3d": ((1, 256, 4, 14, 14), None),
    "unet_resize": ((1, 2, 256, 256), None),
    "aspp": ((1, 256, 28, 28), None),
}


@pytest.mark.parametrize("name", FULL)
def test_shapes_are_those_of_the_papers(name: str) -> None:
    found = explain(block_model(name), "znver5")
    assert isinstance(found, ModelExplanation)
    shape, macs = FULL[name]
    assert found.layers[-1].output_shape == shape
    assert macs is None or found.macs == macs


def test_written_as_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "new"), "lenet", "tcn", "--small"]) == 0
    files = sorted((tmp_path / "new").iterdir())
    assert [file.name for file in files] == ["lenet.onnx", "tcn.onnx"]
    assert capsys.readouterr().out.split() == [str(files[0]), str(files[1])]
    again = block_model("tcn", small=True)
    assert onnx.load(files[1]) == again
    assert block_model("tcn", small=True, seed=1) != again
    (tmp_path / "file").touch()
    capsys.readouterr()
    for arguments, why in [
        ([str(tmp_path / "file"), "lenet"], "file' is a file"),
        ([str(tmp_path / "new"), "lenets"], "'lenets' is not one of"),
        ([], "Missing argument 'DIRECTORY'"),
    ]:
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert error.startswith("python -m tvmconv.blocks: ")
        assert why in error
