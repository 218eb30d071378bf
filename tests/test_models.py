"""The light networks: files as they are, random weights that keep activations alive."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.onnx_models import judged, normal
from tvmconv import models
from tvmconv.errors import InputError
from tvmconv.frontend import drop_final_softmax, load
from tvmconv.graph.evaluate import evaluate, trace
from tvmconv.models import light_model, light_models, light_path, resolve

#: Those whose weights are made in less than a second.
SMALL = [name for name in light_models() if not name.endswith(("alexnet", "vgg19", "zfnet512"))]

#: What is left of each network: (operators, in how many nodes).
NODES = {
    "light_densenet121": {"conv": 121, "scale_shift": 62, "concat": 58, "avg_pool": 3},
    "light_inception_v1": {"conv": 57, "lrn": 2, "avg_pool": 1, "dense": 1},
    "light_inception_v2": {"conv": 69, "global_avg_pool": 1, "dense": 1},
    "light_resnet50": {"conv": 53, "add": 16, "max_pool": 1, "dense": 1},
    "light_shufflenet": {"conv": 33, "depthwise_conv": 16, "channel_shuffle": 16, "concat": 3},
    "light_squeezenet": {"conv": 26, "concat": 8, "global_avg_pool": 1},
}


def test_names() -> None:
    assert len(light_models()) == 9
    assert all(Path(light_path(name)).is_file() for name in light_models())
    with pytest.raises(InputError, match="no light network 'resnet50'; there are light_bvlc"):
        light_path("resnet50")
    with pytest.raises(InputError, match="weights must be 'random' or 'constant'"):
        light_model("light_squeezenet", weights="ones")
    with pytest.raises(InputError, match="batch must be at least 1"):
        light_model("light_squeezenet", batch=0)


def test_only_bare_names_without_a_file_are_resolved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve("light_vgg19.onnx") == light_path("light_vgg19")
    for other in ("light_vgg19", "./light_vgg19.onnx", "light_vgg16.onnx", "model.onnx"):
        assert resolve(other) == other
    (tmp_path / "light_vgg19.onnx").touch()
    assert resolve("light_vgg19.onnx") == "light_vgg19.onnx"


@pytest.mark.parametrize("name", SMALL)
def test_random_weights_keep_activations_alive(name: str) -> None:
    graph = drop_final_softmax(load(light_model(name)))
    x = normal(*graph.inputs[0].shape)
    for node, array in trace(graph, [x], "float32"):
        assert 0.05 < array.std() < 200, node.name
        if node.op == "relu":
            assert (array == 0).mean() < 0.8, node.name
    assert len(np.unique(array)) > 800  # squeezenet's last Relu makes some classes zero


@pytest.mark.parametrize("name", SMALL)
def test_everything_is_folded(name: str) -> None:
    graph = load(light_path(name))
    counts = Counter(node.op for node in graph.nodes)
    assert {op: counts[op] for op in NODES[name]} == NODES[name]
    assert not {"transpose", "mul", "pad"} & set(counts)
    assert len(graph.inputs) == 1


def test_models_are_reproducible() -> None:
    first, again, other = (light_model("light_squeezenet", seed=seed) for seed in (0, 0, 1))
    assert first.SerializeToString() == again.SerializeToString() != other.SerializeToString()
    for model in (first, light_model("light_densenet121")):
        onnx.checker.check_model(model)
        assert not any(node.op_type == "ConstantOfShape" for node in model.graph.node)
        assert len(model.graph.input) == 1


@pytest.mark.parametrize("weights", ["random", "constant"])
def test_batch(weights: str) -> None:
    graph = load(light_model("light_shufflenet", weights, batch=2))
    single = load(light_model("light_shufflenet", weights))
    assert graph.inputs[0].shape == (2, 3, 224, 224)
    assert graph.outputs[0].shape == (2, 1000)
    x = normal(2, 3, 224, 224)
    (both,) = evaluate(graph, [x])
    for image in (0, 1):
        (alone,) = evaluate(single, [x[image : image + 1]])
        np.testing.assert_allclose(both[image], alone[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["light_squeezenet", "light_shufflenet"])
def test_networks_compute_what_onnx_says(name: str) -> None:
    """On 64 x 64 pixels where that is possible: onnx.reference takes its time."""
    model = light_model(name)
    if name == "light_squeezenet":
        for axis in (2, 3):
            model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = 64
    graphs = [drop_final_softmax(load(model, simplify=simplify)) for simplify in (False, True)]
    (value,) = graphs[0].inputs
    x = normal(*value.shape)
    (expected,) = judged(model, {value.name: x}, [graphs[0].outputs[0].name])
    for graph in graphs:
        (result,) = evaluate(graph, [x])
        np.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-4)


def test_constant_weights_give_the_output_that_the_package_ships() -> None:
    for name in ("light_squeezenet", "light_inception_v2"):
        path = Path(light_path(name))
        tensor = onnx.TensorProto()
        tensor.ParseFromString(path.with_name(f"{name}_output_0.pb").read_bytes())
        expected = onnx.numpy_helper.to_array(tensor)
        graph = load(path)
        shape = graph.inputs[0].shape
        size = int(np.prod(shape))
        x = (np.arange(size, dtype=np.float32) / np.float32(size)).reshape(shape)
        np.testing.assert_allclose(evaluate(graph, [x])[0], expected, rtol=1e-3)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "new" / "folder"
    assert models.main([str(folder), "light_squeezenet", "--batch", "3", "--seed", "5"]) == 0
    path = folder / "light_squeezenet.onnx"
    assert capsys.readouterr().out == f"{path}\n"
    assert list(folder.iterdir()) == [path]
    assert load(path).inputs[0].shape == (3, 3, 224, 224)
    new = tmp_path / "other"
    for wrong in (["light_squeezenet", "light_nothing"], ["--batch", "0"]):
        assert models.main([str(new), *wrong]) == InputError.exit_code
        error = capsys.readouterr().err
        assert error.startswith("python -m tvmconv.models: Invalid value for ")
        assert error.count("\n") == 1
        assert not new.exists()
    (tmp_path / "file").touch()
    assert models.main([str(tmp_path / "file")]) == InputError.exit_code
    assert capsys.readouterr().err.count("\n") == 1
