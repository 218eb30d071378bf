"""Train the demo's digit classifier: ``python -m tvmconv.demo.train [FOLDER]``.

Trains LeNet-5 in NumPy on the handwritten digits that ship in scikit-learn (the test part of the
UCI "Optical Recognition of Handwritten Digits" data, 1,797 images of 8x8 pixels in 0..16) and
writes ``digits.onnx`` and ``digits_test.npz``, the held-out digits. Takes under a minute; needs
scikit-learn, which the demo itself does not.

References
----------
Alpaydin, Kaynak: Optical Recognition of Handwritten Digits, UCI Machine Learning Repository (1998),
https://doi.org/10.24432/C50P49, CC BY 4.0.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tvmconv.demo import lenet
from tvmconv.demo.data import MODEL, TEST_DATA, prepare

SEED = 2024
TEST_SHARE = 0.25
EPOCHS = 30
BATCH = 32
OPSET = 17
SOURCE = "UCI Optical Recognition of Handwritten Digits (doi 10.24432/C50P49), via scikit-learn"

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.intp]


def split_digits(seed: int = SEED) -> tuple[Pixels, Labels, Pixels, Labels]:
    """Load the digits and split them by a seeded permutation.

    Returns
    -------
    train_images, train_labels, test_images, test_labels
        Images (N, 8, 8), values 0..16.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = digits.images.astype(np.uint8)
    labels = digits.target.astype(np.intp)
    order = np.random.default_rng(seed).permutation(len(images))
    cut = round(len(images) * TEST_SHARE)
    test, train = order[:cut], order[cut:]
    return images[train], labels[train], images[test], labels[test]


def shifted(images: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Shift each image by up to three of its 32 pixels each way: more digits to learn from."""
    padded = np.pad(images, ((0, 0), (0, 0), (3, 3), (3, 3)))
    size = images.shape[2]
    offsets = rng.integers(0, 7, (len(images), 2))
    moved = [p[:, r : r + size, c : c + size] for p, (r, c) in zip(padded, offsets, strict=True)]
    return np.stack(moved)


def train(
    images: Pixels, labels: Labels, *, seed: int = SEED, epochs: int = EPOCHS
) -> list[lenet.Layer]:
    """Train LeNet-5 on (N, 8, 8) images and return its layers."""
    rng = np.random.default_rng(seed)
    layers = lenet.lenet5(rng)
    x = prepare(images)
    batches = len(x) // BATCH
    optimiser = lenet.Adam(layers, steps=epochs * batches)
    for epoch in range(epochs):
        order = rng.permutation(len(x))[: batches * BATCH].reshape(batches, BATCH)
        total = 0.0
        for chosen in order:
            logits = lenet.forward(layers, shifted(x[chosen], rng))
            loss, gradient = lenet.cross_entropy(logits, labels[chosen])
            total += loss
            for layer in reversed(layers):
                gradient = layer.backward(gradient)
            optimiser.step()
        print(f"epoch {epoch + 1:2}/{epochs}  loss {total / batches:.4f}")
    return layers


def accuracy(layers: list[lenet.Layer], images: Pixels, labels: Labels) -> float:
    """Share of the images whose largest logit is the label's."""
    return float((lenet.forward(layers, prepare(images)).argmax(axis=1) == labels).mean())


def to_onnx(layers: list[lenet.Layer], properties: dict[str, str]) -> Any:
    """Make the ONNX model: input ``image`` (1, 1, 32, 32), output ``logits`` (1, 10)."""
    from onnx import TensorProto, checker, helper, numpy_helper

    nodes, weights = [], []
    value = "image"
    for number, layer in enumerate(layers):
        kind = type(layer).__name__
        name = f"{kind.lower()}{number}"
        inputs = [value]
        attributes: dict[str, Any] = {}
        for suffix, array in zip(("weight", "bias"), layer.parameters, strict=False):
            weights.append(numpy_helper.from_array(array, f"{name}.{suffix}"))
            inputs.append(f"{name}.{suffix}")
        if isinstance(layer, lenet.Dense):
            kind, attributes = "Gemm", {"transB": 1}
        elif isinstance(layer, lenet.MaxPool):
            attributes = {"kernel_shape": [2, 2], "strides": [2, 2]}
        value = "logits" if layer is layers[-1] else f"{name}.out"
        nodes.append(helper.make_node(kind, inputs, [value], name=name, **attributes))
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 10])],
        weights,
    )
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="tvmconv")
    helper.set_model_props(model, properties)
    checker.check_model(model, full_check=True)
    return model


def main(arguments: Sequence[str]) -> int:
    """Train, evaluate on the held-out digits, and write both files into a folder."""
    folder = Path(arguments[0]) if arguments else Path(__file__).parent
    train_images, train_labels, test_images, test_labels = split_digits()
    layers = train(train_images, train_labels)
    score = accuracy(layers, test_images, test_labels)
    properties = {
        "accuracy": repr(score),
        "test_images": str(len(test_images)),
        "split_seed": str(SEED),
        "data": SOURCE,
    }
    (folder / MODEL).write_bytes(to_onnx(layers, properties).SerializeToString())
    np.savez_compressed(folder / TEST_DATA, images=test_images, labels=test_labels.astype(np.uint8))
    print(f"accuracy {score:.4f} on {len(test_images)} held-out digits")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
