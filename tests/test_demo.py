"""The demo: what ships is what training made, and a wrong result is never reported as right."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from rich.console import Console

from tvmconv.demo import data, lenet, run_demo
from tvmconv.demo import run as run_module
from tvmconv.demo.c_example import BUILD, SOURCE
from tvmconv.demo.data import load_digits_model, load_test_digits, prepare
from tvmconv.errors import InputError, VerificationError


def layers_of(model: onnx.ModelProto) -> list[lenet.Layer]:
    """Make the NumPy network of the model's weights."""
    layers = lenet.lenet5(np.random.default_rng(0))
    weights = iter([onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer])
    for layer in layers:
        layer.parameters = [next(weights) for _ in layer.parameters]
    return layers


def test_the_files_that_ship() -> None:
    model, properties = load_digits_model()
    onnx.checker.check_model(model, full_check=True)
    digits = load_test_digits()
    assert (data.FOLDER / data.MODEL).stat().st_size < 300_000
    assert model.opset_import[0].version == 17
    assert digits.images.shape == (int(properties["test_images"]), 8, 8)
    assert digits.images.dtype == digits.labels.dtype == np.uint8
    assert digits.images.max() == data.LARGEST_PIXEL
    assert np.bincount(digits.labels).min() > 30
    assert "10.24432/C50P49" in properties["data"]


def test_the_recorded_accuracy_is_the_model_s() -> None:
    model, properties = load_digits_model()
    digits = load_test_digits()
    found = lenet.forward(layers_of(model), prepare(digits.images)).argmax(axis=1)
    accuracy = float((found == digits.labels).mean())
    assert accuracy == pytest.approx(float(properties["accuracy"]), abs=1e-9)
    assert accuracy >= 0.97


def test_prepare_enlarges() -> None:
    image = np.arange(64, dtype=np.uint8).reshape(1, 8, 8) % 17
    x = prepare(image)
    assert (x.shape, x.dtype) == ((1, 1, 32, 32), np.float32)
    for row, column in ((0, 0), (3, 3), (4, 0), (31, 31)):
        assert x[0, 0, row, column] == image[0, row // 4, column // 4] / np.float32(16)


def test_held_out_digits_are_those_that_training_holds_out() -> None:
    pytest.importorskip("sklearn")
    from tvmconv.demo.train import split_digits

    _, properties = load_digits_model()
    train_images, train_labels, images, labels = split_digits(int(properties["split_seed"]))
    digits = load_test_digits()
    np.testing.assert_array_equal(images, digits.images)
    np.testing.assert_array_equal(labels, digits.labels)
    assert len(train_images) == len(train_labels) == 1797 - len(images)


def test_training_learns_and_repeats_itself(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    from tvmconv.demo.train import accuracy, split_digits, to_onnx, train

    train_images, train_labels, images, labels = split_digits()
    first, again = (train(train_images[:600], train_labels[:600], epochs=2) for _ in range(2))
    assert capsys.readouterr().out.count("epoch") == 4
    for a, b in zip(first, again, strict=True):
        for p, q in zip(a.parameters, b.parameters, strict=True):
            np.testing.assert_allclose(p, q, rtol=1e-4, atol=1e-6)
    assert accuracy(first, images, labels) > 0.3
    x = prepare(images[:1])
    evaluator = ReferenceEvaluator(to_onnx(first, {"accuracy": "0.5"}))
    (logits,) = evaluator.run(None, {"image": x})
    np.testing.assert_allclose(logits, lenet.forward(first, x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda rng: lenet.Dense(5, 4, rng), (3, 5)),
        (lambda rng: lenet.Conv(2, 3, 3, rng), (2, 2, 6, 5)),
        (lambda rng: lenet.MaxPool(), (2, 3, 4, 6)),
        (lambda rng: lenet.Relu(), (3, 7)),
        (lambda rng: lenet.Flatten(), (2, 3, 2)),
    ],
    ids=["dense", "conv", "max_pool", "relu", "flatten"],
)
def test_gradients_are_those_of_finite_differences(
    make: Callable[[np.random.Generator], lenet.Layer], shape: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(1)
    layer = make(rng)
    layer.parameters = [p.astype(np.float64) for p in layer.parameters]  # differences need digits
    x = rng.standard_normal(shape)
    dy = rng.standard_normal(layer.forward(x).shape)
    dx = layer.backward(dy)
    for array, gradient in zip((x, *layer.parameters), (dx, *layer.gradients), strict=True):
        assert gradient.shape == array.shape
        for index in np.ndindex(array.shape):
            array[index] += 1e-6
            above = float((layer.forward(x) * dy).sum())
            array[index] -= 2e-6
            below = float((layer.forward(x) * dy).sum())
            array[index] += 1e-6
            assert (above - below) / 2e-6 == pytest.approx(gradient[index], rel=1e-4, abs=1e-5)


def test_loss_and_its_gradient() -> None:
    logits = np.array([[1.0, 2.0, 0.5]], np.float32)
    loss, gradient = lenet.cross_entropy(logits, np.array([1]))
    p = np.exp(logits) / np.exp(logits).sum()
    assert loss == pytest.approx(-np.log(p[0, 1]), rel=1e-6)
    np.testing.assert_allclose(gradient, p - [[0, 1, 0]], rtol=1e-5)


class Fakes:
    """A compiler, a loader and a verifier in the place of ours; `spoil` changes the outputs."""

    def __init__(self, spoil: Callable[[Any], Any] = lambda y: y, right: bool = True) -> None:
        self.spoil, self.right = spoil, right
        self.compiled: list[str] = []

    def compile_to_file(self, model: onnx.ModelProto, output: Path, **options: Any) -> Path:
        assert set(options) == {"target", "threads"}
        self.compiled.append(output.name)
        onnx.save(model, output)
        return output

    def load(self, path: Path, threads: int) -> Any:
        layers = layers_of(onnx.load(path))
        fakes = self

        class Module:
            def __call__(self, x: Any) -> list[Any]:
                x = x["image"] if isinstance(x, dict) else x
                return [fakes.spoil(lenet.forward(layers, x))]

            def close(self) -> None:
                pass

        return Module()

    def verify(self, model: onnx.ModelProto, **options: Any) -> Any:
        return SimpleNamespace(
            ok=self.right, outputs=[SimpleNamespace(ratio=0.25)], fault="a fault"
        )


@pytest.fixture
def demo(
    monkeypatch: pytest.MonkeyPatch, stub: Callable[..., None], tmp_path: Path
) -> Callable[..., str]:
    """Run the demo with fakes, the digits in the place of the large network too, and no C."""

    def run(fakes: Fakes) -> str:
        stub("tvmconv.compiler", compile_to_file=fakes.compile_to_file)
        stub("tvmconv.runtime.loader", load=fakes.load)
        stub("tvmconv.models", light_model=lambda name: load_digits_model()[0], resolve=str)
        stub("tvmconv.verify", verify=fakes.verify)
        monkeypatch.setattr(run_module, "ROUNDS", 1)
        monkeypatch.setattr(run_module, "_show_c", lambda folder, digits, say: say("C"))
        console = Console(file=io.StringIO(), width=40)
        assert run_demo(tmp_path / "out", threads=1, console=console) == 0
        return console.file.getvalue()  # type: ignore[attr-defined]

    return run


def test_what_the_demo_says(demo: Callable[..., str], tmp_path: Path) -> None:
    fakes = Fakes()
    text = demo(fakes)
    assert fakes.compiled == ["digits.so", "light_resnet50.so"]
    assert "449 held-out digits: accuracy 99.11%; measured after training: 99.11%" in text
    assert str(tmp_path / "out" / "digits.so") in text  # not wrapped
    assert text.count("largest error 25% of what is allowed") == 2
    assert "-> 4" in text
    assert " ms" in text
    assert text.index("C\n") < text.index("Done in")
    assert demo(fakes)  # a second time in the same folder


def test_without_onnxruntime_the_demo_says_so(
    demo: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "PEER", "no_such_module")
    assert "no_such_module is not installed; pip install 'tvmconv[bench]'" in demo(Fakes())


def test_wrong_accuracy_is_an_error(demo: Callable[..., str]) -> None:
    with pytest.raises(VerificationError, match=r"digits: accuracy .*, the trained model's is 99"):
        demo(Fakes(spoil=lambda y: y[:, ::-1]))


def test_failed_verification_is_an_error(demo: Callable[..., str]) -> None:
    with pytest.raises(VerificationError, match="digits: a fault"):
        demo(Fakes(right=False))


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError, match="out: is not a directory"):
        run_demo(tmp_path / "out")


@pytest.mark.slow
def test_the_whole_demo_with_a_smaller_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(run_module, "NETWORK", "light_squeezenet")
    console = Console(file=io.StringIO(), width=40)
    assert run_demo(tmp_path, threads=2, console=console) == 0
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for expected in ("accuracy 99.11%", "light_squeezenet.so", SOURCE, BUILD, "digit.f32\n   4\n"):
        assert expected in text
    assert shutil.which(str(tmp_path / "digit"))
